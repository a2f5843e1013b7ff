"""Evaluate a detector by its config's metric: the DOTA devkit's AP of merged patches, or COCO's AP of boxes.

python -m pipelines.evaluate --checkpoint work_dirs/.../epoch_12.pth
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, make_command_parser
from pipelines.base.command import run_command, tell_next
from pipelines.base.config_files import config_of_run
from pipelines.base.invocation import make
from pipelines.base.ready import require_file, require_test_images, require_writable

# The end of the names that `publish` gives.
PUBLISHED = re.compile(r"-[0-9a-f]{8}$")


def main(arguments: argparse.Namespace) -> None:
    """Checkpoint -> detections of the validation set -> AP."""
    checkpoint = require_file(arguments.checkpoint, "CHECKPOINT")
    config_file = arguments.config or config_of_run(checkpoint.parent)
    require_test_images(read_config(config_file, arguments.cfg_options, imports=False))
    if arguments.out:
        require_writable(arguments.out, "WORK_DIR")

    from pipelines.base.experiment import load_config
    from pipelines.training.evaluation import evaluate

    figures = evaluate(
        load_config(config_file, arguments.cfg_options),
        checkpoint,
        arguments.out,
        images=arguments.images,
        skip_empty=arguments.skip_empty,
        legacy=arguments.legacy,
    )
    print(json.dumps(figures, indent=2) if arguments.json else as_text(figures))
    if not PUBLISHED.search(checkpoint.stem):
        tell_next(make("publish"))


def as_text(figures: dict[str, float]) -> str:
    """The figures in percent, a line each for the devkit's or COCO's mean and for others; classes are in the log."""
    lines = []
    titles = {"": "", "present_": "classes with objects alone: ", "legacy_": "as the published script: "}
    for kind, title in titles.items():
        found = {name.removeprefix(kind): value for name, value in figures.items() if name.startswith(f"{kind}AP")}
        lines += [title + "  ".join(f"{name} {100 * value:.2f}" for name, value in found.items())] if found else []
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "evaluate",
        "AP of a detector on the validation images, by its config's metric: the DOTA devkit's or COCO's.",
        example="--checkpoint work_dirs/plain_gwd_r18_1x_dota/epoch_12.pth",
    )
    add_config(parser, "the config that it was trained with (default: the one beside the checkpoint)", required=False)
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument("--out", type=Path, help="folder for detections and evaluation.json")
    parser.add_argument("--images", help="DOTA: file with the image ids to evaluate, one a line (default: all)")
    parser.add_argument("--skip-empty", action="store_true", help="DOTA: infer no patch without objects, as published")
    parser.add_argument("--legacy", action="store_true", help="DOTA: also the published script's carried-over figures")
    add_json(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
