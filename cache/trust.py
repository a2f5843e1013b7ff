"""What a store may ask of its reader.

A store may come from anywhere. What it says about itself is checked here before memory is taken for it: the root
document when the store is opened, the other documents before the first array is read, the plan when it is read, and a
block's files and the headers of its chunks when its first record is. A reader makes each of these checks once. The
limits are far above anything that a capture writes; docs/security.md says what they are for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from cache.cells import CellCodec, HeadShape
from cache.codec import FLOATS, PRESETS
from cache.layout import ArrayNames, ArraySpec, StoreSizes, array_specs, object_key, row_kind
from cache.manifest import Manifest, first_difference, shown
from cache.plan import Plan, require_patch_ids
from cache.storage import Location
from cache.view import OUTCOMES, draw_names

# A document of this project has a few kB, its manifest about 10.
MAX_DOCUMENT_BYTES = 2**22
MAX_NESTING = 32
# Decoded bytes of all arrays of `plan/`: about 16 million views.
MAX_PLAN_BYTES = 2**30
# Decoded bytes of one chunk, of one array of a block (64 views of every prior in float32 take 3 GB), of one record
# (2048 x 2048 pixels, every prior, float32: 0.2 GB).
MAX_CHUNK_BYTES = 2**26
MAX_BLOCK_BYTES = 2**32
MAX_RECORD_BYTES = 2**29
MAX_SIDE = 2**16
# Largest number of classes, box parameters, bins, levels, bytes of a patch id.
MAX_HEAD = {"classes": 2**16, "box_parameters": 64, "num_bins": 4096}
MAX_LEVELS = 64
MAX_DRAWS = 2**16
MAX_ID_BYTES = 1024
COUNTS = ("num_patches", "num_views", "num_blocks", "num_priors")

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Bytes of the longest header of a compressed chunk.
HEADER_BYTES = 18
# Offset and size of an absent chunk in a shard's index.
ABSENT = 2**64 - 1


# Documents.


def require_object(location: Location, key: str, limit: int) -> None:
    """Refuse an object that is not a plain file of a possible size; an absent one is left to its reader."""
    problem = location.problem(key, limit)
    if problem is not None:
        raise _error(location, f"{key} {problem}")


def read_document(location: Location, key: str) -> dict[str, Any]:
    """A metadata document of a store.

    Raises:
        ValueError: no plain file, too large, no JSON object, or nested too deep.
    """
    require_object(location, key, MAX_DOCUMENT_BYTES)
    try:
        text = location.read(key)
        document = json.loads(text)
    except FileNotFoundError:
        raise _error(location, f"{key} is absent") from None
    except (ValueError, RecursionError) as error:
        raise _error(location, f"{key} is not readable JSON ({error})") from None
    if not isinstance(document, dict):
        raise _error(location, f"{key} is not a JSON object but {shown(document)}")
    # Few brackets cannot nest deep: that spares a walk through every small document.
    depth = 0 if text.count(b"{") + text.count(b"[") <= MAX_NESTING else sum(1 for _ in _levels(document))
    if depth > MAX_NESTING:
        raise _error(location, f"{key} is nested {depth} deep, at most {MAX_NESTING} allowed")
    return document


def _levels(value: Any) -> Iterator[list[Any]]:
    """The values of a JSON document, one list for each level of lists and objects in each other; without recursion."""
    level = [value]
    while level := [inner for inner in level if isinstance(inner, dict | list)]:
        level = [
            inner for outer in level for inner in ([*outer, *outer.values()] if isinstance(outer, dict) else outer)
        ]
        yield level


def require_manifest(location: Location, attributes: Mapping[str, Any]) -> Manifest:
    """The manifest that the attributes of a root group hold.

    Raises:
        ValueError: a section is missing, or a value is impossible; naming the field, its value and what is possible.
    """
    names = {field.name for field in dataclasses.fields(Manifest)} - {"format", "code_version"}
    for section, value in ((name, attributes.get(name)) for name in sorted(names)):
        if not isinstance(value, dict) and (section, value) != ("assignment", None):
            _refuse(location, section, value, "an object")
    plan, head = attributes["plan"], attributes["head"]
    for name in COUNTS:
        _require_count(location, f"plan.{name}", plan.get(name), 0 if name == "num_priors" else 1, 2**63)
    for name, larger in (("num_blocks", "num_patches"), ("num_patches", "num_views")):
        _require_count(location, f"plan.{name}", plan[name], 1, plan[larger])
    for name in ("classes", "box_parameters"):
        texts = head.get(name)
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            _refuse(location, f"head.{name}", texts, "a list of names")
        _require_count(location, f"number of head.{name}", len(texts), 1, MAX_HEAD[name])
    _require_draws(location, attributes["views"].get("draws"))
    weights = attributes["teacher"].get("weights_sha256")
    if not isinstance(weights, str):
        _refuse(location, "teacher.weights_sha256", weights, "a text")
    _require_grid(location, head)
    _require_bins(location, head)
    _require_texts(location, attributes)
    _require_codec_section(location, attributes["codec"], HeadShape.of(head))
    try:
        return Manifest.from_json(attributes)
    except (KeyError, ValueError) as error:
        raise _error(location, f"the manifest is unusable ({error})") from None


def _require_draws(location: Location, draws: Any) -> None:
    """A number of frozen draws, or the names of all that can be drawn."""
    if not isinstance(draws, list):
        _require_count(location, "views.draws", draws, 1, MAX_DRAWS)
    elif not 1 <= len(draws) <= MAX_DRAWS or len(set(map(str, draws))) < len(draws) or not all(map(_is_drawn, draws)):
        _refuse(location, "views.draws", draws, f"a number, or names of {', '.join(OUTCOMES)}, joined by +, each once")


def _is_drawn(name: Any) -> bool:
    return isinstance(name, str) and all(part in OUTCOMES for part in name.split("+"))


def _require_grid(location: Location, head: Mapping[str, Any]) -> None:
    """The numbers that anchors and pictures are computed from, where the head has such."""
    grid = head.get("grid") or {}
    if not isinstance(grid, dict):
        _refuse(location, "head.grid", grid, "an object")
    for name in ("strides", "ratios", "scales"):
        numbers = grid.get(name, [1])
        least = 1 if name == "strides" else 1e-3
        if not (_are_numbers(numbers, least, MAX_SIDE) and 1 <= len(numbers) <= MAX_LEVELS):
            _refuse(location, f"head.grid.{name}", numbers, f"1 to {MAX_LEVELS} numbers from {least} to {MAX_SIDE}")
    if "bin_ranges" in head:
        ranges = head["bin_ranges"]
        is_right = isinstance(ranges, list) and len(ranges) == len(head["box_parameters"])
        if not (is_right and all(_are_numbers(ends, -1e6, 1e6) and len(ends) == 2 for ends in ranges)):
            _refuse(location, "head.bin_ranges", ranges, "two numbers for every box parameter")


def _are_numbers(values: Any, least: float, most: float) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and least <= value <= most for value in values)


def _require_bins(location: Location, head: Mapping[str, Any]) -> None:
    """One number of bins for all box parameters, or one for each."""
    bins = head.get("num_bins")
    if isinstance(bins, list) and len(bins) != len(head["box_parameters"]):
        _refuse(location, "head.num_bins", bins, "a number for every box parameter")
    for number in bins if isinstance(bins, list) else [bins]:
        _require_count(location, "head.num_bins", number, 1, MAX_HEAD["num_bins"])


def _require_codec_section(location: Location, codec: Mapping[str, Any], head: HeadShape) -> None:
    """What shapes and steps follow from."""
    if codec.get("preset") not in (*PRESETS, "free"):
        _refuse(location, "codec.preset", codec.get("preset"), f"one of {', '.join(PRESETS)}, free")
    if codec.get("stored") == "rows":
        if codec.get("dtype") not in FLOATS:
            _refuse(location, "codec.dtype", codec.get("dtype"), f"one of {', '.join(FLOATS)}")
        return
    if codec.get("stored") != "cells":
        _refuse(location, "codec.stored", codec.get("stored"), "rows or cells")
    if not (_are_numbers([codec.get("step")], 1e-9, 1e9) and _are_numbers([codec.get("kl")], 1e-12, 1e3)):
        _refuse(location, "codec.step and codec.kl", [codec.get("step"), codec.get("kl")], "two numbers above 0")
    if not isinstance(codec.get("digest"), str):
        _refuse(location, "codec.digest", codec.get("digest"), "a text")
    # Before the matrices that change its basis are made: their sizes are the head's.
    _require_bytes(location, "the basis of a cell", 8 * (head.priors * head.values) ** 2, MAX_CHUNK_BYTES)
    _require_count(location, "codec.wide_columns", codec.get("wide_columns"), 0, head.coordinates)
    columns = head.coordinates + codec["wide_columns"]
    _require_count(location, "codec.columns", codec.get("columns"), columns, columns)


def require_codec(location: Location, codec: CellCodec, section: Mapping[str, Any]) -> None:
    """Refuse arrays of `codec/` that are not those of the manifest, or hold what is no number.

    Raises:
        ValueError: naming the array, or both digests.
    """
    for name, array in codec.arrays().items():
        if not np.isfinite(array).all():
            raise _error(location, f"codec/{name} holds values that are no numbers")
    if codec.digest != section["digest"]:
        raise _error(
            location, f"codec.digest is {section['digest'][:16]} in the manifest but {codec.digest[:16]} in codec/"
        )


def _require_texts(location: Location, attributes: Mapping[str, Any]) -> None:
    """No text of a manifest may steer the terminal or reverse what is read there."""
    for text in (value for level in _levels(attributes) for value in level if isinstance(value, str)):
        if not text.isprintable() and not "".join(text.split()).isprintable():
            raise _error(location, f"the manifest holds control characters: {text[:80]!a}")


# Arrays.


def require_arrays(location: Location, manifest: Manifest) -> dict[str, ArraySpec]:
    """The arrays of a store by name, none other than its manifest implies; no data are read.

    Three sizes are in no manifest: bytes of a patch id, levels, rows of a block. Other arrays and limits bound them.

    Raises:
        ValueError: naming the first document and field that differ, or what would be too large.
    """
    names = ArrayNames.of(manifest)
    for group in names.groups:
        read_document(location, f"{group}/zarr.json")
    documents = {name: read_document(location, f"{name}/zarr.json") for name in names.all}

    def second_size(name: str, most: int) -> int:
        shape = documents[name].get("shape")
        if isinstance(shape, list) and len(shape) == 2 and type(shape[1]) is int and 1 <= shape[1] <= most:
            return int(shape[1])
        _refuse(location, f"{name}: shape", shape, f"two sizes with a second from 1 to {most}")

    specs = array_specs(
        StoreSizes(
            patches=manifest.plan["num_patches"],
            draws=len(draw_names(manifest.views)),
            views=manifest.plan["num_views"],
            blocks=manifest.plan["num_blocks"],
            levels=second_size("plan/level_counts", MAX_LEVELS),
            id_bytes=second_size("plan/patch_id", MAX_ID_BYTES),
            rows=second_size(names.record[0], 2**32),
            assigned_rows=second_size("assigned_prior", 2**32) if names.assigned else None,
        ),
        manifest,
    )
    for name, spec in specs.items():
        _require_array(location, spec, documents[name])
        _require_bytes(location, f"a chunk of {name}", spec.chunk_bytes, MAX_CHUNK_BYTES)
        _require_bytes(location, f"a block of {name}", spec.chunk_bytes * spec.chunks_per_object, MAX_BLOCK_BYTES)
    sizes = (math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs.values() if not spec.shards)
    _require_bytes(location, "the plan", sum(sizes), MAX_PLAN_BYTES)
    return specs


def _require_array(location: Location, spec: ArraySpec, document: Mapping[str, Any]) -> None:
    """Refuse an array whose metadata are not those that manifest and plan imply."""
    expected = spec.document()
    stored = {field: document.get(field, "(absent)") for field in expected}
    stored["codecs"] = _codec_names(document.get("codecs"))
    if document.get("storage_transformers"):
        _refuse(location, f"{spec.name}: storage_transformers", document["storage_transformers"], "none")
    difference = first_difference(expected, stored)
    if difference is not None:
        field, wanted, found = difference
        _refuse(location, f"{spec.name}: {field}", found, shown(wanted))


def _codec_names(codecs: Any) -> Any:
    """Codecs as they are compared: their names, of a shard also its inner chunks and their codecs."""
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        return codecs
    names: list[Any] = []
    for codec in codecs:
        options = codec.get("configuration") or {}
        if codec.get("name") == "sharding_indexed" and isinstance(options, dict):
            inner, index = (_codec_names(options.get(key)) for key in ("codecs", "index_codecs"))
            place = options.get("index_location", "end")
            names.append({"chunk_shape": options.get("chunk_shape"), "codecs": inner, "index": index, "at": place})
        else:
            names.append(codec.get("name"))
    return names


def _require_bytes(location: Location, what: str, size: int, limit: int) -> None:
    """Refuse something that would take more memory than allowed."""
    if size > limit:
        raise _error(location, f"{what} would take {size:,} bytes, at most {limit:,} allowed")


# The plan.


def require_plan(location: Location, plan: Plan, manifest: Manifest, specs: Mapping[str, ArraySpec]) -> None:
    """Refuse a plan that points outside its arrays, or needs others.

    Raises:
        ValueError: naming the array, the value and what is possible.
    """
    counts = manifest.plan
    _require_below(location, "block", plan.block, counts["num_blocks"])
    _require_below(location, "view_patch", plan.view_patch, counts["num_patches"])
    _require_below(location, "view_draw", plan.view_draw, len(plan.draws))
    _require_below(location, "draw_view", plan.draw_view, counts["num_views"])
    _require_below(location, "view_shape", plan.view_shape, MAX_SIDE)
    if (np.diff(plan.view_patch.astype(np.int64)) < 0).any():
        raise _error(location, "plan/view_patch does not rise")
    require_patch_ids(plan.patch_ids, f"cache {location}")
    if (plan.view_patch[plan.draw_view] != np.arange(len(plan.patch_ids))[:, None]).any():
        raise _error(location, "plan/draw_view names a view of another patch")
    if (plan.draw_view[plan.view_patch, plan.view_draw] != np.arange(plan.num_views)).any():
        raise _error(location, "plan/view_draw names a draw that makes another view")
    names, head = ArrayNames.of(manifest), HeadShape.of(manifest.head)
    for kind, (start, stop) in plan.row_ranges.items():
        _require_ranges(location, kind, start, stop, [specs[name] for name in names.record if row_kind(name) == kind])
    held = plan.row_stop.astype(np.int64) - plan.row_start
    # A cell holds at least one stored prior, and at most all of its own.
    most = head.priors if names.cells else 1
    _require_bytes(location, "a decoded view", 4 * head.values * most * int(held.max()), MAX_RECORD_BYTES)
    wrong = np.flatnonzero((held > plan.priors_per_view) | (held * most < plan.priors_per_view))
    if wrong.size:
        view = int(wrong[0])
        rows = f"{held[view]:,} rows but {plan.priors_per_view[view]:,} priors in level_counts"
        raise _error(location, f"plan/row_stop: view {plan.view(view)} has {rows}")
    require_shapes(location, specs, array_specs(StoreSizes.of_plan(plan), manifest))


def require_shapes(location: Location, stored: Mapping[str, ArraySpec], planned: Mapping[str, ArraySpec]) -> None:
    """Refuse arrays of other shapes than their plan needs."""
    for name, spec in planned.items():
        if spec.shape != stored[name].shape:
            _refuse(location, f"{name}: shape", list(stored[name].shape), f"{list(spec.shape)} by its plan")


def _require_ranges(location: Location, kind: str, start: np.ndarray, stop: np.ndarray, specs: list[ArraySpec]) -> None:
    """Rows of views must lie inside the arrays that hold them, and fit into memory."""
    if (start > stop).any():
        view = int(np.flatnonzero(start > stop)[0])
        _refuse(location, f"plan/{kind}_stop of view {view}", int(stop[view]), f"at least {start[view]}")
    _require_below(location, f"{kind}_stop", stop, specs[0].shape[specs[0].row_axis] + 1)
    largest = int((stop.astype(np.int64) - start).max())
    record_bytes = largest * sum(spec.row_bytes for spec in specs)
    _require_bytes(location, f"a view of {largest:,} rows", record_bytes, MAX_RECORD_BYTES)


def _require_below(location: Location, name: str, values: np.ndarray, limit: int) -> None:
    if values.size and int(values.max()) >= limit:
        _refuse(location, f"plan/{name}", int(values.max()), f"below {limit}")


def _require_count(location: Location, field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _refuse(location, field, value, f"a whole number from {least} to {most}")


# Chunks. A few bytes can decompress to any number, and the libraries believe a chunk's own header (blosc in all of
# them, zstd in numcodecs), so the header is compared with the chunk's shape before they see it.


def content_bytes(head: bytes, *, is_blosc: bool) -> int | None:
    """What a compressed chunk that begins with `head` says it holds; None where it does not say."""
    if is_blosc:
        return int(struct.unpack_from("<I", head, 4)[0]) if len(head) >= 16 else None
    if len(head) < 6 or head[:4] != ZSTD_MAGIC:
        return None
    descriptor = head[4]
    is_single = bool(descriptor & 0x20)
    size_bytes = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    begin = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    if size_bytes == 0 or len(head) < begin + size_bytes:
        return None
    # A size in two bytes counts from 256 on.
    return int.from_bytes(head[begin : begin + size_bytes], "little") + (256 if size_bytes == 2 else 0)


def require_chunks(location: Location, key: str, spec: ArraySpec, rows: int | None = None) -> None:
    """Refuse an object with a chunk that would decompress to anything but its shape; absent ones are left to readers.

    Args:
        rows: how many rows of a shard will be read; None for an object that is one chunk.

    Raises:
        ValueError: naming the object and both sizes; or the index of a shard points outside it.
    """
    try:
        places = [(0, HEADER_BYTES)]
        if rows is not None:
            places = _chunk_places(location, key, spec, -(-rows // spec.chunks[spec.row_axis]))
        heads = location.read_ranges(key, [(start, min(HEADER_BYTES, length)) for start, length in places])
    except FileNotFoundError:
        return
    for found in (content_bytes(head, is_blosc=spec.byte_shuffle) for head in heads):
        if found != spec.chunk_bytes:
            said = "does not say how large it is" if found is None else f"says that it holds {found:,} bytes"
            raise ValueError(f"{key}: a compressed chunk {said}, its shape has {spec.chunk_bytes:,}")


def _chunk_places(location: Location, key: str, spec: ArraySpec, count: int) -> list[tuple[int, int]]:
    """Offset and size of the first `count` chunks of a shard, without those that are absent."""
    size = location.size(key) if count else None
    if size is None:
        return []
    end = size - 16 * spec.chunks_per_object - 4
    if end < 0:
        raise ValueError(f"{key}: {size:,} bytes hold no index of its chunks")
    (index,) = location.read_ranges(key, [(end, 16 * count)])
    chunks = [place for place in struct.iter_unpack("<QQ", index) if place != (ABSENT, ABSENT)]
    for offset, length in chunks:
        if offset + length > end:
            raise ValueError(f"{key}: the index of its chunks points to byte {offset + length:,} of {end:,}")
    return chunks


def require_block(location: Location, specs: Mapping[str, ArraySpec], block: int) -> None:
    """Refuse a block with an object that is not a plain file of a possible size.

    On S3, where there are no links and files of holes, records are read by ranges, which are as long as they are.
    """
    if not location.is_remote:
        for spec in specs.values():
            if spec.is_per_block:
                require_object(location, object_key(spec.name, block), spec.largest_object)


def _refuse(location: Location, field: str, value: Any, possible: str) -> NoReturn:
    raise _error(location, f"{field} is {shown(value)}, {possible} needed")


def _error(location: Location, problem: str) -> ValueError:
    cure = f"It is damaged or was not written by this project: run make verify-cache CACHE={location}"
    return ValueError(f"cache {location}: {problem}. {cure}")
