"""Stored records against the teacher itself: for `make verify-cache`, and now and then during training."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmrotate.registry import HOOKS
from torch import Tensor, nn

from cache.cells import CellCodec, HeadShape
from cache.codec import LOGIT_FIELDS, Codec
from cache.manifest import Manifest, require_equal
from cache.reader import CacheReader, CodedRecord, TargetRecord
from cache.view import View
from distill.arithmetic import Arithmetic
from distill.interface import require_same_interface
from distill.rows import Rows, subtract_row_max
from distill.targets import BatchTargets
from distill.teacher import FrozenTeacher
from distill.transforms import LoadTeacherTargets

WEIGHT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far stored values are from the teacher's where that is most of what is allowed.

    codec_bound, repeat_tolerance: what the codec and two forwards of one teacher may do to a value; of any value, the
    largest of each.
    """

    max_abs_error: float
    codec_bound: float
    repeat_tolerance: float

    def largest(self, other: Difference) -> Difference:
        """Of both."""
        return Difference(*(max(pair) for pair in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Comparison:
    """A stored record beside the teacher's answer; problem is None where it lies within the bounds.

    found: by field of logits, and where cells are stored of their `coefficients`.
    """

    problem: str | None
    found: dict[str, Difference] = field(default_factory=dict)


def repeat_tolerance(largest: float, share: float) -> float:
    """How far two forwards of one teacher may differ where logits reach `largest`."""
    return share * max(1.0, largest)


def compare_record(
    stored: CodedRecord, teacher: TargetRecord, codec: Codec, head: HeadShape, tolerance: float, own_codes: bool = True
) -> Comparison:
    """What is wrong with a stored record: priors, weights, logits or coefficients beyond bound and tolerance.

    tolerance: the share of the largest logit by which two forwards of one teacher may differ.
    own_codes: codes of cells are those of the teacher's answers at just these priors: all that the store has of the
        view, and not of another store's, which had rounded them.
    """
    if not np.array_equal(stored.prior_index, teacher.prior_index):
        return Comparison(f"its {len(stored)} priors are not the region that the labels give ({len(teacher)})")
    if not len(stored):
        return Comparison(None)
    weight_error = float(np.abs(stored.weight - teacher.weight).max())
    if not weight_error <= WEIGHT_TOLERANCE:
        return Comparison(f"its weights differ by {weight_error:.3g} from those that the labels give")
    decoded = stored.decode(codec, head)
    compared = {name: _compare_logits(name, decoded, teacher, codec, tolerance) for name in LOGIT_FIELDS}
    if isinstance(codec, CellCodec) and own_codes:
        compared["coefficients"] = _compare_coefficients(stored, teacher, codec, tolerance)
    problem = next((problem for problem, _ in compared.values() if problem), None)
    return Comparison(problem, {name: difference for name, (_, difference) in compared.items()})


def _compare_logits(
    name: str, stored: TargetRecord, teacher: TargetRecord, codec: Codec, tolerance: float
) -> tuple[str | None, Difference]:
    ours, theirs = getattr(stored, name), getattr(teacher, name)
    largest = float(np.abs(theirs).max())
    if isinstance(codec, CellCodec) and name == "box_logits" and theirs.ndim == 3 and theirs.shape[2] > 1:
        # Cells do not hold the mean of a group of bins, which no loss reads.
        ours, theirs = (values - values.mean(axis=-1, keepdims=True) for values in (ours, theirs))
    difference = np.abs(ours - theirs)
    of_codec, of_forward = logit_bound(codec, name, largest), repeat_tolerance(largest, tolerance)
    allowed = of_codec + of_forward
    bounds = np.broadcast_to(allowed if len(allowed) == 1 else allowed.reshape(theirs.shape[1:]), theirs.shape)
    # A difference that is no number is the largest.
    place = np.unravel_index(np.argmax(difference / bounds), difference.shape)
    error, bound = float(difference[place]), float(bounds[place])
    found = Difference(error, float(of_codec.max()), of_forward)
    if error <= bound:
        return None, found
    problem = (
        f"{name} differ by {error:.4g} from the teacher's, bound {bound:.4g}: at prior "
        f"{int(stored.prior_index[place[0]])} {float(ours[place]):.6g} is in the cache but {float(theirs[place]):.6g} "
        "is the teacher's"
    )
    return problem, found


def _compare_coefficients(
    stored: CodedRecord, teacher: TargetRecord, codec: CellCodec, tolerance: float
) -> tuple[str | None, Difference]:
    """Far narrower than the bound of a logit, where the errors of all coefficients may add up."""
    assert stored.coefficients is not None
    assert stored.cell_row is not None
    logits = np.concatenate([teacher.cls_logits, teacher.box_logits.reshape(len(teacher), -1)], axis=1)
    cells = stored.coefficients.shape[1]
    values = np.zeros((cells * codec.head.priors, codec.head.values), dtype=np.float32)
    values[stored.cell_row] = logits
    is_stored = np.zeros(len(values), dtype=bool)
    is_stored[stored.cell_row] = True
    of_forward = repeat_tolerance(float(np.abs(logits).max()), tolerance)
    theirs, bounds = codec.expected(
        values.reshape(cells, codec.head.priors, -1), is_stored.reshape(cells, -1), of_forward
    )
    ours = codec.coefficients(stored.coefficients)
    difference = np.abs(ours - theirs)
    place = np.unravel_index(np.argmax(difference / bounds), difference.shape)
    error, bound = float(difference[place]), float(bounds[place])
    found = Difference(error, 0.5 * codec.step, float(bounds.max()) - 0.5 * codec.step)
    if error <= bound:
        return None, found
    first = stored.prior_index[np.searchsorted(stored.cell_row, place[0] * codec.head.priors)]
    problem = (
        f"coefficients differ by {error:.4g} from the teacher's, bound {bound:.4g}: of the cell of prior {int(first)}, "
        f"column {codec.wide + int(place[1])}, {ours[place]:.6g} is in the cache but {theirs[place]:.6g} is the "
        "teacher's"
    )
    return problem, found


def is_recoded(manifest: Manifest) -> bool:
    """Whether a store was made from another that was not exact."""
    return "source" in manifest.codec


def logit_bound(codec: Codec, field: str, largest: float) -> np.ndarray:
    """How far each logit of a prior may be from the teacher's, of magnitudes up to `largest`; (1,): all alike."""
    if isinstance(codec, CellCodec):
        cls_bound, box_bound = np.split(codec.max_abs_error, [codec.head.classes])
        return cls_bound if field == "cls_logits" else box_bound
    return np.full(1, codec.max_abs_error(largest))


def require_teacher_of(manifest: Manifest, teacher: FrozenTeacher, place: str = "") -> None:
    """Refuse a teacher whose weights, model, head or preprocessing a cache does not state as its teacher's.

    Raises:
        ManifestMismatch: naming the first field that differs, both values and the cure.
    """
    cure = "Give the teacher of the cache (TEACHER=, CHECKPOINT=), or capture a new cache"
    require_equal({"teacher": teacher.describe()}, manifest, place=place, cure=cure)
    require_same_interface(teacher.interface(), manifest, place=place, cure=cure, whose=("in the cache", "here"))


@HOOKS.register_module()
class TeacherAudit(Hook):
    """Recompute one cached view of the batch with the real teacher, at the first step and then at every `interval`th.

    A cached student that drifts from its teacher (changed weights, code, libraries, preprocessing) stops before it
    learns from a wrong answer. Losses are those of a run without the audit. The teacher is in memory while it runs.

    Args:
        teacher: dict(config=file, checkpoint=file); the run's own `teacher` where it is None.
        interval: training steps from one audit to the next.
        tolerance: share of the largest logit by which two forwards may differ, beside the codec's bound; None for that
            of the precision in which the cache was captured (`REPEAT_TOLERANCE`).

    Raises:
        ValueError: at the start, the teacher is not the cache's; later, an answer beyond the bound, with both values.
    """

    def __init__(
        self, teacher: dict[str, Any] | None = None, interval: int = 500, tolerance: float | None = None
    ) -> None:
        if interval < 1:
            raise ValueError(f"TeacherAudit.interval is {interval}; at least 1 step is needed")
        self.interval = interval
        self.tolerance = tolerance
        self._source = teacher
        self._started = False

    def before_train(self, runner: Runner) -> None:
        """Load the teacher and compare it with the cache's manifest."""
        self.cache = cache = CacheReader(_cache_of(runner))
        source = self._source or runner.cfg.get("teacher")
        if not source:
            raise ValueError(
                "TeacherAudit has no teacher: the config has none either. Give the hook "
                "teacher=dict(config=<file>, checkpoint=<file>)"
            )
        # Building draws initial weights; training must draw what it would draw without the audit.
        with torch.random.fork_rng(devices=[]):
            self.teacher = FrozenTeacher.load(**source)
        # As the cache was captured, whatever the student computes in; one forward now and then repays no compilation.
        self.teacher.compute_in(replace(Arithmetic.of(cache.manifest.numeric), compile=False))
        require_teacher_of(cache.manifest, self.teacher, f"cache {cache.path}")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Audit where it is time."""
        if self._started and runner.iter % self.interval:
            return
        self._started = True
        targets: BatchTargets = data_batch["targets"]
        position = _next_view_with_rows(targets, start=runner.iter // self.interval)
        if position is None:
            runner.logger.info(f"teacher audit at step {runner.iter + 1}: no view of the batch has a row")
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        sample = data_batch["data_samples"][position]
        view = View(sample.img_id, sample.metainfo.get("flip_direction") or "none")
        compared = self.audit(model.data_preprocessor, data_batch["inputs"][position], targets, position, view)
        if compared.problem:
            raise ValueError(
                f"teacher audit at step {runner.iter + 1}: view {view}: {compared.problem}. "
                f"Run make verify-cache CACHE={_cache_of(runner)}; where teacher, code or libraries have changed, "
                "capture a new cache"
            )
        errors = ", ".join(f"{name} {difference.max_abs_error:.4g}" for name, difference in compared.found.items())
        runner.logger.info(f"teacher audit at step {runner.iter + 1}: view {view} is the teacher's; error: {errors}")

    def audit(
        self, preprocessor: nn.Module, image: Tensor, targets: BatchTargets, position: int, view: View
    ) -> Comparison:
        """The targets of one view of a batch beside the teacher's answer to its image (3, H, W) uint8."""
        # Alone, as a batch of one: the other views of the batch do not matter.
        inputs = preprocessor({"inputs": [image], "data_samples": None})["inputs"]
        maps = self.teacher.to(inputs.device).forward(inputs)
        adapter = self.teacher.adapter
        grid = adapter.grid_of_maps(maps[0])
        stored = targets.record(position, grid)
        logits = adapter.gather(maps, Rows.of(grid, [stored.prior_index]).to(inputs.device))
        answer = TargetRecord(
            stored.prior_index,
            stored.weight,
            logits.cls_logits.cpu().numpy(),
            subtract_row_max(logits.box_logits).cpu().numpy(),
        )
        arithmetic = self.teacher.arithmetic or Arithmetic()
        tolerance = arithmetic.repeat_tolerance if self.tolerance is None else self.tolerance
        cache = self.cache
        # A student of a smaller region reads some of the stored priors.
        whole = len(stored) == cache.plan.priors_per_view[cache.find(view.patch_id, view.draw).index]
        own_codes = whole and not is_recoded(cache.manifest)
        return compare_record(stored, answer, cache.codec, cache.head, tolerance, own_codes)


def _cache_of(runner: Runner) -> str:
    """The store that the training pipeline reads."""
    pipeline = getattr(runner.train_dataloader.dataset, "pipeline", None)
    for transform in getattr(pipeline, "transforms", ()):
        if isinstance(transform, LoadTeacherTargets) and transform.cache is not None:
            return transform.cache
    raise ValueError(
        "TeacherAudit compares a cache with its teacher, but the training pipeline reads none. Remove the hook"
    )


def _next_view_with_rows(targets: BatchTargets, start: int) -> int | None:
    """Position of the first view with rows, from `start` on and around; None where there is none."""
    rows = targets.region.sizes.sum(axis=0)
    positions = np.roll(np.arange(len(rows)), -(start % len(rows)))
    return next((int(position) for position in positions if rows[position]), None)
