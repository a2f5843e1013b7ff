"""Writing a cache: whole blocks, atomic objects, commit last, resumable."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import zarr

from cache.layout import (
    BLOCK_ARRAYS,
    ERROR_COLUMNS,
    RECORD_FIELDS,
    array_of,
    array_specs,
    block_digest,
    block_keys,
    create_arrays,
    open_root,
    sync_to_disk,
)
from cache.manifest import Manifest, require_equal
from cache.plan import Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec

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
)


class CacheWriter:
    """Fills a store block by block; creates it, or resumes one of the same manifest.

    Use as a context manager: the store is locked while the writer lives, and the kernel frees the lock with the
    process.

    Raises:
        ValueError: the path is something else, another capture is writing it, or (ManifestMismatch) its manifest
            differs.
    """

    def __init__(self, path: str | Path, manifest: Manifest, plan: Plan) -> None:
        self.path = Path(path)
        self.plan = plan
        if self.path.exists():
            open_root(self.path)
            self._lock = _lock(self.path)
        else:
            self._lock = _create_store(self.path, manifest, plan)
        try:
            self.root = zarr.open_group(self.path, mode="r+", zarr_format=3, use_consolidated=False)
            require_equal(
                manifest,
                self.root.attrs.asdict(),
                place=f"cache {self.path}",
                cure="Give another CACHE= path, or move this cache away.",
                sections=ALL_SECTIONS,
            )
        except BaseException:
            os.close(self._lock)
            raise
        _remove_partial_files(self.path)

    def missing_blocks(self) -> list[int]:
        """Blocks that no commit covers yet."""
        committed = np.asarray(array_of(self.root, "committed")[...])
        return [int(block) for block in np.flatnonzero(~committed.any(axis=1))]

    def write(self, block: int, fields: Mapping[str, np.ndarray], error: np.ndarray) -> int:
        """Write and commit one block; returns its bytes on disk.

        Args:
            block: index of the block.
            fields: the stored arrays, rows of the block's views one after the other: prior_index (n,) uint32,
                weight (n,) float32, cls_logits (n, C) and box_logits (n, D, K) as codes.
            error: (len(ERROR_COLUMNS),) measured errors.

        Raises:
            ValueError: a field of another length or dtype than planned.
        """
        rows = int(self.plan.rows_per_block[block])
        for name in RECORD_FIELDS:
            array = array_of(self.root, name)
            wanted = (rows, *array.shape[2:])
            if fields[name].shape != wanted or fields[name].dtype != array.dtype:
                raise ValueError(
                    f"block {block}: {name} has shape {fields[name].shape} {fields[name].dtype}, the plan says "
                    f"{wanted} {array.dtype}. The labels have changed since the plan: start a new cache."
                )
        # Left over from a capture that was killed in this block: a half-written shard must not be merged into.
        for key in block_keys(self.root, block):
            (self.path / key).unlink(missing_ok=True)
        if rows:
            for name in RECORD_FIELDS:
                array_of(self.root, name)[block, :rows] = fields[name]
        array_of(self.root, "capture_error")[block] = np.asarray(error, dtype=np.float64).reshape(len(ERROR_COLUMNS))
        files = [self.path / key for key in block_keys(self.root, block)]
        written = [file for file in files if file.is_file()]
        assert len(written) == (len(BLOCK_ARRAYS) if rows else 1), f"block {block}: objects missing after the write"
        for file in written:
            sync_to_disk(file)
        digest = block_digest(self.path, self.root, block)
        array_of(self.root, "committed")[block] = np.frombuffer(digest, dtype=np.uint8)
        return sum(file.stat().st_size for file in written)

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create_store(path: Path, manifest: Manifest, plan: Plan) -> int:
    """Lay out the store beside its path and rename it into place, so that it exists whole or not at all.

    Returns the lock on it: taken on the draft's directory, it goes along with the rename.
    """
    head, codec = manifest["head"], manifest["codec"]
    codecs = {name: FieldCodec.from_json(codec[name]) for name in LOGIT_FIELDS}
    specs = array_specs(plan, codecs, len(head["classes"]), (len(head["box_parameters"]), head["num_bins"]))
    draft = path.with_name(f".{path.name}.draft")
    draft.mkdir(parents=True, exist_ok=True)
    lock = _lock(draft)
    try:
        # What a killed capture left of its draft.
        for entry in draft.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        create_arrays(draft, manifest, plan, specs)
        # Fails where another capture has made a store there meanwhile: it is never replaced.
        draft.rename(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def require_idle(path: str | Path) -> None:
    """Refuse a store that a capture is writing at this moment.

    Raises:
        ValueError: it is being written.
    """
    if Path(path).is_dir():
        os.close(_lock(Path(path), fcntl.LOCK_SH))


def _lock(path: Path, kind: int = fcntl.LOCK_EX) -> int:
    """An advisory lock on the store's directory: nothing is written into the store for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{path} is being written by another capture. Wait for it, or stop it first") from None
    return descriptor


def _remove_partial_files(path: Path) -> None:
    """Zarr leaves `*.partial` files where a process was killed while writing."""
    for file in path.rglob("*.partial"):
        file.unlink()
