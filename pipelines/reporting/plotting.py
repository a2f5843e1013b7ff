"""How every figure looks, and a figure as the address of an image that a page carries itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"
PALETTE = (BLUE, ORANGE, GREEN, PINK, RED, SKY, "#999933", "#882255")
COLOURS = {"plain": ORANGE, "live": GREEN, "cached": BLUE, "teacher": PINK}
NEUTRAL = "#7f8a99"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
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
    "grid.color": "#e1e5eb",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    # Text stays text, and a `$` in a name is no formula.
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
}
QUALITY = 88

styled = mpl.rc_context(STYLE)
"""Decorator of functions that draw or save a figure."""


def has_images(figure: Figure) -> bool:
    """Whether a figure shows pixels; any other is drawn by lines alone."""
    return any(axes.images for axes in figure.axes)


@styled
def save(figure: Figure, path: Path) -> Path:
    """Write a figure as `<path>.jpg` where it shows pixels, else as `<path>.png`; returns the file's path."""
    path = path.with_name(f"{path.name}.{'jpg' if has_images(figure) else 'png'}")
    figure.savefig(path, pil_kwargs={"quality": QUALITY})
    return path


@styled
def data_uri(figure: Figure) -> str:
    """A figure inside a page: pixels as WebP, a fifth of a PNG; others as SVG, of which equal ones have equal bytes."""
    content = io.BytesIO()
    if has_images(figure):
        figure.savefig(content, format="webp", pil_kwargs={"quality": QUALITY})
    else:
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    kind = "webp" if has_images(figure) else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def log_y(axes: Axes, values: np.ndarray) -> None:
    """Whole decades around the values above 0, written as 0.01 and 1e-05: matplotlib's own labels are formulas."""
    decades = np.log10(values[values > 0])
    axes.set_yscale("log")
    axes.set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max() + 1e-9))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
