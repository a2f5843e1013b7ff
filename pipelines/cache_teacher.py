"""Run the teacher once over every view of the training set and store its answers.

    python -m pipelines.cache_teacher --config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth

Started again after an interruption, it goes on with the first block that is missing.
"""

from __future__ import annotations

import pipelines.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from rich.console import Console

from cache.manifest import make_manifest
from cache.plan import Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec, choose_codecs
from cache.reader import CacheReader
from cache.writer import CacheWriter
from distill.teacher import FrozenTeacher
from pipelines.capture import Capture, describe_numeric
from pipelines.command import available_cores, progress, run_command
from pipelines.experiment import describe_student, load_config, require_keys
from pipelines.plan import plan_figures, plan_views, print_plan

PROBE_VIEWS = 32


def main(arguments: argparse.Namespace) -> None:
    """Plan, probe, capture, commit."""
    config = load_config(arguments.config, arguments.cfg_options)
    require_keys(config, ("region", "codec", "classes", "teacher", "cache"), arguments.config)
    path = Path(arguments.cache or config.cache)
    teacher = load_teacher(config, arguments)
    plan = plan_views(config, arguments.workers)
    if not arguments.json:
        print_plan(plan_figures(plan, config))
    started = time.perf_counter()
    capture = Capture(config, plan, teacher, arguments.workers)
    codecs = stored_codecs(path, config.codec) or choose_codecs(config.codec, capture.probe(PROBE_VIEWS))
    manifest = describe_cache(config, teacher, plan, codecs)
    with CacheWriter(path, manifest, plan) as writer:
        written = fill(writer, capture, codecs)
    report(path, plan, written, time.perf_counter() - started, as_json=arguments.json)


def load_teacher(config: Config, arguments: argparse.Namespace) -> FrozenTeacher:
    """The teacher that the config or the command line names, on the device."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return FrozenTeacher.load(
        arguments.teacher or config.teacher.config,
        arguments.checkpoint or config.teacher.checkpoint,
        classes=list(config.classes),
    ).to(device)


def stored_codecs(path: Path, preset: str) -> dict[str, FieldCodec] | None:
    """The codecs of a store that is being resumed: fixed before its first block. None where there is no store."""
    if not path.exists():
        return None
    stored = CacheReader(path).manifest["codec"]
    if stored["preset"] != preset:
        raise ValueError(
            f"cache {path}: codec.preset is {stored['preset']!r} in the cache but {preset!r} here. "
            "Give another CACHE= path, or the stored preset in the config"
        )
    return {field: FieldCodec.from_json(stored[field]) for field in LOGIT_FIELDS}


def describe_cache(config: Config, teacher: FrozenTeacher, plan: Plan, codecs: dict[str, FieldCodec]) -> dict[str, Any]:
    """The manifest of the cache that this run makes."""
    student = describe_student(config)
    preprocessing = teacher.model_config["data_preprocessor"]
    for key in ("mean", "std", "bgr_to_rgb", "pad_size_divisor"):
        ours, theirs = student["preprocessing"][key], preprocessing.get(key)
        if ours != theirs:
            raise ValueError(
                f"preprocessing.{key} is {theirs} in the teacher's config but {ours} in the student's. Both see the "
                "same tensor: make them equal"
            )
    return make_manifest(
        teacher=teacher.describe(),
        head=student["head"],
        views=student["views"],
        preprocessing=student["preprocessing"],
        numeric=describe_numeric(teacher, len(student["views"]["flips"])),
        region=student["region"],
        plan=plan.describe(),
        codec={"preset": config.codec, **{field: codec.to_json() for field, codec in codecs.items()}},
    )


def fill(writer: CacheWriter, capture: Capture, codecs: dict[str, FieldCodec]) -> int:
    """Capture every missing block; the writer works beside the teacher. Returns the bytes written."""
    missing = writer.missing_blocks()
    views = capture.plan.num_views
    left = sum(len(capture.plan.views_of_block(block)) for block in missing)
    written = 0
    with (
        ThreadPoolExecutor(max_workers=1) as executor,
        progress("capture", views, "views", done=views - left) as advance,
    ):
        pending = None
        for targets in capture.blocks(missing, codecs):
            if pending is not None:
                written += pending.result()
            pending = executor.submit(writer.write, targets.block, targets.fields, targets.error)
            advance(len(capture.plan.views_of_block(targets.block)))
        if pending is not None:
            written += pending.result()
    return written


def report(path: Path, plan: Plan, written: int, seconds: float, *, as_json: bool) -> None:
    """What the cache now holds, and what this run did."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    figures = {
        "cache": str(path),
        "views": plan.num_views,
        "rows": plan.num_rows,
        "bytes": size,
        "bytes_per_row": size / max(1, plan.num_rows),
        "bytes_written": written,
        "seconds": seconds,
    }
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        Console().print(
            f"{path}: complete, {plan.num_views} views, {plan.num_rows:,} rows, {size / 1e6:,.1f} MB "
            f"({figures['bytes_per_row']:.1f} bytes a row); {written / 1e6:,.1f} MB written in {seconds:,.0f} s"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cache_teacher",
        description="Run the frozen teacher over every view of the training set and store its answers.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped capture.",
    )
    parser.add_argument("--config", required=True, help="the student's config (configs/distill/...)")
    parser.add_argument("--teacher", help="the teacher's config (default: the student config's teacher.config)")
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the student config's teacher.checkpoint)")
    parser.add_argument("--cache", help="the store to fill (default: the student config's cache)")
    parser.add_argument("--device", help="where the teacher runs (default: cuda where there is one, else cpu)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="loader processes (default: all cores)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the closing figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
