"""Stored records against the teacher itself: for `make verify-cache`, and now and then during training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmrotate.registry import HOOKS
from torch import Tensor, nn

from cache.cells import CellCodec
from cache.codec import LOGIT_FIELDS, Codec
from cache.manifest import Manifest, require_equal
from cache.reader import CacheReader, TargetRecord
from cache.view import View
from distill.arithmetic import Arithmetic
from distill.interface import require_same_interface
from distill.rows import Rows, subtract_row_max
from distill.targets import BatchTargets, TargetDecoder
from distill.teacher import FrozenTeacher
from distill.transforms import LoadTeacherTargets

WEIGHT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """A stored record beside the teacher's answer; problem is None where it lies within the bound.

    error, largest: by field of logits, the largest difference and the teacher's largest magnitude.
    """

    problem: str | None
    error: dict[str, float]
    largest: dict[str, float]


def repeat_tolerance(largest: float, share: float) -> float:
    """How far two forwards of one teacher may differ where logits reach `largest`."""
    return share * max(1.0, largest)


def compare_record(stored: TargetRecord, teacher: TargetRecord, codec: Codec, tolerance: float) -> Comparison:
    """What is wrong with a stored record: priors, weights, then logits beyond the codec's bound and the tolerance.

    tolerance: the share of the largest logit by which two forwards of one teacher may differ.
    """
    if not np.array_equal(stored.prior_index, teacher.prior_index):
        return Comparison(f"its {len(stored)} priors are not the region that the labels give ({len(teacher)})", {}, {})
    if not len(stored):
        return Comparison(None, {}, {})
    weight_error = float(np.abs(stored.weight - teacher.weight).max())
    if not weight_error <= WEIGHT_TOLERANCE:
        return Comparison(f"its weights differ by {weight_error:.3g} from those that the labels give", {}, {})
    problem: str | None = None
    error: dict[str, float] = {}
    largest: dict[str, float] = {}
    for field in LOGIT_FIELDS:
        ours, theirs = getattr(stored, field), getattr(teacher, field)
        largest[field] = float(np.abs(theirs).max())
        if isinstance(codec, CellCodec) and field == "box_logits" and theirs.ndim == 3 and theirs.shape[2] > 1:
            # Cells do not hold the mean of a group of bins, which no loss reads.
            ours, theirs = (values - values.mean(axis=-1, keepdims=True) for values in (ours, theirs))
        difference = np.abs(ours - theirs)
        allowed = logit_bound(codec, field, largest[field]) + repeat_tolerance(largest[field], tolerance)
        bounds = np.broadcast_to(allowed if len(allowed) == 1 else allowed.reshape(theirs.shape[1:]), theirs.shape)
        # A difference that is no number is the largest.
        place = np.unravel_index(np.argmax(difference / bounds), difference.shape)
        error[field], bound = float(difference[place]), float(bounds[place])
        if not error[field] <= bound and problem is None:
            problem = (
                f"{field} differ by {error[field]:.4g} from the teacher's, bound {bound:.4g}: at prior "
                f"{int(stored.prior_index[place[0]])} {float(ours[place]):.6g} is in the cache but "
                f"{float(theirs[place]):.6g} is the teacher's"
            )
    return Comparison(problem, error, largest)


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
        cache = CacheReader(_cache_of(runner))
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
        self.codec = cache.codec

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
        compared = self.audit(model.data_preprocessor, data_batch["inputs"][position], targets, position)
        view = View(sample.img_id, sample.metainfo.get("flip_direction") or "none")
        if compared.problem:
            raise ValueError(
                f"teacher audit at step {runner.iter + 1}: view {view}: {compared.problem}. "
                f"Run make verify-cache CACHE={_cache_of(runner)}; where teacher, code or libraries have changed, "
                "capture a new cache"
            )
        errors = ", ".join(f"{field} {error:.4g}" for field, error in compared.error.items())
        runner.logger.info(f"teacher audit at step {runner.iter + 1}: view {view} is the teacher's; error: {errors}")

    def audit(self, preprocessor: nn.Module, image: Tensor, targets: BatchTargets, position: int) -> Comparison:
        """The targets of one view of a batch beside the teacher's answer to its image (3, H, W) uint8."""
        # Alone, as a batch of one: the other views of the batch do not matter.
        inputs = preprocessor({"inputs": [image], "data_samples": None})["inputs"]
        maps = self.teacher.to(inputs.device).forward(inputs)
        adapter = self.teacher.adapter
        grid = adapter.grid_of_maps(maps[0])
        decoder = TargetDecoder(adapter.box_shape, self.codec).to(inputs.device)
        stored = targets.record(position, grid, decoder)
        logits = adapter.gather(maps, Rows.of(grid, [stored.prior_index]).to(inputs.device))
        answer = TargetRecord(
            stored.prior_index,
            stored.weight,
            logits.cls_logits.cpu().numpy(),
            subtract_row_max(logits.box_logits).cpu().numpy(),
        )
        arithmetic = self.teacher.arithmetic or Arithmetic()
        tolerance = arithmetic.repeat_tolerance if self.tolerance is None else self.tolerance
        return compare_record(stored, answer, self.codec, tolerance)


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
