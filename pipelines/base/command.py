"""What every command shares: exit status, one-line errors, types of arguments, plain text on a console."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.base.invocation import running

Main = Callable[[argparse.Namespace], int | None]


def run_command(main: Main, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, run `main`, return the exit status.

    0 done; 1 what was asked failed (one line `error: ...`); 130 interrupted. Arguments that argparse refuses end
    the process with 2. With TRACEBACK=1 in the environment, errors are raised as they are. Cures are commands with what
    this one was given.
    """
    target = parser.prog.rpartition(".")[2].replace("_", "-")
    with running(target, sys.argv[1:] if argv is None else argv):
        try:
            return main(parser.parse_args(argv)) or 0
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except (ValueError, OSError) as error:
            if os.environ.get("TRACEBACK") == "1":
                raise
            # Knows stores and teachers; nobody should wait for these where nothing is wrong.
            from pipelines.base.cures import cure_of

            cure = cure_of(error)
            return _fail(f"{one_line(error).rstrip('.')}. {cure}" if cure else one_line(error), 1)


def existing_file(text: str) -> Path:
    """An argparse type: the path of a file that exists."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def available_cores() -> int:
    """How many cores this process may use, which is fewer than the machine has where an affinity is set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def printable(text: object) -> str:
    """A text as a terminal may show it: control characters, which could move the cursor or forge lines, as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def plain_console(**options: Any) -> Console:
    """A console that shows text as it is: `[red]` and `:smile:` of a file's name are no markup."""
    return Console(markup=False, emoji=False, **options)


def say(line: str) -> None:
    """Say on standard error what a command does; of several processes of a training, the first does.

    Standard output belongs to a command's result.
    """
    if os.environ.get("RANK", "0") == "0":
        print(printable(line), file=sys.stderr, flush=True)


def tell_next(*lines: str) -> None:
    """Say which command comes next, or which of several may."""
    say(f"next: {', or '.join(lines)}")


def warn(message: str) -> None:
    """Say on standard error that something is left out or skipped."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def _fail(message: str, status: int) -> int:
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    return status


def one_line(error: Exception) -> str:
    """What an error says, without the traceback that a loader process sends with it."""
    # A loader process sends its error as a traceback; the error itself is the traceback's end.
    _, traceback, sent = str(error).partition("Original Traceback (most recent call last):")
    if traceback:
        return " ".join(sent.rpartition(f"{type(error).__name__}: ")[2].split())
    if isinstance(error, OSError) and error.strerror:
        # Without the number in front, which says nothing to a reader.
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
