"""Reading a cache: view -> record, about a millisecond.

zarr-python reads manifest and plan; TensorStore reads records and is opened by whoever loads the first one: it runs
threads, so a process forked after that cannot use it (TensorStore would abort it; the reader refuses first).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cache.cells import CellCodec, HeadShape
from cache.codec import Codec, subtract_row_max
from cache.documents import verify_documents
from cache.layout import ASSIGNED_FIELDS, row_kind
from cache.plan import Plan
from cache.storage import Location, Place
from cache.store import CaptureNeeded, Store
from cache.view import View

# The process that opened TensorStore first, among this one and those that it was forked from.
_tensorstore_process: int | None = None


@dataclass(frozen=True)
class TargetRecord:
    """The stored targets of one view; n rows, C classes, D box parameters of K bins.

    prior_index: (n,) int64, sorted flat indices of the grid.
    weight: (n,) float32 region weights, above 0.
    cls_logits: (n, C) float32.
    box_logits: (n, D, K) float32, or (n, sum of bins) where parameters differ; maximum of each row of bins at 0.
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


@dataclass(frozen=True)
class CodedRecord:
    """The same as it is stored, for those who decode elsewhere: logits, or codes of the cells that hold the priors.

    cls_logits, box_logits: (n, C) and (n, sum of bins) in the dtype of the store; None where it stores cells.
    coefficients: (J, m) int8 codes of m cells, for `CellCodec.decode`; None where it stores rows.
    cell_row: (n,) int64 row of each prior among the m x A of the decoded cells.
    The other fields are those of `TargetRecord`.
    """

    prior_index: np.ndarray
    weight: np.ndarray
    cls_logits: np.ndarray | None = None
    box_logits: np.ndarray | None = None
    coefficients: np.ndarray | None = None
    cell_row: np.ndarray | None = None
    assigned_prior: np.ndarray | None = None
    assigned_object: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prior_index)

    def take(self, prior_index: np.ndarray, weight: np.ndarray) -> CodedRecord:
        """The record of some of its priors, sorted, with other weights.

        Raises:
            ValueError: one of them is not stored.
        """
        rows = np.searchsorted(self.prior_index, prior_index)
        is_stored = np.append(self.prior_index, -1)[rows] == prior_index
        if not is_stored.all():
            raise ValueError(f"prior {prior_index[~is_stored][0]}")
        parts = {name: getattr(self, name) for name in ("cls_logits", "box_logits", "cell_row")}
        return replace(
            self,
            prior_index=prior_index,
            weight=weight,
            **{name: None if values is None else values[rows] for name, values in parts.items()},
        )

    def decode(self, codec: Codec, head: HeadShape) -> TargetRecord:
        """The logits as floats."""
        cls_logits, box_logits = self.cls_logits, self.box_logits
        if isinstance(codec, CellCodec):
            assert self.coefficients is not None
            logits = codec.decode(self.coefficients).reshape(-1, head.values)[self.cell_row]
            cls_logits, box_logits = np.split(logits, [head.classes], axis=1)
        assert cls_logits is not None
        assert box_logits is not None
        return TargetRecord(
            self.prior_index,
            self.weight,
            np.ascontiguousarray(cls_logits, dtype=np.float32),
            subtract_bin_max(box_logits.astype(np.float32), head),
            self.assigned_prior,
            self.assigned_object,
        )


def subtract_bin_max(box_logits: np.ndarray, head: HeadShape) -> np.ndarray:
    """(n, sum of bins) -> the head's `box_shape`; of each parameter with bins the largest is 0."""
    if len(head.box_shape) == 2:
        shaped = box_logits.reshape(-1, *head.box_shape)
        return subtract_row_max(shaped) if head.bins[0] > 1 else shaped
    groups = [box_logits[:, group] for group in head.box_groups()]
    return np.concatenate([group if group.shape[1] == 1 else subtract_row_max(group) for group in groups], axis=1)


@dataclass(frozen=True)
class StoredView:
    """A view that a cache holds.

    index: its position in the plan. image_sha256: of its patch's file. crc32c: of its pixels. shape: its height
    and width in pixels as the teacher saw it, padding included.
    """

    view: View
    index: int
    image_sha256: bytes
    crc32c: int
    shape: tuple[int, int]


class CacheReader:
    """Reads the records of a store.

    Opening reads the root metadata only; the plan is read with the first question about views.

    Args:
        place: a folder, `s3://bucket/name.zarr`, or a store that is open.

    Raises:
        ValueError: there is no teacher cache of this format.
    """

    def __init__(self, place: Place | Store) -> None:
        self.store = place if isinstance(place, Store) else Store(place)
        self.location, self.manifest = self.store.location, self.store.manifest
        self.path = str(self.location)
        self.head = HeadShape.of(self.manifest.head)
        self._arrays: dict[str, Any] = {}
        # Blocks that are committed and whose chunks become what they should.
        self._readable: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A reader travels to other processes closed; they open their own handles."""
        return {"place": self.location}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["place"])  # type: ignore[misc]

    @property
    def plan(self) -> Plan:
        return self.store.plan

    @property
    def codec(self) -> Codec:
        return self.store.codec

    @cached_property
    def _patch_position(self) -> dict[str, int]:
        return {patch_id: position for position, patch_id in enumerate(self.plan.patch_ids)}

    def missing_blocks(self) -> list[int]:
        """Blocks without a commit; none in a complete cache."""
        return self.store.missing_blocks()

    def require_complete(self) -> None:
        """Refuse a cache whose capture has not finished, or whose manifest or plan is damaged.

        Raises:
            ValueError: naming the damaged object or the number of missing blocks, and the cure.
        """
        damage = verify_documents(self.location)
        if damage:
            raise CaptureNeeded(f"cache {self.path} is damaged: {damage[0]}", self.location, is_damaged=True)
        missing = self.missing_blocks()
        if missing:
            problem = f"{len(missing)} of {self.plan.num_blocks} blocks are missing"
            raise CaptureNeeded(f"cache {self.path} is incomplete: {problem}", self.location)

    def find(self, patch_id: str, draw: int | str) -> StoredView:
        """A view, by the number or the name of its draw, and what its patch was when the teacher saw it.

        Raises:
            ValueError: the cache holds no such view.
        """
        plan = self.plan
        patch = self._patch_position.get(patch_id)
        number = plan.draws.index(draw) if draw in plan.draws else draw
        if patch is not None and isinstance(number, int) and 0 <= number < len(plan.draws):
            index = int(plan.draw_view[patch, number])
            height, width = plan.view_shape[index].tolist()
            digest, crc32c = plan.image_sha256[patch].tobytes(), int(plan.view_crc32c[index])
            return StoredView(plan.view(index), index, digest, crc32c, (height, width))
        raise ValueError(
            f"cache {self.path} holds no view {View(patch_id, str(draw))} ({len(plan.patch_ids)} patches, draws "
            f"{', '.join(plan.draws)}). Build a cache of the data that the student trains on"
        )

    def require_image(self, stored: StoredView, image_sha256: bytes) -> None:
        """Refuse a patch whose file is not the one the teacher has seen.

        Raises:
            ValueError: naming patch, both digests and the cure.
        """
        if stored.image_sha256 != image_sha256:
            raise ValueError(
                f"cache {self.path}, patch {stored.view.patch_id}: image_sha256 is {stored.image_sha256.hex()[:16]}… "
                f"in the cache but {image_sha256.hex()[:16]}… on disk. Restore the image, or capture a new cache"
            )

    def require_pixels(self, stored: StoredView, crc32c: int) -> None:
        """Refuse a view whose pixels are not those that the teacher has seen.

        Raises:
            ValueError: naming view, both checksums and the cure.
        """
        if stored.crc32c != crc32c:
            raise ValueError(
                f"cache {self.path}, view {stored.view}: CRC-32C of its pixels is {stored.crc32c:08x} in the cache but "
                f"{crc32c:08x} here: other libraries decode or transform the image. Install the versions of uv.lock "
                "(make setup), or capture a new cache here"
            )

    def read(self, patch_id: str, draw: int | str) -> TargetRecord:
        """The record of one view, by the number of its draw, or by its name where views are flips and turns.

        Raises:
            ValueError: no such view, or as `read_found`.
        """
        return self.read_found(self.find(patch_id, draw)).decode(self.codec, self.head)

    def read_found(self, found: StoredView) -> CodedRecord:
        """The record, as it is stored, of a view that `find` has found.

        Raises:
            ValueError: a view of a block that was never captured, a damaged record, or a process that was forked from
                one that has read records.
        """
        block = int(self.plan.block[found.index])
        if block not in self._readable:
            self._require_readable(block)
        _require_tensorstore_process()
        if not self._arrays:
            self._arrays = _open_arrays(self.location, self.store.names.record)
        stored = self._read_rows(block, found)
        record = self._cells_of(stored) if self.store.names.cells else self._rows_of(stored)
        is_whole = len(record) == self.plan.priors_per_view[found.index]
        if not is_whole or (np.diff(record.prior_index) <= 0).any() or not (record.weight > 0).all():
            raise ValueError(
                f"cache {self.path}, view {found.view}: the record is damaged. Run make verify-cache CACHE={self.path}"
            )
        return record

    def _read_rows(self, block: int, found: StoredView) -> dict[str, np.ndarray]:
        """Every field of a view as it lies in the store."""
        specs = self.store.specs
        rows = {name: self._rows(name, found.index) for name in self._arrays}
        try:
            # All fields at once; a block without rows has no objects to ask.
            futures = {
                name: array[specs[name].rows_of(block, rows[name])].read()
                for name, array in self._arrays.items()
                if rows[name].start < rows[name].stop
            }
            return {
                name: futures[name].result()
                if name in futures
                else np.empty(specs[name].block_shape(0), dtype=array.dtype.numpy_dtype)
                for name, array in self._arrays.items()
            }
        except ValueError as error:
            # TensorStore's own text names the object and what is wrong with it.
            reason = self.location.describe_unanswered(error) or f"{error}. Run make verify-cache CACHE={self.path}"
            raise ValueError(f"cache {self.path}, view {found.view}: {reason}") from error

    def _rows_of(self, stored: Mapping[str, np.ndarray]) -> CodedRecord:
        return CodedRecord(
            stored["prior_index"].astype(np.int64),
            stored["weight"].astype(np.float32),
            cls_logits=stored["cls_logits"],
            box_logits=stored["box_logits"],
            **_assigned_of(stored),
        )

    def _cells_of(self, stored: Mapping[str, np.ndarray]) -> CodedRecord:
        # A weight that is no number is no prior that is not stored: poison must not pass.
        weight = stored["cell_weight"].ravel().astype(np.float32)
        cell_row = np.flatnonzero(weight)
        # Rows count the priors of stored cells alone, flat indices those of all.
        priors = self.head.priors
        away = priors * (stored["cell_index"].astype(np.int64) - np.arange(len(stored["cell_index"])))
        return CodedRecord(
            cell_row + away[cell_row // priors],
            weight[cell_row],
            coefficients=stored["coefficients"],
            cell_row=cell_row,
            **_assigned_of(stored),
        )

    def _rows(self, field: str, view_index: int) -> slice:
        """Where a view's rows of a field lie in its block."""
        start, stop = self.plan.row_ranges[row_kind(field)]
        return slice(int(start[view_index]), int(stop[view_index]))

    def _require_readable(self, block: int) -> None:
        """Refuse a block that was never captured, or that asks for more memory than planned; once a block."""
        # TensorStore stops a zstd chunk at its shape, but gives blosc what the chunk asks for.
        names = self.store.names.record
        self.store.require_block(block, [name for name in names if self.store.specs[name].byte_shuffle])
        if not self.store.is_committed(block):
            raise CaptureNeeded(f"cache {self.path}: block {block} was never captured", self.location)
        self._readable.add(block)


def _assigned_of(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: stored[name].astype(np.int64) for name in ASSIGNED_FIELDS if name in stored}


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
        unanswered = location.describe_unanswered(error)
        if unanswered is None:
            raise
        raise ValueError(f"cache {location}: {unanswered}") from error
