"""Train any detector of configs/ on mmengine's runner: plain, live, or from a cache.

python -m pipelines.train --config configs/plain/gwd_r18_1x_dota.py
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from mmengine.config import Config, DictAction
from mmengine.runner.checkpoint import CheckpointLoader

from distill.checkpoint import use_safe_loading
from pipelines.base.command import run_command
from pipelines.base.experiment import load_config
from pipelines.base.runner import ConciseRunner
from pipelines.training.record import TrainingWatch, forget_record, write_record

TORCHVISION = "torchvision://"


def main(arguments: argparse.Namespace) -> None:
    """Config -> trained checkpoint in the work folder."""
    train(prepare(arguments))


def prepare(arguments: argparse.Namespace) -> Config:
    """The run's config, with what the command line says."""
    config = load_config(arguments.config, arguments.cfg_options)
    if arguments.work_dir:
        config.work_dir = arguments.work_dir
    if "work_dir" not in config:
        config.work_dir = str(Path("work_dirs") / Path(arguments.config).stem)
    config.resume = arguments.resume
    use_launcher(config)
    return config


def use_launcher(config: Config) -> None:
    """Train on several devices where torchrun (make ... GPUS=N) has started this process."""
    if "LOCAL_RANK" not in os.environ:
        return
    config.launcher = "pytorch"
    if not torch.cuda.is_available():
        # mmengine would choose a CUDA device; it leaves a process group that exists alone.
        torch.distributed.init_process_group("gloo")
        # The default wrapper passes device ids, which a model on the CPU must not have.
        config.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None}


def train(config: Config) -> ConciseRunner:
    """Run the config's training loop; its work folder gets `run.json` at the end."""
    require_training_images(config)
    if config.get("load_from") is None and not config.resume:
        require_pretrained(config.model)
    watch = TrainingWatch(config)
    runner = ConciseRunner.from_cfg(config)
    forget_record(Path(runner.work_dir))
    runner.register_hook(watch)
    runner.train()
    write_record(config, runner, watch)
    return runner


def require_training_images(config: Config) -> None:
    """Refuse a run whose patches have not been made.

    Raises:
        ValueError: naming the folder and the command.
    """
    dataset = config.train_dataloader.dataset
    folder = Path(dataset.get("data_root", "")) / dataset.data_prefix["img_path"]
    if not folder.is_dir():
        raise ValueError(
            f"no training patches at {folder}. Make them with: make data CONFIG=<this config>, and for DOTA "
            "DOTA_ROOT=<folder>"
        )


def require_pretrained(model: Mapping[str, Any]) -> None:
    """Fetch the pretrained backbone before anything else starts.

    Raises:
        ValueError: it is not there and cannot be downloaded; the message says how to give a file.
    """
    init = model["backbone"].get("init_cfg") or {}
    source = init.get("checkpoint") if init.get("type") == "Pretrained" else None
    if source is None:
        return
    use_safe_loading()
    try:
        CheckpointLoader.load_checkpoint(source, map_location="cpu")
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"pretrained backbone {source} cannot be had ({reason}). Download it on another machine and give the file: "
            "ARGS='--cfg-options model.backbone.init_cfg.checkpoint=<file>', or train from scratch with "
            "ARGS='--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1'"
        ) from None


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="the config of the run")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: the config's work_dir)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the work folder")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.train",
        description="Train a detector: plain, or with a live teacher.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    add_training_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
