"""Run the teacher once over every view of the training set and store its answers.

    python -m pipelines.cache_teacher --config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth

Started again after an interruption, it goes on with the first block that is missing. `--workers 4` shares the blocks
out to Dask processes on this machine, `--scheduler` to those of a running Dask cluster. Without Dask, several commands
may fill one cache at the same time: give each `--part 1/4`, `--part 2/4` and so on.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, DictAction
from rich.console import Console

from cache.layout import open_root
from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import FieldCodec, codecs_of, resolve_codec
from cache.reader import CacheReader
from cache.storage import Folder, Location, locate
from cache.writer import CacheWriter, Part
from pipelines.base.command import run_command
from pipelines.base.experiment import load_config, require_keys
from pipelines.base.files import bytes_on_disk, require_room
from pipelines.capture.capture import add_capture_arguments, add_teacher_arguments
from pipelines.capture.cluster import add_cluster_arguments, open_cluster
from pipelines.capture.engine import make_engine
from pipelines.capture.probe import Probe
from pipelines.plan import plan_figures, plan_views, print_plan, print_probe, row_bytes


def main(arguments: argparse.Namespace) -> None:
    """Plan, probe, capture, commit."""
    config = load_config(arguments.config, arguments.cfg_options)
    require_keys(config, ("region", "codec", "classes", "teacher", "cache"), arguments.config)
    requested = resolve_codec(config.codec)
    path = locate(arguments.cache or config.cache)
    with open_cluster(arguments) as cluster:
        engine = make_engine(config, arguments, cluster)
        plan = plan_views(config, arguments.loaders, arguments.views_per_block, cluster)
        if not arguments.json:
            print_plan(plan_figures(plan, config))
        codecs = stored_codecs(path, requested)
        sections, probe = engine.describe(plan, probe=codecs is None)
        if probe is not None:
            codecs = dict(probe.codecs)
            if not arguments.json:
                print_probe(probe, plan)
        codec = {"requested": requested, **{field: codec.to_json() for field, codec in codecs.items()}}
        manifest = Manifest(**sections, plan=plan.describe(), codec={"preset": requested["preset"], **codec})
        require_disk(path, plan, config, codecs, probe)
        with CacheWriter(path, manifest, plan, arguments.part) as writer:
            started = time.perf_counter()
            written = engine.fill(writer)
            seconds = time.perf_counter() - started
    report(path, plan, written, seconds, probe, as_json=arguments.json)


def stored_codecs(path: Location, requested: Mapping[str, Any]) -> dict[str, FieldCodec] | None:
    """The codecs of a store that is being resumed: fixed before its first block. None where there is no store."""
    if not path.exists():
        return None
    stored = open_root(path, allow_unfinished=True).attrs.asdict()["codec"]
    for field, value in requested.items():
        if stored["requested"][field] != value:
            raise ValueError(
                f"cache {path}: codec.{field} is {stored['requested'][field]!r} in the cache but {value!r} here. "
                "Give another CACHE= path, or the stored codec in the config"
            )
    return codecs_of(stored)


def require_disk(
    path: Location, plan: Plan, config: Config, codecs: Mapping[str, FieldCodec], probe: Probe | None
) -> None:
    """Refuse a capture that will not fit on its disk. A bucket has no end that could be asked for.

    Raises:
        ValueError: naming what it needs and what is free.
    """
    if not isinstance(path, Folder):
        return
    if probe is not None:
        needed, basis = probe.bytes, "by the probe's prediction"
    else:
        missing = plan.rows_per_block[CacheReader(path).missing_blocks()].sum()
        captured = plan.num_rows - missing
        if captured:
            needed, basis = bytes_on_disk(path) / captured * missing, "at the size of the blocks that it holds"
        else:
            needed, basis = row_bytes(codecs, config) * missing, "before compression"
    cure = "Make room, give another CACHE= path, or a coarser codec (codec = 'small')"
    require_room(path.path, needed, f"{basis}, cache {path}", cure)


def report(path: Location, plan: Plan, written: int, seconds: float, probe: Probe | None, *, as_json: bool) -> None:
    """What the cache now holds, what this run did, and how that compares with what the probe said."""
    reader = CacheReader(path)
    size = bytes_on_disk(path)
    missing = len(reader.missing_blocks())
    figures: dict[str, Any] = {
        "cache": str(path),
        "views": plan.num_views,
        "rows": plan.num_rows,
        "blocks": plan.num_blocks,
        "blocks_missing": missing,
        "bytes": size,
        "bytes_per_row": size / max(1, plan.num_rows),
        "bytes_written": written,
        "seconds": seconds,
    }
    if probe is not None and not missing:
        figures["predicted"] = {"bytes": probe.bytes, "seconds": probe.seconds}
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    if missing:
        console.print(
            f"{path}: {plan.num_blocks - missing} of {plan.num_blocks} blocks captured, the others belong to other "
            f"parts; {written / 1e6:,.1f} MB written in {seconds:,.0f} s"
        )
        return
    console.print(
        f"{path}: complete, {plan.num_views} views, {plan.num_rows:,} rows, {size / 1e6:,.1f} MB "
        f"({figures['bytes_per_row']:.1f} bytes a row); {written / 1e6:,.1f} MB written in {seconds:,.0f} s"
    )
    if "predicted" in figures:
        console.print(
            f"The probe had predicted {probe.bytes / 1e6:,.1f} MB ({_percent(size, probe.bytes)}) and "
            f"{probe.seconds:,.0f} s ({_percent(seconds, probe.seconds)})."
        )


def _percent(found: float, predicted: float) -> str:
    return f"{100 * (found / predicted - 1):+.1f} % in fact"


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
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cache_teacher",
        description="Run the frozen teacher over every view of the training set and store its answers.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped capture.",
    )
    parser.add_argument("--config", required=True, help="the student's config (configs/distill/...)")
    add_teacher_arguments(parser)
    add_capture_arguments(parser)
    parser.add_argument("--cache", help="the store to fill (default: the student config's cache)")
    parser.add_argument("--part", type=_part, default=Part(), help="a fixed share of the blocks, i/N: for job arrays")
    add_cluster_arguments(parser)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the closing figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
