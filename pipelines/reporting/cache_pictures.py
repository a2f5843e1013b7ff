"""Pictures of a cache: statistics of the store, a patch with the teacher's boxes, distributions of chosen priors."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from mmcv.ops import batched_nms
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor

from cache.layout import ERROR_COLUMNS, ERROR_TEMPERATURES
from cache.quantize import LOGIT_FIELDS, FieldCodec
from cache.reader import CacheReader, TargetRecord
from cache.statistics import FLOAT_EDGES, WEIGHT_EDGES, BlockStatistics
from distill.adapter import HeadAdapter
from distill.rows import Rows
from distill.teacher import FrozenTeacher
from pipelines.capture.views import TrainingViews, ViewSample
from pipelines.training.evaluation import detector_config

# Okabe and Ito's colours, which colour-blind readers tell apart; classes beyond them change the line's style.
PALETTE = ("#E69F00", "#56B4E9", "#F0E442", "#D55E00", "#CC79A7", "#009E73", "#0072B2")
TEACHER_COLOUR, STUDENT_COLOUR = "#0072B2", "#E69F00"
LINE_STYLES = ("-", "--", ":")
FIELD_COLOURS = {"cls_logits": "#0072B2", "box_logits": "#D55E00"}

MIN_SCORE = 0.3
# Priors that are decoded where none reaches that score.
FALLBACK_PRIORS = 20
DISTRIBUTIONS = 4
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "figure.dpi": 120,
    "savefig.bbox": "tight",
    # A `$` in a name is no formula.
    "text.parse_math": False,
}


def draw_statistics(reader: CacheReader, statistics: BlockStatistics, figures: dict[str, Any], path: Path) -> Path:
    """Rows, bytes, values and errors of the whole store in eight panels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(19, 8.4), layout="constrained")
        panels = figure.subplots(2, 4)
        figure.suptitle(
            f"{reader.location.name}: {figures['views']:,} views, {figures['rows']:,} rows, "
            f"{figures['bytes'] / 1e6:,.1f} MB, preset {figures['preset']}",
            fontsize=14,
        )
        _draw_rows(panels[0, 0], reader.plan.rows_per_view, figures["rows_per_view"])
        _draw_levels(panels[0, 1], figures["levels"])
        _draw_sizes(panels[0, 2], figures)
        _draw_block_sizes(panels[0, 3], statistics)
        for axes, name in zip(panels[1, :2], LOGIT_FIELDS, strict=True):
            _draw_values(axes, name, FieldCodec.from_json(reader.manifest.codec[name]), statistics)
        _draw_weights(panels[1, 2], statistics.histograms["weight"])
        _draw_errors(panels[1, 3], figures["errors"])
        figure.savefig(path)
    return path


def _with_commas(axis: Axis) -> None:
    axis.set_major_formatter("{x:,.0f}")


def _draw_rows(axes: Axes, rows: np.ndarray, spread: dict[str, float]) -> None:
    axes.hist(rows, bins=40, color="#0072B2")
    for name, style in (("p50", "-"), ("mean", "--"), ("p99", ":")):
        label = {"p50": "median", "p99": "99th percentile"}.get(name, name)
        axes.axvline(spread[name], color="black", linestyle=style, label=f"{label} {spread[name]:,.0f}")
    axes.set(title="Rows of a view", xlabel="rows", ylabel="views")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _with_commas(axes.xaxis)
    # Room for the legend above the bars.
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    axes.legend(loc="upper left", framealpha=1, edgecolor="none")


def _draw_levels(axes: Axes, levels: Sequence[dict[str, float]]) -> None:
    places = np.arange(len(levels))
    means = np.asarray([level["mean"] for level in levels])
    ends = np.asarray([[level["p5"], level["p95"]] for level in levels]).T
    axes.bar(places, means, color="#56B4E9")
    # Percentiles may lie on one side of a mean that few views make.
    axes.errorbar(
        places, means, yerr=np.abs(ends - means), fmt="none", ecolor="black", capsize=5, label="5th to 95th percentile"
    )
    axes.set_xticks(places, [f"{level['stride']}" for level in levels])
    axes.set(title="Rows of a view by level (mean)", xlabel="stride (pixels)", ylabel="rows")
    _with_commas(axes.yaxis)
    axes.legend(frameon=False)


def _draw_sizes(axes: Axes, figures: dict[str, Any]) -> None:
    arrays = {name: size for name, size in figures["arrays"].items() if size["bytes_per_row"] >= 0.005}
    names = list(arrays)[::-1]
    values = [arrays[name]["bytes_per_row"] for name in names]
    bars = axes.barh(names, values, color="#009E73")
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.set_xlim(0, 1.15 * max(values))
    axes.set(title=f"Bytes a row ({figures['bytes_per_row']:.1f} in all)", xlabel="bytes")


def _draw_block_sizes(axes: Axes, statistics: BlockStatistics) -> None:
    totals = np.sum([list(sizes.values()) for sizes in statistics.object_bytes.values()], axis=0) / 1e6
    axes.hist(totals, bins=min(40, max(5, len(totals) // 2)), color="#CC79A7")
    axes.set(title=f"Size of the {len(totals)} blocks", xlabel="MB", ylabel="blocks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_values(axes: Axes, name: str, codec: FieldCodec, statistics: BlockStatistics) -> None:
    counts = statistics.histograms[name]
    edges = (
        FLOAT_EDGES if codec.is_float else codec.add_offset + codec.scale_factor * (np.arange(len(counts) + 1) - 0.5)
    )
    used = np.flatnonzero(counts)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=FIELD_COLOURS[name])
    axes.set_yscale("log")
    if codec.is_float:
        margin = max(1.0, 0.1 * (edges[used[-1] + 1] - edges[used[0]]))
        axes.set_xlim(edges[used[0]] - margin, edges[used[-1] + 1] + margin)
        kind = codec.dtype
    else:
        axes.set_xlim(edges[0], edges[-1])
        kind = f"{codec.dtype}, step {codec.scale_factor:g}"
    label = "logit" if codec.is_float else "logit (the axis is the range that the codes hold)"
    axes.set(title=f"{name.replace('_', ' ')} ({kind})", xlabel=label, ylabel="share of values")


def _draw_weights(axes: Axes, counts: np.ndarray) -> None:
    axes.stairs(counts / max(1, counts.sum()), WEIGHT_EDGES, fill=True, color="#E69F00")
    axes.set(title="Region weights", xlabel="weight (IoU)", ylabel="share of rows")


def _draw_errors(axes: Axes, errors: dict[str, dict[str, float]]) -> None:
    for name, field in (("cls", "cls_logits"), ("box", "box_logits")):
        columns = [column for column in ERROR_COLUMNS if column.startswith(f"{name}_mean_kl")]
        means = [errors[column]["mean"] for column in columns]
        if any(means):
            colour, label = FIELD_COLOURS[field], field.replace("_", " ")
            largest = [errors[column]["largest_block"] for column in columns]
            axes.plot(ERROR_TEMPERATURES, means, "o-", color=colour, markersize=4, label=f"{label}, mean")
            axes.plot(
                ERROR_TEMPERATURES, largest, "s", color=colour, markersize=9, fillstyle="none", label="largest block"
            )
            axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set_xticks(ERROR_TEMPERATURES, [f"{temperature:g}" for temperature in ERROR_TEMPERATURES])
    axes.minorticks_off()
    axes.set(title="KL(teacher, stored) of a softmax row", xlabel="temperature", ylabel="nats")
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "no error", transform=axes.transAxes, ha="center")


@dataclass(frozen=True)
class DrawnView:
    """A view as it is drawn; n rows.

    image: (H, W, 3) uint8 RGB. objects: (G, 4, 2) corners of the ground truth. boxes: (n, 4, 2) corners of the decoded
    boxes. record: what is stored. kept: rows of the detections after NMS, best first.
    """

    flip: str
    image: np.ndarray
    objects: np.ndarray
    record: TargetRecord
    boxes: np.ndarray
    scores: Tensor
    labels: Tensor
    kept: Tensor


def draw_views(
    config: Config,
    reader: CacheReader,
    out: Path,
    *,
    patch_id: str | None = None,
    flip: str | None = None,
    checkpoint: str | None = None,
) -> list[Path]:
    """`detections.png`: a patch under every flip, and `distributions.png`: some priors of one of the views.

    Raises:
        ValueError: no such patch in the cache or in the training set, or no such flip in the cache.
    """
    views = TrainingViews(config, pixels=True)
    patch_id = patch_id or busy_patch(reader)
    flips = list(reader.manifest.views["flips"])
    flip = flip or flips[-1]
    reader.view_index(patch_id, flip)
    if patch_id not in views:
        raise ValueError(f"patch {patch_id} is in the cache but not in the training set. Give another --patch")
    samples = [views.sample(patch_id, name) for name in flips]
    drawn = [
        draw_ready(views.adapter, reader, sample, patch_id, name, config)
        for name, sample in zip(flips, samples, strict=True)
    ]
    student = None if checkpoint is None else FrozenTeacher.load(detector_config(config), checkpoint)
    with mpl.rc_context(STYLE):
        detections = _draw_detections(reader, drawn, patch_id, out / "detections.png")
        shown, sample = drawn[flips.index(flip)], samples[flips.index(flip)]
        answer = None if student is None else student_logits(config, student, sample.image, shown.record.prior_index)
        distributions = _draw_distributions(
            reader, views.adapter, sample, shown, answer, patch_id, out / "distributions.png"
        )
    return [detections, distributions]


def busy_patch(reader: CacheReader) -> str:
    """A captured patch with many rows: the 90th percentile."""
    plan = reader.plan
    rows = np.bincount(plan.view_patch, weights=plan.rows_per_view)
    missing = reader.missing_blocks()
    captured = np.unique(plan.view_patch[~np.isin(plan.block, missing)])
    order = captured[np.argsort(rows[captured], kind="stable")]
    return plan.patch_ids[int(order[int(0.9 * (len(order) - 1))])]


def draw_ready(
    adapter: HeadAdapter, reader: CacheReader, sample: ViewSample, patch_id: str, flip: str, config: Config
) -> DrawnView:
    """Image, ground truth and the stored record's detections of a view."""
    record = reader.read(patch_id, flip)
    boxes = decode_boxes(adapter, sample, record.prior_index, torch.from_numpy(record.box_logits))
    scores, labels = torch.from_numpy(record.cls_logits).sigmoid().max(dim=1)
    good = torch.nonzero(scores >= MIN_SCORE).squeeze(1)
    if not len(good):
        # A young teacher is sure of nothing: its best guesses.
        good = scores.topk(min(FALLBACK_PRIORS, len(scores))).indices
    kept = good
    if len(good):
        _, order = batched_nms(boxes[good], scores[good], labels[good], dict(config.model.test_cfg.nms))
        kept = good[order]
    return DrawnView(
        flip=flip,
        image=sample.image.permute(1, 2, 0).numpy()[..., ::-1].copy(),
        objects=adapter.corners(sample.objects.bboxes.tensor).numpy(),
        record=record,
        boxes=adapter.corners(boxes).numpy(),
        scores=scores,
        labels=labels,
        kept=kept,
    )


def decode_boxes(adapter: HeadAdapter, sample: ViewSample, prior_index: np.ndarray, box_logits: Tensor) -> Tensor:
    """(n, 4 or 5) expected boxes at the given priors of a view."""
    shape = sample.image.shape[-2:]
    return adapter.expected_boxes(sample.grid, torch.from_numpy(prior_index), box_logits, tuple(shape))


def student_logits(
    config: Config, student: FrozenTeacher, image: Tensor, prior_index: np.ndarray
) -> tuple[Tensor, Tensor]:
    """A student's class and box logits at the given priors of an image (3, H, W) uint8."""
    preprocessor = MODELS.build(config.model.data_preprocessor).to(student.device)
    batch = preprocessor({"inputs": [image], "data_samples": None})
    maps = student.forward(batch["inputs"])
    rows = Rows.of(student.adapter.grid_of_maps(maps[0]), [torch.from_numpy(prior_index)]).to(student.device)
    logits = student.adapter.gather(maps, rows)
    return logits.cls_logits.cpu(), logits.box_logits.cpu()


def _draw_detections(reader: CacheReader, views: Sequence[DrawnView], patch_id: str, path: Path) -> Path:
    classes = reader.manifest.head["classes"]
    columns = min(2, len(views))
    rows = -(-len(views) // columns)
    height, width = views[0].image.shape[:2]
    figure = Figure(figsize=(6.6 * columns, 6.6 * rows * height / width + 1.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, view in zip(panels, views, strict=False):
        _show_image(axes, view.image)
        for box in view.objects:
            label_outline(axes, box)
        for row in view.kept.tolist():
            colour, style = class_line(int(view.labels[row]))
            _outline(axes, view.boxes[row], colour, linewidth=1.8, linestyle=style)
        axes.set_title(f"flip: {view.flip} · {len(view.kept)} boxes from {len(view.record):,} stored priors")
    for axes in panels[len(views) :]:
        axes.axis("off")
    least = min([MIN_SCORE, *(float(view.scores[row]) for view in views for row in view.kept.tolist())])
    seen = sorted({int(view.labels[row]) for view in views for row in view.kept.tolist()})
    handles = [
        Line2D([], [], color=class_line(label)[0], linestyle=class_line(label)[1], linewidth=2.5, label=classes[label])
        for label in seen
    ]
    handles.append(Line2D([], [], color="black", linestyle=(0, (3, 3)), linewidth=1.5, label="labels"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False, fontsize=12)
    figure.suptitle(
        f"{patch_id}: the teacher's boxes, decoded from {reader.location.name} (score ≥ {least:.2g}, after NMS)",
        fontsize=14,
    )
    figure.savefig(path)
    return path


def class_line(label: int) -> tuple[str, str]:
    """Colour and line style of a class."""
    return PALETTE[label % len(PALETTE)], LINE_STYLES[label // len(PALETTE) % len(LINE_STYLES)]


def _draw_distributions(
    reader: CacheReader,
    adapter: HeadAdapter,
    sample: ViewSample,
    view: DrawnView,
    student: tuple[Tensor, Tensor] | None,
    patch_id: str,
    path: Path,
) -> Path:
    description = reader.manifest.head
    names = description["box_parameters"]
    rows = _spread_choice(view)
    figure = Figure(figsize=(19, 3.1 * max(1, len(rows)) + 1.3), layout="constrained")
    panels = figure.subplots(max(1, len(rows)), 1 + len(names), squeeze=False, width_ratios=[1.15, *[1] * len(names)])
    figure.suptitle(
        f"{patch_id}, flip {view.flip}: the teacher's distributions at {len(rows)} of its best priors (temperature 1)",
        fontsize=14,
    )
    for line, row in zip(panels, rows, strict=False):
        student_box = None
        if student is not None:
            answer = decode_boxes(adapter, sample, view.record.prior_index[row : row + 1], student[1][row : row + 1])
            student_box = adapter.corners(answer)[0].numpy()
        _draw_crop(line[0], view, row, student_box)
        score = f"{description['classes'][int(view.labels[row])]}, score {view.scores[row]:.2f}"
        if student is not None:
            score += f" (student {student[0][row, view.labels[row]].sigmoid():.2f})"
        line[0].set_title(score)
        line[0].set_xlabel(f"prior {view.record.prior_index[row]:,}, weight {view.record.weight[row]:.2f}")
        for axes, parameter, name, unit in zip(line[1:], range(len(names)), names, adapter.bin_units, strict=True):
            answers = [(torch.from_numpy(view.record.box_logits[row, parameter]), TEACHER_COLOUR)]
            if student is not None:
                answers.append((student[1][row, parameter], STUDENT_COLOUR))
            _draw_bins(axes, np.linspace(*description["bin_ranges"][parameter], description["num_bins"]), answers)
            axes.set_xlabel(f"{name} ({unit})")
    for axes in panels[:, 1]:
        axes.set_ylabel("probability")
    if not rows:
        panels[0, 0].text(0.5, 0.5, "a view without rows", ha="center", transform=panels[0, 0].transAxes)
    handles = [Patch(color=TEACHER_COLOUR, label="teacher, from the store")]
    if student is not None:
        handles.append(Patch(color=STUDENT_COLOUR, label="student"))
    handles.append(Line2D([], [], color="#555555", linestyle="--", label="expected value"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12)
    figure.savefig(path)
    return path


def _spread_choice(view: DrawnView) -> list[int]:
    """The best detection of each class, then the best of the others."""
    kept = view.kept.tolist()
    first_of_class = {int(view.labels[row]): row for row in reversed(kept)}
    ranked = sorted(first_of_class.values(), key=lambda row: -float(view.scores[row]))
    return (ranked + [row for row in kept if row not in ranked])[:DISTRIBUTIONS]


def _draw_crop(axes: Axes, view: DrawnView, row: int, student_box: np.ndarray | None) -> None:
    box = view.boxes[row]
    height, width = view.image.shape[:2]
    center = box.mean(axis=0)
    longest = np.linalg.norm(box - np.roll(box, 1, axis=0), axis=1).max()
    reach = 0.9 * max(longest, 16)
    _show_image(axes, view.image)
    for other in view.objects:
        label_outline(axes, other)
    if student_box is not None:
        _outline(axes, student_box, STUDENT_COLOUR, linewidth=2.5, linestyle="-")
    _outline(axes, box, TEACHER_COLOUR, linewidth=2.5, linestyle="-")
    axes.set_xlim(max(-0.5, center[0] - reach), min(width - 0.5, center[0] + reach))
    axes.set_ylim(min(height - 0.5, center[1] + reach), max(-0.5, center[1] - reach))


def _draw_bins(axes: Axes, values: np.ndarray, answers: Sequence[tuple[Tensor, str]]) -> None:
    step = values[1] - values[0]
    width = 0.8 * step / len(answers)
    for position, (logits, colour) in enumerate(answers):
        probability = logits.softmax(dim=0).numpy()
        offset = (position - (len(answers) - 1) / 2) * width
        axes.bar(values + offset, probability, width=width, color=colour)
        axes.axvline(float(probability @ values), color=colour, linestyle="--", linewidth=1.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(axis="y")
    axes.set_xticks(values[:: max(1, (len(values) - 1) // 4)])
    axes.tick_params(axis="x", labelsize=10)


def _show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _outline(axes: Axes, corners: np.ndarray, colour: str, **line: Any) -> None:
    # A dark edge keeps the line visible on light ground.
    edge = [withStroke(linewidth=line["linewidth"] + 1.2, foreground="#00000088")]
    axes.add_patch(Polygon(corners, fill=False, edgecolor=colour, clip_on=True, path_effects=edge, **line))


def label_outline(axes: Axes, corners: np.ndarray) -> None:
    """White dashes with black gaps: visible on any ground, and no class's colour."""
    axes.add_patch(Polygon(corners, fill=False, edgecolor="black", linewidth=1.4))
    axes.add_patch(Polygon(corners, fill=False, edgecolor="white", linewidth=1.4, linestyle=(0, (3, 3))))
