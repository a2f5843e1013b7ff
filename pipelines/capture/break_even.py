"""Does a cache pay? What its capture costs against a teacher that answers live in every training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, floor
from typing import Any

from mmengine.config import Config

from cache.plan import Plan
from pipelines.capture.probe import Probe


@dataclass(frozen=True)
class BreakEven:
    """After how many epochs the cache has paid for itself, over all its students, and how many are planned."""

    epochs_to_pay: float
    epochs_planned: float
    students: int
    live_teacher_seconds: float
    capture_seconds: float
    draws: int

    @property
    def seconds_saved(self) -> float:
        return self.live_teacher_seconds - self.capture_seconds

    @property
    def passes(self) -> float:
        """How often one student sees each draw of a patch."""
        return self.epochs_planned / self.students / self.draws

    @property
    def draws_that_pay(self) -> int:
        """With how many draws, of the same cost each, the cache would still pay."""
        return ceil(self.draws * self.epochs_planned / self.epochs_to_pay) - 1

    @property
    def pays(self) -> bool:
        return self.epochs_planned > self.epochs_to_pay

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        recommendation = "cache" if self.pays else "do not cache"
        more = {"passes": self.passes, "draws_that_pay": self.draws_that_pay, "seconds_saved": self.seconds_saved}
        return {**asdict(self), **more, "recommendation": recommendation}

    def __str__(self) -> str:
        who = (
            f"{self.students} students of this config train" if self.students > 1 else "a student of this config trains"
        )
        costs = (
            f"The capture takes as long as a live teacher in {self.epochs_to_pay:.1f} epochs of training; {who} "
            f"{self.epochs_planned:.1f}. Each sees every one of {self.draws} draws of a patch {self.passes:.1f} times; "
            f"up to {self.draws_that_pay} would pay. "
        )
        if self.pays:
            return f"{costs}Cache: it saves {self.seconds_saved:,.0f} s of teacher."
        enough = floor(self.epochs_to_pay * self.students / self.epochs_planned) + 1
        return (
            f"{costs}Do not cache: a live teacher is {-self.seconds_saved:,.0f} s cheaper. From {enough} students on "
            "that share it, the cache pays."
        )


def break_even(plan: Plan, probe: Probe, config: Config, students: int) -> BreakEven:
    """What a probe says about students of one config.

    A live teacher costs one view of every patch and epoch; a capture costs its whole time once. What reading costs a
    training step is left out: loaders do it beside the step.
    """
    live = len(plan.patch_ids) * probe.teacher_seconds
    epochs = student_epochs(config, plan) * students
    return BreakEven(probe.seconds / live, epochs, students, live * epochs, probe.seconds, len(plan.draws))


def student_epochs(config: Config, plan: Plan) -> float:
    """How often the config's training sees every patch."""
    loop = config.train_cfg
    if "max_epochs" in loop:
        return float(loop.max_epochs)
    images = loop.max_iters * config.train_dataloader.batch_size
    return float(images / len(plan.patch_ids))
