"""The figures of a plan and of a probe, for programs and as tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from cache.cells import CellCodec
from cache.codec import PRESETS, Codec, RowCodec
from cache.plan import Plan
from pipelines.base.experiment import build_adapter
from pipelines.capture.encoding import BOUND_COLUMNS
from pipelines.capture.probe import Probe

# Bytes of a stored prior, everything counted, of teachers with 256 channels; and priors of a cell (docs/benchmarks.md).
TYPICAL_BYTES = {"default": 25.0, "small": 10.0}
PRIORS_PER_CELL = 5.9
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


def plan_figures(plan: Plan, config: Config) -> dict[str, Any]:
    """Counts, row statistics and the size by codec, for people and for `--json`."""
    rows = plan.priors_per_view
    return {
        "patches": len(plan.patch_ids),
        "views": plan.num_views,
        "draws": list(plan.draws),
        "blocks": plan.num_blocks,
        "rows": plan.num_priors,
        "rows_per_view": {
            "mean": float(rows.mean()),
            **{f"p{percentile}": float(np.percentile(rows, percentile)) for percentile in PERCENTILES},
            "max": int(rows.max()),
        },
        "rows_per_view_and_level": [float(mean) for mean in plan.level_counts.mean(axis=0)],
        "rows_per_block": {"min": int(plan.priors_per_block.min()), "max": int(plan.priors_per_block.max())},
        "bytes_by_preset": {preset: round(plan.num_priors * size) for preset, size in preset_bytes(config).items()},
    }


def row_bytes(codec: Codec, config: Config) -> float:
    """Bytes of one stored prior before compression: index, weight, class logits, box logits; of a cell its share."""
    if isinstance(codec, CellCodec):
        return (4 + 2 * codec.head.priors + codec.columns) / PRIORS_PER_CELL
    values = len(config.classes) + math.prod(build_adapter(config).box_shape)
    return 4 + np.dtype(codec.dtype).itemsize * (1 + values)


def preset_bytes(config: Config) -> dict[str, float]:
    """Bytes of one stored prior by preset: of floats before compression, of cells as measured on trained teachers."""
    floats = {preset: row_bytes(RowCodec(dtype), config) for preset, dtype in PRESETS.items() if isinstance(dtype, str)}
    return {**floats, **TYPICAL_BYTES}


def print_plan(figures: Mapping[str, Any], *, probed: bool) -> None:
    """The plan as a table; `probed` says whether a probe follows."""
    table = Table(title="Plan of the teacher cache", show_header=False, title_justify="left")
    rows = figures["rows_per_view"]
    table.add_row("patches x draws = views", f"{figures['patches']} x {len(figures['draws'])} = {figures['views']}")
    table.add_row("rows (stored priors)", f"{figures['rows']:,}")
    table.add_row(
        "rows a view: mean / median / p90 / max",
        f"{rows['mean']:,.0f} / {rows['p50']:,.0f} / {rows['p90']:,.0f} / {rows['max']:,}",
    )
    table.add_row("rows a view by level", " / ".join(f"{mean:,.0f}" for mean in figures["rows_per_view_and_level"]))
    table.add_row(
        "blocks (rows: smallest / largest)",
        f"{figures['blocks']} ({figures['rows_per_block']['min']:,} / {figures['rows_per_block']['max']:,})",
    )
    for preset, size in figures["bytes_by_preset"].items():
        tells = "the probe below tells the config's" if probed else "a probe (CHECKPOINT=) tells"
        basis = f"typical; {tells}" if preset in TYPICAL_BYTES else "before compression"
        table.add_row(f"codec {preset}", f"{size / 1e6:,.1f} MB, {basis}")
    Console().print(table)


def print_probe(probe: Probe, plan: Plan) -> None:
    """What the probe saw, as a table."""
    table = Table(title=f"Probe: {probe.views} views, {probe.rows:,} rows", show_header=False, title_justify="left")
    for field, (low, high) in probe.ranges.items():
        table.add_row(field.replace("_", " "), f"{low:.2f} to {high:.2f}")
    if isinstance(probe.codec, CellCodec):
        divergence = max(probe.error[column] for column in BOUND_COLUMNS)
        table.add_row(
            "cells", f"{probe.codec.columns} columns, step {probe.codec.step:.4g}: mean KL {divergence:.2g} at T = 5"
        )
    else:
        table.add_row("rows", probe.codec.dtype)
    table.add_row("predicted size", f"{probe.bytes / 1e6:,.1f} MB, {probe.bytes_per_row:.1f} bytes a row")
    table.add_row(
        "predicted time of the capture",
        f"{probe.seconds:,.0f} s while the machine is as busy as now, {probe.seconds / plan.num_views:.3g} s a view",
    )
    table.add_row("teacher alone", f"{probe.teacher_seconds:.3g} s a view")
    Console().print(table)
