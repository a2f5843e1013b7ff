"""All parts of a check, one after the other; one that fails leaves the others to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from mmengine.config import Config

from cache.plan import Plan
from distill.arithmetic import Arithmetic
from pipelines.base.command import one_line
from pipelines.base.experiment import load_config
from pipelines.capture.kept import KeptRegions
from pipelines.capture.options import CaptureOptions
from pipelines.capture.planning import plan_views
from pipelines.gpu.agreement import Agreement, answer_difference, compare_students, different_file
from pipelines.gpu.machine import describe_machine, operator_differences
from pipelines.gpu.sizes import CAPTURE_ARITHMETICS, FLOAT32, STEP_ARITHMETICS, TF32, Sizes, title
from pipelines.gpu.steps import TimedStep, time_steps
from pipelines.timing.captures import TimedCapture, time_capture
from pipelines.timing.project import Project, capture, copy_patches, made_up_project, ready
from pipelines.timing.steps import load_batches, quiet

# What an operator's answer may differ from the CPU's: boxes of a hundred pixels, IoU and losses of about 1.
OPERATOR_TOLERANCE = 1e-3


@dataclass
class Checked:
    """What a check has found, by the arithmetic that it was done in.

    operators, answers: largest difference from the CPU; of answers, relative to the largest logit. agreements: without
    and with deterministic algorithms. different: the first file that two captures do not have alike. problems: what
    should have been otherwise. left_out: what there was no time for.
    """

    machine: dict[str, str]
    operators: dict[str, float] = field(default_factory=dict)
    answers: float | None = None
    agreements: dict[tuple[str, bool], Agreement] = field(default_factory=dict)
    different: dict[str, str | None] = field(default_factory=dict)
    steps: dict[str, list[TimedStep]] = field(default_factory=dict)
    captures: dict[str, TimedCapture] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Check:
    """A check of one device, in a folder of its own; after `seconds` no further part begins."""

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path, seconds: float) -> None:
        self.device = device
        self.sizes = sizes
        self.folder = folder
        self.found = Checked(describe_machine(device))
        self._ends = time.monotonic() + seconds

    def run(self) -> Checked:
        """What is there, then what must agree, then what takes how long."""
        quiet()
        self._part("operators", self._operators)
        self._part("the CPU's answers", self._answers)
        for arithmetic in (FLOAT32, TF32):
            self._part(f"two captures in {title(arithmetic)}", self._repeat, arithmetic)
            for deterministic in (False, True):
                name = f"students in {title(arithmetic)}{', deterministic' if deterministic else ''}"
                self._part(name, self._agree, arithmetic, deterministic)
        for arithmetic in STEP_ARITHMETICS:
            self._part(f"training steps in {title(arithmetic)}", self._steps, arithmetic)
        for arithmetic in CAPTURE_ARITHMETICS:
            self._part(f"a timed capture in {title(arithmetic)}", self._capture, arithmetic)
        return self.found

    def _part[**Arguments](
        self, name: str, part: Callable[Arguments, None], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> None:
        if time.monotonic() > self._ends:
            self.found.left_out.append(name)
            return
        print(f"check: {name}", file=sys.stderr, flush=True)
        try:
            part(*arguments, **named)
        except (RuntimeError, ValueError) as error:
            self.found.problems.append(f"{name}: {one_line(error)}")

    @cached_property
    def project(self) -> Project:
        """Built-in scenes, an untrained teacher, and a store of the default codec."""
        sizes = self.sizes
        return made_up_project(self.folder, sizes.model, sizes.size, sizes.patches, 0, None, device=str(self.device))

    @cached_property
    def many(self) -> tuple[Config, Plan, KeptRegions]:
        """The patches of a timed capture, planned."""
        options = copy_patches(self.project, self.folder / "many", self.sizes.capture_patches)
        config, kept = load_config(self.project.file, options), KeptRegions()
        return config, plan_views(config, self.sizes.workers, kept=kept), kept

    def _operators(self) -> None:
        self.found.operators = operator_differences(self.device)
        for name, difference in self.found.operators.items():
            if not difference <= OPERATOR_TOLERANCE:
                self.found.problems.append(f"{name} differs by {difference:.2g} from the CPU's")

    def _answers(self) -> None:
        config = self.project.config
        self.found.answers = answer_difference(config, Path(config.cache), self.device)
        if not self.found.answers <= FLOAT32.repeat_tolerance:
            self.found.problems.append(f"the teacher's answers differ by {self.found.answers:.2g} from the CPU's")

    def _repeat(self, arithmetic: Arithmetic) -> None:
        """Two captures are the same bytes."""
        stores = [self._exact(arithmetic, number) for number in (1, 2)]
        for config in stores:
            capture(config, Path(config.cache), self._options(arithmetic), str(self.device))
        different = different_file(*(Path(config.cache) for config in stores))
        self.found.different[title(arithmetic)] = different
        if different is not None:
            self.found.problems.append(f"two captures in {title(arithmetic)} differ, first in {different}")

    def _agree(self, arithmetic: Arithmetic, deterministic: bool) -> None:
        """A student that reads the first of them is one with a live teacher."""
        config = ready(self._exact(arithmetic, 1))
        batches = load_batches(config, self.sizes.steps, self.sizes.batch, seed=0)
        found = compare_students(config, batches, self.device, arithmetic, deterministic=deterministic)
        self.found.agreements[title(arithmetic), deterministic] = found
        if not found.holds:
            self.found.problems.append(f"a cached student in {title(arithmetic)} is not the live one: {found}")
        if deterministic and found.noise:
            self.found.problems.append(
                f"two live students in {title(arithmetic)} differ by {found.noise:.2g} with deterministic algorithms"
            )

    def _exact(self, arithmetic: Arithmetic, number: int) -> Config:
        """A student's config with a store of its own for the teacher's answers as they are."""
        cache = self.folder / f"{title(arithmetic)} {number}.zarr"
        return load_config(self.project.file, {"codec": "exact", "cache": str(cache)})

    def _options(self, arithmetic: Arithmetic) -> CaptureOptions:
        return CaptureOptions(**asdict(arithmetic), loaders=self.sizes.workers)

    def _steps(self, arithmetic: Arithmetic) -> None:
        config = self.project.config
        batches = load_batches(config, self.sizes.warmup + self.sizes.pairs, self.sizes.batch, seed=0)
        self.found.steps[title(arithmetic)] = time_steps(config, batches, self.device, arithmetic, self.sizes)

    def _capture(self, arithmetic: Arithmetic) -> None:
        cache = self.folder / f"timed {title(arithmetic)}.zarr"
        found = time_capture(*self.many, cache, self._options(arithmetic), self.device)
        self.found.captures[title(arithmetic)] = found
