"""Prepare the data: DOTA images and labels -> patches, or COCO-format images; without either, built-in scenes.

    python -m pipelines.data --config configs/demo/teacher.py
    python -m pipelines.data --config configs/teacher/gwd_r34_2x_dota.py --dota-root DOTA
    python -m pipelines.data --config configs/demo/gfl_teacher.py

The config's `data_format` decides: dota (where it says nothing) or coco. A run that was stopped goes on where it was;
what is finished is not touched again. `<data_root>/source.json` says what the data were made from, and a run from
anything else into the same folder is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, add_workers, make_command_parser, options_of
from pipelines.base.command import plain_console, run_command, tell_next
from pipelines.base.invocation import make
from pipelines.base.table import Table
from pipelines.prepare.coco import prepare_coco
from pipelines.prepare.data_config import Options
from pipelines.prepare.dota import prepare_dota

if TYPE_CHECKING:
    from mmengine.config import Config

FORMATS = {"dota": prepare_dota, "coco": prepare_coco}


def main(arguments: argparse.Namespace) -> None:
    """Config -> what it trains and validates on, in its data_root."""
    started = time.perf_counter()
    config = read_config(arguments.config, arguments.cfg_options, imports=False)
    data_format = config.get("data_format", "dota")
    if data_format not in FORMATS:
        raise ValueError(f"{arguments.config}: data_format is {data_format!r}; one of {', '.join(FORMATS)} is needed")
    splits, outcome = FORMATS[data_format](config, options_of(Options, arguments))
    seconds = round(time.perf_counter() - started, 3)
    summary = {"data_root": config.data_root, "splits": splits, "seconds": seconds}
    print_summary(summary, outcome, as_json=arguments.json)
    tell_next(*next_commands(config, arguments.config))


def next_commands(config: Config, path: str) -> list[str]:
    """What may come once the data of a config are there."""
    teacher = config.get("teacher")
    if teacher is None:
        return [make("teacher", teacher=path), make("train")]
    if not Path(teacher.checkpoint).is_file():
        return [make("teacher", teacher=teacher.config)]
    return [make("cache-teacher") if "cache" in config else make("train")]


def print_summary(summary: Mapping[str, Any], outcome: str, *, as_json: bool) -> None:
    """Counts and bytes of what is on disk, per split, and the seconds that this run took."""
    if as_json:
        print(json.dumps(summary))
        return
    splits = summary["splits"]
    columns = ["split", *(name.replace("_", " ") for name in splits["train"])]
    rows = [[split, *(f"{value:,}" for value in figures.values())] for split, figures in splits.items()]
    console = plain_console(highlight=False, soft_wrap=True)
    console.print(Table(columns, rows).terminal("Data on disk"))
    console.print(f"{outcome}, {summary['seconds']:.1f} s")


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "data",
        "Cut DOTA images and labels into patches, or check COCO-format data; without either, render built-in scenes. "
        "The same command continues a stopped run.",
        example="--config configs/demo/teacher.py",
    )
    add_config(
        parser, "a config with data_root, classes, for DOTA patch_size and patch_overlap, and for built-in data scenes"
    )
    parser.add_argument(
        "--dota-root",
        type=Path,
        help="holds train/ and val/, each with images/ and labelTxt/ or labelTxt-v1.0/labelTxt/",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        metavar="RATE",
        help="split DOTA at several scales: 0.5 1.0 1.5 as mmrotate's ms_train (default: the config's patch_rates)",
    )
    parser.add_argument(
        "--overlap", type=int, help="pixels that neighbouring patches share (default: the config's patch_overlap)"
    )
    add_workers(parser, "processes")
    add_json(parser, "the summary")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
