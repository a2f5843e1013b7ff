"""For tests of commands that start processes: sweep and compare."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY


def start(command: str, *argv: Any, stderr: Any = subprocess.DEVNULL) -> subprocess.Popen:
    """A command as a shell would start it, leading a process group of its own."""
    line = [sys.executable, "-W", "ignore", "-m", f"pipelines.{command}", *map(str, argv)]
    return subprocess.Popen(line, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL, stderr=stderr)


def wait_until(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    """Look until the condition holds; the process must still run then."""
    while not condition():
        # Leaves the processor to those that work.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        assert process.poll() is None, f"the process ended with {process.returncode} before its time"
    assert process.poll() is None


def trainings(folder: Path) -> list[Path]:
    """The log folder of every training that was started in a work folder."""
    return sorted(path for path in folder.glob("2*/vis_data") if path.is_dir())
