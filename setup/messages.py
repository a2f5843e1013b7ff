"""What the set-up says: lines of progress, and in place of another program's log one line with the cure."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT_BYTES = 6 * 1024**3
"""What the locked packages take in uv's cache; .venv links to them, or takes as much again on another disk."""

PROGRESS_SECONDS = 10.0

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
_NO_NETWORK = re.compile(
    r"dns error|name resolution|connection refused|network is unreachable|timed out|tcp connect error|"
    r"error sending request|failed to establish a new connection|network connectivity is disabled",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(r"Killed signal terminated|virtual memory exhausted|out of memory|Cannot allocate memory")


class SetupError(Exception):
    """The set-up cannot go on. The text is one line and says what to do."""


def say(line: str) -> None:
    print(line, flush=True)


class Progress:
    """A line now and then about long work."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        if time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            say(line)


def explained(log: str, places: Sequence[Path], otherwise: str) -> SetupError:
    """The error that a failed program's log tells of; `otherwise` where the log has none that we know.

    `places`: the folders that it was writing into.
    """
    if _NO_SPACE.search(log):
        return disk_full(places)
    if _NO_NETWORK.search(log):
        host = re.search(r"https?://([\w.-]+)|host='([\w.-]+)'", log)
        python = " (from where uv brings Python 3.12: an installed one does as well)" if "/python-build-" in log else ""
        return SetupError(
            f"{host[1] or host[2] if host else 'the package index'} cannot be reached{python}: check the network, or "
            "name a proxy in HTTPS_PROXY=, and run `make setup` again; what is downloaded is kept"
        )
    if _NO_MEMORY.search(log):
        return SetupError("the compiler ran out of memory: `make setup MAX_JOBS=1` compiles one file at a time")
    return SetupError(otherwise)


def disk_full(places: Sequence[Path]) -> SetupError:
    free = ", ".join(f"{free_bytes(place) / 1024**3:.1f} GiB free in {place}" for place in places)
    return SetupError(
        f"no space left on the disk: {free}. The packages take {ENVIRONMENT_BYTES / 1024**3:.0f} GiB in uv's cache and "
        "as much again in .venv if that is on another disk: make room, or name another folder for the cache in "
        "UV_CACHE_DIR=, and run `make setup` again; what is downloaded is kept"
    )


def free_bytes(place: Path) -> int:
    """Bytes free on the disk of a path that need not exist yet."""
    return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
