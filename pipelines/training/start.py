"""The start of a training: the command line's options in the config, what must be there, mmengine's runner."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from cache.manifest import require_equal
from distill.checkpoint import use_safe_loading
from pipelines.base.command import say, tell_next, warn
from pipelines.base.config_files import last_checkpoint
from pipelines.base.experiment import load_config
from pipelines.base.invocation import ITS_CONFIG, again, given, make
from pipelines.base.model_check import in_one_line
from pipelines.base.ready import require_training_images
from pipelines.base.runner import ConciseRunner
from pipelines.training.evaluation import EVALUATION
from pipelines.training.kind import kind_of, point_to_head
from pipelines.training.options import RunOptions
from pipelines.training.run_record import forget_run_record, read_run_record, write_run_record
from pipelines.training.watch import TrainingWatch


def load_run(options: RunOptions) -> Config:
    """The run's config, with what the command line says."""
    config = load_config(options.config, options.cfg_options)
    if options.work_dir:
        config.work_dir = options.work_dir
    if "work_dir" not in config:
        config.work_dir = str(Path("work_dirs") / Path(options.config).stem)
    config.resume = options.resume
    if options.resume and last_checkpoint(Path(config.work_dir)) is None:
        config.resume = False
        warn(f"{config.work_dir} holds no checkpoint yet: the training starts at its beginning")
    if options.tf32 is not None:
        config.tf32 = options.tf32
    _use_launcher(config)
    return config


def _use_launcher(config: Config) -> None:
    """Train on several devices where torchrun (make ... GPUS=N) has started this process."""
    if "LOCAL_RANK" not in os.environ:
        return
    config.launcher = "pytorch"
    processes, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if torch.cuda.is_available() and processes > devices:
        raise ValueError(
            f"GPUS={processes} processes, one a GPU, but {devices} GPUs are visible (CUDA_VISIBLE_DEVICES says which). "
            f"Give GPUS={devices}"
        )
    if not torch.cuda.is_available():
        # mmengine would choose a CUDA device; it leaves a process group that exists alone.
        torch.distributed.init_process_group("gloo")
        # The default wrapper passes device ids, which a model on the CPU must not have.
        config.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None}


def train(config: Config) -> None:
    """Run the config's training loop; its work folder gets `run.json` at the end. A finished one is left as it is.

    Raises:
        ValueError: patches or a pretrained backbone are missing, or a live teacher has other classes.
    """
    if config.resume and is_finished(config):
        say(f"{config.work_dir} holds this training, finished: nothing is left to do")
        return
    require_training_images(config)
    if kind_of(config) == "live":
        require_classes_of_teacher(config)
        point_to_head(config)
    if config.get("load_from") is None and not config.resume:
        require_pretrained(config.model)
    watch = TrainingWatch(config)
    with in_one_line("this training cannot be built from its config"):
        runner = ConciseRunner.from_cfg(config)
        # Here, where an error is the config's: data, sampler and loop.
        runner.train_loop  # noqa: B018
    forget_run_record(Path(runner.work_dir))
    runner.register_hook(watch)
    runner.register_hook(watch.gpu_memory)
    runner.register_hook(watch.loader_memory)
    runner.train()
    write_run_record(config, runner, watch)


def is_finished(config: Config) -> bool:
    """Whether the training in the work folder has ended, and was as long as the config asks for."""
    folder, loop = Path(config.work_dir), config.train_cfg
    number = re.search(r"_(\d+)\.pth$", last_checkpoint(folder) or "")
    length = loop.get("max_iters") or loop.get("max_epochs")
    return read_run_record(folder) is not None and number is not None and int(number[1]) >= length


def tell_evaluation(config: Config) -> None:
    """Say how the trained detector is evaluated; a teacher also, how a cache of it is planned."""
    folder = Path(config.work_dir)
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return
    weights = folder / checkpoint
    # Its config lies beside it.
    lines = [make("evaluate", config=None, data_root=None, checkpoint=weights, work_dir=folder / EVALUATION)]
    if given("teacher") is not None:
        lines.append(make("plan", config=ITS_CONFIG, weights=weights))
    tell_next(*lines)


def require_classes_of_teacher(config: Config) -> None:
    """Refuse a live teacher of other classes than the training set; the rest `LiveDistiller` compares itself.

    Raises:
        ValueError: naming both lists.
    """
    student = config.train_dataloader.dataset.metainfo.classes
    teacher = load_config(config.model.teacher.config).get("classes", student)
    require_equal(
        {"head": {"classes": list(student)}},
        {"head": {"classes": list(teacher)}},
        cure="Teacher and student must share classes and their order",
        whose=("in the teacher", "in the student"),
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
            f"pretrained backbone {source} cannot be loaded ({reason}). Download it on another machine and give the "
            f"file: {again(options=['model.backbone.init_cfg.checkpoint=<file>'])}; or train from scratch: "
            f"{again(options=['model.backbone.init_cfg=None', 'model.backbone.frozen_stages=-1'])}"
        ) from None
