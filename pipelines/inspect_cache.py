"""Show what is inside a cache: sizes, rows, value ranges, measured errors, the most expensive views, pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cache.reader import CacheReader
from cache.store import Store
from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, add_workers, make_command_parser
from pipelines.base.command import plain_console, run_command
from pipelines.base.config_files import config_of_run
from pipelines.base.ready import require_file, require_keys, require_writable


def main(arguments: argparse.Namespace) -> None:
    """Store -> statistics -> figures -> tables and pictures."""
    if arguments.checkpoint:
        checkpoint = require_file(arguments.checkpoint, "CHECKPOINT")
        arguments.config = arguments.config or config_of_run(checkpoint.parent)
    if not arguments.config and not arguments.cache:
        make_parser().error("--cache, --config or --checkpoint is needed")
    if not arguments.config and (arguments.patch or arguments.draw):
        make_parser().error("--patch and --draw choose what is drawn, which takes --config")
    if arguments.out:
        require_writable(arguments.out, "WORK_DIR")
    if arguments.cache:
        Store(arguments.cache)

    if arguments.config:
        settings = read_config(arguments.config, arguments.cfg_options, imports=False)
        require_keys(settings, ("region", "classes", "cache"), arguments.config)

    from pipelines.base.experiment import load_config
    from pipelines.reporting.pictures import draw_patch
    from pipelines.reporting.plotting import save
    from pipelines.reporting.store_charts import draw_statistics
    from pipelines.reporting.store_figures import store_figures, store_statistics
    from pipelines.reporting.student import student_figures

    config = load_config(arguments.config, arguments.cfg_options) if arguments.config else None
    reader = CacheReader(arguments.cache or config.cache)
    statistics = store_statistics(reader, arguments.workers)
    figures = store_figures(reader, statistics)
    out = arguments.out or (f"work_dirs/inspect/{Path(reader.location.name).stem}" if config is not None else None)
    if out is not None:
        drawn = {"statistics": draw_statistics(reader, statistics, figures)}
        if config is not None:
            choice = {"patch_id": arguments.patch, "draw": arguments.draw, "checkpoint": arguments.checkpoint}
            drawn |= draw_patch(config, reader, **choice)
        Path(out).mkdir(parents=True, exist_ok=True)
        figures["pictures"] = [str(save(figure, Path(out) / name)) for name, figure in drawn.items()]
    if config is not None and arguments.checkpoint:
        figures["student"] = student_figures(config, reader, arguments.checkpoint, figures["errors"])
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_figures(figures)


def print_figures(figures: dict[str, Any]) -> None:
    """The figures as tables."""
    from pipelines.reporting.store_tables import headline, store_tables

    console = plain_console()
    console.print(headline(figures), soft_wrap=True)
    for title, table in store_tables(figures).items():
        console.print(table.terminal(title))
    for path in figures.get("pictures", ()):
        console.print(f"picture: {path}", soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "inspect_cache",
        "Sizes, rows, value ranges, measured errors and pictures of a teacher cache. Blocks that are not captured yet "
        "are left out.",
        example="--config configs/demo/distill.py --out work_dirs/inspect",
    )
    parser.add_argument("--cache", help="the store (default: the config's cache)")
    add_config(parser, "the student's config: with it, a patch's region, boxes and bins are drawn", required=False)
    parser.add_argument(
        "--out", help="folder of the pictures (default with --config: work_dirs/inspect/<cache>; else none are made)"
    )
    parser.add_argument(
        "--checkpoint", help="a student's weights, whose config is found beside: its distributions beside the teacher's"
    )
    parser.add_argument("--patch", help="the patch to draw (default: one with many rows)")
    parser.add_argument("--draw", help="the draw whose region and bins are drawn (default: the last that is shown)")
    add_workers(parser, "threads that read")
    add_json(parser, "all figures")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
