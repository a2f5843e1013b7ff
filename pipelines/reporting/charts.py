"""Charts of the report: matplotlib figures as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

AP_COLUMNS = ("AP", "AP50", "AP75")
# Okabe and Ito's colours, which colour-blind readers tell apart; the page gives each a lighter one on dark ground.
COLOURS = {"plain": "#e69f00", "live": "#009e73", "cached": "#0072b2", "teacher": "#cc79a7"}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999933", "#882255")
NEUTRAL = "#7f8a99"
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": NEUTRAL,
    "xtick.color": NEUTRAL,
    "xtick.labelcolor": "black",
    "ytick.color": NEUTRAL,
    "ytick.labelcolor": "black",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#80808038",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # Text stays text, in the page's font; a `$` in a name is no formula.
    "svg.fonttype": "none",
    "text.parse_math": False,
}
WIDTH = 10.0
LOSSES = ("loss", "loss_cls", "loss_bbox", "loss_ld", "loss_kd")


@dataclass(frozen=True)
class Curve:
    """The losses of one run; runs of one label share colour and mean line."""

    label: str
    colour: str
    losses: Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Bar:
    """One bar: the mean of its values, each of which is drawn as a dot where there are several."""

    label: str
    colour: str
    values: Sequence[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def sd(self) -> float | None:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element: no prolog, no fixed size, no fonts, colours as the page's variables."""
    text = io.StringIO()
    # Names inside (clip paths, markers) differ between the charts of a page and are the same in every run.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" '
        rf'role="img" aria-label="{escape(name)}">',
        svg,
        count=1,
    )
    svg = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;\"]*", _font, svg)
    for colour in (*PALETTE, *COLOURS.values(), NEUTRAL):
        svg = re.sub(f"(?<![-,(]){colour}(?![0-9a-f)])", f"var(--c{colour[1:]})", svg)
    return re.sub(r"#000000(?![0-9a-f])", "var(--ink)", svg)


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"


def draw_losses(curves: Sequence[Curve]) -> Figure:
    """One panel a loss: every run faint, the mean of the runs that share a label on top."""
    names = [name for name in LOSSES if any(name in curve.losses for curve in curves)]
    names += sorted({name for curve in curves for name in curve.losses} - set(names))
    columns = min(3, max(1, len(names)))
    rows = -(-len(names) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            _draw_loss(axes, name, [curve for curve in curves if name in curve.losses])
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        labels = dict.fromkeys((curve.label, curve.colour) for curve in curves)
        handles = [mpl.lines.Line2D([], [], color=colour, linewidth=2.2) for _, colour in labels]
        figure.supxlabel("step", fontsize=STYLE["font.size"])
        figure.get_layout_engine().set(h_pad=0.09)
        figure.legend(handles, [label for label, _ in labels], loc="outside upper left", ncols=min(6, len(labels)))
    return figure


def _draw_loss(axes: Axes, name: str, curves: Sequence[Curve]) -> None:
    for label in dict.fromkeys(curve.label for curve in curves):
        same = [curve for curve in curves if curve.label == label]
        of = [dict(curve.losses[name]) for curve in same]
        # Cached students follow live ones: the wider line below stays visible.
        width = 3.2 if label == "live" else 1.6
        if len(of) > 1:
            for points in of:
                axes.plot(points.keys(), points.values(), color=same[0].colour, alpha=0.3, linewidth=0.9)
        shared = sorted(set.intersection(*(set(points) for points in of)))
        mean = [np.mean([points[step] for points in of]) for step in shared]
        axes.plot(shared, mean, "-o" if len(shared) == 1 else "-", color=same[0].colour, linewidth=width)
    axes.set_title(name)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_bars(panels: Mapping[str, Sequence[Bar]], decimals: Sequence[int]) -> Figure:
    """Panels of horizontal bars side by side, by title, with so many decimals; all have the same labels."""
    labels = [bar.label for bar in next(iter(panels.values()))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.36 * len(labels) + 0.75), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, bars), digits in zip(row, panels.items(), decimals, strict=True):
            _draw_bar_panel(axes, bars, digits)
            axes.set_title(title)
        row[0].set_yticks(range(len(labels)), labels)
        row[0].invert_yaxis()
    return figure


def _draw_bar_panel(axes: Axes, bars: Sequence[Bar], decimals: int) -> None:
    largest = max((max(bar.values) for bar in bars), default=0) or 1
    for place, bar in enumerate(bars):
        axes.barh(place, bar.mean, color=bar.colour, height=0.62, alpha=0.85)
        if len(bar.values) > 1:
            axes.plot(bar.values, [place] * len(bar.values), "o", color="black", markersize=3.2, alpha=0.65)
        text = f"{bar.mean:,.{decimals}f}" + ("" if bar.sd is None else f" ± {bar.sd:,.{decimals}f}")
        axes.annotate(text, (max(bar.mean, *bar.values), place), (5, 0), textcoords="offset points", va="center")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.42 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:,g}")


def draw_differences(differences: Sequence[Mapping[str, Any]], confidence: float) -> Figure:
    """Paired differences of AP in points: each seed as a dot, the mean with its interval."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.46 * len(differences) + 1.0), layout="constrained")
        panels = figure.subplots(1, len(AP_COLUMNS), sharey=True)
        for axes, name in zip(panels, AP_COLUMNS, strict=True):
            for place, difference in enumerate(differences):
                figures = difference[name]
                colour = COLOURS.get(difference["name"].split()[0], NEUTRAL)
                axes.plot(
                    [100 * figures["low"], 100 * figures["high"]], [place] * 2, color=colour, linewidth=3, alpha=0.6
                )
                axes.plot(100 * figures["mean"], place, "D", color=colour, markersize=7)
                axes.plot(
                    [100 * value for value in figures["values"]], [place + 0.26] * len(figures["values"]), "o",
                    color=colour, markersize=3.5,
                )  # fmt: skip
            axes.axvline(0, color=NEUTRAL, linewidth=1)
            axes.set_title(name)
            axes.set_xlabel(f"points, with the {confidence:.0%} interval")
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(differences)), [difference["name"] for difference in differences])
        panels[0].set_ylim(len(differences) - 0.4, -0.6)
    return figure
