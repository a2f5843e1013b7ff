"""Train the teacher: `pipelines.train`, for a config whose head predicts distributions.

python -m pipelines.teacher --config configs/teacher/gwd_r34_2x_dota.py
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import sys

from pipelines.base.command import run_command
from pipelines.base.experiment import build_adapter
from pipelines.train import add_training_arguments, prepare, train


def main(arguments: argparse.Namespace) -> None:
    """Config -> teacher checkpoint in the work folder."""
    config = prepare(arguments)
    build_adapter(config)
    train(config)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.teacher",
        description="Train the teacher whose answers the cache will hold.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    add_training_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
