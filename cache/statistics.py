"""What is in a store's blocks: counts, ranges, histograms, errors and bytes, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache.layout import ERROR_COLUMNS, RECORD_FIELDS, object_key
from cache.manifest import Manifest
from cache.quantize import LOGIT_FIELDS, FieldCodec
from cache.storage import StorageError
from cache.store import Store

# Histogram bins of logits that are stored as floats; values outside are counted in the outer bins.
FLOAT_EDGES = np.linspace(-64.0, 64.0, 257)
WEIGHT_EDGES = np.linspace(0.0, 1.0, 51)
# Rows decoded at a time, so that memory does not grow with the block.
ROWS_AT_ONCE = 65536


@dataclass(frozen=True)
class BlockStatistics:
    """What is in a block, or in several: statistics of blocks add up with `+`.

    Attributes:
        blocks, views, rows: counts.
        rows_per_level: (L,) int64.
        ranges: smallest and largest decoded value of every field.
        histograms: of a logit field the counts of its codes, or, where it is stored as float, of values between
            `FLOAT_EDGES`; of the weight between `WEIGHT_EDGES`.
        outside: float logits beyond `FLOAT_EDGES`; they are counted in the outer bins.
        error_max: (E,) largest `capture_error` by column.
        error_sum: (E,) `capture_error` times rows, for means over rows.
        object_bytes: bytes on disk by array and block.
        block_rows: rows by block.
    """

    blocks: int
    views: int
    rows: int
    rows_per_level: np.ndarray
    ranges: Mapping[str, tuple[float, float]]
    histograms: Mapping[str, np.ndarray]
    outside: Mapping[str, int]
    error_max: np.ndarray
    error_sum: np.ndarray
    object_bytes: Mapping[str, Mapping[int, int]]
    block_rows: Mapping[int, int]

    def __add__(self, other: BlockStatistics) -> BlockStatistics:
        return BlockStatistics(
            blocks=self.blocks + other.blocks,
            views=self.views + other.views,
            rows=self.rows + other.rows,
            rows_per_level=self.rows_per_level + other.rows_per_level,
            ranges={
                name: (min(low, other.ranges[name][0]), max(high, other.ranges[name][1]))
                for name, (low, high) in self.ranges.items()
            },
            histograms={name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            outside={name: count + other.outside[name] for name, count in self.outside.items()},
            error_max=np.maximum(self.error_max, other.error_max),
            error_sum=self.error_sum + other.error_sum,
            object_bytes={name: {**sizes, **other.object_bytes[name]} for name, sizes in self.object_bytes.items()},
            block_rows={**self.block_rows, **other.block_rows},
        )

    def __radd__(self, other: int) -> BlockStatistics:
        """So that `sum` works, which starts at 0."""
        assert other == 0
        return self


def block_statistics(store: Store, block: int) -> BlockStatistics:
    """Counts, ranges, histograms and bytes of one committed block; its checksums are zarr's, not its commit's.

    Raises:
        ValueError: an object cannot be decoded.
    """
    plan = store.plan
    views, rows = plan.views_of_block(block), int(plan.rows_per_block[block])
    counters = {name: _FieldCounter(name, store.manifest) for name in RECORD_FIELDS}
    try:
        store.require_block(block, RECORD_FIELDS)
        for name, counter in counters.items():
            for start in range(0, rows, ROWS_AT_ONCE):
                counter.count(np.asarray(store.array(name)[block, start : min(start + ROWS_AT_ONCE, rows)]))
        error = np.asarray(store.array("capture_error")[block], dtype=np.float64)
    except StorageError:
        raise
    except Exception as problem:
        place = store.location
        raise ValueError(f"cache {place}, block {block}: {problem}. Run make verify-cache CACHE={place}") from problem
    assert error.shape == (len(ERROR_COLUMNS),)
    return BlockStatistics(
        blocks=1,
        views=len(views),
        rows=rows,
        rows_per_level=plan.level_counts[views].sum(axis=0, dtype=np.int64),
        ranges={name: (counter.low, counter.high) for name, counter in counters.items()},
        histograms={name: counter.histogram for name, counter in counters.items() if counter.histogram.size},
        outside={name: counters[name].outside for name in LOGIT_FIELDS},
        error_max=error,
        error_sum=error * rows,
        object_bytes={name: {block: store.location.size(object_key(name, block)) or 0} for name in store.names.block},
        block_rows={block: rows},
    )


class _FieldCounter:
    """Range and histogram of one field, a part of its rows at a time."""

    def __init__(self, name: str, manifest: Manifest) -> None:
        self.codec = FieldCodec.from_json(manifest.codec[name]) if name in LOGIT_FIELDS else None
        self.edges = WEIGHT_EDGES if name == "weight" else FLOAT_EDGES
        self.low, self.high, self.outside = np.inf, -np.inf, 0
        if name == "prior_index":
            self.histogram = np.zeros(0, dtype=np.int64)
        elif self.codec is None or self.codec.is_float:
            self.histogram = np.zeros(len(self.edges) - 1, dtype=np.int64)
        else:
            self.histogram = np.zeros(self.codec.largest_code + 1, dtype=np.int64)

    def count(self, values: np.ndarray) -> None:
        ends = np.asarray([values.min(), values.max()])
        if self.codec is not None:
            ends = self.codec.decode(ends)
        self.low, self.high = min(self.low, float(ends[0])), max(self.high, float(ends[1]))
        if values.dtype.kind == "f":
            low, high = self.edges[0], self.edges[-1]
            self.outside += int(((values < low) | (values > high)).sum())
            self.histogram += np.histogram(values.clip(low, high), self.edges)[0]
        elif self.codec is not None:
            self.histogram += np.bincount(values.ravel(), minlength=len(self.histogram))
