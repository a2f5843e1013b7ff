"""Names, shapes, types, codecs and keys of everything in a store: the code's side of cache/FORMAT.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache.cells import HeadShape
from cache.codec import stores_cells
from cache.manifest import Manifest
from cache.plan import Plan

# Size and name of a dimension.
Axis = tuple[int, str]

ROWS_PER_CHUNK = 4096
CELLS_PER_CHUNK = 1024
# Of zstd: 1 to 6 % smaller than level 1, faster to read, and a microsecond a prior to write (docs/benchmarks.md).
COEFFICIENT_LEVEL = 7
VIEWS_PER_CHUNK = 65536
# Fill values are poison: rows that were never written must not pass for targets.
POISON_INDEX = 0xFFFFFFFF
POISON_OBJECT = -(2**31)
POISON_CODE = -128

# A record's fields, by what a row of them is: a stored prior, or a cell with stored priors. The first is its index.
ROW_FIELDS = ("prior_index", "weight", "cls_logits", "box_logits")
CELL_FIELDS = ("cell_index", "cell_weight", "coefficients")
# Optional: what the detection losses need to know of every prior (the manifest's `assignment` lists them).
ASSIGNED_FIELDS = ("assigned_prior", "assigned_object")
# The arrays of `plan/`: one entry a patch or a view; those of `PLAN_MATRICES` have two axes, the others one.
PATCH_ARRAYS = ("patch_id", "image_sha256", "label_sha256", "draw_view")
VIEW_ARRAYS = ("view_patch", "view_draw", "view_shape", "view_crc32c", "level_counts", "block", "row_start", "row_stop")
ASSIGNED_VIEW_ARRAYS = ("assigned_start", "assigned_stop")
PLAN_MATRICES = (*PATCH_ARRAYS, "view_shape", "level_counts")
# The arrays of `codec/`, where cells are stored.
CODEC_ARRAYS = ("basis", "offset", "variance")
# Axes of the arrays with one object a block.
BLOCK_AXES = {
    "prior_index": 2,
    "weight": 2,
    "cls_logits": 3,
    "box_logits": 3,
    "cell_index": 2,
    "cell_weight": 3,
    "coefficients": 3,
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


def error_columns(manifest: Manifest) -> tuple[str, ...]:
    """Columns of `capture_error`; of a store made from one that was not exact, the errors of its source as well."""
    return (*ERROR_COLUMNS, *(f"source_{column}" for column in ERROR_COLUMNS if "source" in manifest.codec))


@dataclass(frozen=True)
class ArrayNames:
    """The arrays of a store: rows of priors or of cells, with or without the optional ones.

    record: fields of a record. block: the objects that a commit covers, in this order. plan, codec: without the
    group's name.
    """

    cells: bool
    assigned: bool

    @classmethod
    def of(cls, manifest: Manifest) -> ArrayNames:
        return cls(stores_cells(manifest.codec), manifest.assignment is not None)

    @property
    def record(self) -> tuple[str, ...]:
        return (*(CELL_FIELDS if self.cells else ROW_FIELDS), *(ASSIGNED_FIELDS if self.assigned else ()))

    @property
    def block(self) -> tuple[str, ...]:
        return (*self.record, "capture_error")

    @property
    def plan(self) -> tuple[str, ...]:
        return (*PATCH_ARRAYS, *VIEW_ARRAYS, *(ASSIGNED_VIEW_ARRAYS if self.assigned else ()))

    @property
    def codec(self) -> tuple[str, ...]:
        return CODEC_ARRAYS if self.cells else ()

    @property
    def groups(self) -> tuple[str, ...]:
        return ("plan", "codec") if self.cells else ("plan",)

    @property
    def all(self) -> tuple[str, ...]:
        plan, codec = (f"plan/{name}" for name in self.plan), (f"codec/{name}" for name in self.codec)
        return (*plan, *codec, *self.block, "committed", "documents")

    @property
    def documents(self) -> list[str]:
        """Keys of the objects that `documents` holds digests of: all metadata, and the chunks of plan and codec."""
        return sorted(["zarr.json", *(f"{name}/zarr.json" for name in (*self.groups, *self.all))])

    def block_keys(self, block: int) -> list[str]:
        """Keys of the objects that a block's commit covers; an array without rows in the block has none."""
        return [object_key(name, block) for name in self.block]


def object_key(name: str, block: int) -> str:
    """Key of a block's object of an array."""
    return f"{name}/c/{block}{'/0' * (BLOCK_AXES[name] - 1)}"


def commit_key(block: int) -> str:
    """Key of the object that commits a block."""
    return object_key("committed", block)


def chunk_keys(name: str, manifest: Manifest) -> list[str]:
    """Keys of the chunks of one array of `plan/` or `codec/`, by its path."""
    group, _, array = name.partition("/")
    if group == "codec":
        return [f"{name}/c/0/0" if array == "basis" else f"{name}/c/0"]
    count = manifest.plan["num_patches" if array in PATCH_ARRAYS else "num_views"]
    tail = "/0" if array in PLAN_MATRICES else ""
    return [f"{name}/c/{chunk}{tail}" for chunk in range(-(-count // VIEWS_PER_CHUNK))]


def row_kind(field: str) -> str:
    """Which rows a field of the record has: a key of `Plan.row_ranges`."""
    return "assigned" if field in ASSIGNED_FIELDS else "row"


def rows_in_block(plan: Plan, field: str, block: int) -> int:
    """Planned rows of a field of the record in a block."""
    return int(plan.rows_per_block(row_kind(field))[block])


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store; `row_axis` is where the rows of a block lie, where it has such."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    fill_value: float
    shards: tuple[int, ...] | None = None
    byte_shuffle: bool = False
    row_axis: int = 1
    level: int = 5
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_per_block(self) -> bool:
        return self.dimensions[0] == "block"

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of a row, of an array with one object a block."""
        return math.prod(self.shape[1:]) // self.shape[self.row_axis] * np.dtype(self.dtype).itemsize

    def block_shape(self, rows: int) -> tuple[int, ...]:
        """The shape of so many rows of a block."""
        return (*self.shape[1 : self.row_axis], rows, *self.shape[self.row_axis + 1 :])

    def rows_of(self, block: int, rows: slice) -> tuple[int | slice, ...]:
        """The index of some rows of a block."""
        return (block, *[slice(None)] * (self.row_axis - 1), rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    @property
    def chunks_per_object(self) -> int:
        """Chunks of a shard; 1 without shards."""
        return 1 if self.shards is None else self.shards[self.row_axis] // self.chunks[self.row_axis]

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
            BloscCodec(cname="zstd", clevel=self.level, shuffle="shuffle", typesize=np.dtype(self.dtype).itemsize)
            if self.byte_shuffle
            else ZstdCodec(level=self.level)
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
    draws: int
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
            draws=len(plan.draws),
            views=plan.num_views,
            blocks=plan.num_blocks,
            levels=plan.level_counts.shape[1],
            id_bytes=max(len(patch_id.encode()) for patch_id in plan.patch_ids),
            rows=int(plan.rows_per_block().max()),
            assigned_rows=None if plan.assigned_start is None else int(plan.rows_per_block("assigned").max()),
        )


def array_specs(sizes: StoreSizes, manifest: Manifest) -> dict[str, ArraySpec]:
    """Every array of a store by name."""
    names, head = ArrayNames.of(manifest), HeadShape.of(manifest.head)
    specs = [
        *_plan_specs(sizes, names),
        *(_cell_specs(sizes, head, manifest.codec) if names.cells else _float_specs(sizes, head, manifest.codec)),
    ]
    if names.assigned:
        prior = {"long_name": "flat index of a prior that is not negative"}
        matched = {"long_name": "its object; -1: ignored"}
        specs.append(_row_spec(sizes, "assigned_prior", "uint32", POISON_INDEX, prior))
        specs.append(_row_spec(sizes, "assigned_object", "int32", POISON_OBJECT, matched))
    blocks, columns, nan = sizes.blocks, error_columns(manifest), float("nan")
    documents = (len(names.documents), 32)
    errors = ArraySpec("capture_error", (blocks, len(columns)), "float64", (1, len(columns)), ("block", "error"), nan)
    specs += [
        replace(errors, attributes={"columns": list(columns)}),
        ArraySpec("committed", (blocks, 32), "uint8", (1, 32), ("block", "digest_byte"), 0),
        ArraySpec("documents", documents, "uint8", documents, ("document", "digest_byte"), 0),
    ]
    return {spec.name: spec for spec in specs}


def _plan_specs(sizes: StoreSizes, names: ArrayNames) -> Iterator[ArraySpec]:
    """The arrays of `plan/`: one axis of uint32 but for those of this table."""
    special: dict[str, tuple[str, *tuple[Axis, ...]]] = {
        "patch_id": ("uint8", (sizes.id_bytes, "id_byte")),
        "image_sha256": ("uint8", (32, "digest_byte")),
        "label_sha256": ("uint8", (32, "digest_byte")),
        "draw_view": ("uint32", (sizes.draws, "draw")),
        "view_shape": ("uint32", (2, "height_width")),
        "level_counts": ("uint32", (sizes.levels, "level")),
    }
    for name in names.plan:
        dtype, *tail = special.get(name, ("uint32",))
        count, dimension = (sizes.patches, "patch") if name in PATCH_ARRAYS else (sizes.views, "view")
        shape, labels = _split(tail)
        chunks = (min(count, VIEWS_PER_CHUNK), *shape)
        yield ArraySpec(f"plan/{name}", (count, *shape), dtype, chunks, (dimension, *labels), 0)


def _float_specs(sizes: StoreSizes, head: HeadShape, codec: Mapping[str, Any]) -> Iterator[ArraySpec]:
    """The fields of records whose rows are stored priors."""
    dtype, nan = codec["dtype"], float("nan")
    yield _row_spec(sizes, "prior_index", "uint32", POISON_INDEX, {"long_name": "flat prior index"})
    for name, long_name, *tail in (
        ("weight", "region weight"),
        ("cls_logits", "teacher class logits", (head.classes, "class")),
        ("box_logits", "teacher box logits", (sum(head.bins), "bin")),
    ):
        attributes = {"units": "1", "long_name": long_name}
        yield _row_spec(sizes, name, dtype, nan, attributes, *tail, shuffle=False)


def _cell_specs(sizes: StoreSizes, head: HeadShape, codec: Mapping[str, Any]) -> Iterator[ArraySpec]:
    """The fields of records whose rows are cells, and the arrays of `codec/`."""
    columns, values, nan = codec["columns"], head.priors * head.values, float("nan")
    for name, shape, dimensions in (
        ("basis", (columns, values), ("coefficient", "value")),
        ("offset", (values,), ("value",)),
        ("variance", (columns,), ("coefficient",)),
    ):
        yield ArraySpec(f"codec/{name}", shape, "float32", shape, dimensions, nan)
    index = {"long_name": "flat cell index"}
    yield _row_spec(sizes, "cell_index", "uint32", POISON_INDEX, index, per_chunk=CELLS_PER_CHUNK)
    weight = {"units": "1", "long_name": "region weight of every prior of the cell; 0: not stored"}
    tail = head.priors, "prior"
    yield _row_spec(sizes, "cell_weight", "float16", nan, weight, tail, shuffle=False, per_chunk=CELLS_PER_CHUNK)
    chunk, rows = _chunked(sizes.rows, CELLS_PER_CHUNK)
    yield ArraySpec(
        "coefficients",
        # Rows come last: a column of codes lies together, and compresses as what it is.
        (sizes.blocks, columns, rows),
        "int8",
        (1, columns, chunk),
        ("block", "coefficient", "row"),
        POISON_CODE,
        shards=(1, columns, rows),
        row_axis=2,
        level=COEFFICIENT_LEVEL,
        attributes={
            "units": "1",
            "long_name": "coefficients of the cell",
            "scale_factor": codec["step"],
            "add_offset": 0.0,
        },
    )


def _row_spec(
    sizes: StoreSizes,
    name: str,
    dtype: str,
    fill: float,
    attributes: Mapping[str, Any],
    *tail: Axis,
    shuffle: bool = True,
    per_chunk: int | None = None,
) -> ArraySpec:
    """A field of a record: blocks of rows, a shard a block."""
    is_assigned = name in ASSIGNED_FIELDS
    chunk, rows = _chunked((sizes.assigned_rows if is_assigned else sizes.rows) or 0, per_chunk or ROWS_PER_CHUNK)
    shape, labels = _split(tail)
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


def _chunked(rows: int, most: int) -> tuple[int, int]:
    """Rows of a chunk and of a shard: chunks shrink with small caches, and the last chunk of a shard is whole."""
    chunk = min(most, max(1, rows))
    return chunk, -(-max(1, rows) // chunk) * chunk


def _split(tail: Iterable[Axis]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return tuple(size for size, _ in tail), tuple(label for _, label in tail)


def plan_arrays(plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of `plan/` by name."""
    arrays = {"patch_id": encode_ids(plan.patch_ids)}
    names = (*PATCH_ARRAYS, *VIEW_ARRAYS, *(ASSIGNED_VIEW_ARRAYS if plan.assigned_start is not None else ()))
    return arrays | {name: getattr(plan, name) for name in names if name not in arrays}


def encode_ids(ids: Iterable[str]) -> np.ndarray:
    """(P, W) uint8: UTF-8, padded with zeros."""
    encoded = [identifier.encode() for identifier in ids]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), dtype=np.uint8).reshape(-1, width)


def decode_ids(array: np.ndarray) -> tuple[str, ...]:
    return tuple(bytes(row).rstrip(b"\0").decode() for row in array)
