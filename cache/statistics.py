"""What is in a store's blocks: counts, ranges, histograms, errors and bytes, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache.cells import CellCodec
from cache.codec import LOGIT_FIELDS
from cache.layout import error_columns, object_key
from cache.storage import StorageError
from cache.store import Store

# Histogram bins of logits; values outside are counted in the outer bins.
FLOAT_EDGES = np.linspace(-64.0, 64.0, 257)
WEIGHT_EDGES = np.linspace(0.0, 1.0, 51)
# Rows decoded at a time, so that memory does not grow with the block.
ROWS_AT_ONCE = 16384
VALUES = ("weight", *LOGIT_FIELDS)


@dataclass(frozen=True)
class BlockStatistics:
    """What is in a block, or in several: statistics of blocks add up with `+`.

    Attributes:
        blocks, views, priors, rows: counts; a row is a stored prior, or a cell with such.
        priors_per_level: (L,) int64.
        ranges: smallest and largest value of the weight and of both kinds of logits, decoded.
        histograms: of logits between `FLOAT_EDGES`, of the weight between `WEIGHT_EDGES`.
        outside: logits beyond `FLOAT_EDGES`; they are counted in the outer bins.
        error_max: (E,) largest `capture_error` by column.
        error_sum: (E,) `capture_error` times priors, for means over priors.
        object_bytes: bytes on disk by array and block.
        block_priors: stored priors by block.
    """

    blocks: int
    views: int
    priors: int
    rows: int
    priors_per_level: np.ndarray
    ranges: Mapping[str, tuple[float, float]]
    histograms: Mapping[str, np.ndarray]
    outside: Mapping[str, int]
    error_max: np.ndarray
    error_sum: np.ndarray
    object_bytes: Mapping[str, Mapping[int, int]]
    block_priors: Mapping[int, int]

    def __add__(self, other: BlockStatistics) -> BlockStatistics:
        return BlockStatistics(
            blocks=self.blocks + other.blocks,
            views=self.views + other.views,
            priors=self.priors + other.priors,
            rows=self.rows + other.rows,
            priors_per_level=self.priors_per_level + other.priors_per_level,
            ranges={
                name: (min(low, other.ranges[name][0]), max(high, other.ranges[name][1]))
                for name, (low, high) in self.ranges.items()
            },
            histograms={name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            outside={name: count + other.outside[name] for name, count in self.outside.items()},
            error_max=np.maximum(self.error_max, other.error_max),
            error_sum=self.error_sum + other.error_sum,
            object_bytes={name: {**sizes, **other.object_bytes[name]} for name, sizes in self.object_bytes.items()},
            block_priors={**self.block_priors, **other.block_priors},
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
    views, priors = plan.views_of_block(block), int(plan.priors_per_block[block])
    rows = int(plan.rows_per_block()[block])
    counters = {name: _ValueCounter(WEIGHT_EDGES if name == "weight" else FLOAT_EDGES) for name in VALUES}
    try:
        store.require_block(block, store.names.record)
        for start in range(0, rows, ROWS_AT_ONCE):
            for name, values in _decoded(store, block, slice(start, min(start + ROWS_AT_ONCE, rows))).items():
                counters[name].count(values)
        error = np.asarray(store.array("capture_error")[block], dtype=np.float64)
    except StorageError:
        raise
    except Exception as problem:
        place = store.location
        raise ValueError(f"cache {place}, block {block}: {problem}. Run make verify-cache CACHE={place}") from problem
    assert error.shape == (len(error_columns(store.manifest)),)
    return BlockStatistics(
        blocks=1,
        views=len(views),
        priors=priors,
        rows=rows,
        priors_per_level=plan.level_counts[views].sum(axis=0, dtype=np.int64),
        ranges={name: (counter.low, counter.high) for name, counter in counters.items()},
        histograms={name: counter.histogram for name, counter in counters.items()},
        outside={name: counters[name].outside for name in LOGIT_FIELDS},
        error_max=error,
        error_sum=error * priors,
        object_bytes={name: {block: store.location.size(object_key(name, block)) or 0} for name in store.names.block},
        block_priors={block: priors},
    )


def _decoded(store: Store, block: int, rows: slice) -> dict[str, np.ndarray]:
    """Weights and logits of some rows of a block, as floats; of cells those of the stored priors."""

    def stored(name: str) -> np.ndarray:
        return np.asarray(store.array(name)[store.specs[name].rows_of(block, rows)])

    codec = store.codec
    if not isinstance(codec, CellCodec):
        return {name: stored(name).astype(np.float32) for name in VALUES}
    weight = stored("cell_weight")
    logits = codec.decode(stored("coefficients"))[weight != 0]
    cls_logits, box_logits = np.split(logits, [codec.head.classes], axis=1)
    return {"weight": weight[weight != 0], "cls_logits": cls_logits, "box_logits": box_logits}


class _ValueCounter:
    """Range and histogram of some values, a part of them at a time."""

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = edges
        self.low, self.high, self.outside = np.inf, -np.inf, 0
        self.histogram = np.zeros(len(edges) - 1, dtype=np.int64)

    def count(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        low, high = self.edges[0], self.edges[-1]
        self.outside += int(((values < low) | (values > high)).sum())
        self.histogram += np.histogram(values.clip(low, high), self.edges)[0]
