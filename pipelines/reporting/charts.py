"""Charts of runs: losses over steps, bars of AP, time and size, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipelines.reporting.plotting import COLOURS, NEUTRAL, STYLE, styled
from pipelines.training.evaluation import AP_COLUMNS

WIDTH = 10.0
LOSSES = ("loss", "loss_cls", "loss_bbox", "loss_ld", "loss_kd")


@dataclass(frozen=True)
class Entry[Value]:
    """What is compared: the values of each figure by its name."""

    label: str
    colour: str
    figures: Mapping[str, Sequence[Value]]


Curve = Entry[tuple[int, float]]
"""Losses: (step, value). Runs of one label share colour and mean line."""
Bar = Entry[float]
"""One bar a panel: the mean of a figure's values, each of which is drawn as a dot where there are several."""


@dataclass(frozen=True)
class Panel:
    """One figure of every bar, times `scale`, with so many decimals."""

    title: str
    figure: str
    scale: float = 1.0
    decimals: int = 1


AP_PANELS = tuple(Panel(name, name, 100) for name in AP_COLUMNS)
COST_PANELS = (
    Panel("seconds a step", "step_seconds", decimals=3),
    Panel("training, minutes", "training_seconds", 1 / 60),
    Panel("peak memory, MB", "peak_memory_bytes", 1e-6, 0),
)


@styled
def draw_losses(curves: Sequence[Curve]) -> Figure:
    """One panel a loss: every run faint, the mean of the runs that share a label on top."""
    found = {name for curve in curves for name in curve.figures}
    names = [name for name in LOSSES if name in found] + sorted(found - set(LOSSES))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _draw_loss(axes, name, [curve for curve in curves if name in curve.figures])
    labels = dict.fromkeys((curve.label, curve.colour) for curve in curves)
    handles = [Line2D([], [], color=colour, linewidth=2.2, label=label) for label, colour in labels]
    figure.supxlabel("step", fontsize=STYLE["font.size"])
    figure.legend(handles=handles, loc="outside upper left", ncols=min(6, len(labels)))
    return figure


def _draw_loss(axes: Axes, name: str, curves: Sequence[Curve]) -> None:
    for label, colour in dict.fromkeys((curve.label, curve.colour) for curve in curves):
        of = [dict(curve.figures[name]) for curve in curves if curve.label == label]
        # Cached students follow live ones: the wider line below stays visible.
        width = 3.2 if label == "live" else 1.6
        if len(of) > 1:
            for points in of:
                axes.plot(list(points), list(points.values()), color=colour, alpha=0.3, linewidth=0.9)
        shared = sorted(set.intersection(*map(set, of)))
        mean = [np.mean([points[step] for points in of]) for step in shared]
        axes.plot(shared, mean, "-o" if len(shared) == 1 else "-", color=colour, linewidth=width)
    axes.set_title(name)
    axes.set_ylim(bottom=0)
    axes.grid()
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


@styled
def draw_bars(panels: Sequence[Panel], bars: Sequence[Bar]) -> Figure:
    """Panels of horizontal bars side by side."""
    figure = Figure(figsize=(WIDTH, 0.36 * len(bars) + 0.75), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel in zip(row, panels, strict=True):
        _draw_bar_panel(axes, panel, bars)
    row[0].set_yticks(range(len(bars)), [bar.label for bar in bars])
    row[0].invert_yaxis()
    return figure


def _draw_bar_panel(axes: Axes, panel: Panel, bars: Sequence[Bar]) -> None:
    largest = 0.0
    for place, bar in enumerate(bars):
        values = panel.scale * np.asarray(bar.figures[panel.figure])
        axes.barh(place, values.mean(), color=bar.colour, height=0.62, alpha=0.85)
        text = f"{values.mean():,.{panel.decimals}f}"
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", color="black", markersize=3.2, alpha=0.65)
            text += f" ± {values.std(ddof=1):,.{panel.decimals}f}"
        axes.annotate(text, (values.max(), place), (5, 0), textcoords="offset points", va="center")
        largest = max(largest, values.max())
    axes.set_title(panel.title)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    # Room for the numbers behind the bars.
    axes.set_xlim(0, 1.42 * (largest or 1))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:,g}")


@styled
def draw_differences(differences: Sequence[Mapping[str, Any]], confidence: float) -> Figure:
    """Paired differences of AP in points: each seed as a dot, the mean with its interval."""
    figure = Figure(figsize=(WIDTH, 0.46 * len(differences) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(AP_COLUMNS), sharey=True)
    for axes, name in zip(panels, AP_COLUMNS, strict=True):
        for place, difference in enumerate(differences):
            low, mean, high = (100 * difference[name][key] for key in ("low", "mean", "high"))
            values = 100 * np.asarray(difference[name]["values"])
            colour = COLOURS.get(difference["name"].split()[0], NEUTRAL)
            axes.plot([low, high], [place] * 2, color=colour, linewidth=3, alpha=0.6)
            axes.plot(mean, place, "D", color=colour, markersize=7)
            axes.plot(values, [place + 0.26] * len(values), "o", color=colour, markersize=3.5)
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        axes.set_title(name)
        axes.set_xlabel(f"points, with the {confidence:.0%} interval")
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(differences)), [difference["name"] for difference in differences])
    panels[0].set_ylim(len(differences) - 0.4, -0.6)
    return figure
