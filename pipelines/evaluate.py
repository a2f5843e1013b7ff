"""Evaluate a detector as the DOTA devkit does: patches merged to images, AP at 0.50 to 0.95.

python -m pipelines.evaluate --config configs/distill/gwd_r18_1x_dota.py --checkpoint work_dirs/.../epoch_12.pth
"""

from __future__ import annotations

import pipelines.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

from distill.checkpoint import load_checkpoint, load_weights, state_dict_of
from pipelines.command import run_command
from pipelines.experiment import load_config
from pipelines.runner import ConciseRunner

# A distilled student is a plain detector once it is trained.
DETECTOR = "mmdet.SingleStageDetector"


def main(arguments: argparse.Namespace) -> None:
    """Checkpoint -> detections of the validation set -> AP."""
    config = load_config(arguments.config, arguments.cfg_options)
    figures = evaluate(
        config,
        arguments.checkpoint,
        Path(arguments.out) if arguments.out else None,
        images=arguments.images,
        skip_empty=arguments.skip_empty,
        legacy=arguments.legacy,
    )
    print(json.dumps(figures, indent=2) if arguments.json else one_line(figures))


def one_line(figures: dict[str, float]) -> str:
    """The figures in percent; the table by class is in the log."""
    return "  ".join(f"{name} {100 * value:.2f}" for name, value in figures.items())


def evaluate(
    config: Config,
    checkpoint: str | Path,
    out: Path | None = None,
    *,
    images: str | None = None,
    skip_empty: bool = False,
    legacy: bool = False,
) -> dict[str, float]:
    """AP figures by name, as fractions; `out` gets `Task1_<class>.txt` and `evaluation.json`.

    Raises:
        ValueError: no such checkpoint, weights of another model, or missing data.
    """
    state = state_dict_of(load_checkpoint(checkpoint), checkpoint)
    config = detector_config(config)
    config.test_evaluator.update(
        image_list=images, outfile_prefix=None if out is None else str(out), legacy_cumulative=legacy
    )
    config.test_dataloader.dataset.skip_empty = skip_empty
    runner = ConciseRunner.from_cfg(config)
    load_weights(runner.model, state, checkpoint, "CONFIG=")
    metrics = runner.test()
    return {name.removeprefix("dota/"): float(value) for name, value in metrics.items()}


def detector_config(config: Config) -> Config:
    """A copy whose model is the bare detector: neither teacher nor cache is needed to evaluate a student."""
    config = Config(config.to_dict())
    for key in ("distillation", "teacher", "region"):
        config.model.pop(key, None)
    config.model.type = DETECTOR
    config.model.backbone.pop("init_cfg", None)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(key, None)
    config.load_from, config.resume = None, False
    return config


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluate",
        description="AP of a detector on the validation images, by the DOTA devkit's protocol.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--config", required=True, help="the config that the detector was trained with")
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument("--out", help="folder for Task1_<class>.txt and evaluation.json")
    parser.add_argument("--images", help="file with the image ids to evaluate, one a line (default: all)")
    parser.add_argument("--skip-empty", action="store_true", help="infer no patch without objects, as published")
    parser.add_argument("--legacy", action="store_true", help="also the published script's carried-over figures")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
