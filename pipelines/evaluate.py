"""Evaluate a detector by its config's metric: the DOTA devkit's AP of merged patches, or COCO's AP of boxes.

python -m pipelines.evaluate --config configs/distill/gwd_r18_1x_dota.py --checkpoint work_dirs/.../epoch_12.pth
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import Registry
from mmrotate.registry import DATASETS, METRICS

from distill.checkpoint import load_checkpoint, load_weights, state_dict_of
from pipelines.base.command import run_command
from pipelines.base.experiment import load_config
from pipelines.base.runner import ConciseRunner

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
    """AP figures by name, as fractions; `out` gets the metric's files, among them `evaluation.json`.

    Raises:
        ValueError: no such checkpoint, weights of another model, missing data, or an option that the config's metric or
            dataset does not have.
    """
    config = detector_config(config)
    config.test_evaluator.outfile_prefix = None if out is None else str(out)
    set_option(config.test_evaluator, METRICS, "image_list", images)
    set_option(config.test_evaluator, METRICS, "legacy_cumulative", legacy)
    set_option(config.test_dataloader.dataset, DATASETS, "skip_empty", skip_empty)
    state = state_dict_of(load_checkpoint(checkpoint), checkpoint)
    runner = ConciseRunner.from_cfg(config)
    load_weights(runner.model, state, checkpoint, "CONFIG=")
    metrics = runner.test()
    return {name.rpartition("/")[2]: float(value) for name, value in metrics.items()}


def set_option(component: ConfigDict, registry: Registry, name: str, value: Any) -> None:
    """Set an option of a part of the config; one that was not given (None or False) stays as it is there.

    Raises:
        ValueError: the component has no such option.
    """
    if not value:
        return
    known: Mapping[str, inspect.Parameter] = inspect.signature(registry.get(component.type).__init__).parameters
    if name not in known:
        raise ValueError(
            f"{component.type} has no {name}, so it cannot be {value!r} with this config. Leave the option out"
        )
    component[name] = value


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
        description="AP of a detector on the validation images, by its config's metric: the DOTA devkit's or COCO's.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--config", required=True, help="the config that the detector was trained with")
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument("--out", help="folder for detections and evaluation.json")
    parser.add_argument("--images", help="DOTA: file with the image ids to evaluate, one a line (default: all)")
    parser.add_argument("--skip-empty", action="store_true", help="DOTA: infer no patch without objects, as published")
    parser.add_argument("--legacy", action="store_true", help="DOTA: also the published script's carried-over figures")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
