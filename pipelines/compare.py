"""Plain, live and cached students on the same data, seeds and order: AP, time, memory, and their paired differences.

    python -m pipelines.compare --config configs/demo/distill.py

Started again after an interruption, it skips what is finished. An unfinished training starts anew: every student sees
the views in the order of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.store import Store
from pipelines.base.arguments import add_config, add_json, add_work_dir, config_file, make_command_parser, options_of
from pipelines.base.command import plain_console, positive_int, run_command, tell_next
from pipelines.base.invocation import make
from pipelines.base.ready import require_file, require_writable


def main(arguments: argparse.Namespace) -> int:
    """Three configs, checked -> every kind with every seed -> figures with spread, and what they differ by."""
    if arguments.checkpoint:
        require_file(arguments.checkpoint, "CHECKPOINT")
    if arguments.cache:
        Store(arguments.cache)
    if arguments.work_dir:
        require_writable(arguments.work_dir, "WORK_DIR")

    from pipelines.studies.comparison import ComparisonOptions, comparison_runs
    from pipelines.studies.comparison_results import write_results
    from pipelines.studies.processes import finish_runs
    from pipelines.studies.runs import OUTPUT, require_same_configs

    options = options_of(ComparisonOptions, arguments)
    runs = comparison_runs(options)
    require_same_configs(runs)
    failures = finish_runs(runs, arguments.jobs, resume=False, description="compare")
    for name, failure in failures.items():
        print(f"compare failed: {name}: {failure} (all of it: {options.folder / name / OUTPUT})", file=sys.stderr)
    if failures:
        return 1

    figures = write_results(options.folder, runs, arguments.jobs)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_figures(figures, options.folder)
    for problem in figures["unpaired"]:
        print(f"compare failed: {problem}", file=sys.stderr)
    tell_next(make("report", work_dir=options.folder))
    return 1 if figures["unpaired"] else 0


def print_figures(figures: Mapping[str, Any], folder: Path) -> None:
    """The table for a terminal, the differences of AP50 in words, and where everything is."""
    from pipelines.studies.comparison_results import detector_table
    from pipelines.studies.statistics import verdict

    console = plain_console()
    console.print(detector_table(figures).terminal(f"Mean ± standard deviation of {len(figures['seeds'])} seeds"))
    for difference in figures["differences"]:
        console.print(verdict(difference, "AP50"), soft_wrap=True)
    console.print(f"All figures: {folder}/compare.md, compare.json", soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "compare",
        "Plain, live and cached students on the same data, seeds and order.",
        example="--config configs/demo/distill.py --seeds 0 1 2",
        status="0 done, 1 failed, 2 unusable arguments. The same command continues a stopped comparison.",
    )
    add_config(parser, "the cached student's config", default="configs/demo/distill.py", overrides="all three configs")
    parser.add_argument(
        "--plain", type=config_file, help="the plain student's config (default: the one beside --config)"
    )
    parser.add_argument("--live", type=config_file, help="the live student's config (default: the one beside --config)")
    parser.add_argument("--cache", help="the teacher cache (default: the config's cache)")
    parser.add_argument(
        "--teacher", type=config_file, help="the teacher's config (default: the live config's model.teacher.config)"
    )
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the live config's)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="at least two (default: 0 1 2)")
    add_work_dir(parser, "holds one folder a run, and the results (default: work_dirs/compare_...)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="how many at a time; several blur the times")
    add_json(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
