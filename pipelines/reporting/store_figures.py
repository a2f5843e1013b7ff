"""Figures of a store as plain values: sizes, rows, value ranges, measured errors, the most expensive views."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cache.codec import LOGIT_FIELDS, Codec
from cache.layout import error_columns
from cache.manifest import Manifest
from cache.plan import Plan
from cache.reader import CacheReader
from cache.statistics import BlockStatistics, block_statistics
from cache.store import CaptureNeeded
from distill.audit import logit_bound
from pipelines.base.parallel import map_and_add
from pipelines.capture.figures import PERCENTILES

EXPENSIVE_VIEWS = 10


def store_statistics(reader: CacheReader, workers: int) -> BlockStatistics:
    """Statistics of all captured blocks.

    Raises:
        ValueError: nothing was captured yet, or an object is damaged.
    """
    blocks = reader.store.captured_blocks()
    if not blocks:
        raise CaptureNeeded(f"cache {reader.path} holds no block yet", reader.location)
    # Statistics add up from 0, as `sum` does.
    nothing: Any = 0
    statistics: BlockStatistics = map_and_add(
        lambda block: block_statistics(reader.store, block),
        blocks,
        nothing,
        workers=workers,
        description="inspect",
        unit="blocks",
    )
    return statistics


def store_figures(reader: CacheReader, statistics: BlockStatistics) -> dict[str, Any]:
    """All figures of a store, as `--json` prints them."""
    plan, manifest = reader.plan, reader.manifest
    columns = error_columns(manifest)
    sizes = array_bytes(reader)
    rows = max(1, statistics.priors)
    return {
        "cache": str(reader.path),
        "preset": manifest.codec["preset"],
        "patches": len(plan.patch_ids),
        "draws": list(plan.draws),
        "views": plan.num_views,
        "blocks": plan.num_blocks,
        "blocks_captured": statistics.blocks,
        "views_captured": statistics.views,
        "rows": statistics.priors,
        "bytes": sum(sizes.values()),
        "bytes_per_row": sum(sizes.values()) / rows,
        "arrays": {name: {"bytes": size, "bytes_per_row": size / rows} for name, size in sizes.items()},
        "rows_per_view": spread(plan.priors_per_view),
        "views_without_rows": int((plan.priors_per_view == 0).sum()),
        "levels": [
            {"stride": stride, **spread(counts)}
            for stride, counts in zip(_strides(manifest, plan), plan.level_counts.T, strict=True)
        ],
        "bytes_per_block": spread(np.asarray(list(block_bytes(statistics).values()))),
        "codec": dict(manifest.codec),
        "values": value_figures(reader.codec, statistics),
        "anchor_sides": anchor_sides(manifest),
        "errors": {
            column: {"mean": float(total / rows), "largest_block": float(largest)}
            for column, total, largest in zip(columns, statistics.error_sum, statistics.error_max, strict=True)
        },
        "expensive_views": expensive_views(plan, statistics),
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, percentiles and extremes."""
    return {
        "mean": float(values.mean()),
        "min": float(values.min()),
        **{f"p{percentile}": float(np.percentile(values, percentile)) for percentile in PERCENTILES},
        "max": float(values.max()),
    }


def array_bytes(reader: CacheReader) -> dict[str, int]:
    """Stored bytes of every array, the largest first; `plan` and the root's metadata count as one each."""
    sizes: Counter[str] = Counter()
    for key, size in reader.location.sizes().items():
        name, slash, _ = key.partition("/")
        sizes[name if slash else "manifest"] += size
    return dict(sizes.most_common())


def block_bytes(statistics: BlockStatistics) -> dict[int, int]:
    """Stored bytes of every captured block."""
    return {block: sum(sizes[block] for sizes in statistics.object_bytes.values()) for block in statistics.block_priors}


def value_figures(codec: Codec, statistics: BlockStatistics) -> dict[str, Any]:
    """Range of weights and logits; of logits also how far one may be off."""
    if not statistics.priors:
        return {}
    figures: dict[str, Any] = {}
    for name, (low, high) in statistics.ranges.items():
        figures[name] = {"low": low, "high": high}
        if name in LOGIT_FIELDS:
            figures[name]["bound"] = float(logit_bound(codec, name, max(abs(low), abs(high))).max())
    return figures


def anchor_sides(manifest: Manifest) -> list[float] | None:
    """Side in pixels of the smallest and the largest square anchor; None where the manifest states no anchors."""
    grid = manifest.head.get("grid") or {}
    if not {"strides", "scales"} <= set(grid):
        return None
    sides = np.outer(grid["strides"], grid["scales"])
    return [float(sides.min()), float(sides.max())]


def expensive_views(plan: Plan, statistics: BlockStatistics) -> list[dict[str, Any]]:
    """Views with the most rows; a view's bytes are its share of its block's."""
    rows, sizes = plan.priors_per_view, block_bytes(statistics)
    captured = np.flatnonzero(np.isin(plan.block, list(sizes)))
    largest = captured[np.argsort(-rows[captured], kind="stable")][:EXPENSIVE_VIEWS]
    result = []
    for view, block in zip(largest.tolist(), plan.block[largest].tolist(), strict=True):
        share = rows[view] / max(1, statistics.block_priors[block])
        result.append({"view": str(plan.view(view)), "rows": int(rows[view]), "bytes": round(share * sizes[block])})
    return result


def _strides(manifest: Manifest, plan: Plan) -> list[int]:
    grid = manifest.head.get("grid") or {}
    return list(grid.get("strides", range(plan.level_counts.shape[1])))
