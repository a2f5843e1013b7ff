"""Reading a cache: view -> record, about a millisecond.

zarr-python reads manifest, plan and commits; TensorStore reads records and is opened by whoever loads the first one:
it runs threads, so a process forked after that cannot use it (TensorStore would abort it; the reader refuses first).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.layout import (
    ASSIGNED_FIELDS,
    ArraySpec,
    StoreSizes,
    array_of,
    manifest_specs,
    names_of,
    open_root,
    read_plan,
    require_arrays,
    require_block_objects,
    require_commits,
    require_rows,
)
from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import codecs_of
from cache.storage import Folder, Location, Place, describe_unanswered, locate
from cache.verify import verify_documents
from cache.view import View, flip_code

# The process that opened TensorStore first, among this one and those that it was forked from.
_tensorstore_process: int | None = None


@dataclass(frozen=True)
class TargetRecord:
    """The stored targets of one view; n rows, C classes, D box parameters of K bins.

    prior_index: (n,) int64, sorted flat indices of the grid.
    weight: (n,) float32 region weights, above 0.
    cls_logits: (n, C) float32.
    box_logits: (n, D, K) float32, maximum of each row of bins at 0.
    assigned_prior, assigned_object: (m,) int64, the priors that the detection losses do not take for negative, sorted,
        and their object's place in the ground truth (-1: ignored); None where the cache holds no assignment.
    """

    prior_index: np.ndarray
    weight: np.ndarray
    cls_logits: np.ndarray
    box_logits: np.ndarray
    assigned_prior: np.ndarray | None = None
    assigned_object: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prior_index)


class CacheReader:
    """Reads the records of a store.

    Opening reads the root metadata only; the plan is read with the first question about views.

    Args:
        path: a folder, or `s3://bucket/name.zarr`.

    Raises:
        ValueError: the path is no teacher cache of this format.
    """

    def __init__(self, path: Place) -> None:
        self.location = locate(path)
        self.path: Path | str = self.location.path if isinstance(self.location, Folder) else str(self.location)
        self._root = open_root(self.location)
        self.manifest = Manifest.from_json(self._root.attrs.asdict())
        self._codecs = codecs_of(self.manifest.codec)
        self._arrays: dict[str, Any] = {}
        self._committed: set[int] = set()
        # Chunks whose frames have been looked at, by field and block.
        self._checked: dict[tuple[str, int], set[int]] = {}
        self._prefetched: dict[int, _PendingRecord] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A reader travels to other processes closed; they open their own handles."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    @cached_property
    def plan(self) -> Plan:
        return read_plan(self._root)

    @cached_property
    def _specs(self) -> dict[str, ArraySpec]:
        return manifest_specs(StoreSizes.of_plan(self.plan), self.manifest)

    @cached_property
    def _patch_position(self) -> dict[str, int]:
        return {patch_id: position for position, patch_id in enumerate(self.plan.patch_ids)}

    def missing_blocks(self) -> list[int]:
        """Blocks without a commit; none in a complete cache."""
        require_commits(self.location, require_arrays(self.location, self.manifest)["committed"])
        committed = np.asarray(array_of(self._root, "committed")[...])
        return [int(block) for block in np.flatnonzero(~committed.any(axis=1))]

    def require_complete(self) -> None:
        """Refuse a cache whose capture has not finished, or whose manifest or plan is damaged.

        Raises:
            ValueError: naming the damaged object or the number of missing blocks, and the cure.
        """
        damage = verify_documents(self.path)
        if damage:
            raise ValueError(f"cache {self.path} is damaged: {damage[0]}")
        missing = self.missing_blocks()
        if missing:
            raise ValueError(
                f"cache {self.path} is incomplete: {len(missing)} of {self.plan.num_blocks} blocks are missing. "
                f"Finish the capture with: make cache-teacher CACHE={self.path}"
            )

    def view_index(self, patch_id: str, flip: str) -> int:
        """Position of a view in the plan.

        Raises:
            ValueError: the cache holds no such view.
        """
        view = View(patch_id, flip)
        patch = self._patch_position.get(patch_id)
        if patch is not None:
            start, stop = np.searchsorted(self.plan.view_patch, [patch, patch + 1])
            found = np.flatnonzero(self.plan.view_flip[start:stop] == flip_code(flip))
            if found.size:
                return int(start + found[0])
        raise ValueError(
            f"cache {self.path} holds no view {view} ({len(self.plan.patch_ids)} patches, flips "
            f"{', '.join(self.manifest.views['flips'])}). Build a cache of the data that the student trains on"
        )

    def require_image(self, patch_id: str, image_sha256: bytes) -> None:
        """Refuse a patch whose file is not the one the teacher has seen.

        Raises:
            ValueError: naming patch, both digests and the cure; or the patch is not in the cache.
        """
        stored = self.plan.image_sha256[self._position(patch_id)].tobytes()
        if stored != image_sha256:
            raise ValueError(
                f"cache {self.path}, patch {patch_id}: image_sha256 is {stored.hex()[:16]}… in the cache but "
                f"{image_sha256.hex()[:16]}… on disk. Restore the image, or capture a new cache"
            )

    def patch_shape(self, patch_id: str) -> tuple[int, int]:
        """Height and width in pixels of a patch's views as the teacher saw them, padding included.

        Raises:
            ValueError: the cache holds no such patch.
        """
        height, width = self.plan.patch_shape[self._position(patch_id)].tolist()
        return height, width

    def _position(self, patch_id: str) -> int:
        position = self._patch_position.get(patch_id)
        if position is None:
            raise ValueError(
                f"cache {self.path} holds no patch {patch_id}. Build a cache of the student's training set"
            )
        return position

    def read(self, patch_id: str, flip: str) -> TargetRecord:
        """The record of one view.

        Raises:
            ValueError: no such view, a view of a block that was never captured, a damaged record, or a process that
                was forked from one that has read records.
        """
        view_index = self.view_index(patch_id, flip)
        if view_index in self._prefetched:
            return self._finish(self._prefetched.pop(view_index))
        return self._finish(self._start(view_index))

    def read_many(self, views: Sequence[tuple[str, str]]) -> list[TargetRecord]:
        """The records of (patch id, flip) pairs, in their order; all are read at once."""
        self.prefetch(views)
        return [self.read(patch_id, flip) for patch_id, flip in views]

    def prefetch(self, views: Iterable[tuple[str, str]]) -> None:
        """Start reading records that `read` will ask for; they are held until then."""
        for patch_id, flip in views:
            view_index = self.view_index(patch_id, flip)
            if view_index not in self._prefetched:
                self._prefetched[view_index] = self._start(view_index)

    def _start(self, view_index: int) -> _PendingRecord:
        block = int(self.plan.block[view_index])
        self._require_committed(block)
        _require_tensorstore_process()
        if not self._arrays:
            self._arrays = _open_arrays(self.location, names_of(self._root).record)
        rows = {name: self._rows(name, view_index) for name in self._arrays}
        for name in self._arrays:
            # TensorStore stops a zstd chunk at its shape, but gives blosc what the chunk asks for.
            if self._specs[name].byte_shuffle:
                self._require_rows(name, block, rows[name])
        return _PendingRecord(
            view_index,
            {
                name: array[block, rows[name]].read()
                for name, array in self._arrays.items()
                # A block without rows has no objects to ask.
                if rows[name].start < rows[name].stop
            },
        )

    def _require_rows(self, name: str, block: int, rows: slice) -> None:
        """Refuse rows whose chunks would decompress to anything but their shape; each chunk is looked at once."""
        spec, seen = self._specs[name], self._checked.setdefault((name, block), set())
        chunks = range(rows.start // spec.chunks[1], -(-rows.stop // spec.chunks[1]))
        if not seen.issuperset(chunks):
            require_rows(self.location, spec, block, rows)
            seen.update(chunks)

    def _rows(self, field: str, view_index: int) -> slice:
        """Where a view's rows of a field lie in its block."""
        plan = self.plan
        start, stop = plan.row_start, plan.row_stop
        if field in ASSIGNED_FIELDS:
            assert plan.assigned_start is not None
            assert plan.assigned_stop is not None
            start, stop = plan.assigned_start, plan.assigned_stop
        return slice(int(start[view_index]), int(stop[view_index]))

    def _finish(self, pending: _PendingRecord) -> TargetRecord:
        _require_tensorstore_process()
        view = self.plan.view(pending.view_index)
        try:
            stored = {
                name: pending.futures[name].result()
                if name in pending.futures
                else np.empty((0, *array.shape[2:]), dtype=array.dtype.numpy_dtype)
                for name, array in self._arrays.items()
            }
        except ValueError as error:
            unanswered = describe_unanswered(self.location, error)
            if unanswered is not None:
                raise ValueError(f"cache {self.path}, view {view}: {unanswered}") from error
            # TensorStore's own text names the object and what is wrong with it.
            raise ValueError(f"cache {self.path}, view {view}: {error}. Run make verify-cache") from error
        prior_index = stored["prior_index"].astype(np.int64)
        if (np.diff(prior_index) <= 0).any() or not (stored["weight"] > 0).all():
            raise ValueError(f"cache {self.path}, view {view}: the record is damaged. Run make verify-cache")
        return TargetRecord(
            prior_index,
            self._codecs["weight"].decode(stored["weight"]),
            self._codecs["cls_logits"].decode(stored["cls_logits"]),
            self._codecs["box_logits"].decode(stored["box_logits"]),
            **{name: stored[name].astype(np.int64) for name in ASSIGNED_FIELDS if name in stored},
        )

    def _require_committed(self, block: int) -> None:
        if block in self._committed:
            return
        require_block_objects(self.location, self._specs, block)
        if not np.asarray(array_of(self._root, "committed")[block]).any():
            raise ValueError(
                f"cache {self.path}: block {block} was never captured. "
                f"Finish the capture with: make cache-teacher CACHE={self.path}"
            )
        self._committed.add(block)


@dataclass(frozen=True)
class _PendingRecord:
    """A record on its way: one future a field, none where the view has no rows."""

    view_index: int
    futures: dict[str, Any]


def _require_tensorstore_process() -> None:
    """Refuse to touch TensorStore in a process forked after it was opened.

    An error, where TensorStore would abort: a loader or a pool hands it to the parent, and nobody waits for a worker
    that is gone. The process number tells forks made outside Python as well, unlike `os.register_at_fork`.

    Raises:
        ValueError: naming the cure.
    """
    global _tensorstore_process
    if _tensorstore_process is None:
        _tensorstore_process = os.getpid()
    elif _tensorstore_process != os.getpid():
        raise ValueError(
            "records of a teacher cache cannot be read in a process forked from one that has read some: start workers "
            "with the method forkserver (DataLoader: multiprocessing_context='forkserver'), or fork before the first "
            "read"
        )


def _open_arrays(location: Location, names: Iterable[str]) -> dict[str, Any]:
    import tensorstore

    settings = location.tensorstore_context()
    context = None if settings is None else tensorstore.Context(settings)
    opened = {
        name: tensorstore.open(
            {
                "driver": "zarr3",
                **location.tensorstore_spec(name),
                # A lost chunk must raise: read as fill values it would be trained on.
                "fill_missing_data_reads": False,
            },
            read=True,
            open=True,
            context=context,
        )
        for name in names
    }
    try:
        return {name: future.result() for name, future in opened.items()}
    except ValueError as error:
        unanswered = describe_unanswered(location, error)
        if unanswered is None:
            raise
        raise ValueError(f"cache {location}: {unanswered}") from error
