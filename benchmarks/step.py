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
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import DictAction

from benchmarks.step_report import draw, print_report
from pipelines.base.command import positive_int, run_command
from pipelines.timing.project import (
    MODEL_CONFIGS,
    Project,
    made_up_project,
    project_of_config,
    project_of_patches,
)
from pipelines.timing.ratios import paired_ratio, stage_medians
from pipelines.timing.rows import ROWS, Batch, Student
from pipelines.timing.steps import alternate, load_batches, loader_of, loader_wait, peak_memory, quiet


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
        times = alternate(students, batches, arguments.warmup, device)
        loaders = {
            student.row.name: loader_wait(
                student, config, batch_size, arguments.loaders, arguments.loader_steps, device, arguments.seed
            )
            for student in students
            if student.row.left_out is not None and arguments.loader_steps
        }
    figures = {
        "run": describe_run(project, batches, batch_size, device, arguments),
        "rows": {
            row.name: {
                "title": row.title,
                "median_seconds": float(np.median(times[row.name].seconds)),
                "ratio": {
                    name: paired_ratio(times[row.name].seconds, times[name].seconds)
                    for name in ("plain", "cached")
                    if name in times
                },
                "stages": stage_medians(
                    times[row.name].profiles,
                    times[row.name].profiled_seconds,
                    loader_of(row, loaders).get("wait_median", 0.0),
                ),
                **({"loader": loaders[row.name]} if row.name in loaders else {}),
                **({"memory": memory[row.name]} if memory else {}),
                "seconds": times[row.name].seconds,
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
