"""Training steps of plain, cached and live students on a device, in one arithmetic at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config

from distill.arithmetic import Arithmetic
from pipelines.gpu.sizes import Sizes, process_in
from pipelines.timing.ratios import paired_ratio
from pipelines.timing.rows import ROWS, Batch, Row, Student
from pipelines.timing.steps import MEMORY_STEPS, alternate, loader_wait

TIMED = ("plain", "cached_planned", "live")


@dataclass(frozen=True)
class TimedStep:
    """A student's training step.

    seconds: the median. plain_ratio, live_ratio: medians of its paired ratios to a plain and to a live step. memory:
    bytes of tensors on the device at their peak; None on a CPU. wait: median seconds until its loader has the next
    batch, and the share of real steps that it takes; None where it has no loader of its own.
    """

    title: str
    seconds: float
    images_a_second: float
    plain_ratio: float
    live_ratio: float
    memory: int | None
    wait: tuple[float, float] | None


def time_steps(
    config: Config, batches: Sequence[Batch], device: torch.device, arithmetic: Arithmetic, sizes: Sizes
) -> list[TimedStep]:
    """A plain, a cached and a live student side by side."""
    rows = [row for row in ROWS if row.name in TIMED]
    with process_in(arithmetic, search=config.env_cfg.cudnn_benchmark):
        memory = {row.name: _peak(row, config, batches, device, arithmetic) for row in rows}
        students = [Student(row, config, device, 0, arithmetic) for row in rows]
        times = alternate(students, batches, sizes.warmup, device)
        waits = {
            student.row.name: loader_wait(student, config, sizes.batch, sizes.workers, sizes.loader_steps, device, 0)
            for student in students
            if student.row.left_out is not None
        }
    seconds = {name: found.seconds for name, found in times.items()}
    return [
        TimedStep(
            title=row.title,
            seconds=float(np.median(seconds[row.name])),
            images_a_second=sizes.batch / float(np.median(seconds[row.name])),
            plain_ratio=paired_ratio(seconds[row.name], seconds["plain"])["median"],
            live_ratio=paired_ratio(seconds[row.name], seconds["live"])["median"],
            memory=memory[row.name],
            wait=(wait["wait_median"], wait["wait_share"]) if (wait := waits.get(row.name)) else None,
        )
        for row in rows
    ]


def _peak(
    row: Row, config: Config, batches: Sequence[Batch], device: torch.device, arithmetic: Arithmetic
) -> int | None:
    """Bytes of a student alone on the device: of its weights, its optimiser's state, and a step."""
    if device.type == "cpu":
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    student = Student(row, config, device, 0, arithmetic)
    for batch in batches[:MEMORY_STEPS]:
        student.step(student.see(batch))
    return torch.cuda.max_memory_allocated(device) - before
