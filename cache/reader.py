"""Reading a cache: view -> record, about a millisecond.

zarr-python reads manifest, plan and commits; TensorStore reads records and is opened by whoever loads the first one,
because a process that has read through TensorStore can no longer fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from cache.layout import RECORD_FIELDS, array_of, open_root, read_plan
from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec
from cache.view import View, flip_code


@dataclass(frozen=True)
class TargetRecord:
    """The stored targets of one view; n rows, C classes, D box parameters of K bins.

    prior_index: (n,) int64, sorted flat indices of the grid.
    weight: (n,) float32 region weights, above 0.
    cls_logits: (n, C) float32.
    box_logits: (n, D, K) float32, maximum of each row of bins at 0.
    """

    prior_index: np.ndarray
    weight: np.ndarray
    cls_logits: np.ndarray
    box_logits: np.ndarray

    def __len__(self) -> int:
        return len(self.prior_index)


class CacheReader:
    """Reads the records of a store.

    Opening reads the root metadata only; the plan is read with the first question about views.

    Raises:
        ValueError: the path is no teacher cache of this format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._root = open_root(self.path)
        self.manifest = cast(Manifest, self._root.attrs.asdict())
        self._codecs = {name: FieldCodec.from_json(self.manifest["codec"][name]) for name in LOGIT_FIELDS}
        self._arrays: dict[str, Any] = {}
        self._committed: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A reader travels to other processes closed; they open their own handles."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    @cached_property
    def plan(self) -> Plan:
        return read_plan(self._root)

    @cached_property
    def _patch_position(self) -> dict[str, int]:
        return {patch_id: position for position, patch_id in enumerate(self.plan.patch_ids)}

    def missing_blocks(self) -> list[int]:
        """Blocks without a commit; none in a complete cache."""
        committed = np.asarray(array_of(self._root, "committed")[...])
        return [int(block) for block in np.flatnonzero(~committed.any(axis=1))]

    def require_complete(self) -> None:
        """Refuse a cache whose capture has not finished.

        Raises:
            ValueError: naming the number of missing blocks and the cure.
        """
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
            f"{', '.join(self.manifest['views']['flips'])}). Build a cache of the data that the student trains on"
        )

    def require_image(self, patch_id: str, image_sha256: bytes) -> None:
        """Refuse a patch whose file is not the one the teacher has seen.

        Raises:
            ValueError: naming patch, both digests and the cure; or the patch is not in the cache.
        """
        position = self._patch_position.get(patch_id)
        if position is None:
            raise ValueError(
                f"cache {self.path} holds no patch {patch_id}. Build a cache of the student's training set"
            )
        stored = self.plan.image_sha256[position].tobytes()
        if stored != image_sha256:
            raise ValueError(
                f"cache {self.path}, patch {patch_id}: image_sha256 is {stored.hex()[:16]}… in the cache but "
                f"{image_sha256.hex()[:16]}… on disk. Restore the image, or capture a new cache"
            )

    def read(self, patch_id: str, flip: str) -> TargetRecord:
        """The record of one view.

        Raises:
            ValueError: no such view, a view of a block that was never captured, or a damaged record.
        """
        view_index = self.view_index(patch_id, flip)
        block = int(self.plan.block[view_index])
        start, stop = int(self.plan.row_start[view_index]), int(self.plan.row_stop[view_index])
        self._require_committed(block)
        stored = self._read_rows(block, start, stop, f"{patch_id}/{flip}")
        prior_index = stored["prior_index"].astype(np.int64)
        if (np.diff(prior_index) <= 0).any() or not (stored["weight"] > 0).all():
            raise ValueError(f"cache {self.path}, view {patch_id}/{flip}: the record is damaged. Run make verify-cache")
        return TargetRecord(
            prior_index,
            stored["weight"].astype(np.float32, copy=False),
            self._codecs["cls_logits"].decode(stored["cls_logits"]),
            self._codecs["box_logits"].decode(stored["box_logits"]),
        )

    def _require_committed(self, block: int) -> None:
        if block in self._committed:
            return
        if not np.asarray(array_of(self._root, "committed")[block]).any():
            raise ValueError(
                f"cache {self.path}: block {block} was never captured. "
                f"Finish the capture with: make cache-teacher CACHE={self.path}"
            )
        self._committed.add(block)

    def _read_rows(self, block: int, start: int, stop: int, view: str) -> dict[str, np.ndarray]:
        if not self._arrays:
            self._arrays = {name: _open_array(self.path / name) for name in RECORD_FIELDS}
        if start == stop:
            return {
                name: np.empty((0, *array.shape[2:]), dtype=array.dtype.numpy_dtype)
                for name, array in self._arrays.items()
            }
        futures = {name: array[block, start:stop].read() for name, array in self._arrays.items()}
        try:
            return {name: future.result() for name, future in futures.items()}
        except ValueError as error:
            # TensorStore's own text names the object and what is wrong with it.
            raise ValueError(f"cache {self.path}, view {view}: {error}. Run make verify-cache") from error


def _open_array(path: Path) -> Any:
    import tensorstore

    return tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            # A lost chunk must raise: read as fill values it would be trained on.
            "fill_missing_data_reads": False,
        },
        read=True,
        open=True,
    ).result()
