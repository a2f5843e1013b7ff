"""What the commands share: exit statuses, one-line errors, plain progress lines."""

from __future__ import annotations

import argparse
import io
import sys

import pytest

from pipelines.base import command, progress
from pipelines.base.command import run_command


def fail_with(error: BaseException) -> command.Main:
    def main(_: argparse.Namespace) -> None:
        raise error

    return main


# torch sends a loader process's error as one text that holds its traceback.
FROM_LOADER = (
    "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "x.py", line 1, in f\n    raise ValueError(...)\nValueError: image a.png cannot be decoded'
)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError(FROM_LOADER), 1, "error: image a.png cannot be decoded\n"),
        (ValueError("two\n  lines"), 1, "error: two lines\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "error: No such file or directory: a.txt\n"),
        (OSError("no number"), 1, "error: no number\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
    ids=["loader process", "value", "file", "bare OSError", "Ctrl-C"],
)
def test_expected_failures_are_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(fail_with(error), argparse.ArgumentParser(), []) == status
    assert capsys.readouterr().err == line


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(AssertionError):
        run_command(fail_with(AssertionError("impossible")), argparse.ArgumentParser(), [])


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad"):
        run_command(fail_with(ValueError("bad")), argparse.ArgumentParser(), [])


def test_status_is_what_main_returns() -> None:
    assert run_command(lambda _: None, argparse.ArgumentParser(), []) == 0
    assert run_command(lambda _: 1, argparse.ArgumentParser(), []) == 1


def test_plain_progress_says_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 5.0, 10.0, 12.0, 22.0, 25.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("splitting", 10, "images", done=2) as advance:
        advance(1)  # after 5 s: too early for a line
        advance(1)  # 10 s: two images in 10 s
        advance(1)  # 12 s: too early again
        advance(4)  # 22 s: seven in 22 s
    assert capsys.readouterr().err.splitlines() == [
        "splitting: 4/10 images, 0.2 images/s, 0:00:30 left",
        "splitting: 9/10 images, 0.318 images/s, 0:00:03 left",
        "splitting: 9/10 images (2 of them before) in 0:00:25",
    ]


def test_progress_on_a_terminal_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress("splitting", 2, "images") as advance:
        advance(1)
        advance(1)
    assert "2/2" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()
