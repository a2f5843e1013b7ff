"""Show what is inside a cache: sizes, rows, value ranges, measured errors, the most expensive views, pictures.

    python -m pipelines.inspect_cache --cache caches/demo.zarr
    python -m pipelines.inspect_cache --config configs/demo/distill.py --out work_dirs/inspect

With `--config` it draws a patch with the teacher's boxes and the distributions of chosen priors as well; `--checkpoint`
puts a student's beside them. Blocks that were not captured are left out.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from rich.table import Table

from cache.layout import ERROR_COLUMNS, RECORD_FIELDS
from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec
from cache.reader import CacheReader
from cache.statistics import BlockStatistics, block_statistics
from cache.storage import Place, locate
from cache.view import FLIPS
from distill.teacher import FrozenTeacher
from pipelines.base.command import available_cores, plain_console, positive_int, printable, run_command
from pipelines.base.experiment import load_config, require_keys
from pipelines.base.parallel import map_and_add
from pipelines.capture.figures import PERCENTILES
from pipelines.capture.measured import measure_error
from pipelines.capture.views import TrainingViews
from pipelines.reporting import cache_pictures
from pipelines.training.evaluation import detector_config

EXPENSIVE_VIEWS = 10
ERROR_UNITS = {"mean_kl": " nats", "pixels": " px", "degrees": "°"}
# A student is asked about so many views; its error and the codec's are compared at this temperature.
STUDENT_VIEWS = 8
STUDENT_ERROR = "mean_kl_t5"


def main(arguments: argparse.Namespace) -> None:
    """Store -> statistics -> tables and pictures."""
    if not arguments.config and not arguments.cache:
        make_parser().error("--cache or --config is needed")
    config = None
    if arguments.config:
        config = load_config(arguments.config, arguments.cfg_options)
        require_keys(config, ("region", "classes", "cache"), arguments.config)
    reader = CacheReader(arguments.cache or config.cache)
    statistics = store_statistics(reader, arguments.workers)
    figures = store_figures(reader, statistics)
    out = arguments.out or (f"work_dirs/inspect/{Path(reader.location.name).stem}" if config is not None else None)
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        pictures = [cache_pictures.draw_statistics(reader, statistics, figures, out / "statistics.png")]
        if config is not None:
            pictures += cache_pictures.draw_views(
                config, reader, out, patch_id=arguments.patch, flip=arguments.flip, checkpoint=arguments.checkpoint
            )
        figures["pictures"] = [str(path) for path in pictures]
    if config is not None and arguments.checkpoint:
        figures["student"] = student_figures(config, reader, arguments.checkpoint, figures["errors"])
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_figures(figures)


def student_figures(config: Config, reader: CacheReader, checkpoint: str, errors: dict[str, Any]) -> dict[str, Any]:
    """How small the codec's error is beside what a student still has to learn: both as mean KL from the teacher."""
    student = FrozenTeacher.load(detector_config(config), checkpoint)
    views = TrainingViews(config, pixels=True)
    plan = reader.plan
    captured = np.isin(plan.block, reader.store.captured_blocks())
    usable = np.flatnonzero(captured & (plan.rows_per_view > 0))
    chosen = np.random.default_rng(0).choice(usable, min(STUDENT_VIEWS, len(usable)), replace=False)
    sums: Counter[str] = Counter()
    for view in map(plan.view, chosen.tolist()):
        record = reader.read(view.patch_id, view.flip)
        image = views.sample(view.patch_id, view.flip).image
        answers = cache_pictures.student_logits(config, student, image, record.prior_index)
        for name, answer in zip(("cls", "box"), answers, strict=True):
            stored = torch.from_numpy(getattr(record, f"{name}_logits"))
            sums[name] += len(record) * measure_error(stored, answer, name)[f"{name}_{STUDENT_ERROR}"]
        sums["rows"] += len(record)
    found: dict[str, Any] = {"checkpoint": str(checkpoint), "views": len(chosen), "rows": sums["rows"]}
    for name in ("cls", "box"):
        divergence, error = sums[name] / sums["rows"], errors[f"{name}_{STUDENT_ERROR}"]["mean"]
        found[name] = {"stored": error, "student": divergence, "ratio": error / divergence if divergence else None}
    return found


def store_statistics(reader: CacheReader, workers: int) -> BlockStatistics:
    """Statistics of all captured blocks.

    Raises:
        ValueError: nothing was captured yet, or an object is damaged.
    """
    blocks = reader.store.captured_blocks()
    if not blocks:
        raise ValueError(
            f"cache {reader.path} holds no block yet. Fill it with: make cache-teacher CACHE={reader.path}"
        )
    return map_and_add(
        lambda block: block_statistics(reader.store, block),
        blocks,
        0,
        workers=workers,
        description="inspect",
        unit="blocks",
    )


def store_figures(reader: CacheReader, statistics: BlockStatistics) -> dict[str, Any]:
    """All figures as plain values, for tables, pictures and `--json`."""
    plan, manifest = reader.plan, reader.manifest
    sizes = array_bytes(reader.path)
    rows = max(1, statistics.rows)
    return {
        "cache": str(reader.path),
        "preset": manifest.codec["preset"],
        "patches": len(plan.patch_ids),
        "flips": manifest.views["flips"],
        "views": plan.num_views,
        "blocks": plan.num_blocks,
        "blocks_captured": statistics.blocks,
        "views_captured": statistics.views,
        "rows": statistics.rows,
        "bytes": sum(sizes.values()),
        "bytes_per_row": sum(sizes.values()) / rows,
        "arrays": {
            name: {"bytes": size, "bytes_per_row": size / rows} for name, size in sorted(sizes.items(), key=_by_size)
        },
        "rows_per_view": spread(plan.rows_per_view),
        "views_without_rows": int((plan.rows_per_view == 0).sum()),
        "levels": [
            {"stride": stride, **spread(counts)}
            for stride, counts in zip(_strides(manifest, plan), plan.level_counts.T, strict=True)
        ],
        "bytes_per_block": spread(np.asarray(list(_block_bytes(statistics).values()))),
        "fields": {name: field_figures(name, manifest, statistics) for name in RECORD_FIELDS if statistics.rows},
        "errors": {
            column: {"mean": float(total / rows), "largest_block": float(largest)}
            for column, total, largest in zip(ERROR_COLUMNS, statistics.error_sum, statistics.error_max, strict=True)
        },
        "expensive_views": expensive_views(plan, statistics),
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, percentiles and extremes."""
    return {
        "mean": float(values.mean()),
        "min": float(values.min()),
        **{f"p{percentile}": float(np.percentile(values, percentile)) for percentile in PERCENTILES},
        "max": float(values.max()),
    }


def array_bytes(place: Place) -> dict[str, int]:
    """Stored bytes of every array; `plan` and the root's metadata count as one each."""
    sizes: Counter[str] = Counter()
    for key, size in locate(place).sizes().items():
        name, slash, _ = key.partition("/")
        sizes[name if slash else "manifest"] += size
    return dict(sizes)


def field_figures(name: str, manifest: Manifest, statistics: BlockStatistics) -> dict[str, Any]:
    """Range of one field; of codes also how well they are used."""
    low, high = statistics.ranges[name]
    figures: dict[str, Any] = {"low": low, "high": high}
    if name not in LOGIT_FIELDS:
        return figures
    codec = FieldCodec.from_json(manifest.codec[name])
    figures |= codec.to_json()
    if codec.is_float:
        return figures
    counts = statistics.histograms[name]
    used = counts[counts > 0] / counts.sum()
    figures["representable"] = [codec.low, codec.high]
    figures["codes_used"] = len(used)
    # What an ideal coder without context would need; the difference to the stored bytes is what compression gains.
    figures["entropy_bits"] = float(-(used * np.log2(used)).sum())
    return figures


def expensive_views(plan: Plan, statistics: BlockStatistics) -> list[dict[str, Any]]:
    """Views with the most rows; a view's bytes are its share of its block's."""
    rows, block_bytes = plan.rows_per_view, _block_bytes(statistics)
    largest = [int(view) for view in np.argsort(-rows, kind="stable") if int(plan.block[view]) in block_bytes]
    result = []
    for view in largest[:EXPENSIVE_VIEWS]:
        block = int(plan.block[view])
        share = rows[view] / max(1, statistics.block_rows[block])
        result.append(
            {"view": str(plan.view(view)), "rows": int(rows[view]), "bytes": round(share * block_bytes[block])}
        )
    return result


def print_figures(figures: dict[str, Any]) -> None:
    """The figures as tables."""
    console = plain_console()
    missing = figures["blocks"] - figures["blocks_captured"]
    console.print(
        f"{figures['cache']}: {figures['patches']:,} patches x {len(figures['flips'])} flips = {figures['views']:,} "
        f"views, {figures['rows']:,} rows in {figures['blocks_captured']} blocks, preset {figures['preset']}"
        + (f"; {missing} blocks are not captured and left out" if missing else ""),
        soft_wrap=True,
    )
    sizes = _table("Size", "array", "MB", "bytes a row")
    for name, size in figures["arrays"].items():
        sizes.add_row(printable(name), f"{size['bytes'] / 1e6:,.3f}", f"{size['bytes_per_row']:.2f}")
    sizes.add_row("total", f"{figures['bytes'] / 1e6:,.3f}", f"{figures['bytes_per_row']:.2f}", style="bold")
    console.print(sizes)

    names = ("mean", "min", "p5", "p50", "p90", "p99", "max")
    rows = _table("Rows a view", "level", *names)
    for level in figures["levels"]:
        rows.add_row(f"stride {level['stride']}", *(f"{level[name]:,.0f}" for name in names))
    rows.add_row("all", *(f"{figures['rows_per_view'][name]:,.0f}" for name in names), style="bold")
    console.print(rows)
    console.print(f"{figures['views_without_rows']} views have no rows.")

    values = _table("Values", "field", "lowest", "highest", "stored as", "codes used", "entropy, bits")
    for name, field in figures["fields"].items():
        ends = (f"{field[end]:,.0f}" if name == "prior_index" else f"{field[end]:.4g}" for end in ("low", "high"))
        values.add_row(name, *ends, *_codec_cells(field))
    console.print(values)

    errors = _table("Measured errors, decoded against teacher", "", "mean over rows", "largest block")
    for column, error in figures["errors"].items():
        unit = next((unit for part, unit in ERROR_UNITS.items() if part in column), "")
        mean = "" if "max" in column else f"{error['mean']:.3g}{unit}"
        errors.add_row(column, mean, f"{error['largest_block']:.3g}{unit}")
    console.print(errors)

    if "student" in figures:
        student = figures["student"]
        table = _table("Mean KL from the teacher at T = 5, nats", "", "stored", "student", "stored / student")
        for name in ("cls", "box"):
            cells = (student[name][key] for key in ("stored", "student", "ratio"))
            table.add_row(name, *("-" if cell is None else f"{cell:.3g}" for cell in cells))
        console.print(table)

    views = _table("Most expensive views", "view", "rows", "kB")
    for view in figures["expensive_views"]:
        views.add_row(view["view"], f"{view['rows']:,}", f"{view['bytes'] / 1e3:,.1f}")
    console.print(views)
    for path in figures.get("pictures", ()):
        console.print(f"picture: {path}", soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=position == 0)
    return table


def _codec_cells(field: dict[str, Any]) -> list[str]:
    if "dtype" not in field:
        return ["", "", ""]
    if "codes_used" not in field:
        return [field["dtype"], "", ""]
    return [
        f"{field['dtype']}, step {field['scale_factor']:g}",
        str(field["codes_used"]),
        f"{field['entropy_bits']:.2f}",
    ]


def _block_bytes(statistics: BlockStatistics) -> dict[int, int]:
    return {block: sum(sizes[block] for sizes in statistics.object_bytes.values()) for block in statistics.block_rows}


def _strides(manifest: Manifest, plan: Plan) -> list[int]:
    grid = manifest.head.get("grid", {})
    return list(grid.get("strides", range(plan.level_counts.shape[1])))


def _by_size(item: tuple[str, int]) -> int:
    return -item[1]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.inspect_cache",
        description="Sizes, rows, value ranges, measured errors and pictures of a teacher cache.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--cache", help="the store (default: the config's cache)")
    parser.add_argument("--config", help="the student's config: with it, patches and distributions are drawn")
    parser.add_argument(
        "--out", help="folder of the pictures (default with --config: work_dirs/inspect/<cache>; else none are made)"
    )
    parser.add_argument("--checkpoint", help="a student's weights: its distributions beside the teacher's")
    parser.add_argument("--patch", help="the patch to draw (default: one with many rows)")
    parser.add_argument("--flip", choices=FLIPS, help="the flip whose distributions are drawn (default: the last)")
    parser.add_argument(
        "--workers", type=positive_int, default=available_cores(), help="threads that read (default: all cores)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
