"""Pictures of the report: where the region of a patch lies, and what `inspect-cache` draws of it, as data URIs."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import base64
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mmengine.config import Config
from PIL import Image

from cache.grid import AnchorGrid
from cache.reader import CacheReader
from pipelines.capture.views import TrainingViews
from pipelines.reporting import cache_pictures
from pipelines.reporting.cache_pictures import STYLE

QUALITY = 88
COLUMNS = 3


@dataclass(frozen=True)
class Picture:
    """A picture of the page: title, what it shows, data URI."""

    title: str
    caption: str
    source: str
    is_square: bool = False


def draw_pictures(config: Config, reader: CacheReader, checkpoint: Path | None) -> list[Picture]:
    """Region, detections and distributions of a busy patch, the student's answers beside the teacher's.

    Raises:
        ValueError: the patch is not in the config's training set, or its image has changed.
    """
    patch_id = cache_pictures.busy_patch(reader)
    flip = str(reader.manifest.views["flips"][-1])
    with tempfile.TemporaryDirectory() as folder:
        region = draw_region(config, reader, patch_id, flip, Path(folder) / "region.png")
        detections, distributions = cache_pictures.draw_views(
            config, reader, Path(folder), patch_id=patch_id, flip=flip, checkpoint=checkpoint and str(checkpoint)
        )
        beside = "" if checkpoint is None else " Beside them the student's."
        return [
            Picture(
                "Region",
                "Where LD and KD read the teacher: every cell with a stored prior, by the largest weight (IoU) of its "
                "priors. All else has weight 0 and is not stored.",
                data_uri(region),
            ),
            Picture(
                "Detections",
                "The teacher's boxes, decoded from the store, under every flip.",
                data_uri(detections),
                True,
            ),
            Picture(
                "Distributions",
                f"The teacher's bins of each box parameter at some of its best priors.{beside}",
                data_uri(distributions),
            ),
        ]


def data_uri(path: Path) -> str:
    """A PNG as a WebP data URI, about a fifth of its size."""
    content = io.BytesIO()
    Image.open(path).convert("RGB").save(content, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def draw_region(config: Config, reader: CacheReader, patch_id: str, flip: str, path: Path) -> Path:
    """The image, and over it the stored priors of every level."""
    views = TrainingViews(config, pixels=True)
    sample = views.sample(patch_id, flip)
    image, grid = sample.image.permute(1, 2, 0).numpy()[..., ::-1], sample.grid
    objects = views.adapter.corners(sample.objects.bboxes.tensor).numpy()
    record = reader.read(patch_id, flip)
    maps = weight_maps(grid, record.prior_index, record.weight)
    panels = 1 + len(maps)
    columns = min(COLUMNS, panels) if panels != 4 else 4
    rows = -(-panels // columns)
    height, width = image.shape[:2]
    with mpl.rc_context(STYLE):
        side = 16 / columns
        figure = Figure(figsize=(16, rows * (side * height / width + 0.35) + 0.4), layout="constrained")
        grid_of_axes = figure.subplots(rows, columns, squeeze=False)
        for axes in grid_of_axes.ravel():
            axes.set_axis_off()
        axes, *level_axes = grid_of_axes.ravel()[:panels]
        axes.imshow(image)
        for box in objects:
            cache_pictures.label_outline(axes, box)
        axes.set_title(f"{patch_id}, flip {flip}: {len(objects)} objects")
        counts = grid.level_counts(record.prior_index)
        shown = None
        for axes, stride, weights, count in zip(level_axes, grid.strides, maps, counts, strict=True):
            shown = _draw_level(axes, image, weights, stride)
            axes.set_title(f"stride {stride}: {count:,} of {weights.size * grid.anchors_per_cell:,} priors")
        if shown is not None:
            figure.colorbar(shown, ax=grid_of_axes, shrink=0.7, pad=0.01, label="weight")
        figure.savefig(path)
    return path


def weight_maps(grid: AnchorGrid, prior_index: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """(h, w) of every level: the largest weight of the priors of a cell, 0 where none is stored."""
    dense = np.zeros(grid.num_priors, dtype=np.float32)
    dense[prior_index] = weight
    offsets = grid.level_offsets
    return [
        dense[start:stop].reshape(*shape, grid.anchors_per_cell).max(axis=-1)
        for start, stop, shape in zip(offsets[:-1], offsets[1:], grid.feature_sizes, strict=True)
    ]


def _draw_level(axes: Axes, image: np.ndarray, weights: np.ndarray, stride: int) -> AxesImage:
    axes.imshow(image.mean(axis=-1), cmap="gray", alpha=0.55)
    height, width = weights.shape
    # Centres of the cells sit on multiples of the stride.
    extent = np.array([0, width, height, 0]) * stride - stride / 2
    shown = axes.imshow(
        np.ma.masked_equal(weights, 0),
        extent=extent,
        cmap="viridis",
        vmin=0,
        vmax=1,
        alpha=0.8,
        interpolation="nearest",
    )
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    return shown
