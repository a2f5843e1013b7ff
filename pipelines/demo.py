"""Everything once, on built-in scenes and a CPU: data, teacher, cache, plain and distilled student, AP, a report.

    python -m pipelines.demo

Each stage that makes something is the command that a user would type, in a process of its own: so are time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import plain_console, run_command
from pipelines.base.files import bytes_on_disk
from pipelines.base.table import Table

CONFIGS = {name: f"configs/demo/{name}.py" for name in ("teacher", "plain", "distill")}
# What a working demo must show on held-out scenes.
TEACHER_AP50 = 0.4


@dataclass
class DemoReport:
    """What the demo measured: stages in order, then AP by detector."""

    seed: int
    stages: list[dict[str, Any]] = field(default_factory=list)
    ap: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, *outputs: Path) -> Iterator[None]:
        """Time a stage, and weigh what it leaves."""
        Console(stderr=True).rule(f"demo: {name}")
        started = time.perf_counter()
        yield
        size = sum(bytes_on_disk(path) for path in outputs)
        self.stages.append({"stage": name, "seconds": time.perf_counter() - started, "bytes": size})


def main(arguments: argparse.Namespace) -> int:
    """Data -> teacher -> cache -> plain and distilled student -> AP -> report."""
    # Before torch is imported: its figures are a CPU's, on every machine.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import cv2

    from pipelines.base.experiment import load_config
    from pipelines.training.evaluation import evaluate_run

    cv2.setNumThreads(0)
    work = new_run_folder(Path(arguments.work_dir))
    cache = work / "teacher.zarr"
    report = DemoReport(arguments.seed)
    seed = f"randomness.seed={arguments.seed}"
    checkpoints = {name: final_checkpoint(name, work) for name in CONFIGS}

    with report.stage("data", Path(load_config(CONFIGS["plain"]).data_root)):
        run("data", "--config", CONFIGS["plain"])
    with report.stage("teacher", checkpoints["teacher"]):
        run("teacher", "--config", CONFIGS["teacher"], "--work-dir", work / "teacher", "--cfg-options", seed)
    with report.stage("cache", cache):
        run(
            *("cache_teacher", "--config", CONFIGS["distill"], "--cache", cache, "--loaders", 1),
            *("--checkpoint", checkpoints["teacher"], "--json"),
            output=work / "capture.json",
        )
    with report.stage("plain student", checkpoints["plain"]):
        run("train", "--config", CONFIGS["plain"], "--work-dir", work / "plain", "--cfg-options", seed)
    with report.stage("distilled student", checkpoints["distill"]):
        run(
            *("distill", "--config", CONFIGS["distill"], "--cache", cache, "--work-dir", work / "distill"),
            *("--cfg-options", seed),
        )
    with report.stage("evaluation"):
        for name, checkpoint in checkpoints.items():
            report.ap[name] = evaluate_run(load_config(CONFIGS[name]), checkpoint, work / name)

    (work / "demo.json").write_text(json.dumps(report.__dict__, indent=2))
    print_report(report, work)
    run("report", "--work-dir", work)
    return judge(report)


def run(command: str, *argv: Any, output: Path | None = None) -> None:
    """Run another command in a process of its own; `output` takes its standard output.

    Raises:
        ValueError: it failed; it has said why.
    """
    line = [sys.executable, "-m", f"pipelines.{command}", *map(str, argv)]
    if output is None:
        status = subprocess.run(line).returncode
    else:
        with output.open("w", encoding="utf-8") as file:
            status = subprocess.run(line, stdout=file).returncode
    if status:
        raise ValueError(f"the demo stops: pipelines.{command} ended with exit status {status}; its message is above")


def new_run_folder(base: Path) -> Path:
    """The first free numbered folder: earlier runs are kept."""
    number = 1
    while (base / str(number)).exists():
        number += 1
    (base / str(number)).mkdir(parents=True)
    return base / str(number)


def final_checkpoint(name: str, work: Path) -> Path:
    """Where the runner leaves the last checkpoint of a demo config."""
    from pipelines.base.experiment import load_config

    return work / name / f"iter_{load_config(CONFIGS[name]).train_cfg.max_iters}.pth"


def print_report(report: DemoReport, work: Path) -> None:
    """Stages and AP as two tables."""
    from pipelines.training.evaluation import AP_COLUMNS

    stages = [(row["stage"], f"{row['seconds']:.0f}", f"{row['bytes'] / 1e6:.1f}") for row in report.stages]
    total = ("total", f"{sum(row['seconds'] for row in report.stages):.0f}", "")
    names = {"teacher": "teacher (R-34)", "plain": "plain student (R-18)", "distill": "student from the cache (R-18)"}
    rows = [(names[name], *(f"{100 * ap[key]:.1f}" for key in AP_COLUMNS)) for name, ap in report.ap.items()]
    console = plain_console()
    console.print(Table(("stage", "seconds", "MB"), [*stages, total]).terminal(f"Demo, seed {report.seed}"))
    console.print(Table(("detector", *AP_COLUMNS), rows).terminal("AP on held-out synthetic scenes"))
    console.print(f"Everything of this run is in {work}.")


def judge(report: DemoReport) -> int:
    """0 where the teacher is good and better than the plain student; says what failed otherwise."""
    teacher_ap, plain_ap = report.ap["teacher"]["AP50"], report.ap["plain"]["AP50"]
    failures = []
    if teacher_ap < TEACHER_AP50:
        failures.append(f"the teacher reached AP50 {teacher_ap:.3f}, below {TEACHER_AP50}")
    if teacher_ap <= plain_ap:
        failures.append(f"the teacher's AP50 {teacher_ap:.3f} does not exceed the plain student's {plain_ap:.3f}")
    for failure in failures:
        print(f"demo failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "demo",
        "Data, teacher, cache, plain and distilled student, and a report, on built-in scenes and a CPU.",
        example="--work-dir work_dirs/demo --seed 0",
        status="0 the teacher beats AP50 0.4 and the plain student, 1 it does not, 2 unusable arguments",
    )
    parser.add_argument("--work-dir", default="work_dirs/demo", help="holds one numbered folder per run")
    parser.add_argument("--seed", type=int, default=0, help="seed of all three trainings")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
