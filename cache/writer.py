"""Writing a cache: whole blocks, atomic objects, commit last, resumable."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import zarr

from cache.layout import (
    ERROR_COLUMNS,
    StoreSizes,
    array_of,
    block_digest,
    block_keys,
    create_arrays,
    manifest_specs,
    names_of,
    open_root,
    require_arrays,
    require_block_objects,
    require_commits,
    rows_in_block,
    sync_to_disk,
)
from cache.manifest import Manifest, require_equal
from cache.plan import Plan

# A resumed capture must make the same bytes: nothing in the manifest may differ.
ALL_SECTIONS = (
    "format",
    "code_version",
    "teacher",
    "head",
    "views",
    "preprocessing",
    "numeric",
    "region",
    "plan",
    "codec",
    "assignment",
)
# Blocks are locked as bytes of this document, one byte a block, most of them past its end: nothing is written for it.
LOCKED_DOCUMENT = "zarr.json"


@dataclass(frozen=True)
class Part:
    """A fixed share of the blocks: every `count`-th, from the `number`-th on (1 <= number <= count)."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part {self} does not exist; 1/{self.count} to {self.count}/{self.count} do")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def blocks(self, num_blocks: int) -> range:
        return range(self.number - 1, num_blocks, self.count)


class CacheWriter:
    """Fills a store block by block; creates it, or resumes one of the same manifest.

    Use as a context manager: its blocks are locked while the writer lives, and the kernel frees the locks with the
    process. Writers of different parts may work at the same time, in any processes.

    Args:
        part: the share of the blocks that this writer fills; all of them where it is not given.

    Raises:
        ValueError: the path is something else, another capture is writing one of the blocks, or (ManifestMismatch)
            its manifest differs.
    """

    def __init__(self, path: str | Path, manifest: Manifest, plan: Plan, part: Part | None = None) -> None:
        self.path = Path(path)
        self.plan = plan
        self.part = part or Part()
        blocks = self.part.blocks(plan.num_blocks)
        self._lock = None if self.path.exists() else _create_store(self.path, manifest, plan, blocks)
        try:
            open_root(self.path)
            self.root = zarr.open_group(self.path, mode="r+", zarr_format=3, use_consolidated=False)
            require_equal(
                manifest,
                self.root.attrs.asdict(),
                place=f"cache {self.path}",
                cure="Give another CACHE= path, or move this cache away.",
                sections=ALL_SECTIONS,
            )
            require_arrays(self.path, manifest)
            specs = manifest_specs(StoreSizes.of_plan(plan), manifest)
            require_commits(self.path, specs["committed"])
            if self._lock is None:
                self._lock = _lock_blocks(self.path, blocks)
            self.names = names_of(self.root)
            for block in self.missing_blocks():
                # A folder that is a link would have files elsewhere removed and written.
                require_block_objects(self.path, specs, block)
                _remove_partial_files(self.path, (*self.names.block, "committed"), block)
        except BaseException:
            self.close()
            raise

    def missing_blocks(self) -> list[int]:
        """Blocks of this part that no commit covers yet."""
        committed = np.asarray(array_of(self.root, "committed")[...]).any(axis=1)
        return [block for block in self.part.blocks(self.plan.num_blocks) if not committed[block]]

    def write(self, block: int, fields: Mapping[str, np.ndarray], error: np.ndarray) -> int:
        """Write and commit one block; returns its bytes on disk.

        Args:
            block: index of the block.
            fields: the stored arrays, rows of the block's views one after the other: prior_index (n,) uint32,
                weight (n,), cls_logits (n, C) and box_logits (n, D, K) in the dtypes of their codecs; where the
                assignment is planned, assigned_prior (m,) uint32 and assigned_object (m,) int32.
            error: (len(ERROR_COLUMNS),) measured errors.

        Raises:
            ValueError: a field of another length or dtype than planned.
        """
        rows = {name: rows_in_block(self.plan, name, block) for name in self.names.record}
        for name in rows:
            array = array_of(self.root, name)
            wanted = (rows[name], *array.shape[2:])
            if fields[name].shape != wanted or fields[name].dtype != array.dtype:
                raise ValueError(
                    f"block {block}: {name} has shape {fields[name].shape} {fields[name].dtype}, the plan says "
                    f"{wanted} {array.dtype}. The labels have changed since the plan: start a new cache."
                )
        # Left over from a capture that was killed in this block: a half-written shard must not be merged into.
        for key in block_keys(self.root, block):
            (self.path / key).unlink(missing_ok=True)
        for name, count in rows.items():
            if count:
                array_of(self.root, name)[block, :count] = fields[name]
        array_of(self.root, "capture_error")[block] = np.asarray(error, dtype=np.float64).reshape(len(ERROR_COLUMNS))
        written = [file for file in (self.path / key for key in block_keys(self.root, block)) if file.is_file()]
        expected = 1 + sum(count > 0 for count in rows.values())
        assert len(written) == expected, f"block {block}: objects missing after the write"
        for file in written:
            sync_to_disk(file)
        digest = block_digest(self.path, self.root, block)
        array_of(self.root, "committed")[block] = np.frombuffer(digest, dtype=np.uint8)
        return sum(file.stat().st_size for file in written)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create_store(path: Path, manifest: Manifest, plan: Plan, blocks: range) -> int | None:
    """Lay out the store beside its path and rename it into place, so that it exists whole or not at all.

    Returns the lock on the blocks, taken before anyone else can see the store; None where another process has made a
    store there meanwhile.
    """
    specs = list(manifest_specs(StoreSizes.of_plan(plan), manifest).values())
    draft = path.with_name(f".{path.name}.draft")
    with _draft_lock(draft, path) as is_ours:
        if not is_ours:
            return None
        # What a killed capture left of its draft.
        for entry in draft.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        create_arrays(draft, manifest, plan, specs)
        lock = _lock_blocks(draft, blocks)
        try:
            # Fails where something else has been put there meanwhile: it is never replaced.
            draft.rename(path)
        except BaseException:
            os.close(lock)
            raise
        return lock


@contextmanager
def _draft_lock(draft: Path, path: Path) -> Iterator[bool]:
    """Wait until nobody else lays the store out; False where it then exists."""
    while not path.exists():
        draft.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # renamed between the two calls
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The folder that was locked may have become the store, or have been renamed and made anew.
            if _is_folder(descriptor, draft):
                yield not path.exists()
                return
        finally:
            os.close(descriptor)
    yield False


def _is_folder(descriptor: int, path: Path) -> bool:
    """Whether an open folder is the one at `path`."""
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def require_idle(path: str | Path) -> None:
    """Refuse a store that a capture is writing at this moment.

    Raises:
        ValueError: it is being written.
    """
    if (Path(path) / LOCKED_DOCUMENT).is_file():
        os.close(_lock_range(Path(path), fcntl.F_RDLCK))


def _lock_blocks(path: Path, blocks: range) -> int:
    """Advisory locks on blocks, held by the open file that is returned.

    Raises:
        ValueError: another process writes one of them.
    """
    if blocks.step == 1:
        return _lock_range(path, fcntl.F_WRLCK)
    descriptor = os.open(path / LOCKED_DOCUMENT, os.O_RDWR)
    try:
        for block in blocks:
            _set_lock(descriptor, fcntl.F_WRLCK, block, 1, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock_range(path: Path, kind: int) -> int:
    """A lock on all blocks, present and future."""
    descriptor = os.open(path / LOCKED_DOCUMENT, os.O_RDWR if kind == fcntl.F_WRLCK else os.O_RDONLY)
    try:
        _set_lock(descriptor, kind, 0, 0, path)  # a length of 0 reaches to infinity
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _set_lock(descriptor: int, kind: int, start: int, length: int, path: Path) -> None:
    """A lock of the open file, not of the process: zarr opens and closes the same document.

    The fields are those of `struct flock`: type, whence, start, length, and a process number that must be 0.
    """
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        raise ValueError(f"{path} is being written by another capture. Wait for it, or stop it first") from None


def _remove_partial_files(path: Path, names: Sequence[str], block: int) -> None:
    """Zarr leaves `*.partial` files where a process was killed while writing; only those of our own block are ours."""
    for name in names:
        for file in (path / name / "c" / str(block)).rglob("*.partial"):
            file.unlink()
