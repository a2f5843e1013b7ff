"""Progress of long work on standard error: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_LINE_SECONDS = 10.0
"""Shortest time between two progress lines where standard error is not a terminal."""


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
