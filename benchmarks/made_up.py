"""Stores of made-up cells that compress about as a trained teacher's do, for `benchmarks.read` and `.scale`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.cells import Basis, CellCodec, HeadShape
from cache.codec import CodecRequest, describe_codec
from cache.grid import AnchorGrid
from cache.layout import ERROR_COLUMNS
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.view import FLIPS
from cache.writer import CacheWriter

GRID = AnchorGrid.retina(1024, 1024)
HEAD = {
    "classes": [f"class {number}" for number in range(15)],
    "box_parameters": list("xywht"),
    "num_bins": 9,
    "grid": {name: GRID.to_json()[name] for name in ("strides", "ratios", "scales")},
}
# Of the nine priors of a cell that has stored ones; 5.8 to 6.1 were measured.
PRIORS_PER_CELL = 6
# Of a view of 10,000 priors or so.
ASSIGNED_PER_VIEW = 200
# Standard deviations of the coefficients of a trained teacher with a 256-channel head by place, lines between their
# logarithms, and the steps that keep the presets' bounds on it (docs/benchmarks.md, "Size").
PLACES = (0, 1, 3, 7, 10, 15, 20, 30, 50, 100, 200, 300, 494)
DEVIATIONS = (6.56, 5.31, 3.56, 2.87, 1.56, 0.92, 0.69, 0.41, 0.22, 0.11, 0.05, 0.03, 0.012)
STEPS = {"default": 2.0**-3.9375, "small": 2.0**-1.8125}
# Cells that are made together.
CELLS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class MadeUpTeacher:
    """A basis and a step, and cells along it."""

    preset: str
    codec: CellCodec
    deviations: np.ndarray

    @classmethod
    def of(cls, preset: str) -> MadeUpTeacher:
        """The one for a preset."""
        head = HeadShape.of(HEAD)
        directions, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(head.coordinates, head.coordinates)))
        deviations = np.exp(np.interp(np.arange(head.coordinates), PLACES, np.log(DEVIATIONS)))
        basis = Basis(head, np.zeros(head.coordinates), directions, deviations**2)
        return cls(preset, CellCodec.of_basis(basis, STEPS[preset], 4 * deviations), deviations)

    def codes(self, cells: int, random: np.random.Generator) -> np.ndarray:
        """(J, n) codes of so many cells."""
        rows = self.codec.basis[self.codec.wide :]
        parts = []
        for start in range(0, cells, CELLS_AT_ONCE):
            coefficients = random.normal(size=(min(CELLS_AT_ONCE, cells - start), len(rows))) * self.deviations
            values = (coefficients.astype(np.float32) @ rows).reshape(len(coefficients), GRID.anchors_per_cell, -1)
            parts.append(self.codec.encode(values, np.ones(values.shape[:2], dtype=bool)))
        return np.concatenate(parts, axis=1)

    def manifest(self, plan: Plan) -> Manifest:
        """What the layout needs to know."""
        return Manifest(
            teacher={"weights_sha256": "0" * 64},
            head=HEAD,
            views={"draws": list(FLIPS)},
            preprocessing={},
            numeric={},
            region={},
            plan=plan.describe(),
            codec=describe_codec(CodecRequest.of(self.preset), self.codec),
            assignment={},
        )


def plan_cells(cells: Iterable[np.ndarray]) -> Plan:
    """The plan of patches whose flips have so many cells (F, L) with stored priors on every level."""
    random = np.random.default_rng(2)
    planned = [
        PlannedPatch(
            patch_id=f"P{number:06d}",
            image_sha256=random.bytes(32),
            label_sha256=random.bytes(32),
            view_shape=np.tile([GRID.height, GRID.width], (len(of_flips), 1)),
            draw_view=np.arange(len(FLIPS)),
            view_crc32c=random.integers(2**32, size=len(FLIPS), dtype=np.uint32),
            level_counts=PRIORS_PER_CELL * of_flips,
            cell_counts=of_flips.sum(axis=1),
            assigned_counts=np.minimum(ASSIGNED_PER_VIEW, of_flips.sum(axis=1)),
        )
        for number, of_flips in enumerate(cells)
    ]
    return make_plan(planned, FLIPS, as_cells=True)


def block_fields(plan: Plan, block: int, codes: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of a block with these codes (J, n): cells drawn on every level, and some of their priors."""
    random = np.random.default_rng([1, block])
    priors, views = GRID.anchors_per_cell, plan.views_of_block(block)
    drawn = [draw_cells(random, plan.level_counts[view] // PRIORS_PER_CELL) for view in views]
    rank = random.random((codes.shape[1], priors), dtype=np.float32).argsort(axis=1)
    weight = random.uniform(0.05, 1, rank.shape).astype(np.float16) * (rank < PRIORS_PER_CELL)
    assigned = [
        cells[: plan.assigned_stop[view] - plan.assigned_start[view]] for cells, view in zip(drawn, views, strict=True)
    ]
    assigned_prior = (priors * np.concatenate(assigned)).astype(np.uint32)
    return {
        "cell_index": np.concatenate(drawn).astype(np.uint32),
        "cell_weight": weight,
        "coefficients": codes,
        "assigned_prior": assigned_prior,
        "assigned_object": random.integers(0, 40, len(assigned_prior), dtype=np.int32),
    }


def draw_cells(random: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """(n,) rising flat indices of so many cells of every level."""
    offsets = np.asarray(GRID.level_offsets) // GRID.anchors_per_cell
    drawn = [
        first + np.sort(random.choice(height * width, count, replace=False))
        for first, (height, width), count in zip(offsets, GRID.feature_sizes, counts.tolist(), strict=False)
    ]
    return np.concatenate(drawn)


def write_store(path: Path, plan: Plan, teacher: MadeUpTeacher, blocks: int | None = None) -> None:
    """A store whose cells do not repeat; all of it, or its first blocks."""
    random = np.random.default_rng(0)
    with CacheWriter(path, teacher.manifest(plan), plan, teacher.codec) as writer:
        for block in writer.missing_blocks()[:blocks]:
            codes = teacher.codes(int(plan.rows_per_block()[block]), random)
            writer.write(block, block_fields(plan, block, codes), dict.fromkeys(ERROR_COLUMNS, 0.0))
