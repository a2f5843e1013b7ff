"""Plan a cache: the region of every view from labels alone; with a teacher its size, its time and whether it pays."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys

from rich.console import Console

from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import add_config_arguments, load_config, require_keys
from pipelines.capture.break_even import break_even
from pipelines.capture.cluster import ClusterOptions, add_cluster_arguments, open_cluster
from pipelines.capture.engine import make_engine
from pipelines.capture.figures import plan_figures, print_plan, print_probe
from pipelines.capture.options import CaptureOptions, add_capture_arguments, add_teacher_arguments
from pipelines.capture.planning import plan_views

EPILOG = """examples:
  python -m pipelines.plan --config configs/distill/gwd_r18_1x_dota.py
  python -m pipelines.plan --config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth --students 3

Exit status: 0 done, 1 failed, 2 unusable arguments."""


def main(arguments: argparse.Namespace) -> None:
    """Labels -> regions -> rows and bytes; with a teacher also the probe."""
    config = load_config(arguments.config, arguments.cfg_options)
    with_teacher = arguments.probe or arguments.checkpoint is not None
    require_keys(config, ("region", "classes", *(("codec", "teacher") if with_teacher else ())), arguments.config)
    # Figures are printed once, at the end, where a program reads them; people see the plan before the probe runs.
    tell = not arguments.json
    with open_cluster(ClusterOptions.of(arguments)) as cluster:
        engine = make_engine(config, CaptureOptions.of(arguments), cluster) if with_teacher else None
        plan = plan_views(config, arguments.loaders, arguments.views_per_block, cluster)
        figures = plan_figures(plan, config)
        if tell:
            print_plan(figures)
        probe = engine.describe(plan, probe=True)[1] if engine is not None else None
    if probe is not None:
        pays = break_even(plan, probe, config, arguments.students)
        figures |= {"probe": probe.figures(), "break_even": pays.figures()}
        if tell:
            print_probe(probe, plan)
            Console().print(str(pays))
    elif tell:
        Console().print("With CHECKPOINT=<teacher.pth> the teacher is asked as well: size, time, and whether it pays.")
    if not tell:
        print(json.dumps(figures, indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.plan",
        description="Rows and bytes of a teacher cache from labels; with a teacher also size, time and break-even.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser, "a student's config (configs/distill/...)")
    add_teacher_arguments(parser)
    add_capture_arguments(parser)
    parser.add_argument("--probe", action="store_true", help="ask the config's teacher; --checkpoint does so as well")
    parser.add_argument(
        "--students", type=positive_int, default=1, help="students that will share the cache, for the break-even"
    )
    add_cluster_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
