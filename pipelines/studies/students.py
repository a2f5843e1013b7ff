"""Several detectors trained and evaluated, each in a process of its own, N at a time; for sweep and comparison.

    python -m pipelines.studies.students --config <config> --work-dir <folder>

is one of those processes: training (plain, live or from the cache, as the config says), then evaluation. What has been
finished in that folder is not done again.

A folder `<root>` of several holds `configs/<name>.py`, the resolved config of each, `configs/<name>.lock`, which the
process that works on it holds as long as it lives, and `<name>/`, its work folder.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import torch
from mmengine.config import Config
from mmrotate.registry import MODELS

from cache.manifest import first_difference
from cache.reader import CacheReader
from pipelines import distill, train
from pipelines.base.command import available_cores, existing_file, run_command, warn
from pipelines.base.experiment import load_config
from pipelines.base.files import exclusive, write_text
from pipelines.base.progress import progress
from pipelines.evaluate import evaluate
from pipelines.training.record import EVALUATION, kind_of, last_checkpoint, read_evaluation, read_record

CONFIGS = "configs"
OUTPUT = "output.log"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")


@dataclass(frozen=True)
class Student:
    """A detector to train and evaluate.

    settings: what it changes in its base config, for tables. checkpoint: weights that exist already; it is evaluated
    only.
    """

    name: str
    config: Config
    root: Path
    settings: Mapping[str, Any]
    checkpoint: Path | None = None

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def config_file(self) -> Path:
        return self.root / CONFIGS / f"{self.name}.py"

    @property
    def lock_file(self) -> Path:
        return self.config_file.with_suffix(".lock")

    @property
    def is_trained(self) -> bool:
        return self.checkpoint is not None or read_record(self.folder) is not None

    @property
    def is_finished(self) -> bool:
        return self.is_trained and read_evaluation(self.folder) is not None


def main(arguments: argparse.Namespace) -> None:
    """Config -> trained weights -> AP; each where it is missing."""
    folder = Path(arguments.work_dir)
    checkpoint = arguments.checkpoint
    if checkpoint is None:
        if read_record(folder) is None:
            (folder / EVALUATION / "evaluation.json").unlink(missing_ok=True)
            config = load_config(arguments.config)
            command = distill if kind_of(config) == "cached" else train
            resume = ["--resume"] if arguments.resume and last_checkpoint(folder) else []
            command.main(
                command.make_parser().parse_args(["--config", arguments.config, "--work-dir", str(folder), *resume])
            )
        name = (read_record(folder) or {}).get("checkpoint")
        if name is None:
            raise ValueError(f"{folder} has no checkpoint. Let the config's CheckpointHook write one (save_last=True)")
        checkpoint = folder / name
    if read_evaluation(folder) is None:
        config = load_config(arguments.config)
        config.work_dir = str(folder / EVALUATION)
        evaluate(config, checkpoint, folder / EVALUATION)


def require_name(name: str, place: str) -> None:
    """Refuse a name that cannot be a folder beside `configs`.

    Raises:
        ValueError: naming it.
    """
    if name == CONFIGS or not NAME.fullmatch(name):
        raise ValueError(
            f"{place}: {name!r} is no usable name. Take letters, digits, _ . + = -, beginning with a letter or digit, "
            f"and not {CONFIGS!r}"
        )


def require_trainable(student: Student, reader: CacheReader | None) -> None:
    """Refuse a student that would stop at its start: data, cache, pretrained backbone and model are tried.

    Raises:
        ValueError: naming the student, then as `make distill` and `make train` say it.
    """
    try:
        train.require_training_images(student.config)
        if kind_of(student.config) == "cached":
            if reader is None:
                raise ValueError("a student from the cache needs one: give CACHE=")
            distill.require_matching_cache(student.config, reader)
        train.require_pretrained(student.config.model)
        MODELS.build(student.config.model)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"{student.name}: {error}") from error


def require_same_configs(students: Sequence[Student]) -> None:
    """Refuse a folder that holds work of the same name but from another config or cache.

    Raises:
        ValueError: naming the run, the first field that differs, both values and the cure.
    """
    for student in students:
        cure = f"Give another WORK_DIR=, or remove {student.folder} and {student.config_file}"
        if not student.config_file.is_file():
            if student.folder.exists():
                raise ValueError(f"{student.folder} exists and is no run of this command. {cure}")
            continue
        stored = Config.fromfile(student.config_file).to_dict()
        difference = first_difference(_comparable(student.config), _comparable(stored))
        if difference is not None:
            field, ours, theirs = difference
            raise ValueError(f"{student.folder}: {field} is {theirs!r} in that run but {ours!r} here. {cure}")


def _comparable(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    values = config.to_dict() if isinstance(config, Config) else dict(config)
    return dict(_lists(values))


def _lists(value: Any) -> Any:
    """Tuples as lists, at every depth: what `first_difference` compares item by item."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def run_students(
    students: Sequence[Student],
    jobs: int,
    *,
    resume: bool,
    description: str,
    finished: Callable[[Student], None] = lambda student: None,
) -> dict[str, str]:
    """Work on every unfinished student, `jobs` at a time; returns the last line of each that failed, by name.

    resume: an unfinished training goes on from its last checkpoint, where it has one; otherwise it starts anew.
    finished: called for each that has ended well, one at a time.
    """
    left = [student for student in students if not student.is_finished]
    for student in left:
        student.config_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(student.config_file, student.config.pretty_text)
    failures = {}
    with (
        _Processes(jobs, resume) as processes,
        progress(description, len(students), "runs", done=len(students) - len(left)) as advance,
    ):
        for student, failure in processes.run(left):
            advance(1)
            if failure is None:
                finished(student)
            else:
                failures[student.name] = failure
                warn(f"{student.name} failed: {failure} (all of it: {student.folder / OUTPUT})")
    return failures


class _Processes:
    """A few processes at a time; left early, it ends those that run."""

    def __init__(self, jobs: int, resume: bool) -> None:
        self.resume = resume
        self._executor = ThreadPoolExecutor(max_workers=jobs)
        self._environments: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in range(jobs):
            self._environments.put(_environment(slot, jobs))
        self._stop = Event()
        self._running: set[subprocess.Popen] = set()
        self._guard = Lock()

    def __enter__(self) -> _Processes:
        self._previous = signal.getsignal(signal.SIGTERM)
        try:
            signal.signal(signal.SIGTERM, _interrupt)
        except ValueError:
            # Not the main thread: whoever runs it handles signals.
            self._previous = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        with self._guard:
            for process in self._running:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def run(self, students: Sequence[Student]) -> Iterator[tuple[Student, str | None]]:
        """Each student with its failure, as they end."""
        pending: dict[Future[str | None], Student] = {
            self._executor.submit(self._work, student): student for student in students
        }
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()

    def _work(self, student: Student) -> str | None:
        environment = self._environments.get()
        try:
            busy = f"{student.name} is being worked on by another process; waiting for it"
            with exclusive(student.lock_file, busy, stop=self._stop) as lock:
                if self._stop.is_set():
                    return "interrupted"
                if student.is_finished:
                    return None
                go_on = self.resume and last_checkpoint(student.folder) is not None
                if student.folder.exists() and not student.is_trained and not go_on:
                    shutil.rmtree(student.folder)
                student.folder.mkdir(parents=True, exist_ok=True)
                return self._train_and_evaluate(student, lock, environment)
        finally:
            self._environments.put(environment)

    def _train_and_evaluate(self, student: Student, lock: int, environment: dict[str, str]) -> str | None:
        command = [sys.executable, "-W", "ignore", "-m", __name__, "--config", student.config_file]
        command += ["--work-dir", student.folder, *(["--resume"] if self.resume else [])]
        command += ["--checkpoint", student.checkpoint] if student.checkpoint else []
        output = student.folder / OUTPUT
        with output.open("ab") as log:
            with self._guard:
                if self._stop.is_set():
                    return "interrupted"
                # The lock stays with the process, also where this one is killed.
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=[lock],
                )
                self._running.add(process)
            status = process.wait()
            with self._guard:
                self._running.discard(process)
        return None if student.is_finished else _failure(output, status)


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """Each job gets its share of the cores, and one GPU in turn where there are any."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = visible.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _failure(output: Path, status: int) -> str:
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return [*lines[-1:], *errors[-1:]][-1] if lines and status > 0 else ended


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.studies.students",
        description="Train and evaluate one detector; what is finished in the work folder is not done again.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--config", required=True, help="the config of the detector")
    parser.add_argument("--work-dir", required=True, help="its work folder")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, where there is one")
    parser.add_argument("--checkpoint", type=existing_file, help="weights that exist: evaluate only")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
