"""Names, shapes, types, codecs and keys of everything in a store: the code's side of cache/FORMAT.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import FieldCodec, codecs_of

# Size and name of a dimension.
Axis = tuple[int, str]

ROWS_PER_CHUNK = 4096
VIEWS_PER_CHUNK = 65536
# Fill values are poison: rows that were never written must not pass for targets.
POISON_INDEX = 0xFFFFFFFF
POISON_OBJECT = -(2**31)

RECORD_FIELDS = ("prior_index", "weight", "cls_logits", "box_logits")
# Optional: what the detection losses need to know of every prior (the manifest's `assignment` lists them).
ASSIGNED_FIELDS = ("assigned_prior", "assigned_object")
# The arrays of `plan/`: one entry a patch or a view; those of `PLAN_MATRICES` have two axes, the others one.
PATCH_ARRAYS = ("patch_id", "image_sha256", "label_sha256", "patch_shape")
VIEW_ARRAYS = ("view_patch", "view_flip", "level_counts", "block", "row_start", "row_stop")
ASSIGNED_VIEW_ARRAYS = ("assigned_start", "assigned_stop")
PLAN_MATRICES = (*PATCH_ARRAYS, "level_counts")
# Axes of the arrays with one object a block.
BLOCK_AXES = {
    "prior_index": 2,
    "weight": 2,
    "cls_logits": 3,
    "box_logits": 4,
    "assigned_prior": 2,
    "assigned_object": 2,
    "capture_error": 2,
    "committed": 2,
}
# Written last when a store is laid out.
DOCUMENTS_CHUNK = "documents/c/0/0"

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

    def block_keys(self, block: int) -> list[str]:
        """Keys of the objects that a block's commit covers; an array without rows in the block has none."""
        return [object_key(name, block) for name in self.block]


def object_key(name: str, block: int) -> str:
    """Key of a block's object of an array."""
    return f"{name}/c/{block}{'/0' * (BLOCK_AXES[name] - 1)}"


def commit_key(block: int) -> str:
    """Key of the object that commits a block."""
    return object_key("committed", block)


def plan_chunk_keys(name: str, manifest: Manifest) -> list[str]:
    """Keys of the chunks of one array of `plan/`."""
    count = manifest.plan["num_patches" if name in PATCH_ARRAYS else "num_views"]
    tail = "/0" if name in PLAN_MATRICES else ""
    return [f"plan/{name}/c/{chunk}{tail}" for chunk in range(-(-count // VIEWS_PER_CHUNK))]


def row_kind(field: str) -> str:
    """Which rows a field of the record has: a key of `Plan.row_ranges`."""
    return "assigned" if field in ASSIGNED_FIELDS else "row"


def rows_in_block(plan: Plan, field: str, block: int) -> int:
    """Planned rows of a field of the record in a block."""
    return int((plan.assigned_per_block if field in ASSIGNED_FIELDS else plan.rows_per_block)[block])


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
    def is_per_block(self) -> bool:
        return self.dimensions[0] == "block"

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of a row, of an array with one object a block."""
        return math.prod(self.shape[2:]) * np.dtype(self.dtype).itemsize

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
        """What its metadata document must say, as `trust` compares it."""
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

    def create(self, root: zarr.Group) -> None:
        """Write its metadata document."""
        compressor = (
            BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=np.dtype(self.dtype).itemsize)
            if self.byte_shuffle
            else ZstdCodec(level=5)
        )
        root.create_array(
            self.name,
            shape=self.shape,
            dtype=self.dtype,
            chunks=self.chunks,
            shards=self.shards,
            fill_value=self.fill_value,
            compressors=[compressor, Crc32cCodec()],
            dimension_names=self.dimensions,
            attributes=dict(self.attributes),
        )


def largest_encoded(chunk_bytes: int) -> int:
    """Most bytes that a chunk can take on disk: a chunk that does not compress grows by headers and checksums."""
    return chunk_bytes + chunk_bytes // 128 + 64


@dataclass(frozen=True)
class StoreSizes:
    """All that the arrays' shapes depend on, beside the manifest.

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


def array_specs(sizes: StoreSizes, manifest: Manifest) -> dict[str, ArraySpec]:
    """Every array of a store by name."""
    head, codecs = manifest.head, codecs_of(manifest.codec)
    classes = (len(head["classes"]), "class")
    box = (len(head["box_parameters"]), "parameter"), (head["num_bins"], "bin")
    specs = [
        *_plan_specs(sizes),
        _row_spec(sizes, "prior_index", "uint32", POISON_INDEX, {"long_name": "flat prior index"}),
        _coded_spec(sizes, "weight", codecs, "region weight"),
        _coded_spec(sizes, "cls_logits", codecs, "teacher class logits", classes),
        _coded_spec(sizes, "box_logits", codecs, "teacher box logits", *box),
    ]
    if sizes.assigned_rows is not None:
        prior = {"long_name": "flat index of a prior that is not negative"}
        matched = {"long_name": "its object; -1: ignored"}
        specs.append(_row_spec(sizes, "assigned_prior", "uint32", POISON_INDEX, prior))
        specs.append(_row_spec(sizes, "assigned_object", "int32", POISON_OBJECT, matched))
    blocks, columns, nan = sizes.blocks, len(ERROR_COLUMNS), float("nan")
    documents = (len(ArrayNames(sizes.assigned_rows is not None).documents), 32)
    errors = ArraySpec("capture_error", (blocks, columns), "float64", (1, columns), ("block", "error"), nan)
    specs += [
        replace(errors, attributes={"columns": list(ERROR_COLUMNS)}),
        ArraySpec("committed", (blocks, 32), "uint8", (1, 32), ("block", "digest_byte"), 0),
        ArraySpec("documents", documents, "uint8", documents, ("document", "digest_byte"), 0),
    ]
    return {spec.name: spec for spec in specs}


def _plan_specs(sizes: StoreSizes) -> Iterator[ArraySpec]:
    """The arrays of `plan/`: one axis of uint32 but for those of this table."""
    special: dict[str, tuple[str, *tuple[Axis, ...]]] = {
        "patch_id": ("uint8", (sizes.id_bytes, "id_byte")),
        "image_sha256": ("uint8", (32, "digest_byte")),
        "label_sha256": ("uint8", (32, "digest_byte")),
        "patch_shape": ("uint32", (2, "height_width")),
        "view_flip": ("uint8",),
        "level_counts": ("uint32", (sizes.levels, "level")),
    }
    for name in ArrayNames(sizes.assigned_rows is not None).plan:
        dtype, *tail = special.get(name, ("uint32",))
        count, dimension = (sizes.patches, "patch") if name in PATCH_ARRAYS else (sizes.views, "view")
        shape, labels = _split(tail)
        chunks = (min(count, VIEWS_PER_CHUNK), *shape)
        yield ArraySpec(f"plan/{name}", (count, *shape), dtype, chunks, (dimension, *labels), 0)


def _row_spec(
    sizes: StoreSizes,
    name: str,
    dtype: str,
    fill: float,
    attributes: Mapping[str, Any],
    *tail: Axis,
    shuffle: bool = True,
) -> ArraySpec:
    """A field of a record: blocks of rows, a shard a block."""
    is_assigned = name in ASSIGNED_FIELDS
    count = max(1, (sizes.assigned_rows if is_assigned else sizes.rows) or 0)
    shape, labels = _split(tail)
    # Chunks shrink with small caches, and the last chunk of a shard is whole: rows are a multiple of the chunk.
    chunk = min(ROWS_PER_CHUNK, count)
    rows = -(-count // chunk) * chunk
    return ArraySpec(
        name,
        (sizes.blocks, rows, *shape),
        dtype,
        (1, chunk, *shape),
        ("block", "assigned_row" if is_assigned else "row", *labels),
        fill,
        shards=(1, rows, *shape),
        byte_shuffle=shuffle,
        attributes=attributes,
    )


def _coded_spec(
    sizes: StoreSizes, name: str, codecs: Mapping[str, FieldCodec], long_name: str, *tail: Axis
) -> ArraySpec:
    """A field that a codec stores: as floats, or as codes with CF's attributes."""
    codec, attributes = codecs[name], {"units": "1", "long_name": long_name}
    if codec.is_float:
        return _row_spec(sizes, name, codec.dtype, float("nan"), attributes, *tail, shuffle=False)
    scale = {"scale_factor": codec.scale_factor, "add_offset": codec.add_offset}
    # The upper byte of a two-byte code hardly ever changes: shuffled, it costs nothing.
    wide = codec.dtype == "uint16"
    return _row_spec(sizes, name, codec.dtype, codec.largest_code, attributes | scale, *tail, shuffle=wide)


def _split(tail: Iterable[Axis]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return tuple(size for size, _ in tail), tuple(label for _, label in tail)


def plan_arrays(plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of `plan/` by name."""
    arrays = {"patch_id": encode_ids(plan.patch_ids)}
    names = ArrayNames(plan.assigned_start is not None).plan
    return arrays | {name: getattr(plan, name) for name in names if name not in arrays}


def encode_ids(ids: Iterable[str]) -> np.ndarray:
    """(P, W) uint8: UTF-8, padded with zeros."""
    encoded = [identifier.encode() for identifier in ids]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), dtype=np.uint8).reshape(-1, width)


def decode_ids(array: np.ndarray) -> tuple[str, ...]:
    return tuple(bytes(row).rstrip(b"\0").decode() for row in array)
