"""What a store may ask of its reader.

A store may come from anywhere. What it says about itself is checked here before memory is taken for it: `layout` calls
these functions when a store is opened and when its plan is read. The limits are far above anything that a capture
writes; docs/security.md says what they are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from cache.manifest import Manifest, first_difference, shown
from cache.plan import Plan, require_patch_ids
from cache.quantize import codecs_of
from cache.storage import Location
from cache.view import FLIPS

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
MAX_ID_BYTES = 1024
COUNTS = ("num_patches", "num_views", "num_blocks", "num_rows")


def require_object(path: Location, key: str, limit: int) -> None:
    """Refuse an object that is not a plain file of a possible size.

    Raises:
        ValueError: naming the object, and its size and the limit where it is too large.
    """
    problem = path.problem(key, limit)
    if problem is not None:
        raise ValueError(f"cache {path}: {key} {problem}. {_cure(path)}")


def read_document(path: Location, key: str) -> dict[str, Any]:
    """A metadata document of a store.

    Raises:
        ValueError: no plain file, too large, no JSON object, or nested too deep.
    """
    require_object(path, key, MAX_DOCUMENT_BYTES)
    try:
        text = path.read(key)
        document = json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"cache {path}: {key} is absent. {_cure(path)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cache {path}: {key} is no readable JSON ({error}). {_cure(path)}") from None
    if not isinstance(document, dict):
        raise ValueError(f"cache {path}: {key} is no JSON object but {shown(document)}. {_cure(path)}")
    # Few brackets cannot nest deep: that spares a walk through every small document.
    depth = 0 if text.count(b"{") + text.count(b"[") <= MAX_NESTING else _depth(document)
    if depth > MAX_NESTING:
        raise ValueError(f"cache {path}: {key} is nested {depth} deep, at most {MAX_NESTING} allowed. {_cure(path)}")
    return document


def _depth(value: Any) -> int:
    """Levels of lists and objects in each other, without recursion."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, dict | list)]:
        depth += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def require_manifest(path: Location, manifest: Mapping[str, Any]) -> Manifest:
    """The manifest that these attributes of a root group hold.

    Raises:
        ValueError: a section is absent, or has sizes that no cache can have, or none; naming the field, its value and
            what is possible.
    """
    for section in (field.name for field in fields(Manifest) if field.name not in ("format", "code_version")):
        value = manifest.get(section)
        if not isinstance(value, dict) and (section, value) != ("assignment", None):
            _refuse(path, section, value, "an object")
    plan, head = manifest["plan"], manifest["head"]
    for name in COUNTS:
        _require_count(path, f"plan.{name}", plan.get(name), 0 if name == "num_rows" else 1, 2**63)
    for name, larger in (("num_blocks", "num_patches"), ("num_patches", "num_views")):
        _require_count(path, f"plan.{name}", plan[name], 1, plan[larger])
    for name in ("classes", "box_parameters"):
        texts = head.get(name)
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            _refuse(path, f"head.{name}", texts, "a list of names")
        _require_count(path, f"number of head.{name}", len(texts), 1, MAX_HEAD[name])
    _require_count(path, "head.num_bins", head.get("num_bins"), 1, MAX_HEAD["num_bins"])
    flips = manifest["views"].get("flips")
    if not (isinstance(flips, list) and flips and all(flip in FLIPS for flip in flips)):
        _refuse(path, "views.flips", flips, f"a list of {', '.join(FLIPS)}")
    try:
        codecs_of(manifest["codec"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cache {path}: codec in the manifest is unusable ({error}). {_cure(path)}") from None
    _require_grid(path, head)
    _require_texts(path, manifest)
    try:
        return Manifest.from_json(manifest)
    except (KeyError, ValueError) as error:
        raise ValueError(f"cache {path}: the manifest is unusable ({error}). {_cure(path)}") from None


def _require_grid(path: Location, head: Mapping[str, Any]) -> None:
    """The numbers that anchors and pictures are computed from, where the head has such."""
    grid = head.get("grid") or {}
    if not isinstance(grid, dict):
        _refuse(path, "head.grid", grid, "an object")
    for name in ("strides", "ratios", "scales"):
        numbers = grid.get(name, [1])
        least = 1 if name == "strides" else 1e-3
        if not (_are_numbers(numbers, least, MAX_SIDE) and 1 <= len(numbers) <= MAX_LEVELS):
            _refuse(path, f"head.grid.{name}", numbers, f"1 to {MAX_LEVELS} numbers from {least} to {MAX_SIDE}")
    if "bin_ranges" in head:
        ranges = head["bin_ranges"]
        is_right = isinstance(ranges, list) and len(ranges) == len(head["box_parameters"])
        if not (is_right and all(_are_numbers(ends, -1e6, 1e6) and len(ends) == 2 for ends in ranges)):
            _refuse(path, "head.bin_ranges", ranges, "two numbers for every box parameter")


def _are_numbers(values: Any, least: float, most: float) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and least <= value <= most for value in values)


def _require_texts(path: Location, manifest: Mapping[str, Any]) -> None:
    """No text of a manifest may steer the terminal or reverse what is read there."""
    level: list[Any] = [manifest]
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not value.isprintable() and not "".join(value.split()).isprintable():
                raise ValueError(f"cache {path}: the manifest holds control characters: {value[:80]!a}. {_cure(path)}")
        level = inner


def require_array(path: Location, name: str, expected: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Refuse an array whose metadata are not those that manifest and plan imply.

    Raises:
        ValueError: naming the field and both values.
    """
    stored = {field: document.get(field, "(absent)") for field in expected}
    stored["codecs"] = _codec_names(document.get("codecs"))
    if document.get("storage_transformers"):
        _refuse(path, f"{name}: storage_transformers", document["storage_transformers"], "none")
    if stored != expected:
        difference = first_difference(expected, stored)
        assert difference is not None
        field, wanted, found = difference
        _refuse(path, f"{name}: {field}", found, shown(wanted))


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


def require_bytes(path: Location, what: str, size: int, limit: int) -> None:
    """Refuse something that would take more memory than allowed.

    Raises:
        ValueError: naming it, its size and the limit.
    """
    if size > limit:
        raise ValueError(f"cache {path}: {what} would take {size:,} bytes, at most {limit:,} allowed. {_cure(path)}")


def require_plan(path: Location, plan: Plan, manifest: Manifest, rows: Mapping[str, int], row_bytes: int) -> None:
    """Refuse a plan that points outside its arrays.

    Args:
        rows: rows that a block has room for, of the region ("row") and, where it is planned, of the assignment
            ("assigned").
        row_bytes: decoded bytes of a row of all fields.

    Raises:
        ValueError: naming the array of the plan, the value and what is possible.
    """
    counts = manifest.plan
    _require_below(path, "block", plan.block, counts["num_blocks"])
    _require_below(path, "view_patch", plan.view_patch, counts["num_patches"])
    _require_below(path, "view_flip", plan.view_flip, len(FLIPS))
    _require_below(path, "patch_shape", plan.patch_shape, MAX_SIDE)
    if (np.diff(plan.view_patch.astype(np.int64)) < 0).any():
        raise ValueError(f"cache {path}: plan/view_patch does not rise. {_cure(path)}")
    require_patch_ids(plan.patch_ids, f"cache {path}")
    _require_ranges(path, "row", plan.row_start, plan.row_stop, rows["row"], row_bytes)
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        _require_ranges(path, "assigned", plan.assigned_start, plan.assigned_stop, rows["assigned"], 8)
    counted = plan.level_counts.sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(plan.row_stop.astype(np.int64) - plan.row_start != counted)
    if wrong.size:
        view = int(wrong[0])
        held = int(plan.row_stop[view]) - int(plan.row_start[view])
        raise ValueError(
            f"cache {path}: plan/row_stop: view {plan.view(view)} has {held:,} rows but {int(counted[view]):,} in "
            f"level_counts. {_cure(path)}"
        )


def _require_ranges(path: Location, kind: str, start: np.ndarray, stop: np.ndarray, room: int, row_bytes: int) -> None:
    if (start > stop).any():
        view = int(np.flatnonzero(start > stop)[0])
        _refuse(path, f"plan/{kind}_stop of view {view}", int(stop[view]), f"at least {start[view]}")
    _require_below(path, f"{kind}_stop", stop, room + 1)
    largest = int((stop.astype(np.int64) - start).max())
    require_bytes(path, f"a view of {largest:,} rows", largest * row_bytes, MAX_RECORD_BYTES)


def _require_below(path: Location, name: str, values: np.ndarray, limit: int) -> None:
    if values.size and int(values.max()) >= limit:
        _refuse(path, f"plan/{name}", int(values.max()), f"below {limit}")


def _require_count(path: Location, field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _refuse(path, field, value, f"a whole number from {least} to {most}")


def _refuse(path: Location, field: str, value: Any, possible: str) -> None:
    raise ValueError(f"cache {path}: {field} is {shown(value)}, {possible} needed. {_cure(path)}")


def _cure(path: Location) -> str:
    return f"It is damaged or was not written by this project: run make verify-cache CACHE={path}"
