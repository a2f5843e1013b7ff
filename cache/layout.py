"""The only place that knows the store's array names, dtypes, chunks and shards (FORMAT.md describes them)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache.frames import largest_encoded, require_frame, require_shard_frames
from cache.limits import (
    MAX_BLOCK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_ID_BYTES,
    MAX_LEVELS,
    MAX_PLAN_BYTES,
    read_document,
    require_array,
    require_bytes,
    require_manifest,
    require_object,
    require_plan,
)
from cache.manifest import FORMAT, Manifest, ManifestMismatch, shown
from cache.plan import Plan
from cache.quantize import FieldCodec, codecs_of
from cache.storage import Location, Place, StorageError, locate

ROWS_PER_CHUNK = 4096
VIEWS_PER_CHUNK = 65536
REQUESTS_AT_ONCE = 16
# Fill values are poison: rows that were never written must not pass for targets.
POISON_INDEX = 0xFFFFFFFF
POISON_OBJECT = -(2**31)
# Written last when a store is laid out.
DOCUMENTS_CHUNK = "documents/c/0/0"

RECORD_FIELDS = ("prior_index", "weight", "cls_logits", "box_logits")
# Optional: what the detection losses need to know of every prior (the manifest's `assignment` lists them).
ASSIGNED_FIELDS = ("assigned_prior", "assigned_object")
# The arrays of `plan/`: one entry a patch or a view; those of `PLAN_MATRICES` have two axes, the others one.
PATCH_ARRAYS = ("patch_id", "image_sha256", "label_sha256", "patch_shape")
VIEW_ARRAYS = ("view_patch", "view_flip", "level_counts", "block", "row_start", "row_stop")
ASSIGNED_VIEW_ARRAYS = ("assigned_start", "assigned_stop")
PLAN_MATRICES = (*PATCH_ARRAYS, "level_counts")


@dataclass(frozen=True)
class ArrayNames:
    """The arrays of a store, with or without the optional ones.

    record: fields of a record. block: the objects that a commit covers, in this order. plan: without the group's name.
    """

    assigned: bool

    @property
    def record(self) -> tuple[str, ...]:
        return (*RECORD_FIELDS, *(ASSIGNED_FIELDS if self.assigned else ()))

    @property
    def block(self) -> tuple[str, ...]:
        return (*self.record, "capture_error")

    @property
    def plan(self) -> tuple[str, ...]:
        return (*PATCH_ARRAYS, *VIEW_ARRAYS, *(ASSIGNED_VIEW_ARRAYS if self.assigned else ()))

    @property
    def all(self) -> tuple[str, ...]:
        return (*(f"plan/{name}" for name in self.plan), *self.block, "committed", "documents")

    @property
    def documents(self) -> list[str]:
        """Keys of the objects that `documents` holds digests of: all metadata, and the chunks of the plan."""
        return sorted(["zarr.json", "plan/zarr.json", *(f"{name}/zarr.json" for name in self.all)])


def names_of(root: zarr.Group) -> ArrayNames:
    """The arrays of an opened store, as its manifest says."""
    return ArrayNames(root.attrs.get("assignment") is not None)


def rows_in_block(plan: Plan, field: str, block: int) -> int:
    """Planned rows of a field of the record in a block."""
    return int((plan.assigned_per_block if field in ASSIGNED_FIELDS else plan.rows_per_block)[block])


# Measured by the capture for every block (`capture_error` columns): largest absolute error of the logits, then mean
# KL(teacher || stored) in nats at these temperatures; then what the box error does to the expected box: the largest
# change of centre, width or height in pixels and of the angle in degrees, and 1 - IoU before and after.
ERROR_TEMPERATURES = (1.0, 2.0, 5.0, 10.0)
BOX_CHANGE_COLUMNS = ("box_max_pixels", "box_max_degrees", "box_mean_iou_loss", "box_max_iou_loss")
ERROR_COLUMNS = (
    *(
        f"{name}_{measure}"
        for name in ("cls", "box")
        for measure in ("max_abs_error", *(f"mean_kl_t{int(t)}" for t in ERROR_TEMPERATURES))
    ),
    *BOX_CHANGE_COLUMNS,
)


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    fill_value: float
    shards: tuple[int, ...] | None = None
    byte_shuffle: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    @property
    def chunks_per_object(self) -> int:
        """Chunks of a shard; 1 without shards."""
        return 1 if self.shards is None else self.shards[1] // self.chunks[1]

    @property
    def largest_object(self) -> int:
        """Most bytes that an object can have on disk: chunks that do not compress, and a shard's index."""
        index = 0 if self.shards is None else 16 * self.chunks_per_object + 4
        return self.chunks_per_object * largest_encoded(self.chunk_bytes) + index

    def document(self) -> dict[str, Any]:
        """What its metadata document must say, as `limits.require_array` compares it."""
        chunk_codecs = ["bytes", "blosc" if self.byte_shuffle else "zstd", "crc32c"]
        shard = {"chunk_shape": list(self.chunks), "codecs": chunk_codecs, "index": ["bytes", "crc32c"], "at": "end"}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shards or self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if math.isnan(self.fill_value) else self.fill_value,
            "codecs": [shard] if self.shards else chunk_codecs,
        }


@dataclass(frozen=True)
class StoreSizes:
    """All that the arrays' shapes depend on, beside the head.

    rows, assigned_rows: rows of the largest block, or those that a block has room for (which give the same shapes);
    assigned_rows is None where no assignment is planned.
    """

    patches: int
    views: int
    blocks: int
    levels: int
    id_bytes: int
    rows: int
    assigned_rows: int | None

    @classmethod
    def of_plan(cls, plan: Plan) -> StoreSizes:
        return cls(
            patches=len(plan.patch_ids),
            views=plan.num_views,
            blocks=plan.num_blocks,
            levels=plan.level_counts.shape[1],
            id_bytes=max(len(patch_id.encode()) for patch_id in plan.patch_ids),
            rows=int(plan.rows_per_block.max()),
            assigned_rows=None if plan.assigned_start is None else int(plan.assigned_per_block.max()),
        )


def array_specs(
    sizes: StoreSizes, codecs: Mapping[str, FieldCodec], num_classes: int, box_shape: tuple[int, int]
) -> list[ArraySpec]:
    """Every array of a cache of these sizes; `box_shape` is (parameters D, bins K)."""
    blocks, views, patches = sizes.blocks, sizes.views, sizes.patches
    is_assigned = sizes.assigned_rows is not None

    def per_view(
        name: str, dtype: str, *tail: tuple[int, str], dimension: str = "view", count: int = views
    ) -> ArraySpec:
        sizes, labels = tuple(size for size, _ in tail), tuple(label for _, label in tail)
        return ArraySpec(
            f"plan/{name}", (count, *sizes), dtype, (min(count, VIEWS_PER_CHUNK), *sizes), (dimension, *labels), 0
        )

    def per_patch(name: str, dtype: str, *tail: tuple[int, str]) -> ArraySpec:
        return per_view(name, dtype, *tail, dimension="patch", count=patches)

    def per_row(
        name: str,
        dtype: str,
        fill: float,
        *tail: tuple[int, str],
        count: int = sizes.rows,
        dimension: str = "row",
        **options: Any,
    ) -> ArraySpec:
        sizes, labels = tuple(size for size, _ in tail), tuple(label for _, label in tail)
        # Chunks shrink with small caches, and the last chunk of a shard is whole: rows are a multiple of the chunk.
        chunk = min(ROWS_PER_CHUNK, max(1, count))
        rows = -(-max(1, count) // chunk) * chunk
        return ArraySpec(
            name,
            (blocks, rows, *sizes),
            dtype,
            (1, chunk, *sizes),
            ("block", dimension, *labels),
            fill,
            shards=(1, rows, *sizes),
            **options,
        )

    def assigned(name: str, dtype: str, fill: int, long_name: str) -> ArraySpec:
        attributes = {"long_name": long_name}
        return per_row(
            name,
            dtype,
            fill,
            count=sizes.assigned_rows or 0,
            dimension="assigned_row",
            byte_shuffle=True,
            attributes=attributes,
        )

    def coded(name: str, long_name: str, *tail: tuple[int, str]) -> ArraySpec:
        codec = codecs[name]
        attributes: dict[str, Any] = {"units": "1", "long_name": long_name}
        if codec.is_float:
            return per_row(name, codec.dtype, float("nan"), *tail, attributes=attributes)
        attributes |= {"scale_factor": codec.scale_factor, "add_offset": codec.add_offset}
        # The upper byte of a two-byte code hardly ever changes: shuffled, it costs nothing.
        wide = codec.dtype == "uint16"
        return per_row(name, codec.dtype, codec.largest_code, *tail, byte_shuffle=wide, attributes=attributes)

    specs = [
        per_patch("patch_id", "uint8", (sizes.id_bytes, "id_byte")),
        per_patch("image_sha256", "uint8", (32, "digest_byte")),
        per_patch("label_sha256", "uint8", (32, "digest_byte")),
        per_patch("patch_shape", "uint32", (2, "height_width")),
        per_view("view_patch", "uint32"),
        per_view("view_flip", "uint8"),
        per_view("level_counts", "uint32", (sizes.levels, "level")),
        per_view("block", "uint32"),
        per_view("row_start", "uint32"),
        per_view("row_stop", "uint32"),
        *(per_view(name, "uint32") for name in ASSIGNED_VIEW_ARRAYS if is_assigned),
        per_row("prior_index", "uint32", POISON_INDEX, byte_shuffle=True, attributes={"long_name": "flat prior index"}),
        coded("weight", "region weight"),
        coded("cls_logits", "teacher class logits", (num_classes, "class")),
        coded("box_logits", "teacher box logits", (box_shape[0], "parameter"), (box_shape[1], "bin")),
        *(
            (
                assigned("assigned_prior", "uint32", POISON_INDEX, "flat index of a prior that is not negative"),
                assigned("assigned_object", "int32", POISON_OBJECT, "its object; -1: ignored"),
            )
            if is_assigned
            else ()
        ),
        ArraySpec(
            "capture_error",
            (blocks, len(ERROR_COLUMNS)),
            "float64",
            (1, len(ERROR_COLUMNS)),
            ("block", "error"),
            float("nan"),
            attributes={"columns": list(ERROR_COLUMNS)},
        ),
        ArraySpec("committed", (blocks, 32), "uint8", (1, 32), ("block", "digest_byte"), 0),
    ]
    documents = len(ArrayNames(is_assigned).documents)
    specs.append(ArraySpec("documents", (documents, 32), "uint8", (documents, 32), ("document", "digest_byte"), 0))
    return specs


def plan_chunk_keys(name: str, num_patches: int, num_views: int) -> list[str]:
    """Keys of the chunks of one array of `plan/`."""
    count = num_patches if name in PATCH_ARRAYS else num_views
    tail = "/0" if name in PLAN_MATRICES else ""
    return [f"plan/{name}/c/{chunk}{tail}" for chunk in range(-(-count // VIEWS_PER_CHUNK))]


def create_arrays(location: Location, manifest: Manifest, plan: Plan, specs: list[ArraySpec]) -> zarr.Group:
    """Write metadata and plan of a new store, `documents` last; every record is still missing."""
    root = zarr.create_group(location.zarr_store(), zarr_format=3, attributes=manifest.to_json())
    root.create_group("plan")
    for spec in specs:
        compressor = (
            BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=np.dtype(spec.dtype).itemsize)
            if spec.byte_shuffle
            else ZstdCodec(level=5)
        )
        root.create_array(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            shards=spec.shards,
            fill_value=spec.fill_value,
            compressors=[compressor, Crc32cCodec()],
            dimension_names=spec.dimensions,
            attributes=dict(spec.attributes),
        )
    for name, values in plan_arrays(plan).items():
        array_of(root, f"plan/{name}")[...] = values
    array_of(root, "documents")[...] = document_digests(location, root)
    return root


def plan_arrays(plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of `plan/` by name."""
    arrays = {
        "patch_id": encode_ids(plan.patch_ids),
        "image_sha256": plan.image_sha256,
        "label_sha256": plan.label_sha256,
        "patch_shape": plan.patch_shape,
        "view_patch": plan.view_patch,
        "view_flip": plan.view_flip,
        "level_counts": plan.level_counts,
        "block": plan.block,
        "row_start": plan.row_start,
        "row_stop": plan.row_stop,
    }
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        arrays |= {"assigned_start": plan.assigned_start, "assigned_stop": plan.assigned_stop}
    return arrays


def read_plan(root: zarr.Group) -> Plan:
    """The plan of an opened store.

    Raises:
        ValueError: a chunk is lost or damaged, or the plan points outside its arrays.
    """
    path = location_of(root)
    manifest = require_manifest(path, root.attrs.asdict())
    specs = require_arrays(path, manifest)
    arrays = {}
    for name in names_of(root).plan:
        spec = specs[f"plan/{name}"]
        keys = plan_chunk_keys(name, specs["plan/patch_id"].shape[0], specs["plan/view_patch"].shape[0])
        for key in keys:
            require_object(path, key, spec.largest_object)
        # A lost chunk must raise: read as zeros it would be a plan all the same.
        stored = array_of(root, f"plan/{name}").with_config({"read_missing_chunks": False})
        try:
            for key in keys:
                require_frame(path, key, spec.chunk_bytes)
            arrays[name] = np.asarray(stored[...])
        except StorageError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"cache {path}: plan/{name} cannot be read: {reason}. Run make verify-cache CACHE={path}"
            ) from error
    try:
        patch_ids = decode_ids(arrays.pop("patch_id"))
    except UnicodeDecodeError as error:
        raise ValueError(f"cache {path}: plan/patch_id is no UTF-8 ({error}). Run make verify-cache") from None
    plan = Plan(patch_ids=patch_ids, **arrays)
    room = {"row": specs["prior_index"].shape[1]}
    if plan.assigned_start is not None:
        room["assigned"] = specs["assigned_prior"].shape[1]
    row_bytes = sum(specs[name].chunk_bytes // specs[name].chunks[1] for name in RECORD_FIELDS)
    require_plan(path, plan, manifest, room, row_bytes)
    for name, spec in manifest_specs(StoreSizes.of_plan(plan), manifest).items():
        if spec.shape != specs[name].shape:
            raise ValueError(
                f"cache {path}: {name}: shape is {specs[name].shape}, the plan needs {spec.shape}. "
                f"Run make verify-cache CACHE={path}"
            )
    return plan


def encode_ids(ids: tuple[str, ...]) -> np.ndarray:
    """(P, W) uint8: UTF-8, padded with zeros."""
    encoded = [identifier.encode() for identifier in ids]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), dtype=np.uint8).reshape(-1, width)


def decode_ids(array: np.ndarray) -> tuple[str, ...]:
    return tuple(bytes(row).rstrip(b"\0").decode() for row in array)


def open_root(place: Place, *, allow_unfinished: bool = False) -> zarr.Group:
    """Open a store for reading metadata, plan and commits.

    Args:
        allow_unfinished: on S3, open a store whose creation was cut short as well: its manifest is there.

    Raises:
        ValueError: nothing there, something that is not a cache of this format, or a manifest that no capture writes.
    """
    path = locate(place)
    if not path.has("zarr.json"):
        if not path.exists():
            raise ValueError(f"cache {path} does not exist. Build it with: make cache-teacher CACHE={path}")
        raise ValueError(f"{path} exists but is not a teacher cache (no zarr.json). Give another CACHE= path")
    document = read_document(path, "zarr.json")
    try:
        root = zarr.open_group(path.zarr_store(), mode="r", zarr_format=3, use_consolidated=False)
    except StorageError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable Zarr v3 group: {error}") from error
    stored = root.attrs.get("format")
    if stored is None:
        raise ValueError(f"{path} is a Zarr group but not a teacher cache (no `format`). Give another CACHE= path")
    if stored != FORMAT:
        raise ManifestMismatch(
            f"cache {path}: format is {stored} but this code reads format {FORMAT}. Rebuild the cache"
        )
    if document.get("consolidated_metadata") is not None:
        raise ValueError(f"cache {path}: zarr.json holds consolidated metadata, which no capture writes. Restore it")
    require_manifest(path, root.attrs.asdict())
    if not allow_unfinished:
        require_created(path)
    return root


def require_created(location: Location) -> None:
    """Refuse a store on S3 that is still being laid out: there is no rename that would show it whole or not at all.

    Raises:
        ValueError: `documents`, which is written last, is not there, and no block is.
    """
    if location.is_remote and not location.has(DOCUMENTS_CHUNK) and not location.sizes("committed/c/"):
        raise ValueError(
            f"cache {location} is still being laid out, or its capture was stopped while it was ({DOCUMENTS_CHUNK} is "
            f"not there yet). Wait for the capture, or go on with: make cache-teacher CACHE={location}"
        )


def location_of(root: zarr.Group) -> Location:
    """Where an opened store lies."""
    return locate(str(root.store_path).removeprefix("file://").rstrip("/"))


def require_arrays(path: Location, manifest: Manifest) -> dict[str, ArraySpec]:
    """The arrays of an opened store by name, none other than its manifest implies; no data are read.

    To be called before any array is read; `read_plan` does. Three sizes are in no manifest: bytes of a patch id,
    levels, rows of a block. Other arrays and limits bound them.

    Raises:
        ValueError: naming the first document and field that differ, or what would be too large.
    """
    names = ArrayNames(manifest.assignment is not None)
    read_document(path, "plan/zarr.json")
    documents = {name: read_document(path, f"{name}/zarr.json") for name in names.all}
    counts = manifest.plan
    sizes = StoreSizes(
        patches=counts["num_patches"],
        views=counts["num_views"],
        blocks=counts["num_blocks"],
        levels=_second_size(path, documents, "plan/level_counts", MAX_LEVELS),
        id_bytes=_second_size(path, documents, "plan/patch_id", MAX_ID_BYTES),
        rows=_second_size(path, documents, "prior_index", 2**32),
        assigned_rows=_second_size(path, documents, "assigned_prior", 2**32) if names.assigned else None,
    )
    specs = manifest_specs(sizes, manifest)
    for name, spec in specs.items():
        require_array(path, name, spec.document(), documents[name])
        require_bytes(path, f"a chunk of {name}", spec.chunk_bytes, MAX_CHUNK_BYTES)
        if spec.shards is not None:
            require_bytes(path, f"a block of {name}", spec.chunk_bytes * spec.chunks_per_object, MAX_BLOCK_BYTES)
    plan_bytes = sum(
        math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs.values() if not spec.shards
    )
    require_bytes(path, "the plan", plan_bytes, MAX_PLAN_BYTES)
    return specs


def manifest_specs(sizes: StoreSizes, manifest: Manifest) -> dict[str, ArraySpec]:
    """Every array by name, for the head and the codecs that a manifest describes."""
    head, codecs = manifest.head, codecs_of(manifest.codec)
    box_shape = len(head["box_parameters"]), head["num_bins"]
    return {spec.name: spec for spec in array_specs(sizes, codecs, len(head["classes"]), box_shape)}


def _second_size(path: Location, documents: Mapping[str, Mapping[str, Any]], name: str, most: int) -> int:
    """Second entry of an array's shape."""
    shape = documents[name].get("shape")
    if isinstance(shape, list) and len(shape) == 2 and type(shape[1]) is int and 1 <= shape[1] <= most:
        return int(shape[1])
    raise ValueError(
        f"cache {path}: {name}: shape is {shown(shape)}, two sizes needed, the second from 1 to {most}. "
        f"Run make verify-cache CACHE={path}"
    )


def require_block_objects(path: Location, specs: Mapping[str, ArraySpec], block: int) -> None:
    """Refuse a block with an object that is no plain file of a possible size; absent ones are left to their reader.

    Raises:
        ValueError: naming the object.
    """
    for spec in specs.values():
        # Of objects on S3 nothing but ranges is ever asked for, which are as long as they are.
        if spec.dimensions[0] == "block" and not path.is_remote:
            require_object(path, object_key(spec, block), spec.largest_object)
    require_rows(path, specs["committed"], block, slice(0, 1))


def require_commits(path: Location, spec: ArraySpec) -> None:
    """The same for the commits of all blocks, before they are read.

    Raises:
        ValueError: naming the object.
    """

    def require_commit(block: int) -> None:
        if not path.is_remote:
            require_object(path, object_key(spec, block), spec.largest_object)
        require_rows(path, spec, block, slice(0, 1))

    # On S3 the time is that of waiting for answers.
    with ThreadPoolExecutor(max_workers=REQUESTS_AT_ONCE if path.is_remote else 1) as executor:
        list(executor.map(require_commit, range(spec.shape[0])))


def require_rows(path: Location, spec: ArraySpec, block: int, rows: slice) -> None:
    """Refuse rows whose compressed chunks would decompress to anything but their shape.

    Raises:
        ValueError: naming the object.
    """
    key = object_key(spec, block)
    if rows.start == rows.stop:
        return
    if spec.shards is None:
        require_frame(path, key, spec.chunk_bytes)
        return
    chunks = range(rows.start // spec.chunks[1], -(-rows.stop // spec.chunks[1]))
    require_shard_frames(path, key, spec.chunk_bytes, spec.chunks_per_object, chunks, is_blosc=spec.byte_shuffle)


def object_key(spec: ArraySpec, block: int) -> str:
    """Key of the object of one block."""
    return f"{spec.name}/c/{block}{'/0' * (len(spec.shape) - 1)}"


def array_of(root: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a store, to read or to write."""
    array = root[name]
    assert isinstance(array, zarr.Array), f"{name} is a group"
    # A row that equals the fill value is a row all the same: only what was never written is absent. Zarr does not
    # store this setting, so it holds for an opened array alone.
    return array.with_config({"write_empty_chunks": True})


def block_keys(root: zarr.Group, block: int) -> Iterator[str]:
    """Keys of the objects of one block, in the order of `ArrayNames.block`."""
    for name in names_of(root).block:
        zeros = "/0" * (array_of(root, name).ndim - 1)
        yield f"{name}/c/{block}{zeros}"


def commit_key(block: int) -> str:
    """Key of the object that commits a block."""
    return f"committed/c/{block}/0"


def block_digest(place: Place, root: zarr.Group, block: int) -> bytes:
    """SHA-256 over the block's objects, each preceded by its length; an object that is absent has length 0."""
    location = locate(place)
    digest = hashlib.sha256()
    for key in block_keys(root, block):
        try:
            data = location.read(key)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            data = b""
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def document_digests(place: Place, root: zarr.Group) -> np.ndarray:
    """(N, 32) uint8: digests of the store's metadata objects, in the order of `ArrayNames.documents`.

    A missing object raises FileNotFoundError.
    """
    keys = names_of(root).documents
    return np.stack([np.frombuffer(document_digest(place, key), dtype=np.uint8) for key in keys])


def document_digest(place: Place, key: str) -> bytes:
    """SHA-256 of a metadata object; for an array of `plan/` its chunks follow, each preceded by its key."""
    location = locate(place)
    require_object(location, key, MAX_DOCUMENT_BYTES)
    digest = hashlib.sha256(location.read(key))
    if key.startswith("plan/") and key != "plan/zarr.json":
        for chunk in sorted(location.sizes(key.removesuffix("zarr.json") + "c/"), key=lambda chunk: chunk.split("/")):
            require_object(location, chunk, MAX_PLAN_BYTES)
            digest.update(chunk.encode())
            digest.update(location.read(chunk))
    return digest.digest()
