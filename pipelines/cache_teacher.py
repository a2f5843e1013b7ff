"""Run the teacher once over every view of the training set and store its answers.

Started again after an interruption, it goes on with the first block that is missing. `--workers 4` shares the blocks
out to Dask processes on this machine, `--scheduler` to those of a running Dask cluster. Without Dask, several commands
may fill one cache at the same time: give each `--part 1/4`, `--part 2/4` and so on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cache.codec import CodecRequest
from cache.plan import Plan
from cache.reader import CacheReader
from cache.storage import Location, locate
from cache.store import Store
from cache.writer import Part
from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, make_command_parser, options_of
from pipelines.base.command import run_command, say, tell_next
from pipelines.base.files import bytes_on_disk
from pipelines.base.invocation import make
from pipelines.base.ready import require_keys, require_training_images
from pipelines.base.stores import tell_store
from pipelines.capture.options import (
    CaptureOptions,
    ClusterOptions,
    TeacherOptions,
    add_capture_arguments,
    add_cluster_arguments,
    add_teacher_arguments,
    require_teacher_of,
)
from pipelines.capture.resume import require_same_sections, require_usable_place, stored_codec

if TYPE_CHECKING:
    from pipelines.capture.filling import Filled


def main(arguments: argparse.Namespace) -> None:
    """Plan, probe, capture, commit."""
    settings = read_config(arguments.config, arguments.cfg_options, imports=False)
    require_keys(settings, ("region", "codec", "classes", "teacher", "cache"), arguments.config)
    require_training_images(settings)
    require_teacher_of(settings, arguments)
    path, request = locate(arguments.cache or settings.cache), CodecRequest.of(settings.codec)
    require_usable_place(path, arguments.part)
    is_new = stored_codec(path, request) is None

    from pipelines.base.experiment import load_config
    from pipelines.capture.cluster import open_cluster
    from pipelines.capture.engine import make_engine
    from pipelines.capture.figures import plan_figures, print_plan, print_probe
    from pipelines.capture.filling import fill_cache
    from pipelines.capture.kept import KeptRegions
    from pipelines.capture.planning import plan_views

    config = load_config(arguments.config, arguments.cfg_options)
    teacher, options = options_of(TeacherOptions, arguments), options_of(CaptureOptions, arguments)
    tell = not arguments.json
    with open_cluster(options_of(ClusterOptions, arguments)) as cluster:
        # Parts on one machine take its GPUs in turn.
        engine = make_engine(config, teacher, options, cluster, turn=arguments.part.number - 1)
        pair = engine.describe_pair()
        require_same_sections(path, pair)
        tell_capture(path, pair, arguments.checkpoint or config.teacher.checkpoint)
        kept = KeptRegions()
        plan = plan_views(config, arguments.loaders, arguments.views_per_block, cluster, kept)
        if tell:
            print_plan(plan_figures(plan, config), probed=is_new)
        tell_probe = partial(print_probe, plan=plan) if tell else None
        filled = fill_cache(path, plan, config, engine, kept, part=arguments.part, tell=tell_probe)
    figures = capture_figures(path, plan, filled)
    if tell:
        print_capture(figures)
    else:
        print(json.dumps(figures, indent=2))
    if not figures["blocks_missing"]:
        tell_next(make("distill"))


def tell_capture(path: Location, pair: Mapping[str, Any], checkpoint: str) -> None:
    """Say which cache is made or continued, and by which teacher."""
    if path.exists():
        tell_store(Store(path, allow_unfinished=True), checkpoint)
    else:
        say(f"cache {path}, a new one; teacher {pair['teacher']['weights_sha256'][:12]} of {checkpoint}")


def capture_figures(path: Location, plan: Plan, filled: Filled) -> dict[str, Any]:
    """What the cache now holds, what this run did, and what the probe had said."""
    size = bytes_on_disk(path)
    missing = len(CacheReader(path).missing_blocks())
    figures: dict[str, Any] = {
        "cache": str(path),
        "views": plan.num_views,
        "rows": plan.num_priors,
        "blocks": plan.num_blocks,
        "blocks_missing": missing,
        "bytes": size,
        "bytes_per_row": size / max(1, plan.num_priors),
        "bytes_written": filled.written,
        "seconds": filled.seconds,
    }
    if filled.probe is not None and not missing:
        figures["predicted"] = {"bytes": filled.probe.bytes, "seconds": filled.probe.seconds}
    return figures


def print_capture(figures: dict[str, Any]) -> None:
    """The same in a sentence or two."""
    console = Console(soft_wrap=True, highlight=False)
    wrote = f"{figures['bytes_written'] / 1e6:,.1f} MB written in {figures['seconds']:,.0f} s"
    if figures["blocks_missing"]:
        captured = figures["blocks"] - figures["blocks_missing"]
        console.print(
            f"{figures['cache']}: {captured} of {figures['blocks']} blocks captured, the others belong to other parts; "
            f"{wrote}"
        )
        return
    console.print(
        f"{figures['cache']}: complete, {figures['views']} views, {figures['rows']:,} rows, "
        f"{figures['bytes'] / 1e6:,.1f} MB ({figures['bytes_per_row']:.1f} bytes a row); {wrote}"
    )
    if predicted := figures.get("predicted"):
        off = {key: f"{100 * (figures[key] / predicted[key] - 1):+.1f} % in fact" for key in predicted}
        console.print(
            f"The probe had predicted {predicted['bytes'] / 1e6:,.1f} MB ({off['bytes']}) and "
            f"{predicted['seconds']:,.0f} s ({off['seconds']})."
        )


def _part(text: str) -> Part:
    """An argparse type: i/N."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"a share like 1/4 is needed, not {text!r}")
    try:
        return Part(int(number), int(count))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "cache_teacher",
        "Run the frozen teacher over every view of the training set and store its answers.",
        example="--config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth",
        status="0 done, 1 failed, 2 unusable arguments; the same command continues a stopped capture",
    )
    add_config(parser, "the student's config (configs/distill/...)")
    add_teacher_arguments(parser)
    add_capture_arguments(parser)
    parser.add_argument("--cache", help="the store to fill (default: the student config's cache)")
    parser.add_argument("--part", type=_part, default=Part(), help="a fixed share of the blocks, i/N: for job arrays")
    add_cluster_arguments(parser)
    add_json(parser, "the closing figures")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
