"""What every command shares: exit status, one-line errors, progress."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cache.storage import Folder, Place, locate

PLAIN_LINE_SECONDS = 10.0
"""Shortest time between two progress lines where standard error is no terminal."""

Main = Callable[[argparse.Namespace], int | None]


def run_command(main: Main, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, run `main`, return the exit status.

    0 done; 1 what was asked failed (one line `error: ...`); 130 interrupted. Arguments that argparse refuses end
    the process with 2. With TRACEBACK=1 in the environment, errors are raised as they are.
    """
    arguments = parser.parse_args(argv)
    try:
        return main(arguments) or 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (ValueError, OSError) as error:
        if os.environ.get("TRACEBACK") == "1":
            raise
        return _fail(_one_line(error), 1)


def existing_file(text: str) -> Path:
    """An argparse type: the path of a file that exists."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, not {text!r}")
    return int(text)


def available_cores() -> int:
    """How many cores this process may use, which is fewer than the machine has where an affinity is set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bytes_on_disk(place: Place) -> int:
    """Bytes of a file, or of all files in a folder, or of all objects of a store on S3."""
    location = locate(place)
    if isinstance(location, Folder) and location.path.is_file():
        return location.path.stat().st_size
    return sum(location.sizes().values())


def printable(text: object) -> str:
    """A text as a terminal may show it: control characters, which could move the cursor or forge lines, as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def plain_console(**options: Any) -> Console:
    """A console that shows text as it is: `[red]` and `:smile:` of a file's name are no markup."""
    return Console(markup=False, emoji=False, **options)


def warn(message: str) -> None:
    """Say on standard error that something is left out or skipped."""
    print(f"warning: {printable(message)}", file=sys.stderr)


@contextmanager
def progress(description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show count, rate and time left of long work on standard error; yields `advance(count)`.

    `done` of `total` count as finished before and not towards the rate. A terminal gets a live bar; anything else
    a plain line now and then, so that logs stay readable.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _plain_progress(description, total, unit, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _plain_progress(description: str, total: int, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    started = last_line = time.monotonic()
    completed = done

    def advance(count: int) -> None:
        nonlocal completed, last_line
        completed += count
        now = time.monotonic()
        if now - last_line >= PLAIN_LINE_SECONDS and completed < total:
            last_line = now
            rate = (completed - done) / (now - started)
            left = f"{_duration((total - completed) / rate)} left" if rate else "time left unknown"
            _say(f"{description}: {completed}/{total} {unit}, {rate:.3g} {unit}/s, {left}")

    yield advance
    seconds = time.monotonic() - started
    before = f" ({done} of them before)" if done else ""
    _say(f"{description}: {completed}/{total} {unit}{before} in {_duration(seconds)}")


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} {self.unit}/s" if speed else f"- {self.unit}/s", style="progress.data.speed")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    _say(f"error: {printable(message)}")
    return status


def _one_line(error: Exception) -> str:
    # A loader process sends its error as a traceback; the error itself is the traceback's end.
    _, traceback, sent = str(error).partition("Original Traceback (most recent call last):")
    if traceback:
        return " ".join(sent.rpartition(f"{type(error).__name__}: ")[2].split())
    if isinstance(error, OSError) and error.strerror:
        # Without the number in front, which says nothing to a reader.
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
