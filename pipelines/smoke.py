"""The whole path in a minute, its figures compared with stored ones: what to run after every change of the code.

    python -m pipelines.smoke

Data, teacher, plan, capture, verify, inspect, students, evaluation and report, by the commands that a user would type,
on a handful of 96 px scenes (configs/smoke), for the rotated and the horizontal head; in one process, on one thread of
the CPU, and in a temporary folder. Every loss of every step, the rows planned and captured, the manifest, every byte of
the store and every AP are then compared with tests/golden/smoke.json. Nothing in it depends on where code lies or what
modules are called.

A CPU of another kind rounds otherwise, so the golden file says what kind of machine recorded it. On that kind, all
figures are equal to the last bit. On any other,

- rows, and the manifest but for `WEIGHT_FIELDS`, are still the same;
- a loss may differ by a share of `LOSS_TOLERANCE`, whatever the step: between kernels for AVX-512 and for SSE it was at
  most 2e-3, because the configs are made for it (configs/_base_/smoke.py) and trainings have six steps;
- an AP may differ by `AP_TOLERANCE`: it changes where two detections change their order;
- the store's fingerprint and bytes, which hold what the trained teacher said, are not compared.

For exact figures there, record them before the change: `--record --golden before.json`, then `--golden before.json`.
`--record` is the only way in which a golden file is ever written.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cache.manifest import Manifest, differences, shown
from pipelines.base.arguments import make_command_parser
from pipelines.base.command import run_command

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY / "tests/golden/smoke.json"
# The prefix of each head's configs.
HEADS = {"rotated": "", "horizontal": "gfl_"}
# The command that trains each config.
DETECTORS = {"teacher": "teacher", "plain": "train", "distill": "distill"}

# Set before torch is imported: no GPU, and no second thread anywhere.
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
# What /proc/cpuinfo says about how a CPU computes; ARM has the last two.
CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "CPU implementer", "CPU part")
VECTOR_UNITS = ("sse", "avx", "fma", "amx", "asimd", "sve")

LOSS_TOLERANCE = 1e-2
AP_TOLERANCE = 0.005
# Fields of a manifest that follow from the teacher's weights, or from how this machine draws the scenes and computes.
WEIGHT_FIELDS = (
    r"teacher\.weights_sha256|plan\.(image|pixel)_digest|numeric\.torch|codec\.(step|digest|columns|wide_columns)"
)

Figures = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A figure that is not what was recorded; `field` is its path: head, section, then what the section holds."""

    field: str
    recorded: Any
    found: Any


def main(arguments: argparse.Namespace) -> int:
    """Commands -> figures -> comparison with the golden file, or a new one."""
    golden = None if arguments.record else read_golden(arguments.golden)
    with work_folder(arguments.work_dir) as work:
        prepare_process()
        figures: Figures = {"machine": describe_machine()}
        for head in HEADS:
            figures[head] = run_path(head, work)
        call("report", "--work-dir", "work_dirs", "--no-pictures")
    print_figures(figures)
    if golden is None:
        arguments.golden.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(f"Recorded: {arguments.golden}")
        return 0
    return judge(golden, figures, arguments.golden)


def read_golden(path: Path) -> Figures:
    """The stored figures.

    Raises:
        ValueError: there are none.
    """
    if not path.is_file():
        raise ValueError(f"golden file {path} does not exist. Restore it, or write a new one with --record")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"golden file {path} is no JSON ({error}). Restore it, or write a new one with --record"
        ) from None


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """Work in an empty folder, where `configs` leads to this repository's; a temporary one where none is given.

    The configs' own relative paths (data/, caches/, work_dirs/) then lie in it.

    Raises:
        ValueError: the folder is not empty.
    """
    with tempfile.TemporaryDirectory(prefix="smoke-") as temporary:
        work = Path(temporary) if given is None else given.absolute()
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise ValueError(f"{work} is not empty, and nothing in it shall be overwritten. Give another --work-dir")
        (work / "configs").symlink_to(REPOSITORY / "configs")
        with chdir(work):
            yield work


def prepare_process() -> None:
    """Import OpenMMLab for one thread of the CPU, so that sums are added up in one order."""
    os.environ.update(ENVIRONMENT)
    # Not at the top: it would come before the environment, and into every process that cuts patches.
    import cv2
    import torch

    import pipelines.base.openmmlab  # noqa: F401

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # mmengine's data sets collect garbage when they are made; what the imports have left is none.
    gc.freeze()


def describe_machine() -> dict[str, Any]:
    """What the last bits of a figure depend on, beside the code."""
    import torch

    found = {"arch": platform.machine(), "torch": torch.__version__, "kernels": torch.backends.cpu.get_cpu_capability()}
    cpu = Path("/proc/cpuinfo")
    # The first core's.
    lines = cpu.read_text(encoding="utf-8").partition("\n\n")[0].splitlines() if cpu.is_file() else []
    for name, _, value in (line.partition(":") for line in lines):
        if name.strip() in CPU_FIELDS:
            found[name.strip()] = value.strip()
        elif name.strip() in ("flags", "Features"):
            found["vectors"] = " ".join(sorted(flag for flag in value.split() if flag.startswith(VECTOR_UNITS)))
    return found


def run_path(head: str, work: Path) -> Figures:
    """Everything but the report with one head, and what it came to."""
    configs = {name: f"configs/smoke/{HEADS[head]}{name}.py" for name in DETECTORS}
    folders = {name: work / f"work_dirs/smoke_{HEADS[head]}{name}" for name in DETECTORS}
    student = ("--config", configs["distill"])
    capturing = (*student, "--loaders", 0, "--views-per-block", 16, "--json")

    call("data", "--config", configs["plain"], "--workers", 1)
    call("teacher", "--config", configs["teacher"])
    plan = json.loads(call("plan", *capturing, "--probe"))
    capture = json.loads(call("cache_teacher", *capturing))
    call("verify_cache", *student, "--workers", 1)
    inspection = json.loads(call("inspect_cache", *student, "--workers", 1, "--json"))
    call("train", "--config", configs["plain"])
    call("distill", *student)
    ap = {}
    for name, folder in folders.items():
        (checkpoint,) = folder.glob("iter_*.pth")
        evaluation = ("--checkpoint", checkpoint, "--out", folder / "evaluation", "--json")
        ap[name] = json.loads(call("evaluate", "--config", configs[name], *evaluation))
    return {
        "losses": {name: read_losses(folder) for name, folder in folders.items()},
        "rows": {
            "planned": plan["rows"],
            "planned by level": plan["rows_per_view_and_level"],
            "captured": inspection["rows"],
        },
        **read_store(work / capture["cache"]),
        "ap": ap,
    }


def call(command: str, *argv: Any) -> str:
    """Run another command in this process as if it had been typed; returns its standard output.

    Raises:
        ValueError: it failed, with the last of what it said.
    """
    module = import_module(f"pipelines.{command}")
    output, messages = StringIO(), StringIO()
    started = time.perf_counter()
    with redirect_stdout(output), redirect_stderr(messages):
        status = run_command(module.main, module.make_parser(), list(map(str, argv)))
    if status:
        said = [*messages.getvalue().splitlines(), *output.getvalue().splitlines()]
        raise ValueError(f"pipelines.{command} ended with exit status {status}: {' / '.join(said[-3:])}")
    print(f"smoke: {command} in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return output.getvalue()


def read_losses(folder: Path) -> dict[str, list[float]]:
    """Every logged loss of a training, step by step."""
    (log,) = json.loads((folder / "run.json").read_text(encoding="utf-8"))["logs"]
    steps = [json.loads(line) for line in (folder / log).read_text(encoding="utf-8").splitlines()]
    # Nine digits tell any two float32 apart.
    return {name: [float(f"{step[name]:.9g}") for step in steps] for name in sorted(steps[0]) if "loss" in name}


def read_store(path: Path) -> Figures:
    """Manifest, its fingerprint, and one digest over the files of each array, from the disk and by no reader."""
    manifest = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    digests: dict[str, Any] = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        digest = digests.setdefault(name.partition("/")[0], hashlib.sha256())
        digest.update(f"{name} {file.stat().st_size}\n".encode() + file.read_bytes())
    store = {name: digest.hexdigest() for name, digest in digests.items()}
    return {"manifest": manifest, "store": {"fingerprint": Manifest.from_json(manifest).fingerprint, **store}}


def compare(recorded: Figures, found: Figures) -> list[Difference]:
    """What differs by more than a machine of the recorded kind, or of another, may differ."""
    exact = recorded["machine"] == found["machine"]
    return [
        Difference(f"{head}.{section}.{field}", ours, theirs)
        for head in HEADS
        for section, may_differ in SECTIONS.items()
        for field, ours, theirs in differences(recorded[head][section], found[head][section])
        if exact or not may_differ(field, ours, theirs)
    ]


def _within(*, relative: float = 0.0, absolute: float = 0.0) -> Callable[[str, Any, Any], bool]:
    def may_differ(_: str, ours: Any, theirs: Any) -> bool:
        numbers = isinstance(ours, float) and isinstance(theirs, float)
        return numbers and math.isclose(ours, theirs, rel_tol=relative, abs_tol=absolute)

    return may_differ


SECTIONS: Mapping[str, Callable[[str, Any, Any], bool]] = {
    "losses": _within(relative=LOSS_TOLERANCE),
    "rows": lambda field, ours, theirs: False,
    "manifest": lambda field, ours, theirs: re.fullmatch(WEIGHT_FIELDS, field) is not None,
    "store": lambda field, ours, theirs: True,
    "ap": _within(absolute=AP_TOLERANCE),
}
"""The sections of a head's figures: may a field differ as much as that on a machine of another kind?"""


def print_figures(figures: Figures) -> None:
    """What each head came to, as a table."""
    table = Table("", *HEADS, title="Smoke run", title_justify="left")
    heads = [figures[head] for head in HEADS]
    for name in DETECTORS:
        losses = [head["losses"][name]["loss"] for head in heads]
        table.add_row(f"{name}: loss, first to last", *(f"{series[0]:.4f} to {series[-1]:.4f}" for series in losses))
    table.add_row("rows", *(f"{head['rows']['planned']:,}" for head in heads))
    table.add_row("fingerprint", *(head["store"]["fingerprint"][:12] for head in heads))
    for name in DETECTORS:
        table.add_row(f"{name}: AP50", *(f"{100 * head['ap'][name]['AP50']:.2f}" for head in heads))
    Console().print(table)


def judge(golden: Figures, figures: Figures, path: Path) -> int:
    """Say what differs, and how strictly was compared; 1 where anything differs."""
    found = compare(golden, figures)
    if found:
        print_differences(found, path)
    others = [field for field, *_ in differences(golden["machine"], figures["machine"])]
    strictly = f"within tolerances (another kind of machine: {', '.join(others)})" if others else "to the last bit"
    print(f"{f'{len(found)} figures differ from' if found else 'All figures as in'} {path}, compared {strictly}.")
    return 1 if found else 0


def print_differences(found: Sequence[Difference], path: Path) -> None:
    """A table of what differs; of a series of steps, the first that does."""
    table = Table(title=f"Not as in {path}", title_justify="left")
    for column in ("figure", "recorded", "found"):
        table.add_column(column, overflow="fold")
    table.add_column("later steps", justify="right")
    for _, group in groupby(found, key=lambda difference: difference.field.partition("[")[0]):
        first, *later = group
        table.add_row(first.field, shown(first.recorded), shown(first.found), str(len(later) or ""))
    Console().print(table)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "smoke",
        "The whole path on a handful of scenes, its figures compared with those of a golden file.",
        example="--work-dir work_dirs/smoke",
        status="0 all figures as recorded, 1 one differs or a command failed, 2 unusable arguments",
    )
    parser.add_argument("--work-dir", type=Path, help="an empty or new folder to keep (default: a temporary one)")
    parser.add_argument(
        "--golden", type=Path, default=GOLDEN, help=f"the figures (default: {GOLDEN.name} of the tests)"
    )
    parser.add_argument("--record", action="store_true", help="write the figures to --golden instead of comparing them")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
