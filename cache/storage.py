"""Where a store lies: objects by key, in a folder or on S3 (`cache.s3`)."""

from __future__ import annotations

import os
import re
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from zarr.storage import StoreLike

from cache import locks


class StorageError(OSError):
    """An object store does not answer, or refuses; says nothing about what it holds."""


class Location(ABC):
    """Where a store lies: objects by key, as `plan/zarr.json`. Its text is what users give and are told.

    Reading raises FileNotFoundError where there is no such object, and StorageError where S3 does not answer, or
    refuses.
    """

    is_remote = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePath(str(self)).name

    @abstractmethod
    def exists(self) -> bool:
        """Whether anything is there."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """An object's bytes."""

    @abstractmethod
    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given by its first byte and its length; shorter where the object ends."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """An object's bytes, counted; None where there is none."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Keys of all objects below `prefix` (empty, or ending in a slash), with their sizes."""

    @abstractmethod
    def write(self, objects: Mapping[str, bytes]) -> None:
        """Write objects by key, each whole or not at all; they are durable when this returns."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; nothing where there is none."""

    @abstractmethod
    def zarr_store(self) -> StoreLike:
        """What zarr-python opens."""

    @abstractmethod
    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        """How TensorStore reaches the array `key`."""

    def tensorstore_context(self) -> dict[str, Any] | None:
        """What TensorStore's arrays of one reader share; None where each has its own."""
        return None

    def describe_unanswered(self, error: Exception) -> str | None:
        """What TensorStore says, and the cure, where S3 has not answered or has refused; None for what an object is."""
        return None

    def has(self, key: str) -> bool:
        return self.size(key) is not None

    def url(self, key: str) -> str:
        """How users name an object."""
        return f"{self}/{key}"

    def problem(self, key: str, limit: int) -> str | None:
        """Why an object must not be opened: larger than `limit` bytes, say; None where it may be, or is absent."""
        size = self.size(key)
        return None if size is None or size <= limit else f"has {size:,} bytes; at most {limit:,} are possible"

    # What a folder can do beyond an object store. On S3 there are no locks: captures of one manifest write the same
    # bytes, in any order.

    @abstractmethod
    def create(self, objects: Mapping[str, bytes], blocks: range) -> AbstractContextManager[Any] | None:
        """Lay out a new store, or on S3 claim its address with the root document.

        Returns the lock on the blocks; None where somebody else has made a store meanwhile, or nothing can be locked.
        """

    def lock(self, blocks: range) -> AbstractContextManager[Any]:
        """Keep other captures out of these blocks while the context is open."""
        return nullcontext()

    def only_writer(self, block: int) -> AbstractContextManager[None]:
        """Wait until no other process writes the block."""
        return nullcontext()

    def require_idle(self) -> None:  # noqa: B027
        """Refuse a store that a capture is writing at this moment; on S3 nobody can tell.

        Raises:
            ValueError: it is being written.
        """

    def delete_partial(self, prefix: str) -> None:  # noqa: B027
        """Remove what a killed process left half-written below a prefix."""

    def disk(self) -> Path | None:
        """The folder that holds the store, whose disk may fill up; None for S3."""
        return None


@dataclass(frozen=True)
class Folder(Location):
    """A store in a local folder.

    Not through obstore's LocalStore: that follows links, which may lead a foreign store's reader anywhere, does not
    list files of every name, and cannot flush what it has written.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        descriptor = os.open(f"{self.path}/{key}", os.O_RDONLY)
        try:
            return [os.pread(descriptor, length, start) for start, length in ranges]
        finally:
            os.close(descriptor)

    def problem(self, key: str, limit: int) -> str | None:
        """A link could name any file of the machine, a pipe never ends, and a file of holes claims any size."""
        # Every folder on the way as well: texts, because paths would take most of the time of opening a store.
        root, end = str(self.path), 0
        while end < len(key):
            end = key.find("/", end + 1) % (len(key) + 1)
            try:
                status = os.lstat(f"{root}/{key[:end]}")
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISLNK(status.st_mode):
                return f"{key[:end]} is a symbolic link; a store holds plain files"
        if not stat.S_ISREG(status.st_mode):
            return "is not a plain file"
        if status.st_size > limit:
            return f"has {status.st_size:,} bytes; at most {limit:,} are possible"
        return None

    def size(self, key: str) -> int | None:
        file = self.path / key
        return file.stat().st_size if file.is_file() else None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self.path / prefix):
            for file in (Path(folder, name) for name in names):
                if file.is_file():
                    found[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return found

    def write(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            file = self.path / key
            partial = file.with_name(f"{file.name}.partial")
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Not through what already lies there: it could be a link.
                with open(partial, "xb") as opened:
                    opened.write(data)
            except OSError as error:
                # A disk that is full does not say which.
                error.filename = error.filename or str(file)
                raise
            partial.replace(file)
        for key in objects:
            self.sync(key)

    def sync(self, key: str) -> None:
        """Flush a written object: a commit must never be on disk before what it covers."""
        descriptor = os.open(self.path / key, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete(self, key: str) -> None:
        (self.path / key).unlink(missing_ok=True)

    def delete_partial(self, prefix: str) -> None:
        for file in (self.path / prefix).rglob("*.partial"):
            file.unlink()

    def zarr_store(self) -> StoreLike:
        return self.path

    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        return {"kvstore": {"driver": "file", "path": f"{self.path / key}/"}}

    def create(self, objects: Mapping[str, bytes], blocks: range) -> AbstractContextManager[Any] | None:
        """Beside its path, then renamed into place: the store exists whole, and locked, or not at all."""
        draft = self.path.with_name(f".{self.path.name}.draft")
        with locks.only_creator(draft, self.path) as is_ours:
            if not is_ours:
                return None
            # What a killed capture left of its draft.
            for entry in draft.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            for key, data in objects.items():
                (draft / key).parent.mkdir(parents=True, exist_ok=True)
                (draft / key).write_bytes(data)
            lock = locks.lock_blocks(draft, blocks)
            try:
                # Fails where something else has been put there meanwhile: it is never replaced.
                draft.rename(self.path)
            except BaseException:
                lock.close()
                raise
            return lock

    def lock(self, blocks: range) -> AbstractContextManager[Any]:
        return locks.lock_blocks(self.path, blocks)

    def only_writer(self, block: int) -> AbstractContextManager[None]:
        return locks.only_writer(self.path, block)

    def require_idle(self) -> None:
        locks.require_idle(self.path)

    def disk(self) -> Path:
        return self.path


Place = str | Path | Location
"""What names a store: `s3://bucket/name.zarr`, a folder, or either as a `Location`."""


def locate(place: Place) -> Location:
    """Where a store lies.

    Raises:
        ValueError: a text that starts like an address on S3 but is not one.
    """
    if isinstance(place, Location):
        return place
    text = str(place)
    if not text.startswith("s3:"):
        return Folder(Path(text))
    # A bucket's name holds no @ and no colon: keys cannot be put into the address, where they would be printed.
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)/([^/].*?)/*", text)
    if match is None:
        raise ValueError(
            "an object store's address is s3://bucket/name.zarr, with a bucket in lower case and a name, without keys; "
            "credentials come from the environment (docs/object-stores.md)"
        )
    # Not before a store is on S3: importing its client takes time, and not every machine reaches S3.
    from cache.s3 import Bucket

    return Bucket(match[1], match[2])
