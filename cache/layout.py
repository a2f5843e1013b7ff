"""The only place that knows the store's array names, dtypes, chunks and shards (FORMAT.md describes them)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache.manifest import FORMAT, Manifest, ManifestMismatch
from cache.plan import Plan
from cache.quantize import FieldCodec
from cache.storage import Location, Place, StorageError, locate

ROWS_PER_CHUNK = 4096
VIEWS_PER_CHUNK = 65536
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


def array_specs(
    plan: Plan, codecs: Mapping[str, FieldCodec], num_classes: int, box_shape: tuple[int, int]
) -> list[ArraySpec]:
    """Every array of a cache for this plan; `box_shape` is (parameters D, bins K)."""
    blocks = plan.num_blocks
    region_rows, assigned_rows = plan.rows_per_block.max(), plan.assigned_per_block.max()
    views, patches = plan.num_views, len(plan.patch_ids)

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
        count: int = region_rows,
        dimension: str = "row",
        **options: Any,
    ) -> ArraySpec:
        sizes, labels = tuple(size for size, _ in tail), tuple(label for _, label in tail)
        # Chunks shrink with small caches, and the last chunk of a shard is whole: rows are a multiple of the chunk.
        chunk = min(ROWS_PER_CHUNK, max(1, int(count)))
        rows = -(-max(1, int(count)) // chunk) * chunk
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
            count=assigned_rows,
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

    id_width = max(len(patch_id.encode()) for patch_id in plan.patch_ids)
    specs = [
        per_patch("patch_id", "uint8", (id_width, "id_byte")),
        per_patch("image_sha256", "uint8", (32, "digest_byte")),
        per_patch("label_sha256", "uint8", (32, "digest_byte")),
        per_patch("patch_shape", "uint32", (2, "height_width")),
        per_view("view_patch", "uint32"),
        per_view("view_flip", "uint8"),
        per_view("level_counts", "uint32", (plan.level_counts.shape[1], "level")),
        per_view("block", "uint32"),
        per_view("row_start", "uint32"),
        per_view("row_stop", "uint32"),
        *(per_view(name, "uint32") for name in ASSIGNED_VIEW_ARRAYS if plan.assigned_start is not None),
        per_row("prior_index", "uint32", POISON_INDEX, byte_shuffle=True, attributes={"long_name": "flat prior index"}),
        coded("weight", "region weight"),
        coded("cls_logits", "teacher class logits", (num_classes, "class")),
        coded("box_logits", "teacher box logits", (box_shape[0], "parameter"), (box_shape[1], "bin")),
        *(
            (
                assigned("assigned_prior", "uint32", POISON_INDEX, "flat index of a prior that is not negative"),
                assigned("assigned_object", "int32", POISON_OBJECT, "its object; -1: ignored"),
            )
            if plan.assigned_start is not None
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
    documents = len(ArrayNames(plan.assigned_start is not None).documents)
    specs.append(ArraySpec("documents", (documents, 32), "uint8", (documents, 32), ("document", "digest_byte"), 0))
    return specs


def plan_chunk_keys(name: str, num_patches: int, num_views: int) -> list[str]:
    """Keys of the chunks of one array of `plan/`."""
    count = num_patches if name in PATCH_ARRAYS else num_views
    tail = "/0" if name in PLAN_MATRICES else ""
    return [f"plan/{name}/c/{chunk}{tail}" for chunk in range(-(-count // VIEWS_PER_CHUNK))]


def create_arrays(location: Location, manifest: Manifest, plan: Plan, specs: list[ArraySpec]) -> zarr.Group:
    """Write metadata and plan of a new store, `documents` last; every record is still missing."""
    root = zarr.create_group(location.zarr_store(), zarr_format=3, attributes=dict(manifest))
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
        ValueError: a chunk is lost or damaged.
    """
    arrays = {}
    for name in names_of(root).plan:
        # A lost chunk must raise: read as zeros it would be a plan all the same.
        stored = array_of(root, f"plan/{name}").with_config({"read_missing_chunks": False})
        try:
            arrays[name] = np.asarray(stored[...])
        except StorageError:
            raise
        except Exception as error:
            path, reason = str(root.store_path).removeprefix("file://"), str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"cache {path}: plan/{name} cannot be read: {reason}. Run make verify-cache CACHE={path}"
            ) from error
    return Plan(patch_ids=decode_ids(arrays.pop("patch_id")), **arrays)


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
        ValueError: nothing there, or something that is not a cache of this format.
    """
    path = locate(place)
    if not path.has("zarr.json"):
        if not path.exists():
            raise ValueError(f"cache {path} does not exist. Build it with: make cache-teacher CACHE={path}")
        raise ValueError(f"{path} exists but is not a teacher cache (no zarr.json). Give another CACHE= path")
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
    digest = hashlib.sha256(location.read(key))
    if key.startswith("plan/") and key != "plan/zarr.json":
        for chunk in sorted(location.sizes(key.removesuffix("zarr.json") + "c/"), key=lambda chunk: chunk.split("/")):
            digest.update(chunk.encode())
            digest.update(location.read(chunk))
    return digest.digest()
