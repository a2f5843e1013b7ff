"""Plan a cache: the region of every view from labels alone; with a teacher its size, its time and whether it pays."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, make_command_parser, options_of
from pipelines.base.command import positive_int, run_command, tell_next
from pipelines.base.invocation import again, make
from pipelines.base.ready import require_keys, require_training_images
from pipelines.capture.options import (
    CaptureOptions,
    ClusterOptions,
    TeacherOptions,
    add_capture_arguments,
    add_cluster_arguments,
    add_teacher_arguments,
    require_teacher_of,
)


def main(arguments: argparse.Namespace) -> None:
    """Labels -> regions -> rows and bytes; with a teacher also the probe."""
    settings = read_config(arguments.config, arguments.cfg_options, imports=False)
    with_teacher = arguments.probe or arguments.checkpoint is not None
    if arguments.students and not with_teacher:
        make_parser().error("--students are for the break-even, which takes a teacher: --probe, or --checkpoint")
    require_keys(settings, ("region", "classes", *(("codec", "teacher") if with_teacher else ())), arguments.config)
    require_training_images(settings)
    if with_teacher:
        require_teacher_of(settings, arguments)

    from pipelines.base.experiment import load_config
    from pipelines.capture.break_even import break_even
    from pipelines.capture.cluster import open_cluster
    from pipelines.capture.engine import make_engine
    from pipelines.capture.figures import plan_figures, print_plan, print_probe
    from pipelines.capture.kept import KeptRegions
    from pipelines.capture.planning import plan_views

    config = load_config(arguments.config, arguments.cfg_options)
    # A program reads all figures at the end; people see the plan before the probe runs.
    teacher, options = options_of(TeacherOptions, arguments), options_of(CaptureOptions, arguments)
    tell = not arguments.json
    with open_cluster(options_of(ClusterOptions, arguments)) as cluster:
        engine = make_engine(config, teacher, options, cluster) if with_teacher else None
        kept = KeptRegions() if with_teacher else None
        plan = plan_views(config, arguments.loaders, arguments.views_per_block, cluster, kept)
        figures = plan_figures(plan, config)
        if tell:
            print_plan(figures, probed=with_teacher)
        probe = engine.describe(plan, kept, probe=True)[1] if engine is not None else None
    if probe is not None:
        pays = break_even(plan, probe, config, arguments.students or 1)
        figures |= {"probe": probe.figures(), "break_even": pays.figures()}
        if tell:
            print_probe(probe, plan)
            Console().print(str(pays))
    elif tell:
        Console().print(
            f"The teacher can be asked as well, for size, time, and whether it pays: {again(weights='<teacher.pth>')}"
        )
    if not tell:
        print(json.dumps(figures, indent=2))
    if probe is None or pays.pays:
        tell_next(make("cache-teacher"))


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "plan",
        "Rows and bytes of a teacher cache from labels; with a teacher also size, time and break-even.",
        example="--config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth --students 3",
    )
    add_config(parser, "a student's config (configs/distill/...)")
    add_teacher_arguments(parser)
    add_capture_arguments(parser)
    parser.add_argument("--probe", action="store_true", help="ask the config's teacher; --checkpoint does so as well")
    parser.add_argument(
        "--students", type=positive_int, help="students that will share the cache, for the break-even (default: 1)"
    )
    add_cluster_arguments(parser)
    add_json(parser, "the figures")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
