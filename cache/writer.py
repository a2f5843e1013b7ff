"""Writing a cache: whole blocks, atomic objects, commit last, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from cache.codec import Codec, RowCodec
from cache.commits import block_digest
from cache.documents import document_digest
from cache.layout import (
    DOCUMENTS_CHUNK,
    ArrayNames,
    ArraySpec,
    StoreSizes,
    array_specs,
    commit_key,
    error_columns,
    plan_arrays,
    rows_in_block,
)
from cache.manifest import Manifest, require_equal
from cache.plan import Plan
from cache.storage import Place, locate
from cache.store import Store
from cache.trust import require_block, require_shapes


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

    Objects are made in memory, by zarr-python, and then put in place one by one.

    Args:
        path: a folder, or `s3://bucket/name.zarr`.
        codec: how logits are held; its part of the manifest describes it.
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
        codec: Codec,
        part: Part | None = None,
        *,
        locked_elsewhere: bool = False,
    ) -> None:
        self.location = locate(path)
        self.manifest = manifest
        self.plan = plan
        self.codec = codec
        self.part = part or Part()
        self._specs = array_specs(StoreSizes.of_plan(plan), manifest)
        self._documents = _make_documents(manifest, self._specs)
        self._locks = ExitStack()
        try:
            self.store = self._open(locked_elsewhere=locked_elsewhere)
            for block in self.missing_blocks():
                # A folder that is a link would have files elsewhere removed and written.
                require_block(self.location, self._specs, block)
                if not locked_elsewhere:
                    self._delete_partial(block)
        except BaseException:
            self.close()
            raise

    def _open(self, *, locked_elsewhere: bool) -> Store:
        """Create or open the store, and lock this part's blocks.

        On S3 the root document claims the address: of several writers one puts it, the others compare theirs with it.
        What follows is the same for all who agree, so whoever finds it unfinished completes it; `documents` is last.
        """
        location, blocks = self.location, self.part.blocks(self.plan.num_blocks)
        lock = None
        if not locked_elsewhere and not location.exists():
            lock = location.create(_new_store(self._documents, self.plan, self.codec), blocks)
        if lock is not None:
            self._locks.enter_context(lock)
        store = Store(location, allow_unfinished=True)
        require_equal(
            # All of it: a resumed capture must make the same bytes.
            self.manifest.to_json(),
            store.manifest,
            place=f"cache {location}",
            cure="Give another CACHE= path, or move this cache away.",
        )
        if location.is_remote and not location.has(DOCUMENTS_CHUNK):
            objects = _new_store(self._documents, self.plan, self.codec)
            location.write({key: data for key, data in objects.items() if key != "zarr.json"})
        require_shapes(location, store.specs, self._specs)
        if lock is None and not locked_elsewhere:
            self._locks.enter_context(location.lock(blocks))
        return store

    @property
    def names(self) -> ArrayNames:
        return self.store.names

    def missing_blocks(self) -> list[int]:
        """Blocks of this part that no commit covers yet."""
        blocks = self.part.blocks(self.plan.num_blocks)
        return [block for block in self.store.missing_blocks() if block in blocks]

    def write(self, block: int, fields: Mapping[str, np.ndarray], error: Mapping[str, float]) -> int:
        """Write and commit one block; returns the bytes written, 0 where another process has committed it meanwhile.

        Args:
            block: index of the block.
            fields: the stored arrays, rows of the block's views one after the other, as cache/FORMAT.md has them:
                of stored priors prior_index (n,) uint32, weight (n,), cls_logits (n, C), box_logits (n, sum of bins);
                of cells cell_index (n,) uint32, cell_weight (n, A) float16, coefficients (J, n) int8; where the
                assignment is planned, assigned_prior (m,) uint32 and assigned_object (m,) int32.
            error: measured errors by column of `capture_error`.

        Raises:
            ValueError: a field of another length or dtype than planned.
        """
        for name in self.names.record:
            spec, found = self._specs[name], fields[name]
            wanted = spec.block_shape(rows_in_block(self.plan, name, block))
            if found.shape != wanted or found.dtype != spec.dtype:
                raise ValueError(
                    f"block {block}: {name} has shape {found.shape} {found.dtype}, the plan says {wanted} "
                    f"{spec.dtype}. The labels have changed since the plan: start a new cache"
                )
        with self.location.only_writer(block):
            if self.store.is_committed(block):
                return 0
            return self._write(block, fields, error)

    def _write(self, block: int, fields: Mapping[str, np.ndarray], error: Mapping[str, float]) -> int:
        staged = dict(self._documents)
        root = zarr.open_group(MemoryStore(staged), mode="r+", zarr_format=3, use_consolidated=False)
        for name in self.names.record:
            spec = self._specs[name]
            rows = fields[name].shape[spec.row_axis - 1]
            if rows:
                _writable(root, name)[spec.rows_of(block, slice(rows))] = fields[name]
        columns = error_columns(self.manifest)
        _writable(root, "capture_error")[block] = np.asarray([error[column] for column in columns], dtype=np.float64)
        keys = self.names.block_keys(block)
        objects = {key: staged.pop(key).to_bytes() for key in keys if key in staged}
        expected = 1 + sum(fields[name].size > 0 for name in self.names.record)
        assert len(objects) == expected, f"block {block}: objects missing after the write"

        # Left over from a process that was killed in this block.
        self._delete_partial(block)
        for key in set(keys) - set(objects):
            # Where the plan has no rows: of a damaged block, that is captured again, an object may lie there.
            self.location.delete(key)
        self.location.write(objects)
        digest = block_digest(objects.get(key, b"") for key in keys)
        _writable(root, "committed")[block] = np.frombuffer(digest, dtype=np.uint8)
        self.location.write({commit_key(block): staged[commit_key(block)].to_bytes()})
        return sum(map(len, objects.values()))

    def _delete_partial(self, block: int) -> None:
        """Of our own block alone: another may be being written."""
        for name in (*self.names.block, "committed"):
            self.location.delete_partial(f"{name}/c/{block}")

    def close(self) -> None:
        self._locks.close()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_documents(manifest: Manifest, specs: Mapping[str, ArraySpec]) -> dict[str, Buffer]:
    """All metadata documents by key."""
    staged: dict[str, Buffer] = {}
    root = zarr.create_group(MemoryStore(staged), zarr_format=3, attributes=manifest.to_json())
    for group in ArrayNames.of(manifest).groups:
        root.create_group(group)
    for spec in specs.values():
        spec.create(root)
    return staged


def _new_store(documents: Mapping[str, Buffer], plan: Plan, codec: Codec) -> dict[str, bytes]:
    """The objects of a store without blocks, in the order in which they are written: `documents` last."""
    staged = dict(documents)
    root = zarr.open_group(MemoryStore(staged), mode="r+", zarr_format=3, use_consolidated=False)
    codec_arrays = {} if isinstance(codec, RowCodec) else codec.arrays()
    for group, arrays in (("plan", plan_arrays(plan)), ("codec", codec_arrays)):
        for name, values in arrays.items():
            _writable(root, f"{group}/{name}")[...] = values
    objects = {key: staged[key].to_bytes() for key in sorted(staged)}
    names = ArrayNames(cells=not isinstance(codec, RowCodec), assigned=plan.assigned_start is not None)
    digests = [document_digest(key, objects, objects.__getitem__) for key in names.documents]
    _writable(root, "documents")[...] = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return {**objects, DOCUMENTS_CHUNK: staged[DOCUMENTS_CHUNK].to_bytes()}


def _writable(root: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a store, to write to."""
    array = root[name]
    assert isinstance(array, zarr.Array), f"{name} is a group"
    # A row that equals the fill value is a row all the same: only what was never written is absent. Zarr does not
    # store this setting, so it holds for an opened array alone.
    return array.with_config({"write_empty_chunks": True})
