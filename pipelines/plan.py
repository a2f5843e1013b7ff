"""Plan a cache: the region of every view from labels alone; with a teacher its size, its time and whether it pays.

python -m pipelines.plan --config configs/distill/gwd_r18_1x_dota.py
python -m pipelines.plan --config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from cache.plan import VIEWS_PER_BLOCK, Plan, PlannedPatch, make_plan
from cache.quantize import FLOATS, PRESETS, FieldCodec
from cache.view import FLIPS
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import build_adapter, load_config, require_keys
from pipelines.base.progress import progress
from pipelines.capture.capture import add_capture_arguments, add_teacher_arguments
from pipelines.capture.cluster import Cluster, Shared, add_cluster_arguments, open_cluster
from pipelines.capture.engine import make_engine, register
from pipelines.capture.probe import Probe
from pipelines.capture.views import TrainingViews

# A step's codes take two bytes where their range needs it.
WIDEST_CODE = FieldCodec("uint16")
# Most patches of a Dask task: a second of work.
PATCHES_PER_TASK = 64
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


def main(arguments: argparse.Namespace) -> None:
    """Labels -> regions -> rows and bytes; with a teacher also the probe."""
    config = load_config(arguments.config, arguments.cfg_options)
    with_teacher = arguments.probe or arguments.checkpoint is not None
    require_keys(config, ("region", "classes", *(("codec", "teacher") if with_teacher else ())), arguments.config)
    with open_cluster(arguments) as cluster:
        engine = make_engine(config, arguments, cluster) if with_teacher else None
        plan = plan_views(config, arguments.loaders, arguments.views_per_block, cluster)
        figures = plan_figures(plan, config)
        if not arguments.json:
            print_plan(figures)
        probe = engine.describe(plan, probe=True)[1] if engine is not None else None
    if probe is not None:
        pays = break_even(plan, probe, student_epochs(config, plan), arguments.students)
        figures |= {"probe": probe.figures(), "break_even": pays}
        if not arguments.json:
            print_probe(probe, plan)
            print_break_even(pays)
    elif not arguments.json:
        Console().print("With CHECKPOINT=<teacher.pth> the teacher is asked as well: size, time, and whether it pays.")
    if arguments.json:
        print(json.dumps(figures, indent=2))


def plan_views(
    config: Config, loaders: int, views_per_block: int = VIEWS_PER_BLOCK, cluster: Cluster | None = None
) -> Plan:
    """Search the regions of every view of the student's training set; on a cluster where there is one."""
    patches = PlannedPatches(config)
    found = _planned_by_loaders(patches, loaders) if cluster is None else _planned_by_workers(patches, config, cluster)
    planned = []
    with progress("plan", len(patches), "patches") as advance:
        for some in found:
            planned += some
            advance(len(some))
    return make_plan(planned, patches.views.flips, views_per_block=views_per_block)


def _planned_by_loaders(patches: PlannedPatches, loaders: int) -> Iterator[list[PlannedPatch]]:
    loader = DataLoader(patches, batch_size=None, num_workers=min(loaders, len(patches)), collate_fn=_as_it_is)
    return ([patch] for patch in loader)


def _planned_by_workers(patches: PlannedPatches, config: Config, cluster: Cluster) -> Iterator[list[PlannedPatch]]:
    size = max(1, min(PATCHES_PER_TASK, len(patches) // (4 * cluster.num_workers)))
    positions = list(batched(range(len(patches)), size))
    return (planned for _, planned in cluster.run_all(_plan_some, positions, config=Shared(config)))


def _plan_some(positions: Sequence[int], *, config: Shared[Config]) -> list[PlannedPatch]:
    """In a worker."""
    patches = _patches_of(config)
    return [patches[position] for position in positions]


@lru_cache(maxsize=1)
def _patches_of(config: Shared[Config]) -> PlannedPatches:
    register(config.value)
    return PlannedPatches(config.value)


class PlannedPatches(Dataset):
    """Every patch of the training set with its digests and row counts."""

    def __init__(self, config: Config) -> None:
        self.views = TrainingViews(config, pixels=False)
        self.patch_ids = self.views.patch_ids

    def __len__(self) -> int:
        return len(self.patch_ids)

    def __getitem__(self, index: int) -> PlannedPatch:
        views, patch_id = self.views, self.patch_ids[index]
        content = Path(views.info(patch_id)["img_path"]).read_bytes()
        counts, assigned = [], []
        for flip in views.flips:
            sample = views.sample(patch_id, flip, content)
            prior_index, _ = views.region(sample)
            counts.append(sample.grid.level_counts(prior_index))
            pair = views.assignment(sample)
            if pair is not None:
                assigned.append(len(pair[0]))
        return PlannedPatch(
            patch_id=patch_id,
            image_sha256=hashlib.sha256(content).digest(),
            label_sha256=views.label_digest(patch_id),
            shape=(sample.grid.height, sample.grid.width),
            level_counts=np.stack(counts),
            assigned_counts=np.asarray(assigned) if assigned else None,
        )


def plan_figures(plan: Plan, config: Config) -> dict[str, Any]:
    """Counts, row statistics and the upper bound of the cache's size, for people and for `--json`."""
    rows = plan.rows_per_view
    widest = {
        preset: {field: FieldCodec(kind) if kind in FLOATS else WIDEST_CODE for field, kind in fields.items()}
        for preset, fields in PRESETS.items()
    }
    return {
        "patches": len(plan.patch_ids),
        "views": plan.num_views,
        "flips": [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))],
        "blocks": plan.num_blocks,
        "rows": plan.num_rows,
        "rows_per_view": {
            "mean": float(rows.mean()),
            **{f"p{percentile}": float(np.percentile(rows, percentile)) for percentile in PERCENTILES},
            "max": int(rows.max()),
        },
        "rows_per_view_and_level": [float(mean) for mean in plan.level_counts.mean(axis=0)],
        "rows_per_block": {"min": int(plan.rows_per_block.min()), "max": int(plan.rows_per_block.max())},
        "upper_bound_bytes": {preset: plan.num_rows * row_bytes(codecs, config) for preset, codecs in widest.items()},
    }


def row_bytes(codecs: Mapping[str, FieldCodec], config: Config) -> int:
    """Bytes of one row before compression: index, weight, class logits, box logits."""
    sizes = {field: np.dtype(codec.dtype).itemsize for field, codec in codecs.items()}
    box = int(np.prod(build_adapter(config).box_shape))
    return 4 + sizes["weight"] + len(config.classes) * sizes["cls_logits"] + box * sizes["box_logits"]


def student_epochs(config: Config, plan: Plan) -> float:
    """How often the config's training sees every patch."""
    loop = config.train_cfg
    if "max_epochs" in loop:
        return float(loop.max_epochs)
    images = loop.max_iters * config.train_dataloader.batch_size
    return images / len(plan.patch_ids)


def break_even(plan: Plan, probe: Probe, epochs: float, students: int) -> dict[str, Any]:
    """When the cache has paid for itself, and what to do.

    A live teacher costs one view of every patch and epoch; a capture costs its whole time once. What reading costs a
    training step is left out: loaders do it beside the step.
    """
    live = len(plan.patch_ids) * probe.teacher_seconds
    planned = epochs * students
    needed = probe.seconds / live
    return {
        "epochs_to_pay": needed,
        "epochs_planned": planned,
        "students": students,
        "live_teacher_seconds": live * planned,
        "capture_seconds": probe.seconds,
        "seconds_saved": live * planned - probe.seconds,
        "recommendation": "cache" if planned > needed else "do not cache",
    }


def print_plan(figures: dict[str, Any]) -> None:
    """The plan as a table."""
    table = Table(title="Plan of the teacher cache", show_header=False, title_justify="left")
    rows = figures["rows_per_view"]
    table.add_row("patches x flips = views", f"{figures['patches']} x {len(figures['flips'])} = {figures['views']}")
    table.add_row("rows (stored priors)", f"{figures['rows']:,}")
    table.add_row(
        "rows a view: mean / median / p90 / max",
        f"{rows['mean']:,.0f} / {rows['p50']:,.0f} / {rows['p90']:,.0f} / {rows['max']:,}",
    )
    table.add_row("rows a view by level", " / ".join(f"{mean:,.0f}" for mean in figures["rows_per_view_and_level"]))
    table.add_row(
        "blocks (rows: smallest / largest)",
        f"{figures['blocks']} ({figures['rows_per_block']['min']:,} / {figures['rows_per_block']['max']:,})",
    )
    for preset, size in figures["upper_bound_bytes"].items():
        table.add_row(f"upper bound, codec {preset}", f"{size / 1e6:,.1f} MB before compression")
    Console().print(table)


def print_probe(probe: Probe, plan: Plan) -> None:
    """What the probe saw, as a table."""
    table = Table(title=f"Probe: {probe.views} views, {probe.rows:,} rows", show_header=False, title_justify="left")
    for field, seen in probe.ranges.items():
        codec = probe.codecs[field]
        stored = codec.dtype if codec.is_float else f"{codec.dtype}, step {codec.scale_factor:g}"
        table.add_row(
            field.replace("_", " "),
            f"{seen.low:.2f} to {seen.high:.2f}, stored as {stored}, room from {codec.low:.4g} to {codec.high:.4g}",
        )
    table.add_row("predicted size", f"{probe.bytes / 1e6:,.1f} MB, {probe.bytes_per_row:.1f} bytes a row")
    table.add_row(
        "predicted time of the capture", f"{probe.seconds:,.0f} s, {probe.seconds / plan.num_views:.3g} s a view"
    )
    table.add_row("teacher alone", f"{probe.teacher_seconds:.3g} s a view")
    Console().print(table)


def print_break_even(pays: dict[str, Any]) -> None:
    """Does the cache pay? In one sentence, with its figures."""
    students = f"{pays['students']} student{'s' if pays['students'] > 1 else ''}"
    text = (
        f"The capture costs as much as a live teacher in {pays['epochs_to_pay']:.1f} epochs; {students} of this config "
        f"train {pays['epochs_planned']:.1f}. "
    )
    if pays["recommendation"] == "cache":
        text += f"Cache: it saves {pays['seconds_saved']:,.0f} s of teacher."
    else:
        text += (
            f"Do not cache: the live teacher is {-pays['seconds_saved']:,.0f} s cheaper, unless more students follow "
            "(--students)."
        )
    Console().print(text)


def _as_it_is(patch: PlannedPatch) -> PlannedPatch:
    return patch


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.plan",
        description="Rows and bytes of a teacher cache from labels; with a teacher also size, time and break-even.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--config", required=True, help="a student's config (configs/distill/...)")
    add_teacher_arguments(parser)
    add_capture_arguments(parser)
    parser.add_argument("--probe", action="store_true", help="ask the config's teacher; --checkpoint does so as well")
    parser.add_argument(
        "--students", type=positive_int, default=1, help="students that will share the cache, for the break-even"
    )
    add_cluster_arguments(parser)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
