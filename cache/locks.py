"""Advisory locks of a store in a folder; the kernel frees them with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Blocks are locked as bytes of this document, one byte a block, most of them past its end: nothing is written for it.
LOCKED_DOCUMENT = "zarr.json"
# And of this one for the time that a block is written: a worker that is given up for lost may still be in it.
BLOCK_DOCUMENT = "committed/zarr.json"


def lock_blocks(folder: Path, blocks: range) -> BinaryIO:
    """Keep other captures out of these blocks until the returned file is closed.

    Raises:
        ValueError: another process writes one of them.
    """
    # A length of 0 reaches to infinity: all blocks, present and future.
    ranges = [(0, 0)] if blocks.step == 1 else [(block, 1) for block in blocks]
    return _locked(folder, "r+b", fcntl.F_WRLCK, ranges)


def require_idle(folder: Path) -> None:
    """Refuse a store that a capture is writing at this moment.

    Raises:
        ValueError: it is being written.
    """
    if (folder / LOCKED_DOCUMENT).is_file():
        _locked(folder, "rb", fcntl.F_RDLCK, [(0, 0)]).close()


@contextmanager
def only_writer(folder: Path, block: int) -> Iterator[None]:
    """Wait until no other process writes the block."""
    with open(folder / BLOCK_DOCUMENT, "r+b", buffering=0) as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _request(fcntl.F_WRLCK, block, 1))
        yield


@contextmanager
def only_creator(draft: Path, path: Path) -> Iterator[bool]:
    """Wait until nobody else lays the store out in the draft; False where the store then exists."""
    while not path.exists():
        draft.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # renamed between the two calls
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The folder that was locked may have become the store, or have been renamed and made anew.
            if draft.exists() and os.path.samestat(os.fstat(descriptor), draft.stat()):
                yield not path.exists()
                return
        finally:
            os.close(descriptor)
    yield False


def _locked(folder: Path, mode: str, kind: int, ranges: list[tuple[int, int]]) -> BinaryIO:
    file: BinaryIO = open(folder / LOCKED_DOCUMENT, mode, buffering=0)  # type: ignore[assignment]  # noqa: SIM115
    try:
        for start, length in ranges:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _request(kind, start, length))
    except (BlockingIOError, PermissionError):
        file.close()
        raise ValueError(f"{folder} is being written by another capture. Wait for it, or stop it first") from None
    except BaseException:
        file.close()
        raise
    return file


def _request(kind: int, start: int, length: int) -> bytes:
    """The fields of `struct flock`: type, whence, start, length, and a process number that must be 0.

    Packed by hand because `fcntl.lockf` locks for a process: closing any other file of the same document would free
    its locks, and this very process reads the document. Locks of an open file (OFD) have no function in Python.
    """
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
