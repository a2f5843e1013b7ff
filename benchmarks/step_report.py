"""Figures of the step benchmark for people: tables, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pipelines.timing.stages import STAGES

WIDTH = 118
# Okabe and Ito's colours and greys, in the order of STAGES.
COLOURS = (
    "#999999",
    "#CCCCCC",
    "#56B4E9",
    "#E69F00",
    "#F0E442",
    "#D55E00",
    "#009E73",
    "#0072B2",
    "#333333",
    "#EEEEEE",
)


def print_report(figures: Mapping[str, Any]) -> None:
    """Steps, profile and loaders as tables."""
    console = Console(highlight=False)
    # A file or a pipe has no width; 80 columns would break every row in two.
    console.width = max(console.width, WIDTH)
    run = figures["run"]
    console.print(
        f"{run['origin']}; batch {run['batch_size']} of {run['image_shape'][0]} x {run['image_shape'][1]} px, "
        f"{run['objects_per_image']:.1f} objects an image, {run['rows_per_image']:,.0f} rows a view; {run['device']}, "
        f"{run['threads']} threads, torch {run['torch']}"
    )
    rows = figures["rows"]
    console.print(_steps_table(figures))
    console.print(_profile_table(rows))
    loaders = {name: row["loader"] for name, row in rows.items() if row.get("loader")}
    if loaders:
        console.print(_loader_table(loaders, run["workers"]))


def _steps_table(figures: Mapping[str, Any]) -> Table:
    rows = figures["rows"]
    baselines = [name for name in ("plain", "cached") if name in rows]
    table = Table(title=f"Training step, {figures['run']['pairs']} pairs")
    table.add_column("row")
    for column in ("median, ms", *(f"x {name} [interval]" for name in baselines)):
        table.add_column(column, justify="right")
    has_memory = any("memory" in row for row in rows.values())
    if has_memory:
        table.add_column("peak MB (x plain)" if "plain" in rows else "peak MB", justify="right")
    for name, row in rows.items():
        cells = [row["title"], f"{1e3 * row['median_seconds']:,.1f}"]
        for baseline in baselines:
            ratio = row["ratio"][baseline]
            interval = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
            cells.append("1" if name == baseline else interval)
        if has_memory:
            peak = row["memory"]["peak"]
            share = f" ({peak / rows['plain']['memory']['peak']:.3f})" if "plain" in rows else ""
            cells.append(f"{peak / 1e6:,.0f}{share}")
        table.add_row(*cells)
    ratios = [ratio for row in rows.values() for ratio in row["ratio"].values()]
    table.caption = "No plain or cached row to compare with"
    if ratios:
        table.caption = f"Median of paired ratios and its rank interval, coverage {ratios[0]['coverage']:.1%}"
    if has_memory:
        table.caption = f"{table.caption}. Memory: {figures['run']['memory']}"
    return table


def _profile_table(rows: Mapping[str, Any]) -> Table:
    table = Table(title="Where the step goes: median ms of each stage")
    table.add_column("stage")
    for row in rows.values():
        table.add_column(row["title"], justify="right")
    for stage in STAGES:
        values = [row["stages"][stage] for row in rows.values()]
        if any(values):
            table.add_row(stage, *(f"{1e3 * value:,.1f}" for value in values))
    return table


def _loader_table(loaders: Mapping[str, Any], workers: int) -> Table:
    table = Table(title=f"Blocked in next(loader), {workers} workers, between real steps")
    for column in ("row", "median, ms", "largest, ms", "share of the step", "loading a sample in its worker, ms"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for name, loader in loaders.items():
        table.add_row(
            name,
            f"{1e3 * loader['wait_median']:.2f}",
            f"{1e3 * loader['wait_max']:.2f}",
            f"{loader['wait_share']:.2%}",
            f"{1e3 * loader['load_median']:.1f}",
        )
    return table


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Stacked bars of the stages, one a row."""
    rows = figures["rows"]
    figure = Figure(figsize=(9, 1.4 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    titles = [row["title"] for row in rows.values()]
    left = np.zeros(len(rows))
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        width = np.asarray([max(0.0, row["stages"][stage]) for row in rows.values()]) * 1e3
        if width.any():
            axes.barh(titles, width, left=left, color=colour, edgecolor="white", linewidth=0.5, label=stage)
            left += width
    axes.invert_yaxis()
    axes.set_xlabel("ms of a training step (medians of the stages)")
    axes.spines[["top", "right"]].set_visible(False)
    run = figures["run"]
    axes.set_title(f"batch {run['batch_size']} x {run['image_shape'][0]} px, {run['device']}", loc="left", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
