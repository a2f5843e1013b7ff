"""The figures of a plan and of a probe, for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from cache.plan import Plan
from cache.quantize import FLOATS, PRESETS, FieldCodec
from cache.view import FLIPS
from pipelines.base.experiment import build_adapter
from pipelines.capture.probe import Probe

# A step's codes take two bytes where their range needs it.
WIDEST_CODE = FieldCodec("uint16")
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


def plan_figures(plan: Plan, config: Config) -> dict[str, Any]:
    """Counts, row statistics and the upper bound of the cache's size, for people and for `--json`."""
    rows = plan.rows_per_view
    widest = {
        preset: {field: FieldCodec(kind) if kind in FLOATS else WIDEST_CODE for field, kind in fields.items()}
        for preset, fields in PRESETS.items()
    }
    return {
        "patches": len(plan.patch_ids),
        "views": plan.num_views,
        "flips": [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))],
        "blocks": plan.num_blocks,
        "rows": plan.num_rows,
        "rows_per_view": {
            "mean": float(rows.mean()),
            **{f"p{percentile}": float(np.percentile(rows, percentile)) for percentile in PERCENTILES},
            "max": int(rows.max()),
        },
        "rows_per_view_and_level": [float(mean) for mean in plan.level_counts.mean(axis=0)],
        "rows_per_block": {"min": int(plan.rows_per_block.min()), "max": int(plan.rows_per_block.max())},
        "upper_bound_bytes": {preset: plan.num_rows * row_bytes(codecs, config) for preset, codecs in widest.items()},
    }


def row_bytes(codecs: Mapping[str, FieldCodec], config: Config) -> int:
    """Bytes of one row before compression: index, weight, class logits, box logits."""
    sizes = {field: np.dtype(codec.dtype).itemsize for field, codec in codecs.items()}
    box = int(np.prod(build_adapter(config).box_shape))
    return 4 + sizes["weight"] + len(config.classes) * sizes["cls_logits"] + box * sizes["box_logits"]


def print_plan(figures: Mapping[str, Any]) -> None:
    """The plan as a table."""
    table = Table(title="Plan of the teacher cache", show_header=False, title_justify="left")
    rows = figures["rows_per_view"]
    table.add_row("patches x flips = views", f"{figures['patches']} x {len(figures['flips'])} = {figures['views']}")
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
    for preset, size in figures["upper_bound_bytes"].items():
        table.add_row(f"upper bound, codec {preset}", f"{size / 1e6:,.1f} MB before compression")
    Console().print(table)


def print_probe(probe: Probe, plan: Plan) -> None:
    """What the probe saw, as a table."""
    table = Table(title=f"Probe: {probe.views} views, {probe.rows:,} rows", show_header=False, title_justify="left")
    for field, seen in probe.ranges.items():
        codec = probe.codecs[field]
        stored = codec.dtype if codec.is_float else f"{codec.dtype}, step {codec.scale_factor:g}"
        table.add_row(
            field.replace("_", " "),
            f"{seen.low:.2f} to {seen.high:.2f}, stored as {stored}, room from {codec.low:.4g} to {codec.high:.4g}",
        )
    table.add_row("predicted size", f"{probe.bytes / 1e6:,.1f} MB, {probe.bytes_per_row:.1f} bytes a row")
    table.add_row(
        "predicted time of the capture", f"{probe.seconds:,.0f} s, {probe.seconds / plan.num_views:.3g} s a view"
    )
    table.add_row("teacher alone", f"{probe.teacher_seconds:.3g} s a view")
    Console().print(table)
