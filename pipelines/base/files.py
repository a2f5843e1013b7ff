"""Files of commands: written whole or not at all, held by one process at a time, refused where they do not fit.

The files of a store have rules of their own, in `cache`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from cache.storage import Folder, Place, locate
from pipelines.base.command import warn

PARTIAL = ".partial"
"""Suffix of files that are being written, and of those that a killed process has left."""
LOOK_SECONDS = 0.5
"""Time between two looks at a lock that another process holds."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, which it replaces once the block has ended without an error."""
    # The process id keeps a killed run's last breath apart from the run that already resumes it.
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    yield partial
    os.replace(partial, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def exclusive(path: Path, busy: str, *, stop: Event | None = None) -> Iterator[int]:
    """Hold the lock of a folder, or of a file that is made if need be; yields its descriptor.

    The kernel frees the lock with the last process that has the descriptor. `busy` is what to say where another
    process holds it: an error, or, given `stop`, a warning before the wait. Setting `stop` ends the wait without the
    lock.

    Raises:
        ValueError: another process holds the lock, and no `stop` is given.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(descriptor, path):
            if stop is None:
                raise ValueError(busy)
            warn(busy)
            while not stop.wait(LOOK_SECONDS) and not _try_lock(descriptor, path):
                pass
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        warn(f"{path} is on a file system without locks; do not start the same command there a second time")
    return True


def require_room(folder: Path, needed: float, purpose: str, cure: str) -> None:
    """Refuse what will not fit on a folder's disk; the folder may be yet to make.

    Raises:
        ValueError: naming `purpose`, the bytes that it needs, those that are free, and the cure.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{purpose} needs {needed / 1e6:,.1f} MB but {folder} has {free / 1e6:,.1f} MB free. {cure}")


def bytes_on_disk(place: Place) -> int:
    """Bytes of a file, or of all files in a folder, or of all objects of a store on S3."""
    location = locate(place)
    if isinstance(location, Folder) and location.path.is_file():
        return location.path.stat().st_size
    return sum(location.sizes().values())
