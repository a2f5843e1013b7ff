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
    DOCUMENTS_CHUNK,
    ERROR_COLUMNS,
    StoreSizes,
    array_of,
    block_digest,
    block_keys,
    commit_key,
    create_arrays,
    manifest_specs,
    names_of,
    open_root,
    require_arrays,
    require_block_objects,
    require_commits,
    rows_in_block,
)
from cache.manifest import Manifest, require_equal
from cache.plan import Plan
from cache.storage import Bucket, Folder, Location, Memory, Place, locate

# Blocks are locked as bytes of this document, one byte a block, most of them past its end: nothing is written for it.
LOCKED_DOCUMENT = "zarr.json"
# And of this one for the time that a block is written: a worker that is given up for lost may still be in it.
BLOCK_DOCUMENT = "committed/zarr.json"


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
    process. Writers of different parts may work at the same time, in any processes. On S3 nothing is locked: two
    writers of one manifest write the same bytes, and another manifest is refused.

    Args:
        path: a folder, or `s3://bucket/name.zarr`.
        part: the share of the blocks that this writer fills; all of them where it is not given.
        locked_elsewhere: another process has made and locked the store and lets this one write some of its blocks.

    Raises:
        ValueError: the path is something else, another capture is writing one of the blocks, or (ManifestMismatch)
            its manifest differs.
        StorageError: S3 does not answer, or refuses.
    """

    def __init__(
        self,
        path: Place,
        manifest: Manifest,
        plan: Plan,
        part: Part | None = None,
        *,
        locked_elsewhere: bool = False,
    ) -> None:
        self.location = locate(path)
        self.plan = plan
        self.part = part or Part()
        self._lock: int | None = None
        if isinstance(self.location, Folder):
            self._open_folder(self.location.path, manifest, locked_elsewhere=locked_elsewhere)
        elif isinstance(self.location, Bucket):
            self._open_bucket(self.location, manifest)

    def _open_folder(self, path: Path, manifest: Manifest, *, locked_elsewhere: bool) -> None:
        """Create or open a store in a folder, and lock this part's blocks."""
        blocks = self.part.blocks(self.plan.num_blocks)
        if not (path.exists() or locked_elsewhere):
            self._lock = _create_store(path, manifest, self.plan, blocks)
        try:
            open_root(path)
            self.root = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
            _require_same_capture(manifest, self.root, self.location)
            require_arrays(self.location, manifest)
            specs = manifest_specs(StoreSizes.of_plan(self.plan), manifest)
            require_commits(self.location, specs["committed"])
            if self._lock is None and not locked_elsewhere:
                self._lock = _lock_blocks(path, blocks)
            self.names = names_of(self.root)
            for block in self.missing_blocks():
                # A folder that is a link would have files elsewhere removed and written.
                require_block_objects(self.location, specs, block)
                if not locked_elsewhere:
                    _remove_partial_files(path, (*self.names.block, "committed"), block)
        except BaseException:
            self.close()
            raise
        self._staged, self._staged_root = self.location, self.root

    def _open_bucket(self, bucket: Bucket, manifest: Manifest) -> None:
        """Create or open a store on S3.

        Its root document claims the address: of several writers one puts it, the others compare theirs with it. What
        follows is the same for all who agree, so whoever finds it unfinished completes it; `documents` comes last.
        """
        draft = Memory()
        self._staged, self._staged_root = draft, _lay_out(draft, manifest, self.plan)
        if not bucket.exists():
            bucket.put_if_absent("zarr.json", draft.read("zarr.json"))
        self.root = open_root(bucket, allow_unfinished=True)
        _require_same_capture(manifest, self.root, bucket)
        if not bucket.has(DOCUMENTS_CHUNK):
            for key in [*sorted(draft.sizes().keys() - {"zarr.json", DOCUMENTS_CHUNK}), DOCUMENTS_CHUNK]:
                bucket.put(key, draft.read(key))
        self.names = names_of(self.root)

    def missing_blocks(self) -> list[int]:
        """Blocks of this part that no commit covers yet."""
        committed = np.asarray(array_of(self.root, "committed")[...]).any(axis=1)
        return [block for block in self.part.blocks(self.plan.num_blocks) if not committed[block]]

    def write(self, block: int, fields: Mapping[str, np.ndarray], error: np.ndarray) -> int:
        """Write and commit one block; returns the bytes written, 0 where another process has committed it meanwhile.

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
        with _only_writer(self.location, block):
            if np.asarray(array_of(self.root, "committed")[block]).any():
                return 0
            return self._write(block, fields, rows, error)

    def _write(self, block: int, fields: Mapping[str, np.ndarray], rows: Mapping[str, int], error: np.ndarray) -> int:
        # Zarr writes into the folder itself, or into memory where the store is on S3: what it writes there is then
        # put in place object by object.
        staged, root = self._staged, self._staged_root
        keys = list(block_keys(root, block))
        # Left over from a process that was killed in this block: a half-written shard must not be merged into.
        if isinstance(self.location, Folder):
            _remove_partial_files(self.location.path, (*self.names.block, "committed"), block)
        for key in keys:
            staged.delete(key)
        for name, count in rows.items():
            if count:
                array_of(root, name)[block, :count] = fields[name]
        array_of(root, "capture_error")[block] = np.asarray(error, dtype=np.float64).reshape(len(ERROR_COLUMNS))
        sizes = {key: size for key in keys if (size := staged.size(key)) is not None}
        expected = 1 + sum(count > 0 for count in rows.values())
        assert len(sizes) == expected, f"block {block}: objects missing after the write"
        self._make_durable(keys)
        digest = block_digest(staged, root, block)
        array_of(root, "committed")[block] = np.frombuffer(digest, dtype=np.uint8)
        if isinstance(self.location, Bucket):
            self.location.put(commit_key(block), staged.read(commit_key(block)))
            for key in (*keys, commit_key(block)):
                staged.delete(key)
        return sum(sizes.values())

    def _make_durable(self, keys: Sequence[str]) -> None:
        """Objects of a block, before the commit that covers them."""
        for key in keys:
            if not self._staged.has(key):
                # Where the plan has no rows: of a damaged block, that is captured again, an object may lie there.
                self.location.delete(key)
            elif isinstance(self.location, Bucket):
                self.location.put(key, self._staged.read(key))
            elif isinstance(self.location, Folder):
                self.location.sync(key)

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
        _lay_out(Folder(draft), manifest, plan)
        lock = _lock_blocks(draft, blocks)
        try:
            # Fails where something else has been put there meanwhile: it is never replaced.
            draft.rename(path)
        except BaseException:
            os.close(lock)
            raise
        return lock


def _lay_out(location: Location, manifest: Manifest, plan: Plan) -> zarr.Group:
    """Metadata and plan of a new store."""
    specs = list(manifest_specs(StoreSizes.of_plan(plan), manifest).values())
    return create_arrays(location, manifest, plan, specs)


def _require_same_capture(manifest: Manifest, root: zarr.Group, location: Location) -> None:
    """Refuse a store of another manifest.

    Raises:
        ManifestMismatch: naming the field that differs.
    """
    require_equal(
        # All of it: a resumed capture must make the same bytes.
        manifest.to_json(),
        Manifest.from_json(root.attrs.asdict()),
        place=f"cache {location}",
        cure="Give another CACHE= path, or move this cache away.",
    )


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


def require_idle(path: Place) -> None:
    """Refuse a store that a capture is writing at this moment. On S3 nobody can tell: there are no locks.

    Raises:
        ValueError: it is being written.
    """
    location = locate(path)
    if isinstance(location, Folder) and location.has(LOCKED_DOCUMENT):
        os.close(_lock_range(location.path, fcntl.F_RDLCK))


@contextmanager
def _only_writer(location: Location, block: int) -> Iterator[None]:
    """Wait until no other process writes the block; on S3, where nothing can be locked, they write the same bytes."""
    if not isinstance(location, Folder):
        yield
        return
    descriptor = os.open(location.path / BLOCK_DOCUMENT, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _lock_request(fcntl.F_WRLCK, block, 1))
        yield
    finally:
        os.close(descriptor)


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
    """A lock of the open file, not of the process: zarr opens and closes the same document."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_request(kind, start, length))
    except (BlockingIOError, PermissionError):
        raise ValueError(f"{path} is being written by another capture. Wait for it, or stop it first") from None


def _lock_request(kind: int, start: int, length: int) -> bytes:
    """The fields of `struct flock`: type, whence, start, length, and a process number that must be 0."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def _remove_partial_files(path: Path, names: Sequence[str], block: int) -> None:
    """Zarr leaves `*.partial` files where a process was killed while writing; only those of our own block are ours."""
    for name in names:
        for file in (path / name / "c" / str(block)).rglob("*.partial"):
            file.unlink()
