"""Small stores with known content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.cells import Basis, CellCodec, CellRows, HeadShape, count_cells
from cache.codec import Codec, CodecRequest, RowCodec, describe_codec
from cache.layout import ASSIGNED_FIELDS, ERROR_COLUMNS
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.reader import CacheReader
from cache.view import FLIPS
from cache.writer import CacheWriter

NUM_CLASSES, BOX_SHAPE, NUM_PRIORS = 3, (5, 9), 3024
HEAD_SECTION = {
    "classes": list("abc"),
    "box_parameters": ["x", "y", "w", "h", "angle"],
    "num_bins": 9,
    # Priors of a cell; strides are left out, so that no grid says how many priors a level has.
    "grid": {"ratios": [1.0, 0.5], "scales": [2.0]},
}
HEAD = HeadShape.of(HEAD_SECTION)
NO_ERROR = dict.fromkeys(ERROR_COLUMNS, 0.0)


def planned_patch(patch_id: str, counts: np.ndarray, digest: bytes = bytes(32), **fields: Any) -> PlannedPatch:
    """A patch of a view a draw, with stored priors (F, L) on every level; each in a cell of its own."""
    views = np.arange(len(counts))
    given = {
        "draw_view": views,
        "view_shape": np.full((len(counts), 2), 128),
        "view_crc32c": 100 * digest[0] + views,
        "cell_counts": counts.sum(axis=1),
    }
    return PlannedPatch(patch_id, digest, digest, level_counts=counts, **(given | fields))


# A store of each kind: rows of floats, and cells.
KINDS = ("half", "default")


def plan_for(preset: str, **options: Any) -> Plan:
    """The small plan of a preset's kind of rows."""
    return small_plan(as_cells=CodecRequest.of(preset).is_cells, **options)


def small_plan(
    num_patches: int = 6,
    flips: Sequence[str] = FLIPS,
    seed: int = 0,
    views_per_block: int = 8,
    assigned: bool = False,
    as_cells: bool = False,
) -> Plan:
    """Patches with random numbers of priors; the first one has no object."""
    random = np.random.default_rng(seed)
    patches = []
    for number in range(num_patches):
        counts = random.integers(0, 60, (len(flips), 3)) * (number > 0)
        planned = random.integers(0, 9, len(flips)) * (number > 0) if assigned else None
        patches.append(
            planned_patch(
                f"P{number:04d}__a__128__0___0",
                counts,
                digest=bytes([number]) * 32,
                cell_counts=np.asarray(
                    [view_cells(number, view, count) for view, count in enumerate(counts.sum(axis=1))]
                ),
                assigned_counts=planned,
            )
        )
    return make_plan(patches, flips, views_per_block=views_per_block, as_cells=as_cells)


def _view_priors(patch: int, view: int, count: int) -> np.ndarray:
    """(count,) sorted flat indices of a view's region, the same wherever it is asked for."""
    random = np.random.default_rng([7, patch, view])
    return np.sort(random.choice(NUM_PRIORS, count, replace=False))


def view_cells(patch: int, view: int, count: int) -> int:
    """Cells that hold them."""
    return count_cells(_view_priors(patch, view, count), HEAD.priors)


def small_codec(preset: str) -> Codec:
    """Of cells a made-up basis: steps of 1/16 or 1/4 along random directions."""
    request = CodecRequest.of(preset)
    if request.dtype is not None:
        return RowCodec(request.dtype)
    random = np.random.default_rng(5)
    count = HEAD.coordinates
    directions, _ = np.linalg.qr(random.normal(size=(count, count)))
    basis = Basis(HEAD, random.normal(size=count), directions.T, np.linspace(9.0, 0.1, count))
    largest = np.linspace(40.0, 1.0, count) if preset == "default" else np.full(count, 7.0)
    return CellCodec.of_basis(basis, 0.5 if preset == "default" else 1.0, largest)


HALF = RowCodec("float16")


def small_manifest(plan: Plan, preset: str = "half", **sections: Any) -> Manifest:
    given = {
        "teacher": {"weights_sha256": "0" * 64},
        "head": HEAD_SECTION,
        "views": {"draws": list(plan.draws), "flip_offset": 1.0},
        "preprocessing": {},
        "numeric": {"threads": 1},
        "region": {"factor": 0.25, "topk": 9},
        "plan": plan.describe(),
        "assignment": None if plan.assigned_start is None else {"arrays": list(ASSIGNED_FIELDS), "assigner": {}},
        "codec": describe_codec(CodecRequest.of(preset), small_codec(preset)),
    }
    return Manifest(**(given | sections))


def block_logits(plan: Plan, block: int) -> dict[str, np.ndarray]:
    """Made-up rows of a block, the same in every process: logits as a teacher would give them."""
    random = np.random.default_rng([7, block])
    members = plan.views_of_block(block)
    rows = plan.priors_per_view[members].tolist()
    places = zip(plan.view_patch[members].tolist(), plan.view_draw[members].tolist(), rows, strict=True)
    index = [_view_priors(patch, view, count) for patch, view, count in places]
    total = sum(rows)
    box = random.uniform(-4, 0, (total, *BOX_SHAPE)).astype(np.float32)
    assigned = {}
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        counts = (plan.assigned_stop.astype(int) - plan.assigned_start)[members]
        priors = [np.sort(random.choice(NUM_PRIORS, count, replace=False)) for count in counts]
        assigned = {
            "assigned_prior": np.concatenate(priors).astype(np.uint32),
            "assigned_object": random.integers(-1, 5, counts.sum()).astype(np.int32),
        }
    return assigned | {
        "prior_index": np.concatenate(index).astype(np.uint32),
        "weight": random.uniform(0.01, 1, total).astype(np.float32),
        "cls_logits": random.uniform(-4, 2, (total, NUM_CLASSES)).astype(np.float32),
        "box_logits": box - box.max(axis=-1, keepdims=True),
    }


def view_rows(plan: Plan, view_index: int, kind: str = "prior") -> slice:
    """Where a view's rows lie among those of `block_logits`, which are stored priors, whatever a store's are."""
    if kind == "assigned":
        return slice(int(plan.assigned_start[view_index]), int(plan.assigned_stop[view_index]))
    members = plan.views_of_block(int(plan.block[view_index]))
    stop = np.cumsum(plan.priors_per_view[members])[np.flatnonzero(members == view_index)[0]]
    return slice(int(stop - plan.priors_per_view[view_index]), int(stop))


def block_fields(plan: Plan, block: int, preset: str = "half") -> dict[str, np.ndarray]:
    """The rows of a block as the writer takes them."""
    logits, codec = block_logits(plan, block), small_codec(preset)
    fields = {name: values for name, values in logits.items() if name in ASSIGNED_FIELDS}
    box = logits["box_logits"].reshape(-1, sum(HEAD.bins))
    if isinstance(codec, RowCodec):
        floats = {"weight": logits["weight"], "cls_logits": logits["cls_logits"], "box_logits": box}
        floats = {name: values.astype(codec.dtype) for name, values in floats.items()}
        return fields | {"prior_index": logits["prior_index"]} | floats
    cells = CellRows.of(logits["prior_index"], plan.priors_per_view[plan.views_of_block(block)], HEAD.priors)
    values = cells.scatter(np.concatenate([logits["cls_logits"], box], axis=1))
    return fields | {
        "cell_index": cells.cell_index.astype(np.uint32),
        "cell_weight": cells.scatter(logits["weight"].astype(np.float16)),
        "coefficients": codec.encode(values, cells.is_stored),
    }


def open_writer(
    path: Path | str, plan: Plan, preset: str = "half", sections: Mapping[str, Any] | None = None, **options: Any
) -> CacheWriter:
    """A writer of a small store, some sections of its manifest given."""
    return CacheWriter(path, small_manifest(plan, preset, **(sections or {})), plan, small_codec(preset), **options)


def write_blocks(writer: CacheWriter, preset: str = "half") -> None:
    for block in writer.missing_blocks():
        writer.write(block, block_fields(writer.plan, block, preset), NO_ERROR)


def write_store(path: Path | str, plan: Plan | None = None, preset: str = "half") -> Plan:
    """A complete store at `path`."""
    plan = plan or plan_for(preset)
    with open_writer(path, plan, preset) as writer:
        write_blocks(writer, preset)
    return plan


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store by its path: what 'the same bytes' compares."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def read_in_child(path: str, patch_id: str) -> int:
    """Rows of a record: what a worker process of a test does."""
    return len(CacheReader(path).read(patch_id, "none"))
