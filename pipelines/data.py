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
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.settings import read_config
from pipelines.base.command import available_cores, existing_file, positive_int, run_command
from pipelines.prepare.coco import prepare_coco
from pipelines.prepare.dota import prepare_dota

FORMATS = {"dota": prepare_dota, "coco": prepare_coco}


def main(arguments: argparse.Namespace) -> None:
    """Config -> what it trains and validates on, in its data_root."""
    started = time.perf_counter()
    config = read_config(arguments.config, imports=False)
    data_format = config.get("data_format", "dota")
    if data_format not in FORMATS:
        raise ValueError(f"{arguments.config}: data_format is {data_format!r}; one of {', '.join(FORMATS)} is needed")
    splits, outcome = FORMATS[data_format](config, arguments)
    seconds = round(time.perf_counter() - started, 3)
    print_summary({"data_root": config.data_root, "splits": splits, "seconds": seconds}, outcome, arguments.json)


def print_summary(summary: Mapping[str, Any], outcome: str, as_json: bool) -> None:
    """Counts and bytes of what is on disk, per split, and the seconds that this run took."""
    if as_json:
        print(json.dumps(summary))
        return
    table = Table("split")
    for name in next(iter(summary["splits"].values())):
        table.add_column(name.replace("_", " "), justify="right")
    for split, figures in summary["splits"].items():
        table.add_row(split, *(f"{value:,}" for value in figures.values()))
    Console().print(table)
    print(f"{outcome}, {summary['seconds']:.1f} s")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.data",
        description="Cut DOTA images and labels into patches, or check COCO-format data; or make built-in scenes.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped run.",
    )
    parser.add_argument(
        "--config",
        type=existing_file,
        required=True,
        help="a config with data_root, classes, for DOTA patch_size and patch_overlap, and for built-in data scenes",
    )
    parser.add_argument(
        "--dota-root",
        type=Path,
        help="holds train/ and val/, each with images/ and labelTxt/ or labelTxt-v1.0/labelTxt/",
    )
    parser.add_argument(
        "--workers", type=positive_int, default=available_cores(), help="processes (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
