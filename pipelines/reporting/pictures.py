"""Pictures of one patch of a cache: its region, the teacher's boxes, and the distributions of some priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.patheffects import withStroke
from mmengine.config import Config
from torch import Tensor

from cache.grid import AnchorGrid
from cache.reader import CacheReader
from pipelines.capture.views import TrainingViews
from pipelines.reporting.drawn_view import FALLBACK_PRIORS, MIN_SCORE, DrawnView, busy_patch, decode_boxes, draw_ready
from pipelines.reporting.plotting import BLUE, GREEN, ORANGE, PINK, RED, SKY, styled
from pipelines.reporting.student import Student

# Classes beyond these colours change the line's style.
CLASS_COLOURS = (ORANGE, SKY, "#f0e442", RED, PINK, GREEN, BLUE)
LINE_STYLES = ("-", "--", ":")
TEACHER_COLOUR, STUDENT_COLOUR = BLUE, ORANGE
DISTRIBUTIONS = 4
MOST_DRAWN = 4
LEVEL_COLUMNS = 3


def draw_patch(
    config: Config,
    reader: CacheReader,
    *,
    patch_id: str | None = None,
    draw: str | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, Figure]:
    """`region` and `distributions` of one view, and `detections` in a few draws; a student's beside the teacher's.

    Raises:
        ValueError: no such patch in the cache or in the training set, no such draw in the cache, or no such checkpoint.
    """
    views = TrainingViews(config)
    patch_id = patch_id or busy_patch(reader)
    draws = list(reader.plan.draws)
    draw = draw or draws[:MOST_DRAWN][-1]
    reader.find(patch_id, draw)
    if patch_id not in views:
        raise ValueError(f"patch {patch_id} is in the cache but not in the training set. Give another --patch")
    shown = draws[:MOST_DRAWN] if draw in draws[:MOST_DRAWN] else [*draws[: MOST_DRAWN - 1], draw]
    drawn = [draw_ready(config, views, reader, patch_id, name) for name in shown]
    chosen = drawn[shown.index(draw)]
    answers = None
    if checkpoint is not None:
        answers = Student(config, checkpoint).logits(chosen.sample.image, chosen.record.prior_index)
    return {
        "region": draw_region(chosen),
        "detections": draw_detections(drawn, reader),
        "distributions": draw_distributions(chosen, reader.manifest.head, answers),
    }


@styled
def draw_region(view: DrawnView) -> Figure:
    """The image with its labels, and over it the stored priors of every level."""
    grid, record = view.sample.grid, view.record
    maps = weight_maps(grid, record.prior_index, record.weight)
    panels = 1 + len(maps)
    columns = 4 if panels == 4 else min(LEVEL_COLUMNS, panels)
    rows = -(-panels // columns)
    height, width = view.image.shape[:2]
    figure = Figure(figsize=(12, rows * (11 / columns * height / width + 0.35) + 0.5), layout="constrained")
    figure.suptitle(f"{view.patch_id}, draw {view.draw}: stored priors by level")
    all_axes = figure.subplots(rows, columns, squeeze=False)
    for axes in all_axes.flat:
        axes.set_axis_off()
    first, *level_axes = all_axes.ravel()[:panels]
    _show_image(first, view.image)
    for box in view.objects:
        _label_outline(first, box)
    first.set_title(_count(len(view.objects), "object"))
    counts = grid.level_counts(record.prior_index)
    for axes, stride, weights, count in zip(level_axes, grid.strides, maps, counts, strict=True):
        shown = _draw_level(axes, view.image, weights, stride)
        axes.set_title(f"stride {stride}: {count:,} of {weights.size * grid.anchors_per_cell:,} priors")
    figure.colorbar(shown, ax=all_axes, shrink=0.7, pad=0.01, label="weight (IoU)")
    return figure


def weight_maps(grid: AnchorGrid, prior_index: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """(h, w) of every level: the largest weight of the priors of a cell, 0 where none is stored."""
    dense = np.zeros(grid.num_priors, dtype=np.float32)
    dense[prior_index] = weight
    levels = np.split(dense, grid.level_offsets[1:-1])
    return [
        level.reshape(*shape, grid.anchors_per_cell).max(axis=-1)
        for level, shape in zip(levels, grid.feature_sizes, strict=True)
    ]


def _draw_level(axes: Axes, image: np.ndarray, weights: np.ndarray, stride: int) -> AxesImage:
    axes.imshow(image.mean(axis=-1), cmap="gray", alpha=0.55)
    height, width = weights.shape
    # Centres of the cells sit on multiples of the stride.
    left, right, bottom, top = np.array([0, width, height, 0]) * stride - stride / 2
    stored = np.ma.masked_equal(weights, 0)
    shown = axes.imshow(stored, extent=(left, right, bottom, top), vmin=0, vmax=1, alpha=0.8, interpolation="nearest")
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    return shown


@styled
def draw_detections(views: Sequence[DrawnView], reader: CacheReader) -> Figure:
    """A patch in some draws, with its labels and the boxes decoded from the store."""
    classes = reader.manifest.head["classes"]
    columns = min(2, len(views))
    rows = -(-len(views) // columns)
    height, width = views[0].image.shape[:2]
    figure = Figure(figsize=(5 * columns, 5 * rows * height / width + 1.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(views) :]:
        axes.set_axis_off()
    for axes, view in zip(panels, views, strict=False):
        _show_image(axes, view.image)
        for box in view.objects:
            _label_outline(axes, box)
        for row in view.kept:
            _outline(axes, view.boxes[row], **_class_line(int(view.labels[row])))
        unsure = "" if view.is_sure else f" below {MIN_SCORE}"
        axes.set_title(
            f"draw {view.draw}: {_count(len(view.kept), 'box', 'boxes')}{unsure} from {len(view.record):,} priors"
        )
    figure.suptitle(
        f"{views[0].patch_id}: the teacher's boxes, decoded from {reader.location.name}\n{threshold_text(views)}"
    )
    seen = sorted({int(view.labels[row]) for view in views for row in view.kept})
    handles = [Line2D([], [], **_class_line(label), label=classes[label]) for label in seen]
    handles.append(Line2D([], [], color="black", linestyle=(0, (3, 3)), linewidth=1.5, label="labels"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))
    return figure


def threshold_text(views: Sequence[DrawnView]) -> str:
    """Which boxes are drawn, and why."""
    text = f"after NMS, with a score of {MIN_SCORE} or more (mmdet's threshold for pictures)"
    if not all(view.is_sure for view in views):
        text += f"; where none reaches it, those of the {FALLBACK_PRIORS} best priors"
    return text


@styled
def draw_distributions(view: DrawnView, head: Mapping[str, Any], student: tuple[Tensor, Tensor] | None) -> Figure:
    """The bins of every box parameter at some of the best priors.

    head: that section of the manifest. student: its class and box logits at the view's stored priors.
    """
    rows = _best_of_each_class(view)
    names, lines = head["box_parameters"], max(1, len(rows))
    figure = Figure(figsize=(14, 2.3 * lines + 1), layout="constrained")
    panels = figure.subplots(lines, 1 + len(names), squeeze=False, width_ratios=[1.15, *[1] * len(names)])
    figure.suptitle(
        f"{view.patch_id}, draw {view.draw}: the teacher's distributions at {_count(len(rows), 'prior')} among its "
        "best (temperature 1)"
    )
    for line, row in zip(panels, rows, strict=False):
        _draw_prior(line[0], view, head["classes"], row, student)
        for parameter, axes in enumerate(line[1:]):
            answers = [(torch.from_numpy(view.record.box_logits[row, parameter]), TEACHER_COLOUR)]
            if student is not None:
                answers.append((student[1][row, parameter], STUDENT_COLOUR))
            first, last = head["bin_ranges"][parameter]
            _draw_bins(axes, np.linspace(first, last, head["num_bins"]), answers)
            axes.set_xlabel(f"{names[parameter]} ({view.adapter.bin_units[parameter]})")
        line[1].set_ylabel("probability")
    if not rows:
        for axes in panels.flat:
            axes.set_axis_off()
        panels[0, 0].text(0.5, 0.5, "a view without rows", ha="center", transform=panels[0, 0].transAxes)
    handles: list[Patch | Line2D] = [Patch(color=TEACHER_COLOUR, label="teacher, from the store")]
    if student is not None:
        handles.append(Patch(color=STUDENT_COLOUR, label="student"))
    handles.append(Line2D([], [], color="#555555", linestyle="--", label="expected value"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _best_of_each_class(view: DrawnView) -> list[int]:
    """The best detection of each class, then the best of the others."""
    first_of_class = {int(view.labels[row]): row for row in reversed(view.kept)}
    ranked = sorted(first_of_class.values(), key=lambda row: -float(view.scores[row]))
    return (ranked + [row for row in view.kept if row not in ranked])[:DISTRIBUTIONS]


def _draw_prior(
    axes: Axes, view: DrawnView, classes: Sequence[str], row: int, student: tuple[Tensor, Tensor] | None
) -> None:
    """The box of one prior, and what lies around it."""
    record, label = view.record, int(view.labels[row])
    box = view.boxes[row]
    _show_image(axes, view.image)
    for other in view.objects:
        _label_outline(axes, other)
    score = f"score {view.scores[row]:.2f}"
    if student is not None:
        score += f", student {student[0][row, label].sigmoid():.2f}"
        index = record.prior_index[row : row + 1]
        answer = decode_boxes(view.adapter, view.sample, index, student[1][row : row + 1])
        _outline(axes, view.adapter.corners(answer)[0].numpy(), color=STUDENT_COLOUR, linewidth=2.5)
    _outline(axes, box, color=TEACHER_COLOUR, linewidth=2.5)
    axes.set_title(f"{classes[label]}\n{score}")
    axes.set_xlabel(f"prior {record.prior_index[row]:,}, weight {record.weight[row]:.2f}")
    height, width = view.image.shape[:2]
    x, y = box.mean(axis=0)
    reach = 0.9 * max(np.linalg.norm(box - np.roll(box, 1, axis=0), axis=1).max(), 16)
    axes.set_xlim(max(-0.5, x - reach), min(width - 0.5, x + reach))
    axes.set_ylim(min(height - 0.5, y + reach), max(-0.5, y - reach))


def _draw_bins(axes: Axes, values: np.ndarray, answers: Sequence[tuple[Tensor, str]]) -> None:
    width = 0.8 * (values[1] - values[0]) / len(answers)
    for position, (logits, colour) in enumerate(answers):
        probability = logits.softmax(dim=0).numpy()
        axes.bar(values + (position - (len(answers) - 1) / 2) * width, probability, width=width, color=colour)
        axes.axvline(float(probability @ values), color=colour, linestyle="--", linewidth=1.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(axis="y")
    ticks = values[:: max(1, (len(values) - 1) // 4)]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])


def _show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _class_line(label: int) -> dict[str, Any]:
    """Colour and line style of a class."""
    style = LINE_STYLES[label // len(CLASS_COLOURS) % len(LINE_STYLES)]
    return {"color": CLASS_COLOURS[label % len(CLASS_COLOURS)], "linestyle": style, "linewidth": 2}


def _outline(axes: Axes, corners: np.ndarray, *, color: str, linewidth: float, linestyle: str = "-") -> None:
    # A dark edge keeps the line visible on light ground.
    edge = [withStroke(linewidth=linewidth + 1.2, foreground="#00000088")]
    axes.add_patch(
        Polygon(corners, fill=False, edgecolor=color, linewidth=linewidth, linestyle=linestyle, path_effects=edge)
    )


def _label_outline(axes: Axes, corners: np.ndarray) -> None:
    """White dashes with black gaps: visible on any ground, and no class's colour."""
    axes.add_patch(Polygon(corners, fill=False, edgecolor="black", linewidth=1.4))
    axes.add_patch(Polygon(corners, fill=False, edgecolor="white", linewidth=1.4, linestyle=(0, (3, 3))))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
