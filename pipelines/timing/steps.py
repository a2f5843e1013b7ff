"""Training steps side by side: their seconds and stages, what they wait for loaders, and their memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from pipelines.base.progress import progress
from pipelines.timing.project import make_loader
from pipelines.timing.rows import ROWS, Batch, Row, Student
from pipelines.timing.stages import StageClock, watch_step

# Steps of a row's own process, whose peak is its memory: the optimiser's state is there from the second on.
MEMORY_STEPS = 2
GPU_PROFILE_STEPS = 5


def load_batches(config: Config, count: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of the cached student's pipeline; the loader is gone before anything is timed.

    They come from a worker: this process must not read records, or it could fork no more loaders.
    """
    loader = iter(make_loader(config, (), batch_size, 1, seed))
    return [next(loader) for _ in range(count)]


@dataclass
class StepTimes:
    """Seconds of a row's timed steps; `profiles` are the stages of some steps, which took `profiled_seconds`."""

    seconds: list[float] = field(default_factory=list)
    profiles: list[dict[str, float]] = field(default_factory=list)
    profiled_seconds: list[float] = field(default_factory=list)


def alternate(
    students: Sequence[Student], batches: Sequence[Batch], warmup: int, device: torch.device
) -> dict[str, StepTimes]:
    """Every row's steps on the same batches, one row after the other, by the row's name."""
    synchronize = synchronizer(device)
    clock = StageClock(synchronize)
    for student in students:
        watch_step(clock, student.model, student.optim_wrapper)
    on_gpu = device.type == "cuda"
    extra = list(batches[-GPU_PROFILE_STEPS:]) if on_gpu else []
    times = {student.row.name: StepTimes() for student in students}
    with progress("bench", len(students) * (len(batches) + len(extra)), "steps") as advance:
        for index, batch in enumerate([*batches, *extra]):
            clock.enabled = index >= len(batches) or not on_gpu
            # Each pair begins with another row.
            start = index % len(students)
            for student in (*students[start:], *students[:start]):
                seen, found = student.see(batch), times[student.row.name]
                synchronize()
                began = time.perf_counter()
                student.step(seen)
                synchronize()
                elapsed = time.perf_counter() - began
                stages = clock.take()
                if warmup <= index < len(batches):
                    found.seconds.append(elapsed)
                if clock.enabled and index >= warmup:
                    found.profiles.append(stages)
                    found.profiled_seconds.append(elapsed)
                advance(1)
    clock.close()
    return times


def loader_wait(
    student: Student, config: Config, batch_size: int, workers: int, steps: int, device: torch.device, seed: int
) -> dict[str, float]:
    """How long real steps wait for their loader's next batch; the first one, which starts the workers, is left out."""
    synchronize = synchronizer(device)
    assert student.row.left_out is not None, f"{student.row.name} has no loader of its own"
    loader = iter(make_loader(config, student.row.left_out, batch_size, workers, seed))
    waits, seconds, loads = [], [], []
    with progress(f"loader of {student.row.name}", steps, "steps") as advance:
        for _ in range(steps + 1):
            began = time.perf_counter()
            batch = next(loader)
            waits.append(time.perf_counter() - began)
            loads += batch["load_seconds"]
            student.step(student.see(batch))
            synchronize()
            seconds.append(time.perf_counter() - began)
            advance(len(waits) > 1)
    return {
        "wait_median": float(np.median(waits[1:])),
        "wait_max": float(np.max(waits[1:])),
        "wait_share": float(np.sum(waits[1:]) / np.sum(seconds[1:])),
        "wait_first": waits[0],
        "load_median": float(np.median(loads)),
    }


def loader_of(row: Row, loaders: dict[str, dict[str, float]]) -> dict[str, float]:
    """The row's own loader, or the plain one where it has none."""
    return loaders.get(row.name) or loaders.get("plain", {})


def peak_memory(row: Row, config: Config, device: torch.device, batches: Sequence[Batch]) -> dict[str, int]:
    """Bytes that a process of its own needs to train the row.

    Raises:
        ValueError: the process has ended before its steps, as one does that has no memory left.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        try:
            return executor.submit(_train_alone, row.name, config, device, list(batches[:MEMORY_STEPS])).result()
        except BrokenProcessPool:
            raise ValueError(
                f"row {row.name}: the process that measures its memory has ended early. Give fewer images (--batch), "
                "or leave memory out (--no-memory)"
            ) from None


def _train_alone(name: str, config: Config, device: torch.device, batches: list[Batch]) -> dict[str, int]:
    quiet()
    import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.get("default_scope", "mmrotate"))
    student = Student(next(row for row in ROWS if row.name == name), config, device, seed=0)
    before = _peak(device)
    for batch in batches:
        student.step(student.see(batch))
    return {"before_first_step": before, "peak": _peak(device)}


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its figure includes the process that this one was started from.
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


def quiet() -> None:
    """Keep mmengine from listing every initialised weight on standard output."""
    MMLogger.get_instance("step", log_level="ERROR")


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done its work; a CPU has when a call returns."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
