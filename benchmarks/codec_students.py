"""What a codec costs in AP: students of several stores of the same answers, paired by seed.

    python -m benchmarks.codec_students --config configs/demo/distill.py --cache exact.zarr --cache default.zarr \
        --cache small.zarr --seeds 0 1 2 3 4

The first cache is the one that the others are compared with. Stores are made by make cache-teacher with codec=exact and
then make recode-cache. `half` among them, whose error of 1e-8 no student can notice, shows what chance does.
What is finished in the work folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from cache.reader import CacheReader
from pipelines.base.command import run_command
from pipelines.base.files import write_json
from pipelines.base.progress import progress
from pipelines.base.table import Table
from pipelines.studies.statistics import paired, spread, verdict
from pipelines.training.evaluation import AP_COLUMNS


def main(arguments: argparse.Namespace) -> None:
    """Stores and seeds -> trainings, evaluations -> AP by store and its paired differences."""
    names = [Path(cache).stem for cache in arguments.cache]
    work = Path(arguments.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with progress("students", len(names) * len(arguments.seeds), "runs") as advance:
        for seed in arguments.seeds:
            for name, cache in zip(names, arguments.cache, strict=True):
                figures[name].append(student(arguments.config, cache, seed, work / f"{name}-{seed}"))
                advance(1)
    write_json(Path(arguments.out), {"seeds": arguments.seeds, "ap": figures})
    print(as_markdown(figures, len(arguments.seeds)))


def student(config: str, cache: str, seed: int, folder: Path) -> dict[str, float]:
    """AP of a student that is trained here, unless its figures are there."""
    result = folder.with_suffix(".json")
    if not result.is_file():
        codec = CacheReader(cache).manifest.codec["preset"]
        options = [f"randomness.seed={seed}", f"codec={codec}"]
        train = ("distill", "--config", config, "--cache", cache, "--work-dir", str(folder), "--cfg-options", *options)
        run(*train)
        checkpoint = folder / (folder / "last_checkpoint").read_text().rpartition("/")[2]
        measured = run("evaluate", "--config", config, "--checkpoint", str(checkpoint), "--json")
        result.write_text(measured)
    measured = json.loads(result.read_text())
    return {name: measured[name] for name in AP_COLUMNS}


def run(command: str, *arguments: str) -> str:
    """A command in a process of its own, on one thread: its standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-m", f"pipelines.{command}", *arguments]
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ValueError(f"{command} ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1]}")
    return ended.stdout


def as_markdown(figures: dict[str, list[dict[str, float]]], seeds: int) -> str:
    """Mean and standard deviation by store, and the differences from the first."""
    first, *others = figures
    columns = {name: {ap: [run[ap] for run in runs] for ap in AP_COLUMNS} for name, runs in figures.items()}
    rows = []
    for name, of_ap in columns.items():
        found = [spread(of_ap[ap]) for ap in AP_COLUMNS]
        rows.append([name, *(f"{100 * one['mean']:.1f} ± {100 * one['sd']:.1f}" for one in found)])
    lines = [Table(("store", *AP_COLUMNS), rows).markdown(), ""]
    for other in others:
        difference = {"name": f"{other} - {first}"}
        difference |= {ap: paired(columns[other][ap], columns[first][ap]) for ap in AP_COLUMNS}  # type: ignore[dict-item]
        lines += [f"- {verdict(difference, ap)}" for ap in AP_COLUMNS]
    return "\n".join([*lines, "", f"{seeds} seeds, 95 % intervals of the paired mean (Student's t)."])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec_students", description=__doc__)
    parser.add_argument("--config", required=True, help="the cached student's")
    parser.add_argument("--cache", action="append", required=True, help="a store; the first is compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--work-dir", default="work_dirs/codec_students")
    parser.add_argument("--out", default="docs/codec_ap.json")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
