"""Train any detector of configs/ on mmengine's runner: plain, or with a live teacher.

python -m pipelines.train --config configs/plain/gwd_r18_1x_dota.py
"""

from __future__ import annotations

import argparse
import sys

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import run_command
from pipelines.training.options import add_run_arguments, run_options


def main(arguments: argparse.Namespace) -> None:
    """Config -> trained checkpoint in the work folder."""
    from pipelines.training.ready import require_ready

    options = run_options(arguments)
    require_ready("train", options)

    from pipelines.training.start import load_run, tell_evaluation, train

    config = load_run(options)
    train(config)
    tell_evaluation(config)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "train",
        "Train a detector: plain, or with a live teacher.",
        example="--config configs/plain/gwd_r18_1x_dota.py --cfg-options randomness.seed=1",
    )
    add_run_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
