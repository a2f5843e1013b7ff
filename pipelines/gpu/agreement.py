"""Whether cached students are live ones, whether captures repeat themselves, and whether answers are the CPU's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from cache.reader import CacheReader
from distill.arithmetic import Arithmetic
from pipelines.capture.asking import TeacherViews
from pipelines.capture.identity import load_teacher
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.gpu.sizes import process_in
from pipelines.timing.rows import ROWS, Batch, Student

# Weights that move: the rate of the published optimiser.
LEARNING_RATE = 0.0025
# What may differ, as a multiple of the tolerance of a repeated forward; steps also by a multiple of the noise.
LOSSES, GRADIENTS, STEPS = 1, 10, 10
NOISE = 2


@dataclass(frozen=True)
class Agreement:
    """How far a cached student is from a live one: the largest relative differences.

    losses: of any loss of the first step. gradients: norm of the difference of any weight's gradient. steps: of the
    total loss of any step. noise: the same of a second live student. tolerance: of a repeated forward.
    """

    losses: float
    gradients: float
    steps: float
    noise: float
    num_steps: int
    tolerance: float

    @property
    def measured(self) -> tuple[float, float, float]:
        return self.losses, self.gradients, self.steps

    @property
    def allowed(self) -> tuple[float, float, float]:
        """Of losses, gradients and steps."""
        steps = max(STEPS * self.tolerance, NOISE * self.noise)
        return LOSSES * self.tolerance, GRADIENTS * self.tolerance, steps

    @property
    def holds(self) -> bool:
        return all(ours <= bound for ours, bound in zip(self.measured, self.allowed, strict=True))


def compare_students(
    config: Config, batches: Sequence[Batch], device: torch.device, arithmetic: Arithmetic, *, deterministic: bool
) -> Agreement:
    """A cached and two live students of one seed on the same batches, a step each.

    Args:
        config: a cached student's, whose store holds float32 (`exact`) in this arithmetic.
    """
    config = Config(config.to_dict())
    config.optim_wrapper.optimizer.lr = LEARNING_RATE
    rows = {row.name: row for row in ROWS}
    with process_in(arithmetic, deterministic=deterministic):
        live, again, cached = (
            Student(rows[name], config, device, 0, arithmetic) for name in ("live", "live", "cached_planned")
        )
        live_losses, live_gradients = _first_step(live, batches[0])
        losses, gradients = _first_step(cached, batches[0])
        totals = {
            name: _totals(student, batches) for name, student in (("live", live), ("again", again), ("cached", cached))
        }
    return Agreement(
        losses=max(_relative(losses[name], value) for name, value in live_losses.items()),
        gradients=max(_relative(gradients[name], value) for name, value in live_gradients.items()),
        steps=max(map(_relative, totals["cached"], totals["live"])),
        noise=max(map(_relative, totals["again"], totals["live"])),
        num_steps=len(batches),
        tolerance=arithmetic.repeat_tolerance,
    )


def _first_step(student: Student, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every loss and every gradient; no weight changes."""
    model = student.model
    total, losses = model.parse_losses(model(**model.data_preprocessor(student.see(batch), training=True), mode="loss"))
    model.zero_grad()
    total.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return losses, gradients


def _totals(student: Student, batches: Sequence[Batch]) -> list[Tensor]:
    """The total loss of every step."""
    return [student.step(student.see(batch))["loss"] for batch in batches]


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


def different_file(one: Path, other: Path) -> str | None:
    """The first file that two stores do not have alike; None where their bytes are the same."""
    ours, theirs = (
        {str(file.relative_to(store)) for file in store.rglob("*") if file.is_file()} for store in (one, other)
    )
    if ours != theirs:
        return min(ours ^ theirs)
    return next((name for name in sorted(ours) if not cmp(one / name, other / name, shallow=False)), None)


def answer_difference(config: Config, cache: Path, device: torch.device) -> float:
    """The largest difference between the device's answers for a patch and the CPU's, of the largest logit."""
    plan = CacheReader(cache).plan
    answers = []
    for name in (str(device), "cpu"):
        teacher = load_teacher(config, TeacherOptions(device=name))
        asked = TeacherViews(config, plan, teacher, CaptureOptions(tf32=False))
        (answer,) = asked.ask([asked.patches[0]])
        answers.append([answer.cls_logits.cpu(), answer.box_logits.cpu()])
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*answers, strict=True))
