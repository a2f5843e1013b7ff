"""Train the teacher: `pipelines.train`, for a config whose head predicts distributions.

python -m pipelines.teacher --config configs/teacher/gwd_r34_2x_dota.py
"""

from __future__ import annotations

import argparse
import sys

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import run_command
from pipelines.training.options import add_run_arguments, run_options


def main(arguments: argparse.Namespace) -> None:
    """Config, whose head the cache can hold -> teacher checkpoint in the work folder."""
    from pipelines.training.ready import require_ready

    options = run_options(arguments)
    require_ready("teacher", options)

    from pipelines.base.experiment import build_adapter
    from pipelines.training.start import load_run, tell_evaluation, train

    config = load_run(options)
    build_adapter(config)
    train(config)
    tell_evaluation(config)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "teacher",
        "Train the teacher whose answers the cache will hold.",
        example="--config configs/teacher/gwd_r34_2x_dota.py",
    )
    add_run_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
