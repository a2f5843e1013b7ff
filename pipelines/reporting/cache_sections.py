"""What the report says of the caches that its runs have read: size, prediction, pictures, manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.grid import grid_of
from cache.reader import CacheReader
from pipelines.base.command import warn
from pipelines.base.experiment import load_config
from pipelines.base.files import bytes_on_disk
from pipelines.base.invocation import make
from pipelines.base.table import Table
from pipelines.reporting.charts import Bar, Panel, draw_bars
from pipelines.reporting.page import Card, Section, Tile
from pipelines.reporting.pictures import draw_patch
from pipelines.reporting.plotting import COLOURS, NEUTRAL
from pipelines.reporting.work_folders import CAPTURE, FinishedRun, Group
from pipelines.training.kind import cache_path


def cache_sections(groups: Sequence[Group], *, pictures: bool) -> list[Section]:
    """One section a cache that a run has read."""
    readers: dict[str, list[FinishedRun]] = {}
    for run in (run for group in groups for run in group.runs):
        if run.record["cache"]:
            readers.setdefault(run.record["cache"]["fingerprint"], []).append(run)
    captures = [group.capture for group in groups if group.capture]
    return [cache_section(runs, captures, pictures=pictures) for runs in readers.values()]


def cache_section(runs: Sequence[FinishedRun], captures: Sequence[Mapping[str, Any]], *, pictures: bool) -> Section:
    """What one cache holds, and how its capture went; `runs` have read it."""
    described = runs[0].record["cache"]
    path = described["path"]
    section = Section(f"Cache: {path}", cache_tiles(described, len(runs)))
    reader = open_same(path, described["fingerprint"])
    made = [capture for capture in captures if same_path(capture.get("cache"), path)]
    section.notes += [] if made else [_no_capture(runs[0])]
    if reader is None:
        section.notes.append(f"The store is not at {path} any more: no sizes, no pictures.")
    else:
        section.cards.append(size_card(described, reader))
    section.cards += map(prediction_card, made)
    if reader is not None:
        if pictures:
            try:
                section.cards += picture_cards(runs[0], reader)
            except (ValueError, OSError) as error:
                warn(f"no pictures of {path}: {error}")
                section.notes.append(f"No pictures: {error}")
        text = json.dumps(reader.manifest.to_json(), indent=1, ensure_ascii=False)
        section.cards.append(Card("Manifest", fold=("Everything that the cache was made from", text)))
    return section


def _no_capture(run: FinishedRun) -> str:
    """How the next capture can be compared with its prediction."""
    capture = make("cache-teacher", config=run.record["config"]["file"], cache=run.record["cache"]["path"])
    return (
        f"No {CAPTURE} of this cache was found: without it, predictions cannot be compared with what happened. A "
        f"capture leaves it by: {capture.replace('make', 'make -s', 1)} ARGS=--json > {run.folder.parent / CAPTURE}"
    )


def open_same(path: str, identity: str) -> CacheReader | None:
    """The store, where it is still the one that the runs have read."""
    try:
        reader = CacheReader(path)
    except (ValueError, OSError):
        return None
    return reader if reader.manifest.fingerprint == identity else None


def same_path(one: Any, other: Any) -> bool:
    """Whether two texts name one place."""
    return isinstance(one, str) and isinstance(other, str) and Path(one).absolute() == Path(other).absolute()


def cache_tiles(described: Mapping[str, Any], students: int) -> list[Tile]:
    """Headline figures of a cache."""
    size, rows = described["bytes"], described["rows"]
    tiles = [Tile(f"{described['views']:,}", "views"), Tile(f"{rows:,}", "stored priors (rows)")]
    if size:
        tiles.insert(0, Tile(f"{size / 1e6:,.1f} MB", f"on disk, preset {described['preset']}", COLOURS["cached"]))
        tiles += [Tile(f"{size / rows:.1f}", "bytes a row")] if rows else []
    return [*tiles, Tile(str(students), "of these runs read it")]


def size_card(described: Mapping[str, Any], reader: CacheReader) -> Card:
    """The store beside what it replaces."""
    head = reader.manifest.head
    logits = len(head["classes"]) + len(head["box_parameters"]) * int(head["num_bins"])
    rows, priors = described["rows"], dense_priors(reader)
    sizes = {"this cache": bytes_on_disk(described["path"]), "its rows as float32": rows * (8 + 4 * logits)}
    caption = f"A row has {logits} logits, an index and a weight."
    if priors is not None:
        sizes["every prior as float16"] = priors * 2 * logits
        caption += f" The region is {rows / priors:.1%} of all priors."
    bars = [
        Bar(label, COLOURS["cached"] if label == "this cache" else NEUTRAL, {"bytes": [size]})
        for label, size in sizes.items()
    ]
    return Card("Size", caption, draw_bars([Panel("MB", "bytes", 1e-6)], bars))


def dense_priors(reader: CacheReader) -> int | None:
    """How many priors the views have, stored or not; None for a head without an anchor grid."""
    shapes, views = np.unique(reader.plan.view_shape, axis=0, return_counts=True)
    grids = [grid for shape in shapes if (grid := grid_of(reader.manifest.head, shape))]
    if len(grids) < len(shapes):
        return None
    return sum(int(count) * grid.num_priors for count, grid in zip(views, grids, strict=True))


def prediction_card(capture: Mapping[str, Any]) -> Card:
    """What the probe had predicted, and what the capture then took."""
    title, predicted = "Prediction and what happened", capture.get("predicted")
    if not isinstance(predicted, dict):
        return Card(title, "This capture predicted nothing: it was a resumed one, or one part of several.")
    rows = []
    for name, expected in predicted.items():
        found = capture.get(name)
        if isinstance(expected, int | float) and isinstance(found, int | float):
            unit, scale = ("MB", 1e6) if "bytes" in name else ("s", 1.0)
            off = f"{100 * (found / expected - 1):+.1f} %" if expected else ""
            label = {"bytes": "size", "seconds": "time"}.get(name, name)
            rows.append((f"{label}, {unit}", f"{expected / scale:,.1f}", f"{found / scale:,.1f}", off))
    caption = "A short run of the teacher before the capture (the probe) predicts size and time."
    return Card(title, caption, table=Table(("", "predicted", "happened", "difference"), rows))


def picture_cards(run: FinishedRun, reader: CacheReader) -> list[Card]:
    """Region, detections and distributions of a busy patch, the run's answers beside the teacher's.

    Raises:
        ValueError, OSError: the config reads another cache, or the patch's files are gone or have changed.
    """
    file = run.folder / run.record["config"]["text_file"]
    config = load_config(file)
    if not same_path(cache_path(config), str(reader.path)):
        raise ValueError(f"{file} reads another cache")
    checkpoint = run.folder / (run.record["checkpoint"] or "")
    drawn = draw_patch(config, reader, checkpoint=checkpoint if checkpoint.is_file() else None)
    beside = " Beside them the student's." if checkpoint.is_file() else ""
    captions = {
        "region": "Where LD and KD read the teacher: every cell with a stored prior, by the largest weight (IoU) of "
        "its priors. All else has weight 0 and is not stored.",
        "detections": "The teacher's boxes, decoded from the store, in some draws.",
        "distributions": f"The teacher's bins of each box parameter at some of its best priors.{beside}",
    }
    return [Card(name.capitalize(), captions[name], figure) for name, figure in drawn.items()]
