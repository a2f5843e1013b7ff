"""One chart of a whole store: rows, bytes, values and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cache.codec import LOGIT_FIELDS
from cache.layout import ERROR_TEMPERATURES
from cache.reader import CacheReader
from cache.statistics import FLOAT_EDGES, WEIGHT_EDGES, BlockStatistics
from pipelines.reporting.plotting import BLUE, GREEN, ORANGE, PINK, RED, SKY, log_y, styled
from pipelines.reporting.store_figures import block_bytes

FIELD_COLOURS = {"cls_logits": BLUE, "box_logits": RED}


@styled
def draw_statistics(reader: CacheReader, statistics: BlockStatistics, figures: Mapping[str, Any]) -> Figure:
    """Eight panels; `figures` as `store_figures` gives them."""
    figure = Figure(figsize=(17, 7.6), layout="constrained")
    panels = figure.subplots(2, 4)
    figure.suptitle(
        f"{reader.location.name}: {figures['views']:,} views, {figures['rows']:,} rows, "
        f"{figures['bytes'] / 1e6:,.2f} MB, preset {figures['preset']}",
        fontsize=14,
    )
    _draw_rows(panels[0, 0], reader.plan.priors_per_view, figures["rows_per_view"])
    _draw_levels(panels[0, 1], figures["levels"])
    _draw_sizes(panels[0, 2], figures)
    _draw_block_sizes(panels[0, 3], list(block_bytes(statistics).values()))
    for axes, name in zip(panels[1, :2], LOGIT_FIELDS, strict=True):
        _draw_values(axes, name, statistics.histograms[name])
    _draw_weights(panels[1, 2], statistics.histograms["weight"])
    _draw_errors(panels[1, 3], figures["errors"])
    return figure


def _draw_rows(axes: Axes, rows: np.ndarray, spread: Mapping[str, float]) -> None:
    axes.hist(rows, bins=min(40, int(rows.max()) + 1), color=SKY)
    for key in ("p50", "p99"):
        axes.axvline(spread[key], color="black", linestyle=":")
    axes.set(
        title=f"Rows of a view: median {spread['p50']:,.0f}, p99 {spread['p99']:,.0f}", xlabel="rows", ylabel="views"
    )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_levels(axes: Axes, levels: Sequence[Mapping[str, float]]) -> None:
    places = np.arange(len(levels))
    means, low, high = (np.asarray([level[key] for level in levels]) for key in ("mean", "p5", "p95"))
    axes.bar(places, means, color=SKY)
    axes.vlines(places, low, high, color="black")
    axes.set_xticks(places, [f"{level['stride']}" for level in levels])
    axes.set(title="Rows of a view by level: mean, p5 to p95", xlabel="stride, pixels", ylabel="rows")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _draw_sizes(axes: Axes, figures: Mapping[str, Any]) -> None:
    arrays = {name: size["bytes_per_row"] for name, size in figures["arrays"].items() if size["bytes_per_row"] >= 0.005}
    bars = axes.barh(list(arrays), list(arrays.values()), color=GREEN)
    axes.invert_yaxis()
    axes.bar_label(bars, fmt="{:.2f}", padding=3)
    axes.set_xlim(0, 1.2 * max(arrays.values()))
    axes.set(title=f"Bytes a row: {figures['bytes_per_row']:.1f}", xlabel="bytes")


def _draw_block_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    scale, unit = (1e3, "kB") if max(sizes) < 1e6 else (1e6, "MB")
    # From 0 on: the picture says how evenly blocks are filled.
    axes.hist(np.asarray(sizes) / scale, bins=40, range=(0, 1.1 * max(sizes) / scale), color=PINK)
    axes.set(title=f"Size of a block ({len(sizes)} captured)", xlabel=unit, ylabel="blocks")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_values(axes: Axes, name: str, counts: np.ndarray) -> None:
    used = np.flatnonzero(counts)
    low, high = FLOAT_EDGES[used[0]], FLOAT_EDGES[used[-1] + 1]
    margin = 0.05 * (high - low)
    axes.stairs(counts / counts.sum(), FLOAT_EDGES, fill=True, color=FIELD_COLOURS[name])
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    log_y(axes, counts[used] / counts.sum())
    axes.set(title=name.replace("_", " "), xlabel="logit", ylabel="share of values")


def _draw_weights(axes: Axes, counts: np.ndarray) -> None:
    axes.stairs(counts / max(1, counts.sum()), WEIGHT_EDGES, fill=True, color=ORANGE)
    axes.set(title="Region weights", xlabel="weight (IoU)", ylabel="share of rows")


def _draw_errors(axes: Axes, errors: Mapping[str, Mapping[str, float]]) -> None:
    for field, colour in FIELD_COLOURS.items():
        measured = [errors[f"{field[:3]}_mean_kl_t{temperature:g}"] for temperature in ERROR_TEMPERATURES]
        if any(error["mean"] for error in measured):
            means, largest = ([error[key] for error in measured] for key in ("mean", "largest_block"))
            axes.plot(ERROR_TEMPERATURES, means, "o-", color=colour, label=field.replace("_", " "))
            axes.plot(ERROR_TEMPERATURES, largest, "s:", color=colour, markerfacecolor="none")
    axes.set_xscale("log")
    axes.set_xticks(ERROR_TEMPERATURES, [f"{temperature:g}" for temperature in ERROR_TEMPERATURES])
    axes.minorticks_off()
    axes.set(title="KL(teacher, stored): mean, largest block", xlabel="temperature", ylabel="nats a softmax row")
    if axes.lines:
        log_y(axes, np.concatenate([line.get_ydata() for line in axes.lines]))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no error", transform=axes.transAxes, ha="center")
