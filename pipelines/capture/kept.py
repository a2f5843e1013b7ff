"""Regions and assignments that planning has found, kept for the capture of the same command: reading costs a hundredth.

On a cluster nothing is kept: its workers share no memory and perhaps no disk, and find what they need again.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PatchRegions:
    """What labels and priors say of a patch's F views, without a teacher.

    prior_index, weight: F arrays (n,) of the views' regions, sorted. assigned: F pairs (m,) of the planned assignment,
    priors and objects; none where it is not planned.
    """

    prior_index: Sequence[np.ndarray]
    weight: Sequence[np.ndarray]
    assigned: Sequence[tuple[np.ndarray, np.ndarray]] = ()


class KeptRegions:
    """The regions of planned patches, in a file without a name: it goes with the last process that has it open.

    Loader processes forked from this one read it. At most `limit` bytes are kept, by default half of what the disk of
    the temporary folder has free; the regions of later patches are found again.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._limit = shutil.disk_usage(tempfile.gettempdir()).free // 2 if limit is None else limit
        self._places: dict[str, tuple[int, int]] = {}
        self.size = 0

    def keep(self, patch_id: str, regions: PatchRegions) -> None:
        """Keep a patch's regions, where there is room."""
        columns = {
            "prior_index": [index.astype(np.uint32) for index in regions.prior_index],
            "weight": regions.weight,
            "assigned_prior": [prior.astype(np.uint32) for prior, _ in regions.assigned],
            "assigned_object": [matched.astype(np.int32) for _, matched in regions.assigned],
        }
        arrays = {f"{name}/{view}": array for name, views in columns.items() for view, array in enumerate(views)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        if self.size + len(content) <= self._limit:
            self._file.write(content)
            self._places[patch_id] = self.size, len(content)
            self.size += len(content)

    def find(self, patch_id: str) -> PatchRegions | None:
        """A patch's regions as they were kept; None where they were not."""
        if patch_id not in self._places:
            return None
        start, size = self._places[patch_id]
        with np.load(io.BytesIO(os.pread(self._file.fileno(), size, start))) as stored:
            columns: dict[str, list[np.ndarray]] = defaultdict(list)
            for key in stored.files:
                array = stored[key]
                name = key.partition("/")[0]
                columns[name].append(array if name == "weight" else array.astype(np.int64))
        assigned = zip(columns["assigned_prior"], columns["assigned_object"], strict=True)
        return PatchRegions(columns["prior_index"], columns["weight"], list(assigned))
