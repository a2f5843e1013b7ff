"""The README's picture: one patch, its four flips, the region, the stored priors, and what the loss compares.

    python -m benchmarks.overview --config configs/demo/distill.py --cache <demo.zarr> --checkpoint <student.pth>

Everything in it is read from a captured store and computed by a trained student.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from cache.reader import CacheReader
from distill.losses import distillation_loss
from pipelines.base.experiment import load_config
from pipelines.capture.views import TrainingViews
from pipelines.reporting.drawn_view import DrawnView, busy_patch, draw_ready
from pipelines.reporting.pictures import weight_maps
from pipelines.reporting.plotting import BLUE, ORANGE, styled
from pipelines.reporting.student import Student

SHOWN_ROWS = 16
TEMPERATURE = 5.0


@styled
def draw_overview(view: DrawnView, flips: list[np.ndarray], student: tuple[torch.Tensor, torch.Tensor]) -> Figure:
    """One row of five panels, from the patch to the loss."""
    figure = Figure(figsize=(15.5, 3.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14)
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1.6, 1.25])
    _draw_patch(panels[0], view)
    _draw_flips(panels[1], flips)
    _draw_region(panels[2], view)
    chosen = view.kept[0]
    first = max(0, min(chosen - SHOWN_ROWS // 2, len(view.record) - SHOWN_ROWS))
    _draw_rows(panels[3], view, first, chosen)
    _draw_loss(panels[4], view, chosen, student)
    return figure


def _draw_patch(axes: Axes, view: DrawnView) -> None:
    axes.imshow(view.image)
    for corners in view.objects:
        axes.add_patch(Polygon(corners, fill=False, edgecolor="white", linewidth=1.6))
    axes.set_axis_off()
    axes.set_title("1  a patch\nand its labels")


def _draw_flips(axes: Axes, flips: list[np.ndarray]) -> None:
    height, width = flips[0].shape[:2]
    gap = max(2, width // 24)
    board = np.full((2 * height + gap, 2 * width + gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(flips):
        top, left = (place // 2) * (height + gap), (place % 2) * (width + gap)
        board[top : top + height, left : left + width] = image
    axes.imshow(board)
    axes.set_axis_off()
    axes.set_title("2  its four views, each\nseen once by the teacher")


def _draw_region(axes: Axes, view: DrawnView) -> None:
    grid, record = view.sample.grid, view.record
    maps = weight_maps(grid, record.prior_index, record.weight)
    level = int(np.argmax(grid.level_counts(record.prior_index)))
    height, width = maps[level].shape
    stride = grid.strides[level]
    left, right, bottom, top = np.array([0, width, height, 0]) * stride - stride / 2
    axes.imshow(view.image.mean(axis=-1), cmap="gray", alpha=0.6)
    axes.imshow(
        np.ma.masked_equal(maps[level], 0),
        extent=(left, right, bottom, top),
        vmin=0,
        vmax=1,
        alpha=0.85,
        interpolation="nearest",
    )
    axes.set_xlim(-0.5, view.image.shape[1] - 0.5)
    axes.set_ylim(view.image.shape[0] - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title(f"3  the region, from labels:\n{len(record):,} of {grid.num_priors:,} priors")
    axes.text(0.5, -0.02, f"stride {stride}; brighter: larger weight", transform=axes.transAxes, ha="center", va="top")


def _draw_rows(axes: Axes, view: DrawnView, first: int, chosen: int) -> None:
    """Stored priors as pixels: class logits and box logits, each on its own scale."""
    record = view.record
    rows = slice(first, first + SHOWN_ROWS)
    parts = [_scaled(record.cls_logits[rows]), _scaled(record.box_logits[rows].reshape(SHOWN_ROWS, -1))]
    gap = np.full((SHOWN_ROWS, 2), np.nan)
    axes.imshow(np.hstack([parts[0], gap, parts[1]]), aspect="auto", cmap="viridis", interpolation="nearest")
    classes, width = parts[0].shape[1], parts[0].shape[1] + 2 + parts[1].shape[1]
    pairs = zip(record.prior_index[rows], record.weight[rows], strict=True)
    labels = [f"{index:,}   {weight:.2f}" for index, weight in pairs]
    axes.set_yticks(range(SHOWN_ROWS), labels, fontsize=7, family="monospace")
    axes.get_yticklabels()[chosen - first].set_color(BLUE)
    middle = classes + 2 + parts[1].shape[1] / 2 - 0.5
    axes.set_xticks([(classes - 1) / 2, middle], ["classes", "box: 5 parameters × 9 bins"])
    axes.set_xlim(-0.5, width - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("4  stored priors, read back:\nindex, weight, logits")


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-9)


def _draw_loss(axes: Axes, view: DrawnView, chosen: int, student: tuple[torch.Tensor, torch.Tensor]) -> None:
    record = view.record
    teacher = torch.from_numpy(record.box_logits)
    weight = torch.from_numpy(record.weight)
    answers = torch.stack([teacher[chosen], student[1][chosen]]).log_softmax(dim=-1)
    parameter = int((answers[0].exp() * (answers[0] - answers[1])).sum(dim=-1).argmax())
    first, last = view.adapter.bin_ranges[parameter]
    bins = np.linspace(first, last, teacher.shape[-1])
    width = 0.4 * (bins[1] - bins[0])
    for shift, logits, colour, label in (
        (-0.5, teacher, BLUE, "teacher, from the store"),
        (0.5, student[1], ORANGE, "student"),
    ):
        axes.bar(bins + shift * width, logits[chosen, parameter].softmax(dim=0), width=width, color=colour, label=label)
    ld = distillation_loss(student[1], teacher, weight, TEMPERATURE, len(record))
    kd = distillation_loss(student[0], torch.from_numpy(record.cls_logits), weight, TEMPERATURE, len(record))
    axes.set_xlabel(f"{view.adapter.box_parameters[parameter]}, {view.adapter.bin_units[parameter]}")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.5, 1])
    axes.legend(loc="upper left", fontsize=8)
    axes.set_title(f"5  the loss compares: KL over\nall rows, LD {float(ld):.1e}, KD {float(kd):.1e}")


def main(arguments: argparse.Namespace) -> None:
    """Store and student -> the picture."""
    config = load_config(arguments.config)
    reader = CacheReader(arguments.cache or config.cache)
    views = TrainingViews(config)
    patch_id = arguments.patch or busy_patch(reader)
    drawn = [draw_ready(config, views, reader, patch_id, flip) for flip in reader.plan.draws]
    answers = Student(config, arguments.checkpoint).logits(drawn[0].sample.image, drawn[0].record.prior_index)
    draw_overview(drawn[0], [view.image for view in drawn], answers).savefig(arguments.out, dpi=110)
    print(arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the student's config")
    parser.add_argument("--cache", help="instead of the config's")
    parser.add_argument("--checkpoint", required=True, help="a student trained from the cache")
    parser.add_argument("--patch", help="which patch (default: one with many rows)")
    parser.add_argument("--out", type=Path, default=Path("docs/images/overview.png"))
    main(parser.parse_args())
