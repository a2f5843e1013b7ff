"""What the command line says about a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.base.arguments import add_config, add_tf32, add_work_dir, options_of
from pipelines.base.config_files import config_of_run

# What a user may allow to differ from the cache all the same; `run.json` says so. Another head cannot read the targets.
ALLOWABLE = ("views.flip_offset", "preprocessing", "region", "label_sha256", "image_sha256")


@dataclass(frozen=True)
class RunOptions:
    """What a command line says about a run.

    work_dir, tf32: None for the config's. resume: go on from the last checkpoint of the work folder.
    """

    config: str
    work_dir: str | None = None
    resume: bool = False
    tf32: bool | None = None
    cfg_options: Mapping[str, Any] | None = None


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """What the command line says; a training that goes on in a folder has its config there.

    Raises:
        ValueError: it names no config, and there is none to be found.
    """
    if arguments.config is None:
        if not (arguments.resume and arguments.work_dir):
            raise ValueError("CONFIG= is needed; a training that goes on (RESUME=1) has it in its folder (WORK_DIR=)")
        arguments.config = config_of_run(arguments.work_dir)
    return options_of(RunOptions, arguments)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `RunOptions`."""
    add_config(parser, "the config of the run (with --resume and --work-dir: the one in that folder)", required=False)
    add_work_dir(parser, "where logs and checkpoints go (default: the config's work_dir)")
    add_tf32(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the work folder")
