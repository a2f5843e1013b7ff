"""The chart of a sweep: AP of every run, and curves over the settings that take several values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.studies.sweep import describe_settings, short_key, value_at

Row = Mapping[str, Any]
Points = Sequence[tuple[float, Row]]

MARKERS = {"AP": ("#0072B2", "o"), "AP50": ("#E69F00", "s"), "AP75": ("#009E73", "^")}
LONGEST_LABEL = 70


def draw_sweep(rows: Sequence[Row], base: Mapping[str, Any], title: str) -> Figure:
    """AP, AP50 and AP75 of every run, and curves over each setting that has three values or more."""
    curves = list(numeric_curves(rows, base))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 10}):
        height = max(2.6, 0.42 * len(rows) + 1.5)
        figure = Figure(figsize=(8 + 2.2 * len(curves), height), layout="constrained")
        panels = figure.subplots(1, 1 + len(curves), squeeze=False, width_ratios=[2.2] + [1] * len(curves))[0]
        _draw_runs(panels[0], rows)
        for axes, (key, points) in zip(panels[1:], curves, strict=True):
            _draw_curve(axes, key, points)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def numeric_curves(rows: Sequence[Row], base: Mapping[str, Any]) -> Iterator[tuple[str, Points]]:
    """(key, points) of every setting that takes three values or more in runs that differ from the base in it alone.

    A seed is no setting to draw a curve over.
    """
    keys = dict.fromkeys(key for row in rows if len(row["settings"]) == 1 for key in row["settings"])
    keys.pop("randomness.seed", None)
    for key in keys:
        points = {}
        for row in rows:
            if row["kind"] == "cached" and set(row["settings"]) <= {key}:
                value = row["settings"][key] if row["settings"] else value_at(base, key)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    points[float(value)] = row
        if len(points) >= 3:
            yield key, sorted(points.items())


def _draw_runs(axes: Axes, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    for name, (colour, marker) in MARKERS.items():
        axes.plot([100 * row[name] for row in rows], places, marker, color=colour, label=name, markersize=7)
        for row in rows:
            if row["kind"] == "plain":
                axes.axvline(100 * row[name], color=colour, linestyle=":", linewidth=1)
    labels = [f"{row['name']}\n{describe_settings(row['settings'])}".rstrip() for row in rows]
    axes.set_yticks(
        places, [label if len(label) < LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in labels]
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", color="#80808040")
    axes.set_xlabel("percent" + (" (dotted: plain student)" if any(row["kind"] == "plain" for row in rows) else ""))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def _draw_curve(axes: Axes, key: str, points: Points) -> None:
    for name, (colour, marker) in MARKERS.items():
        axes.plot([value for value, _ in points], [100 * row[name] for _, row in points], f"{marker}-", color=colour)
    axes.set(xlabel=short_key(key), ylabel="percent")
