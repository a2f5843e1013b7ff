"""A config as commands read it: every setting filled in, everything checked, nothing run.

    python -m pipelines.config --config configs/distill/gwd_r18_1x_dota.py

The model is built and tried on a small image, and the views of a student with a cache are enumerated. What the config
reads is looked for; a file that is not there yet is no error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.base.arguments import add_config, add_json, make_command_parser
from pipelines.base.command import run_command, say

if TYPE_CHECKING:
    from mmengine.config import Config


def main(arguments: argparse.Namespace) -> None:
    """Config file -> checked -> as it is used, and what it reads."""
    from pipelines.base.experiment import describe_student, load_config
    from pipelines.base.model_check import build_model
    from pipelines.training.kind import WORDS, detector_config, kind_of

    config = load_config(arguments.config, arguments.cfg_options)
    # Without a live teacher, which need not be there yet.
    build_model(detector_config(config).model)
    kind = kind_of(config)
    if kind == "cached":
        describe_student(config)
    print(json.dumps(config.to_dict(), indent=1, default=str) if arguments.json else config.pretty_text)
    say(f"{arguments.config}: {WORDS[kind]}, {len(config.get('classes', ()))} classes; nothing is wrong with it")
    for line in what_it_reads(config):
        say(line)


def what_it_reads(config: Config) -> Iterator[str]:
    """Images, teacher and cache: where they are, or how they are made."""
    from cache.store import Store
    from pipelines.base.cures import cure_of
    from pipelines.base.ready import require_teacher, require_training_images

    teacher, cache = config.get("teacher"), config.get("cache")
    reads = {"images": (f"below {config.get('data_root')}", lambda: require_training_images(config))}
    if teacher is not None:
        reads["teacher"] = (teacher.checkpoint, lambda: require_teacher(teacher.config, teacher.checkpoint))
    if cache is not None:
        reads["cache"] = (cache, lambda: Store(cache))
    for name, (place, look) in reads.items():
        try:
            look()
        except ValueError as error:
            cure = cure_of(error)
            yield f"{name}: {error}{f'. {cure}' if cure else ''}"
        else:
            yield f"{name}: {place}"


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "config",
        "Print a config as commands read it, and check it: names, options, model, views. Nothing is run.",
        example="--config configs/distill/gwd_r18_1x_dota.py --cfg-options distillation.loss_kd.temperature=2.0",
    )
    add_config(parser, "the config")
    add_json(parser, "the config")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
