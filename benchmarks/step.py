"""Time a training step of plain, cached and live students side by side, and show where it goes.

    python -m benchmarks.step                       built-in scenes and an untrained teacher, sized for the device
    python -m benchmarks.step --model full --size 1024 --batch 1
    python -m benchmarks.step --model full --data-root data/dota                     the same on real patches
    python -m benchmarks.step --config configs/distill/gwd_r18_1x_dota.py            real patches and a captured cache

Steps of all rows alternate in one process on the same batches, each pair in another order; ratios are those of paired
steps. Stages are timed in the same steps on a CPU, and in further ones on a GPU, where timing them means waiting for
the device. Peak memory is that of a process of its own for each row, which trains nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from mmrotate.registry import MODELS
from torch import nn

from benchmarks.step_project import (
    MODEL_CONFIGS,
    Project,
    made_up_project,
    make_loader,
    project_of_config,
    project_of_patches,
)
from benchmarks.step_report import draw, paired_ratio, print_report, stage_medians
from benchmarks.step_stages import StageClock, watch_step
from pipelines.base.command import positive_int, run_command
from pipelines.base.progress import progress

Batch = dict[str, Any]
# Steps of a row's own process, whose peak is its memory: the optimiser's state is there from the second on.
MEMORY_STEPS = 2
GPU_PROFILE_STEPS = 5


@dataclass(frozen=True)
class Row:
    """One way of training that the benchmark compares.

    model: the detector's config, from the cached student's. adapt: leaves in a batch of its loader what
    this detector may see. left_out: transforms of its pipeline that this detector's own loader does not run; None where
    the loader is another row's.
    """

    name: str
    title: str
    model: Callable[[Config], dict[str, Any]]
    adapt: Callable[[Batch], Batch]
    left_out: tuple[str, ...] | None


def plain_model(config: Config) -> dict[str, Any]:
    """mmrotate's own step: expected deltas, decoded boxes and box loss of every prior."""
    model = sparse_plain_model(config)
    return model | {"bbox_head": model["bbox_head"] | {"box_loss_rows": "all"}}


def sparse_plain_model(config: Config) -> dict[str, Any]:
    """The same losses with the box loss where its weight is not 0."""
    model = config.model.to_dict()
    del model["distillation"]
    return model | {"type": "mmdet.SingleStageDetector"}


def cached_model(config: Config) -> dict[str, Any]:
    return config.model.to_dict()


def live_model(config: Config) -> dict[str, Any]:
    return config.model.to_dict() | {"type": "LiveDistiller", "teacher": dict(config.teacher)}


def keep_all(batch: Batch) -> Batch:
    """Everything that the loader has packed."""
    return batch


def drop_assignment(batch: Batch) -> Batch:
    """The teacher's answers; the student assigns by itself."""
    return {**batch, "targets": replace(batch["targets"], assigned=None)}


def drop_targets(batch: Batch) -> Batch:
    """Ground truth alone."""
    return {name: value for name, value in batch.items() if name != "targets"}


def keep_region(batch: Batch) -> Batch:
    """The region, without the teacher's answers."""
    return {**batch, "targets": replace(batch["targets"], answers=None, assigned=None)}


ROWS = (
    Row("plain", "plain, as mmrotate", plain_model, drop_targets, ("LoadTeacherTargets",)),
    Row("plain_sparse", "plain, sparse box loss", sparse_plain_model, drop_targets, None),
    Row("cached", "cached", cached_model, drop_assignment, ()),
    Row("cached_planned", "cached, planned assignment", cached_model, keep_all, ()),
    Row("live", "live", live_model, keep_region, None),
)


class Student:
    """A row's detector and its optimiser on the device."""

    def __init__(self, row: Row, config: Config, device: torch.device, seed: int) -> None:
        self.row = row
        torch.manual_seed(seed)
        self.model: nn.Module = MODELS.build(row.model(config))
        self.model.init_weights()
        self.model.to(device).train()
        self.optim_wrapper: OptimWrapper = build_optim_wrapper(self.model, config.optim_wrapper)

    def see(self, batch: Batch) -> Batch:
        """What this student may see of a batch; a step changes samples."""
        samples = [sample.new() for sample in batch["data_samples"]]
        seen = self.row.adapt({**batch, "inputs": list(batch["inputs"]), "data_samples": samples})
        return {name: value for name, value in seen.items() if name != "load_seconds"}

    def step(self, batch: Batch) -> None:
        """One training step.

        Raises:
            ValueError: a loss that is not finite, whose step is no example of training.
        """
        losses = self.model.train_step(batch, self.optim_wrapper)
        for name, value in losses.items():
            if not math.isfinite(float(value)):
                raise ValueError(
                    f"row {self.row.name}: {name} is {float(value)}; no time of such a step means anything"
                )


def main(arguments: argparse.Namespace) -> None:
    """Project -> batches -> memory, steps and loaders of every row -> table and picture."""
    quiet()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = [row for row in ROWS if row.name in arguments.rows]
    with tempfile.TemporaryDirectory(dir=arguments.folder) if not arguments.config else nullcontext() as folder:
        project = make_project(arguments, device, folder)
        config = project.config
        batch_size = arguments.batch or config.train_dataloader.batch_size
        batches = load_batches(config, arguments.warmup + arguments.pairs, batch_size, arguments.seed)
        memory = {row.name: peak_memory(row, config, device, batches) for row in rows} if arguments.memory else {}
        students = [Student(row, config, device, arguments.seed) for row in rows]
        synchronize = torch.cuda.synchronize if device.type == "cuda" else _nothing
        seconds, profiles, profiled = alternate(students, batches, arguments.warmup, synchronize, device)
        loaders = {
            student.row.name: loader_wait(student, config, batch_size, arguments, synchronize)
            for student in students
            if student.row.left_out is not None and arguments.loader_steps
        }
    figures = {
        "run": describe_run(project, batches, batch_size, device, arguments),
        "rows": {
            row.name: {
                "title": row.title,
                "median_seconds": float(np.median(seconds[row.name])),
                "ratio": {
                    name: paired_ratio(seconds[row.name], seconds[name])
                    for name in ("plain", "cached")
                    if name in seconds
                },
                "stages": stage_medians(
                    profiles[row.name], profiled[row.name], loader_of(row, loaders).get("wait_median", 0.0)
                ),
                **({"loader": loaders[row.name]} if row.name in loaders else {}),
                **({"memory": memory[row.name]} if memory else {}),
                "seconds": seconds[row.name],
            }
            for row in rows
        },
    }
    if arguments.out:
        draw(figures, Path(arguments.out))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_report(figures)


def make_project(arguments: argparse.Namespace, device: torch.device, folder: str | None) -> Project:
    """The config's own project, or a made-up one of a size that fits the device."""
    if arguments.config:
        return project_of_config(arguments.config, arguments.cache, arguments.cfg_options)
    on_gpu = device.type == "cuda"
    model = arguments.model or ("full" if on_gpu else "narrow")
    common = arguments.patches, arguments.seed, arguments.cfg_options
    if arguments.data_root:
        return project_of_patches(Path(folder), model, arguments.data_root, *common)
    return made_up_project(Path(folder), model, arguments.size or (1024 if on_gpu else 512), *common)


def load_batches(config: Config, count: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of the cached student's pipeline; the loader is gone before anything is timed.

    They come from a worker: this process must not read records, or it could fork no more loaders.
    """
    loader = iter(make_loader(config, (), batch_size, 1, seed))
    return [next(loader) for _ in range(count)]


def alternate(
    students: Sequence[Student],
    batches: Sequence[Batch],
    warmup: int,
    synchronize: Callable[[], None],
    device: torch.device,
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]], dict[str, list[float]]]:
    """Seconds of every row's steps on the same batches; profiles of steps, and the seconds of those."""
    clock = StageClock(synchronize)
    for student in students:
        watch_step(clock, student.model, student.optim_wrapper)
    on_gpu = device.type == "cuda"
    extra = list(batches[-GPU_PROFILE_STEPS:]) if on_gpu else []
    seconds: dict[str, list[float]] = {student.row.name: [] for student in students}
    profiles: dict[str, list[dict[str, float]]] = {student.row.name: [] for student in students}
    profiled: dict[str, list[float]] = {student.row.name: [] for student in students}
    with progress("bench", len(students) * (len(batches) + len(extra)), "steps") as advance:
        for index, batch in enumerate([*batches, *extra]):
            timed = warmup <= index < len(batches)
            clock.enabled = index >= len(batches) or not on_gpu
            # Each pair begins with another row.
            start = index % len(students)
            for student in (*students[start:], *students[:start]):
                seen = student.see(batch)
                synchronize()
                began = time.perf_counter()
                student.step(seen)
                synchronize()
                elapsed = time.perf_counter() - began
                stages = clock.take()
                if timed:
                    seconds[student.row.name].append(elapsed)
                if clock.enabled and index >= warmup:
                    profiles[student.row.name].append(stages)
                    profiled[student.row.name].append(elapsed)
                advance(1)
    clock.close()
    return seconds, profiles, profiled


def loader_wait(
    student: Student, config: Config, batch_size: int, arguments: argparse.Namespace, synchronize: Callable[[], None]
) -> dict[str, float]:
    """How long real steps wait for their loader's next batch; the first one, which starts the workers, is left out."""
    loader = iter(make_loader(config, student.row.left_out, batch_size, arguments.loaders, arguments.seed))
    waits, steps, loads = [], [], []
    with progress(f"loader of {student.row.name}", arguments.loader_steps, "steps") as advance:
        for _ in range(arguments.loader_steps + 1):
            began = time.perf_counter()
            batch = next(loader)
            waits.append(time.perf_counter() - began)
            loads += batch["load_seconds"]
            student.step(student.see(batch))
            synchronize()
            steps.append(time.perf_counter() - began)
            advance(len(waits) > 1)
    return {
        "wait_median": float(np.median(waits[1:])),
        "wait_max": float(np.max(waits[1:])),
        "wait_share": float(np.sum(waits[1:]) / np.sum(steps[1:])),
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


def describe_run(
    project: Project, batches: Sequence[Batch], batch_size: int, device: torch.device, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What was measured, on what."""
    samples = [sample for batch in batches for sample in batch["data_samples"]]
    on_gpu = device.type == "cuda"
    return {
        "origin": project.origin,
        "batch_size": batch_size,
        "image_shape": list(samples[0].img_shape),
        "objects_per_image": float(np.mean([len(sample.gt_instances) for sample in samples])),
        "rows_per_image": sum(batch["targets"].region.sizes.sum() for batch in batches) / len(samples),
        "pairs": arguments.pairs,
        "warmup": arguments.warmup,
        "workers": arguments.loaders,
        "seed": arguments.seed,
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "memory": "allocated on the GPU" if on_gpu else "resident, libraries included",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def quiet() -> None:
    """Keep mmengine from listing every initialised weight on standard output."""
    MMLogger.get_instance("step", log_level="ERROR")


def _nothing() -> None:
    """A CPU has done its work when a call returns."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description="Time a training step of plain, cached and live students side by side.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--config", help="a cached student's config with patches, teacher and captured cache")
    parser.add_argument("--cache", help="with --config: the teacher cache (default: the config's cache)")
    parser.add_argument("--model", choices=MODEL_CONFIGS, help="without: models (default: full on a GPU, else narrow)")
    parser.add_argument("--data-root", help="without: patches of make data (default: built-in scenes)")
    parser.add_argument("--size", type=positive_int, help="side of a built-in scene (default: 1024 on a GPU, else 512)")
    parser.add_argument("--patches", type=positive_int, default=8, help="without: patches of the cache (default: 8)")
    parser.add_argument("--folder", help="without: where the teacher and cache of the run are written")
    parser.add_argument("--batch", type=positive_int, help="images a step (default: the config's)")
    parser.add_argument("--pairs", type=positive_int, default=20, help="timed steps of every row (default: 20)")
    parser.add_argument("--warmup", type=int, default=2, help="steps of every row before those (default: 2)")
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="rows to measure (default: all)")
    parser.add_argument("--loaders", type=positive_int, default=2, help="loader processes (default: 2)")
    parser.add_argument("--loader-steps", type=int, default=10, help="steps that wait for a loader (default: 10)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure peak memory")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and order (default: 0)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--out", help="also draw the stages: a PNG file")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
