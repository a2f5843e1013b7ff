"""Table and pictures of what `benchmarks.rate` has measured, every teacher in its file.

python -m benchmarks.rate_report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cache.codec import PRESETS
from pipelines.reporting.plotting import BLUE, GREEN, NEUTRAL, ORANGE, PINK, styled

COLOURS = (NEUTRAL, PINK, ORANGE, BLUE, GREEN)
BOUNDS = {name: bound for name, bound in PRESETS.items() if isinstance(bound, float)}
# Of the gradient's cosine: of `default`, for an untrained student and at the end of training.
COSINE_TARGETS = {"cosine 0.9999": 1e-4, "cosine 0.999": 1e-3}

Point = Mapping[str, Any]


def main(arguments: argparse.Namespace) -> None:
    """Figures -> table, two pictures."""
    teachers = json.loads(Path(arguments.figures).read_text())
    print(as_table(teachers))
    folder = Path(arguments.out)
    draw(teachers, "mean KL(teacher ‖ stored) at T = 5, nats", _divergences, BOUNDS).savefig(folder / "rate_kl.png")
    label = "1 − cosine of the gradients"
    draw(teachers, label, _cosines, COSINE_TARGETS).savefig(folder / "rate_gradients.png")


def as_table(teachers: Mapping[str, Any]) -> str:
    """Markdown: every codec at the bounds of the presets."""
    lines = [
        "| teacher | codec | "
        + " | ".join(f"`{name}`: bytes | 1 − cosine" for name in BOUNDS)
        + " | encode / decode, µs |",
        "|---|---|" + "---:|---|" * len(BOUNDS) + "---|",
    ]
    for teacher, figures in teachers.items():
        for coding, found in figures["codings"].items():
            points = [next(point for point in found["points"] if point["bound"] == bound) for bound in BOUNDS.values()]
            cells = " | ".join(
                f"{point['bytes']:.1f} | " + " / ".join(f"{value:.1e}" for value in point["one_minus_cosine"].values())
                for point in points
            )
            timing = f"{points[-1]['encode_us']:.1f} / {points[-1]['decode_us']:.1f}"
            lines.append(f"| {teacher} | {coding} | {cells} | {timing} |")
    return "\n".join(lines)


def _divergences(points: list[Point]) -> dict[str, list[float]]:
    return {"": [max(point["classes_kl"], point["bins_kl"]) for point in points]}


def _cosines(points: list[Point]) -> dict[str, list[float]]:
    return {name: [point["one_minus_cosine"][name] for point in points] for name in points[0]["one_minus_cosine"]}


@styled
def draw(
    teachers: Mapping[str, Any],
    label: str,
    curves: Callable[[list[Point]], dict[str, list[float]]],
    lines: Mapping[str, float],
) -> Figure:
    """A panel a teacher: bytes of a stored prior against what is lost, a colour a codec."""
    figure = Figure(figsize=(4.6 * len(teachers), 4.4), layout="constrained")
    panels = figure.subplots(1, len(teachers), sharey=True, squeeze=False)[0]
    for axes, (teacher, figures) in zip(panels, teachers.items(), strict=True):
        for (coding, found), colour in zip(figures["codings"].items(), COLOURS, strict=True):
            sizes = [point["bytes"] for point in found["points"]]
            for (name, values), style in zip(curves(found["points"]).items(), ("o-", "s--"), strict=False):
                text = coding if style == "o-" else None
                axes.plot(sizes, values, style, color=colour, markersize=4, label=text)
                if name and colour == COLOURS[-1]:
                    axes.plot([], [], style, color="black", markersize=4, label=f"{name} student")
        for name, value in lines.items():
            axes.axhline(value, color=NEUTRAL, linestyle=":", linewidth=1)
            axes.text(0.99, value, name, transform=axes.get_yaxis_transform(), ha="right", va="bottom", color="#555555")
        axes.set(yscale="log", xlim=(0, None), xlabel="bytes a stored prior", title=teacher)
        axes.grid(axis="y")
    panels[0].set_ylabel(label)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    return figure


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rate_report", description="Table and pictures of rates."
    )
    parser.add_argument(
        "--figures", default="docs/rate.json", help="what benchmarks.rate wrote (default: docs/rate.json)"
    )
    parser.add_argument("--out", default="docs/images", help="folder of the pictures")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
