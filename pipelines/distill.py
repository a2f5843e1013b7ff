"""Train a student from a teacher cache; the teacher itself is never built.

python -m pipelines.distill --config configs/distill/gwd_r18_1x_dota.py
"""

from __future__ import annotations

import argparse
import sys

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import run_command
from pipelines.training.options import ALLOWABLE, add_run_arguments, run_options


def main(arguments: argparse.Namespace) -> None:
    """Config -> student matched with its cache -> trained checkpoint in the work folder."""
    from pipelines.training.ready import require_ready

    options = run_options(arguments)
    require_ready("distill", options, arguments.cache)

    from pipelines.training.match import use_cache
    from pipelines.training.start import load_run, tell_evaluation, train

    config = load_run(options)
    use_cache(config, arguments.cache, arguments.allow)
    train(config)
    tell_evaluation(config)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "distill",
        "Train a student with LD + KD from a teacher cache.",
        example="--config configs/distill/gwd_r18_1x_dota.py --cache caches/gwd_r34_dota.zarr",
    )
    add_run_arguments(parser)
    parser.add_argument("--cache", help="the teacher cache (default: the config's cache)")
    parser.add_argument(
        "--allow", nargs="+", default=(), metavar="FIELD", help=f"train although these differ: {', '.join(ALLOWABLE)}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
