"""Make the golden stores anew; only while the format is a draft: python -m tests.golden.stores.make_stores

Three stores through the writer, small enough to be read in a hexadecimal editor; the records that `CacheReader` reads
from each; and of cells the logits that their codes were made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cache.cells import CellCodec, CellRows, HeadShape, fit_basis
from cache.codec import Codec, CodecRequest, RowCodec, describe_codec
from cache.grid import grid_of
from cache.layout import ASSIGNED_FIELDS, ERROR_COLUMNS
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.reader import CacheReader
from cache.view import FLIPS
from cache.writer import CacheWriter
from tests.cache.golden_stores import RECORD_ARRAYS, STORES

FOLDER = Path(__file__).parent
STEPS = {"default": 1 / 8, "small": 1.0}
HEADS: dict[str, dict[str, Any]] = {
    # Floats of plain numbers, one prior a cell.
    "rows": {
        "kind": "numbers",
        "classes": ["ship", "plane", "harbor"],
        "box_parameters": ["dx", "dy", "dw", "dh"],
        "num_bins": 1,
        "grid": {"strides": [16, 32], "ratios": [1.0], "scales": [4.0]},
    },
    # Nine priors a cell, and an angle with more bins than the rest.
    "rotated": {
        "kind": "rotated",
        "classes": ["ship", "plane"],
        "box_parameters": ["x", "y", "w", "h", "angle"],
        "num_bins": [2, 2, 2, 2, 3],
        "grid": {"strides": [8, 16, 32], "ratios": [1.0, 0.5, 2.0], "scales": [4.0, 5.04, 6.35]},
    },
    # One prior a cell, and a planned assignment.
    "horizontal": {
        "kind": "horizontal",
        "classes": ["ship", "plane", "harbor", "bridge"],
        "box_parameters": ["left", "top", "right", "bottom"],
        "num_bins": 5,
        "grid": {"strides": [8, 16], "ratios": [1.0], "scales": [8.0]},
    },
}
PRESETS = {"rows": "exact", "rotated": "default", "horizontal": "small"}
DRAWS = {"rows": FLIPS, "rotated": ("0", "1"), "horizontal": FLIPS[:2]}
# Flips of one size; and frozen draws, of which the second view is one cell of the coarsest level lower.
VIEWS: dict[str, dict[str, Any]] = {name: {"draws": list(DRAWS[name]), "flip_offset": 1.0} for name in DRAWS}
VIEWS["rotated"] = {"draws": 2, "seed": 0, "transforms": [{"type": "MadeUp"}], "libraries": {"numpy": "2"}}
# Height and width of each patch with its padding, and which view each of two draws makes; the last has no object.
PATCHES = {"A": ((128, 128), [0, 1]), "B": ((96, 160), [0, 0]), "C": ((64, 64), [0, 1])}


def main() -> None:
    for name in STORES:
        store = FOLDER / f"{name}.zarr"
        assert not store.exists(), f"{store} is there: a golden store is never overwritten"
        np.savez_compressed(FOLDER / f"{name}.npz", **write_store(name, store), **records(store))


def write_store(name: str, store: Path) -> dict[str, np.ndarray]:
    """A store of a made-up teacher; returns the logits of its stored priors by block, where it stores cells."""
    random = np.random.default_rng(list(name.encode()))
    head, preset = HeadShape.of(HEADS[name]), PRESETS[name]
    request = CodecRequest.of(preset)
    regions: dict[str, list[np.ndarray]] = {}
    plan = make_plan(
        [planned_patch(name, patch, regions, random) for patch in PATCHES],
        DRAWS[name],
        views_per_block=4,
        as_cells=request.is_cells,
    )
    blocks = [block_rows(plan, block, regions, head, random) for block in range(plan.num_blocks)]
    codec = make_codec(name, request, [block[:2] for block in blocks])
    taught = {}
    with CacheWriter(store, manifest(name, plan, codec), plan, codec) as writer:
        for block, (cells, logits, index, weight) in enumerate(blocks):
            box = logits[:, head.classes :]
            fields = {
                "prior_index": index,
                "weight": weight,
                "cls_logits": logits[:, : head.classes],
                "box_logits": box,
            }
            if isinstance(codec, CellCodec):
                taught[f"teacher/{block}"] = logits
                fields = {
                    "cell_index": cells.cell_index.astype(np.uint32),
                    "cell_weight": cells.scatter(weight.astype(np.float16)),
                    "coefficients": codec.encode(cells.scatter(logits), cells.is_stored),
                }
            error = {column: block + place / 16 for place, column in enumerate(ERROR_COLUMNS)}
            writer.write(block, fields | assigned_rows(plan, block, random), error)
    return taught


def planned_patch(
    name: str, patch: str, regions: dict[str, list[np.ndarray]], random: np.random.Generator
) -> PlannedPatch:
    """A patch whose views have some neighbouring priors of every level."""
    shape, draw_view = PATCHES[patch]
    draw_view = draw_view if len(DRAWS[name]) == 2 else [0, 1, 2, 3]
    views = max(draw_view) + 1
    shapes = [(shape[0] - 32 * view * (name == "rotated"), shape[1]) for view in range(views)]
    grids = [grid for view in shapes if (grid := grid_of(HEADS[name], view)) is not None]
    chosen = [
        np.sort(
            np.concatenate(
                [
                    offset + random.choice(min(size, 24), 0 if patch == "C" else min(size, 8 + view), replace=False)
                    for offset, size in zip(grid.level_offsets.tolist(), grid.level_sizes, strict=False)
                ]
            )
        )
        for view, grid in enumerate(grids)
    ]
    regions[patch] = chosen
    digests = random.bytes(32), random.bytes(32)
    return PlannedPatch(
        f"{patch}__{shape[1]}__0___0",
        *digests,
        draw_view=np.asarray(draw_view),
        view_shape=np.asarray(shapes),
        view_crc32c=random.integers(2**32, size=views, dtype=np.uint32),
        level_counts=np.asarray([grid.level_counts(index) for grid, index in zip(grids, chosen, strict=True)]),
        cell_counts=np.asarray([len(np.unique(index // HeadShape.of(HEADS[name]).priors)) for index in chosen]),
        assigned_counts=np.arange(views) + 3 if name == "horizontal" else None,
    )


def block_rows(
    plan: Plan, block: int, regions: dict[str, list[np.ndarray]], head: HeadShape, random: np.random.Generator
) -> tuple[CellRows, np.ndarray, np.ndarray, np.ndarray]:
    """Cells, logits (n, P), prior indices (n,) uint32 and weights (n,) float32 of a block's stored priors."""
    index = [np.zeros(0, dtype=np.int64)]
    for view in plan.views_of_block(block).tolist():
        own = plan.view(view)
        place = int(np.flatnonzero(plan.views_of_patch(int(plan.view_patch[view])) == view)[0])
        index.append(regions[own.patch_id[0]][place])
    prior_index = np.concatenate(index)
    counts = plan.priors_per_view[plan.views_of_block(block)]
    # A few directions and a little noise, as of one layer on few features.
    directions = np.random.default_rng(1).normal(size=(6, head.values))
    logits = 2 * random.normal(size=(len(prior_index), 6)) @ directions + 0.1 * random.normal(
        size=(len(prior_index), head.values)
    )
    weight = random.uniform(0.05, 1, len(prior_index)).astype(np.float32)
    rows = CellRows.of(prior_index, counts, head.priors)
    return rows, logits.astype(np.float32), prior_index.astype(np.uint32), weight


def make_codec(name: str, request: CodecRequest, blocks: list[tuple[CellRows, np.ndarray]]) -> Codec:
    if request.dtype is not None:
        return RowCodec(request.dtype)
    values = np.concatenate([cells.scatter(logits) for cells, logits in blocks])
    is_stored = np.concatenate([cells.is_stored for cells, _ in blocks])
    basis = fit_basis(HeadShape.of(HEADS[name]), values, is_stored)
    largest = np.abs(basis.coefficients(values, is_stored)).max(axis=0)
    return CellCodec.of_basis(basis, STEPS[request.preset], largest)


def assigned_rows(plan: Plan, block: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Made-up rows of the planned assignment, where there is one."""
    if plan.assigned_start is None:
        return {}
    counts = plan.assigned_stop.astype(int) - plan.assigned_start
    priors = [np.sort(random.choice(20, count, replace=False)) for count in counts[plan.views_of_block(block)]]
    prior = np.concatenate(priors).astype(np.uint32)
    return dict(zip(ASSIGNED_FIELDS, (prior, random.integers(-1, 4, len(prior), dtype=np.int32)), strict=True))


def manifest(name: str, plan: Plan, codec: Codec) -> Manifest:
    return Manifest(
        code_version="0.1.0",
        teacher={"weights_sha256": "5f" * 32, "model": {"type": "MadeUp"}},
        head=HEADS[name],
        views=VIEWS[name],
        preprocessing={"mean": [0.0], "std": [1.0], "bgr_to_rgb": True, "pad_size_divisor": 32},
        numeric={"torch": "none", "threads": 1},
        region={"rule": "made up"},
        plan=plan.describe(),
        codec=describe_codec(CodecRequest.of(PRESETS[name]), codec),
        assignment={"arrays": list(ASSIGNED_FIELDS), "assigner": {}} if name == "horizontal" else None,
    )


def records(store: Path) -> dict[str, np.ndarray]:
    """Every array of every draw's record, by `patch/draw/array`."""
    reader = CacheReader(store)
    return {
        f"{patch_id}/{draw}/{name}": values
        for patch_id in reader.plan.patch_ids
        for draw in reader.plan.draws
        for name in RECORD_ARRAYS
        if (values := getattr(reader.read(patch_id, draw), name)) is not None
    }


if __name__ == "__main__":
    main()
