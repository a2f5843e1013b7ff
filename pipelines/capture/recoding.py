"""A store of another codec from one that is complete, without the teacher: its records stand in for the answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cache.cells import count_cells
from cache.codec import Codec, CodecRequest, RowCodec, describe_codec
from cache.layout import ERROR_COLUMNS
from cache.manifest import Manifest
from cache.plan import Plan, place_rows
from cache.reader import CacheReader, TargetRecord
from cache.writer import CacheWriter
from distill.adapter import HeadAdapter
from pipelines.base.progress import progress
from pipelines.capture.codec_choice import choose_codec
from pipelines.capture.encoding import BlockEncoder, BlockRows
from pipelines.capture.sampling import probe_patches


class Recoding:
    """What a store of another codec would hold, from the records of one.

    Attributes:
        plan: of the new store: views, blocks and their order are the source's.

    Args:
        source: a complete store.
        request: the codec of the new one.
    """

    def __init__(self, source: CacheReader, request: CodecRequest) -> None:
        self.source = source
        self.request = request
        self.plan = source.plan
        if request.is_cells != source.store.names.cells:
            self.plan = self._plan()

    def _plan(self) -> Plan:
        """Rows are stored priors now, or cells."""
        plan = self.source.plan
        rows = plan.priors_per_view
        if self.request.is_cells:
            rows = np.empty(plan.num_views, dtype=np.int64)
            with progress("count cells", plan.num_views, "views") as advance:
                for block in range(plan.num_blocks):
                    prior_index = np.asarray(self.source.store.array("prior_index")[block])
                    for view in plan.views_of_block(block).tolist():
                        own = prior_index[plan.row_start[view] : plan.row_stop[view]]
                        rows[view] = count_cells(own, self.source.head.priors)
                        advance(1)
        start, stop = place_rows(plan.block, rows)
        return replace(plan, row_start=start, row_stop=stop)

    def choose_codec(self) -> Codec:
        """As a capture would, from the same views."""
        sample, others = probe_patches(self.plan, self.request, self.source.head)
        fitting, measuring = (
            [self._rows(self.plan.views_of_patch(patch)) for patch in some] for some in (others, sample)
        )
        return choose_codec(self.request, self.source.head, fitting or measuring, measuring)

    def manifest(self, codec: Codec) -> Manifest:
        """The source's, with another codec; what it was made from is stated where that was not exact."""
        stored = self.source.manifest
        section: dict[str, Any] = describe_codec(self.request, codec)
        if not self._is_exact:
            section["source"] = dict(stored.codec)
        return replace(stored, plan=self.plan.describe(), codec=section)

    @property
    def _is_exact(self) -> bool:
        return self.source.codec == RowCodec("float32")

    def fill(self, writer: CacheWriter, adapter: HeadAdapter) -> int:
        """Every missing block; returns the bytes written."""
        encoder = BlockEncoder(self.plan, adapter, writer.codec, writer.manifest.codec["kl"])
        blocks, written = writer.missing_blocks(), 0
        with progress("recode", self.plan.num_blocks, "blocks", done=self.plan.num_blocks - len(blocks)) as advance:
            with ThreadPoolExecutor(max_workers=1) as executor:
                pending: Future[int] | None = None
                for block in blocks:
                    targets = encoder.encode(block, self._rows(self.plan.views_of_block(block)))
                    error = targets.error | self._source_error(block)
                    if pending is not None:
                        written += pending.result()
                    pending = executor.submit(writer.write, block, targets.fields, error)
                    advance(1)
                if pending is not None:
                    written += pending.result()
        return written

    def _source_error(self, block: int) -> dict[str, float]:
        """What the source's codec had done to a block."""
        if self._is_exact:
            return {}
        values = np.asarray(self.source.store.array("capture_error")[block]).tolist()
        return {f"source_{name}": value for name, value in zip(ERROR_COLUMNS, values, strict=False)}

    def _rows(self, views: np.ndarray) -> BlockRows:
        records = [self._read(view) for view in views.tolist()]
        assigned = [
            (record.assigned_prior, record.assigned_object)
            for record in records
            if record.assigned_prior is not None and record.assigned_object is not None
        ]
        return BlockRows(
            np.asarray([len(record) for record in records]),
            np.concatenate([record.prior_index for record in records]),
            np.concatenate([record.weight for record in records]),
            _stacked([record.cls_logits for record in records]),
            _stacked([record.box_logits for record in records]),
            assigned,
        )

    def _read(self, view_index: int) -> TargetRecord:
        view = self.source.plan.view(view_index)
        return self.source.read(view.patch_id, view.draw)


def _stacked(values: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(values))
