"""Bytes against what they keep of a trained teacher's logits, by codec; figures go to `benchmarks.rate_report`.

    python -m benchmarks.rate --name "demo" --config configs/demo/distill.py --teacher configs/demo/teacher.py \
        --checkpoint teacher.pth --student student.pth

Codecs are compared at equal mean KL(teacher || stored) at T = 5. Bytes of a stored prior are those of compressed chunks
with their checksums and index entries, and of its index and weight. What the codes do to a training is told by the
gradient of the distillation losses with respect to all parameters of a student, with stored against exact targets, over
8 batches of 2 views. Bases are fitted on other patches than those that are measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.zstd
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmrotate.registry import MODELS
from torch import Tensor, nn

from cache.cells import LARGEST_CODE, WIDE_STEPS, HeadShape, fit_basis
from cache.codec import BOUND_TEMPERATURE, PRESETS
from cache.grid import AnchorGrid
from cache.layout import CELLS_PER_CHUNK, COEFFICIENT_LEVEL, ROWS_PER_CHUNK
from distill.checkpoint import load_checkpoint, state_dict_of
from distill.rows import Rows, Targets
from distill.teacher import FrozenTeacher
from pipelines.base.experiment import load_config
from pipelines.capture.asking import PatchLogits, TeacherViews
from pipelines.capture.encoding import BlockRows
from pipelines.capture.kept import PatchRegions
from pipelines.capture.loading import PatchViews
from pipelines.capture.measured import mean_divergence
from pipelines.capture.options import CaptureOptions
from pipelines.capture.planning import plan_views
from pipelines.capture.sampling import choose_patches

BOUNDS = (1e-6, PRESETS["default"], 3e-5, PRESETS["small"], 4e-4, 1e-3)
GRADIENT_BATCHES, VIEWS_PER_BATCH = 8, 2
# A chunk's CRC-32C, and its entry in the shard's index.
CHUNK_OVERHEAD = 4 + 16
# The step of a bound is found to this share of it.
BOUND_TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class Units:
    """What is coded together, cells or single priors, of several views.

    values: (n, A, P) logits. is_stored, weight: (n, A). index, level: (n,), of units in their views.
    """

    values: np.ndarray
    is_stored: np.ndarray
    weight: np.ndarray
    index: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, head: HeadShape, rows: BlockRows, grid: AnchorGrid) -> Units:
        units = rows.cells(head)
        level = grid.levels(units.cell_index * head.priors)
        return cls(units.scatter(rows.values), units.is_stored, units.scatter(rows.weight), units.cell_index, level)


@dataclass(frozen=True, eq=False)
class Transform:
    """Logits of a unit to coefficients, and back: coefficients (n, J) @ rows (J, A x P) + offset (A x P,)."""

    forward: Callable[[np.ndarray, np.ndarray], np.ndarray]
    rows: np.ndarray
    offset: np.ndarray

    @classmethod
    def fixed(cls, matrix: np.ndarray) -> Transform:
        """One prior along orthonormal rows (J, P) that nobody has fitted."""
        return cls(lambda values, _: values[:, 0] @ matrix.T, matrix, np.zeros(matrix.shape[1]))

    @classmethod
    def fitted(cls, head: HeadShape, units: Units, chosen: np.ndarray) -> Transform:
        """The basis of some units, as the store's codec has it."""
        basis = fit_basis(head, units.values[chosen], units.is_stored[chosen])
        return cls(basis.coefficients, head.expand(basis.directions), head.expand(basis.mean[None])[0])


@dataclass(frozen=True, eq=False)
class Coding:
    """A codec: a transform, or one a level, of units of `head.priors` priors."""

    name: str
    head: HeadShape
    transforms: Sequence[Transform]
    units_per_chunk: int

    def parts(self, units: Units) -> Iterator[tuple[np.ndarray, Transform]]:
        """Which units (n,) each transform is for."""
        for level, transform in enumerate(self.transforms):
            yield np.flatnonzero(units.level == level) if len(self.transforms) > 1 else slice(None), transform


class Coded:
    """Units along a coding's transforms, to be seen at any step."""

    def __init__(self, coding: Coding, units: Units) -> None:
        self.coding, self.units = coding, units
        # What a capture computes once, for every set of stored priors, is computed before the clock runs.
        self.coefficients = self._forward()
        began = time.process_time()
        self._forward()
        self.seconds = time.process_time() - began

    def _forward(self) -> list[np.ndarray]:
        parts = self.coding.parts(self.units)
        return [
            transform.forward(self.units.values[chosen], self.units.is_stored[chosen]) for chosen, transform in parts
        ]

    @cached_property
    def exact(self) -> list[Tensor]:
        return groups(self.coding.head, self.units.values[self.units.is_stored])

    def stored(self, step: float) -> np.ndarray:
        """(m, P) float32 logits of the stored priors as a reader gets them."""
        values = np.empty(self.units.values.shape, dtype=np.float32)
        for (chosen, transform), found in zip(self.coding.parts(self.units), self.coefficients, strict=True):
            rows, offset = transform.rows.astype(np.float32), transform.offset.astype(np.float32)
            decoded = np.rint(found / step).astype(np.float32) * np.float32(step) @ rows + offset
            values[chosen] = decoded.reshape(-1, *values.shape[1:])
        return values[self.units.is_stored]

    def divergence(self, step: float) -> tuple[float, float]:
        """Mean KL(teacher || stored) of classes and of bins."""
        pairs = zip(self.exact, groups(self.coding.head, self.stored(step)), strict=True)
        classes, *bins = (mean_divergence(*pair, BOUND_TEMPERATURE) for pair in pairs)
        return classes, float(np.mean(bins))

    def step_of(self, bound: float, step: float = 0.1) -> float:
        """The step at which the larger of both is the bound: it grows with the step's square."""
        for _ in range(12):
            found = max(self.divergence(step))
            if abs(found / bound - 1) < BOUND_TOLERANCE:
                break
            step *= (bound / found) ** 0.5
        return step

    def codes(self, step: float) -> list[np.ndarray]:
        """(J', n) int8 of every transform: columns that need a second byte have two."""
        found = []
        for coefficients in self.coefficients:
            steps = np.rint(coefficients.T / step).astype(np.int32)
            wide = np.abs(steps).max(axis=1) > LARGEST_CODE
            high = (steps[wide] + LARGEST_CODE) // WIDE_STEPS
            steps[wide] -= WIDE_STEPS * high
            found.append(np.concatenate([high, steps]).astype(np.int8))
        return found


def main(arguments: argparse.Namespace) -> None:
    """Teacher -> codings -> bytes, KL and gradients of each at every bound."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel("WARNING")
    config = load_config(arguments.config)
    teacher = FrozenTeacher.load(arguments.teacher, arguments.checkpoint)
    asked = TeacherViews(config, plan_views(config, 0), teacher, CaptureOptions())
    measured = choose_patches(asked.plan, arguments.patches)
    fitted = choose_patches(asked.plan, arguments.fit_patches, without=measured)
    head = HeadShape.of({"classes": config.classes, **teacher.adapter.describe()})
    grid = teacher.adapter.grid(*asked.plan.view_shape[0].tolist())
    rows, others = (BlockRows.of(list(asked.logits(asked.batches(patches)))) for patches in (measured, fitted))
    students = gradient_students(config, arguments.student)
    batches = gradient_batches(asked, measured)
    figures: dict[str, Any] = {"patches": len(measured), "priors": len(rows.weight), "classes": head.classes}
    figures["codings"] = {}
    for coding in codings(head, others, grid):
        figures["codings"][coding.name] = measure(coding, rows, grid, students, batches)
        print(json.dumps({coding.name: figures["codings"][coding.name]}), flush=True)
    out = Path(arguments.out)
    known = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(rounded(known | {arguments.name: figures}), indent=1) + "\n")


def codings(head: HeadShape, rows: BlockRows, grid: AnchorGrid) -> Iterator[Coding]:
    """Every codec, its basis fitted on these rows."""
    single = replace(head, priors=1)
    logits = np.eye(head.values)
    bins = np.zeros((sum(head.bins) - len(head.bins), head.values))
    place = 0
    for group in head.box_groups():
        count = group.stop - group.start
        bins[place : place + count - 1, head.classes + group.start : head.classes + group.stop] = cosines(count)[1:]
        place += count - 1
    yield Coding("single logits", single, [Transform.fixed(logits)], ROWS_PER_CHUNK)
    yield Coding("DCT of bins", single, [Transform.fixed(np.vstack([logits[: head.classes], bins]))], ROWS_PER_CHUNK)
    priors, cells = (Units.of(shape, rows, grid) for shape in (single, head))
    everything = slice(None)
    yield Coding("basis of a prior", single, [Transform.fitted(single, priors, everything)], ROWS_PER_CHUNK)
    yield Coding("basis of a cell", head, [Transform.fitted(head, cells, everything)], CELLS_PER_CHUNK)
    levels = [Transform.fitted(head, cells, cells.level == level) for level in range(grid.num_levels)]
    yield Coding("basis of a cell, one a level", head, levels, CELLS_PER_CHUNK)


def cosines(count: int) -> np.ndarray:
    """(count, count) the orthonormal discrete cosine transform."""
    rows = np.cos(np.pi * np.arange(count)[:, None] * (np.arange(count) + 0.5) / count) * (2 / count) ** 0.5
    rows[0] /= 2**0.5
    return rows


def groups(head: HeadShape, values: np.ndarray) -> list[Tensor]:
    """Class logits, and the bins of every parameter, of priors (m, P)."""
    chosen = torch.from_numpy(values)
    return [chosen[:, : head.classes], *(chosen[:, head.classes :][:, group] for group in head.box_groups())]


def measure(
    coding: Coding,
    rows: BlockRows,
    grid: AnchorGrid,
    students: dict[str, nn.Module],
    batches: Sequence[tuple[Tensor, BlockRows]],
) -> dict[str, Any]:
    """A coding at every bound."""
    coded = Coded(coding, Units.of(coding.head, rows, grid))
    of_batches = [Coded(coding, Units.of(coding.head, batch, grid)) for _, batch in batches]
    exact = {name: [gradient(student, grid, *batch) for batch in batches] for name, student in students.items()}
    side = side_bytes(coded)
    points = []
    step = 0.1
    for bound in BOUNDS:
        step = coded.step_of(bound, step)
        divergence = coded.divergence(step)
        size, encoding, decoding = chunk_figures(coded, step)
        cosine: dict[str, float] = {}
        for name, student in students.items():
            found = [
                similarity(known, gradient(student, grid, images, batch, stored.stored(step)))
                for (images, batch), stored, known in zip(batches, of_batches, exact[name], strict=True)
            ]
            cosine[name] = float(np.mean(found))
        points.append(
            {
                "bound": bound,
                "step": step,
                "classes_kl": divergence[0],
                "bins_kl": divergence[1],
                "logit_bytes": size / len(rows.weight),
                "bytes": size / len(rows.weight) + sum(side.values()),
                "one_minus_cosine": {name: 1 - value for name, value in cosine.items()},
                "encode_us": 1e6 * (coded.seconds + encoding) / len(rows.weight),
                "decode_us": 1e6 * decoding / len(rows.weight),
            }
        )
    basis = sum(transform.rows.size * 4 for transform in coding.transforms)
    return {"side_bytes": side, "basis_bytes": basis, "points": points}


def side_bytes(coded: Coded) -> dict[str, float]:
    """Bytes a prior of index and weight."""
    units, per_chunk = coded.units, coded.coding.units_per_chunk
    shuffled = numcodecs.Blosc("zstd", 5, numcodecs.Blosc.SHUFFLE).encode
    index = sum(len(shuffled(part)) + CHUNK_OVERHEAD for part in chunks(units.index.astype(np.uint32), per_chunk))
    weights = chunks(units.weight.astype(np.float16), per_chunk)
    weight = sum(len(numcodecs.zstd.compress(part.tobytes(), 5)) + CHUNK_OVERHEAD for part in weights)
    priors = np.count_nonzero(units.is_stored)
    return {"index": index / priors, "weight": weight / priors}


def chunk_figures(coded: Coded, step: float) -> tuple[int, float, float]:
    """Bytes of all chunks of codes, and seconds of one core that encoding and decoding take."""
    began = time.process_time()
    compressed = [
        numcodecs.zstd.compress(np.ascontiguousarray(part.T).tobytes(), COEFFICIENT_LEVEL)
        for codes in coded.codes(step)
        for part in chunks(codes.T, coded.coding.units_per_chunk)
    ]
    encoded = time.process_time()
    for chunk in compressed:
        numcodecs.zstd.decompress(chunk)
    coded.stored(step)
    return sum(len(chunk) + CHUNK_OVERHEAD for chunk in compressed), encoded - began, time.process_time() - encoded


def chunks(values: np.ndarray, count: int) -> list[np.ndarray]:
    return [values[start : start + count] for start in range(0, len(values), count)]


def gradient_students(config: Config, checkpoint: str | None) -> dict[str, nn.Module]:
    """The student as training starts it and, where it is given, as training ends."""
    students = {"untrained": MODELS.build(config.model)}
    students["untrained"].init_weights()
    if checkpoint:
        students["trained"] = MODELS.build(config.model)
        students["trained"].load_state_dict(state_dict_of(load_checkpoint(checkpoint), checkpoint))
    return {name: student.train() for name, student in students.items()}


def gradient_batches(asked: TeacherViews, patches: Sequence[int]) -> list[tuple[Tensor, BlockRows]]:
    """Seeded batches of views: images as the student gets them, and what the teacher says."""
    random = np.random.default_rng(0)
    batches = []
    for _ in range(GRADIENT_BATCHES):
        chosen = random.choice(patches, VIEWS_PER_BATCH, replace=False).tolist()
        views = [one_view(asked.patches[patch], int(random.integers(len(asked.plan.draws)))) for patch in chosen]
        answers: list[PatchLogits] = [asked.ask([view])[0] for view in views]
        images = asked.teacher.preprocess(torch.cat([view.images for view in views]))
        batches.append((images, BlockRows.of(answers)))
    return batches


def one_view(views: PatchViews, draw: int) -> PatchViews:
    """A patch under one of its draws alone."""
    one = slice(draw, draw + 1)
    regions = PatchRegions(views.regions.prior_index[one], views.regions.weight[one])
    return PatchViews(views.patch, views.images[one], regions)


def gradient(
    student: nn.Module, grid: AnchorGrid, images: Tensor, rows: BlockRows, stored: np.ndarray | None = None
) -> Tensor:
    """Gradient of the distillation losses with respect to all parameters that they reach, as one vector.

    With the exact targets, or with stored logits (m, P) and the weights of a store.
    """
    index = torch.from_numpy(rows.prior_index.astype(np.int64)).split(rows.priors.tolist())
    weight = torch.from_numpy(rows.weight)
    cls_logits, box_logits = rows.cls_logits, rows.box_logits
    if stored is not None:
        weight = weight.half().float()
        cls_logits, boxes = torch.from_numpy(stored).tensor_split([cls_logits.shape[1]], dim=1)
        box_logits = boxes.reshape(box_logits.shape)
    targets = Targets(cls_logits, box_logits, rows=Rows.of(grid, index), weight=weight)
    student.zero_grad()
    maps = student.bbox_head(student.extract_feat(images))
    terms = student.distillation(student.adapter.gather(maps, targets.rows), targets)
    sum(values.sum() for values in terms.values()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None])


def similarity(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0))


def rounded(value: Any) -> Any:
    """Numbers to four digits, so that the file stays small."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rate", description="Rate and distortion of a teacher.")
    parser.add_argument("--name", required=True, help="of the teacher, in table and plots")
    parser.add_argument("--config", required=True, help="the student's config")
    parser.add_argument("--teacher", required=True, help="the teacher's config")
    parser.add_argument("--checkpoint", required=True, help="the trained teacher")
    parser.add_argument("--student", help="a trained student's weights, for the gradient at the end of training")
    parser.add_argument("--patches", type=int, default=40, help="patches that are measured (default: 40)")
    parser.add_argument("--fit-patches", type=int, default=120, help="others, for the bases (default: 120)")
    parser.add_argument("--out", default="docs/rate.json", help="where the figures are added")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
