"""The runs of a study on one machine: each in a process of its own (`pipelines.studies.worker`), N at a time."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from types import TracebackType

import torch

from pipelines.base.command import available_cores, warn
from pipelines.base.config_files import last_checkpoint
from pipelines.base.files import exclusive, write_text
from pipelines.base.progress import progress
from pipelines.studies.runs import OUTPUT, Run

WORKER = "pipelines.studies.worker"


def finish_runs(
    runs: Sequence[Run],
    jobs: int,
    *,
    resume: bool,
    description: str,
    finished: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Train and evaluate every unfinished run, `jobs` at a time; returns the last line of each that failed, by name.

    resume: an unfinished training goes on from its last checkpoint, where it has one; otherwise it starts anew.
    finished: called whenever a run has ended well, one at a time.
    """
    left = [run for run in runs if not run.is_finished]
    for run in left:
        run.config_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(run.config_file, run.config.pretty_text)
    failures = {}
    with (
        _Processes(jobs, resume) as processes,
        progress(description, len(runs), "runs", done=len(runs) - len(left)) as advance,
    ):
        for run, failure in processes.work_on(left):
            advance(1)
            if failure is None:
                finished()
            else:
                failures[run.name] = failure
                warn(f"{run.name} failed: {failure} (all of it: {run.folder / OUTPUT})")
    return failures


class _Processes:
    """A few processes at a time; left early, it ends those that work."""

    def __init__(self, jobs: int, resume: bool) -> None:
        self.resume = resume
        self._executor = ThreadPoolExecutor(max_workers=jobs)
        self._environments: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in range(jobs):
            self._environments.put(environment_of(slot, jobs))
        self._stop = Event()
        self._working: set[subprocess.Popen[bytes]] = set()
        self._guard = Lock()

    def __enter__(self) -> _Processes:
        self._previous = signal.getsignal(signal.SIGTERM)
        try:
            signal.signal(signal.SIGTERM, _interrupt)
        except ValueError:
            # Not the main thread: whoever runs it handles signals.
            self._previous = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._stop.set()
        with self._guard:
            for process in self._working:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def work_on(self, runs: Sequence[Run]) -> Iterator[tuple[Run, str | None]]:
        """Each run with its failure, as they end."""
        pending: dict[Future[str | None], Run] = {self._executor.submit(self._finish, run): run for run in runs}
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()

    def _finish(self, run: Run) -> str | None:
        environment = self._environments.get()
        # Perhaps for a command that was killed and whose process lives on.
        busy = f"{run.name} is being worked on by another process; waiting for it"
        try:
            with exclusive(run.lock_file, busy, stop=self._stop) as lock:
                if self._stop.is_set():
                    return "interrupted"
                if run.is_finished:
                    return None
                go_on = self.resume and last_checkpoint(run.folder) is not None
                if run.folder.exists() and not run.is_trained and not go_on:
                    shutil.rmtree(run.folder)
                run.folder.mkdir(parents=True, exist_ok=True)
                return self._run_worker(run, lock, environment)
        finally:
            self._environments.put(environment)

    def _run_worker(self, run: Run, lock: int, environment: dict[str, str]) -> str | None:
        command = [sys.executable, "-W", "ignore", "-m", WORKER, "--config", str(run.config_file)]
        command += ["--work-dir", str(run.folder), *(["--resume"] if self.resume else [])]
        command += ["--checkpoint", str(run.checkpoint)] if run.checkpoint else []
        output = run.folder / OUTPUT
        with output.open("ab") as log:
            with self._guard:
                if self._stop.is_set():
                    return "interrupted"
                # The lock stays with the process, also where this one is killed.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=[lock]
                )
                self._working.add(process)
            status = process.wait()
            with self._guard:
                self._working.discard(process)
        return None if run.is_finished else _failure(output, status)


def environment_of(slot: int, jobs: int) -> dict[str, str]:
    """Each job gets its share of the cores, and one GPU in turn where there are any."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        # Of those named, CUDA sees none from the first one on that is not there.
        devices = visible.split(",")[:count]
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % count].strip()
    return environment


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _failure(output: Path, status: int) -> str:
    """The last error that a process has printed, or how it was killed."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return [*lines[-1:], *errors[-1:]][-1] if lines and status > 0 else ended
