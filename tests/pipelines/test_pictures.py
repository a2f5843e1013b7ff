"""Charts of a store can be read, whatever its size; pictures of a patch say what they show."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from cache.codec import CodecRequest
from cache.layout import ERROR_COLUMNS
from cache.reader import CacheReader
from cache.writer import CacheWriter
from pipelines.base.experiment import load_config
from pipelines.reporting.pictures import draw_patch
from pipelines.reporting.store_charts import draw_statistics
from pipelines.reporting.store_figures import store_figures, store_statistics
from pipelines.reporting.store_tables import store_tables
from tests.cache.store_tools import NUM_CLASSES, block_fields, small_codec, small_manifest, small_plan
from tests.pipelines.conftest import Project


def store(path: Path, patches: int, preset: str) -> CacheReader:
    """A store whose blocks have measured errors of many magnitudes, or none where nothing is lost."""
    plan = small_plan(patches, as_cells=CodecRequest.of(preset).is_cells)
    random = np.random.default_rng(0)
    with CacheWriter(path, small_manifest(plan, preset), plan, small_codec(preset)) as writer:
        for block in writer.missing_blocks():
            error = 10 ** random.uniform(-6, 1, len(ERROR_COLUMNS)) * (preset != "exact")
            writer.write(block, block_fields(plan, block, preset), dict(zip(ERROR_COLUMNS, error, strict=True)))
    return CacheReader(path)


def drawn(figure: Figure) -> Figure:
    """The figure with everything at its place."""
    FigureCanvasAgg(figure).draw()
    return figure


def collisions(labels: list[Text]) -> list[str]:
    """Neighbouring texts that lie over each other, or touch."""
    shown = [label for label in labels if label.get_text() and label.get_visible()]
    boxes = [label.get_window_extent().padded(2) for label in shown]
    return [text.get_text() for text, (one, other) in zip(shown, pairwise(boxes), strict=False) if one.overlaps(other)]


@pytest.mark.parametrize(("patches", "preset"), [(2, "exact"), (12, "half"), (60, "default"), (60, "small")])
def test_axes_can_be_read(tmp_path: Path, patches: int, preset: str) -> None:
    """No formula source, no tick over its neighbour, no legend over the data."""
    reader = store(tmp_path / "cache.zarr", patches, preset)
    statistics = store_statistics(reader, 1)
    figure = drawn(draw_statistics(reader, statistics, store_figures(reader, statistics)))
    assert len(figure.axes) == 8
    for axes in figure.axes:
        labels = [[tick.label1 for tick in axis.get_major_ticks()] for axis in (axes.xaxis, axes.yaxis)]
        name = axes.get_title(loc="left")
        for texts in labels:
            assert not collisions(texts), name
            assert not [text for text in texts if "$" in text.get_text()], name
        if axes.get_yscale() == "log":
            assert sum(bool(text.get_text()) for text in labels[1]) >= 2, name
        legend = axes.get_legend()
        assert legend is None or not legend.get_window_extent().overlaps(axes.bbox), name


def test_errors_are_said_against_something(tmp_path: Path) -> None:
    reader = store(tmp_path / "cache.zarr", 6, "default")
    figures = store_figures(reader, store_statistics(reader, 1))
    rows = {row[0]: row[1] for row in store_tables(figures)["Measured errors, stored against teacher"].rows}
    assert list(rows) == list(ERROR_COLUMNS)
    bound = small_codec("default").max_abs_error[NUM_CLASSES:].max()
    assert rows["box_max_abs_error"] == f"codec's bound {bound:.3g}"
    assert rows["box_mean_iou_loss"] == "1 - IoU, 0 = equal"
    assert all(rows.values())


def test_detections_say_which_boxes_are_drawn(project: Project) -> None:
    """The teacher of four steps is sure of nothing."""
    figures = draw_patch(load_config(project.config("distill")), CacheReader(project.cache))
    assert list(figures) == ["region", "detections", "distributions"]
    figure = drawn(figures["detections"])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 4
    for title in titles:
        assert re.fullmatch(r"draw \w+: (1 box|\d+ boxes) below 0\.3 from [\d,]+ priors", title)
    assert "a score of 0.3 or more (mmdet's threshold for pictures)" in figure.get_suptitle()
