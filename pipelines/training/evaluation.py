"""Evaluation of a detector by its config's metric, and what it leaves: the DOTA devkit's AP, or COCO's AP of boxes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry
from mmrotate.registry import DATASETS, METRICS

from distill.checkpoint import load_checkpoint, load_weights, state_dict_of
from pipelines.base.model_check import in_one_line
from pipelines.base.runner import ConciseRunner
from pipelines.training.kind import detector_config

EVALUATION = "evaluation"
"""The folder of a run that holds its evaluation."""
EVALUATION_FILE = f"{EVALUATION}/evaluation.json"
AP_COLUMNS = ("AP", "AP50", "AP75")
"""What tables and charts show of an evaluation."""


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
    # mmengine writes a config there, which is not the training's.
    config.work_dir = str(Path(config.get("work_dir", "work_dirs")) / EVALUATION if out is None else out)
    _set_option(config.test_evaluator, METRICS, "image_list", images)
    _set_option(config.test_evaluator, METRICS, "legacy_cumulative", legacy)
    _set_option(config.test_dataloader.dataset, DATASETS, "skip_empty", skip_empty)
    state = state_dict_of(load_checkpoint(checkpoint), checkpoint)
    with in_one_line("this evaluation cannot be built from its config"):
        runner = ConciseRunner.from_cfg(config)
        runner.test_loop  # noqa: B018
    load_weights(runner.model, state, checkpoint, "CONFIG=")
    metrics = runner.test()
    return {name.rpartition("/")[2]: float(value) for name, value in metrics.items()}


def evaluate_run(config: Config, checkpoint: str | Path, folder: Path) -> dict[str, float]:
    """AP figures of a run; its work folder gets `evaluation/`.

    Raises:
        ValueError: see `evaluate`.
    """
    return evaluate(config, checkpoint, folder / EVALUATION)


def read_evaluation(folder: Path) -> dict[str, float] | None:
    """AP, AP50, ... AP95 of a run as fractions; None where its evaluation is missing or half-written."""
    path = folder / EVALUATION_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    means = zip(found["thresholds"], found["mean_ap_per_threshold"], strict=True)
    return {"AP": found["AP"], **{f"AP{round(100 * threshold)}": value for threshold, value in means}}


def _set_option(component: ConfigDict, registry: Registry, name: str, value: Any) -> None:
    """Set an option of a part of the config; one that was not given (None or False) stays as it is there."""
    if not value:
        return
    known: Mapping[str, inspect.Parameter] = inspect.signature(registry.get(component.type).__init__).parameters
    if name not in known:
        raise ValueError(
            f"{component.type} has no {name}, so it cannot be {value!r} with this config. Leave the option out"
        )
    component[name] = value
