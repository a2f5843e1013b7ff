"""What a training needs, looked at before torch is imported."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from cache.store import Store
from distill.settings import read_config
from pipelines.base.config_files import last_checkpoint
from pipelines.base.invocation import again, make
from pipelines.base.ready import (
    require_keys,
    require_teacher,
    require_training_images,
    require_validation_images,
    require_writable,
)
from pipelines.base.stores import path_beside
from pipelines.training.kind import WORDS, kind_of
from pipelines.training.options import RunOptions


def require_ready(command: str, options: RunOptions, cache: str | None = None) -> None:
    """Refuse a run of `teacher`, `train` or `distill` whose config is another command's, or that lacks what it reads.

    cache: goes before the config's.

    Raises:
        ValueError: naming what is missing, and the command that makes it.
    """
    config = read_config(options.config, options.cfg_options, imports=False)
    kind = kind_of(config)
    _require_kind(command, kind, config, options.config)
    if kind == "cached":
        require_keys(config, ("region", "classes", "cache"), options.config)
    folder = options.work_dir or config.get("work_dir") or f"work_dirs/{Path(options.config).stem}"
    require_writable(folder, "WORK_DIR")
    if not options.resume:
        _require_no_training(Path(folder))
    require_training_images(config)
    if config.get("val_cfg") is not None:
        # mmengine opens them when a training starts, however late it validates.
        require_validation_images(config)
    if kind == "cached":
        Store(cache or config.cache)
    if kind == "live":
        require_teacher(config.teacher.config, config.teacher.checkpoint)


def _require_no_training(folder: Path) -> None:
    """Refuse to train into a folder that holds another training's weights."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None and (folder / checkpoint).is_file():
        raise ValueError(
            f"WORK_DIR {folder} holds a training already (up to {checkpoint}), which a new one would overwrite. "
            f"Go on with it: {again(resume=1)}; or train elsewhere: {again(work_dir=path_beside(folder))}"
        )


def _require_kind(command: str, kind: str, config: Config, path: str | Path) -> None:
    """Refuse a config that another command trains, which is named."""
    teacher = (config.get("teacher") or {}).get("config")
    if command == "teacher" and kind != "plain":
        cure = f"TEACHER= is needed: {make('teacher', teacher=teacher or '<its teacher>')}"
    elif command == "train" and kind == "cached":
        cure = f"It is trained by: {make('distill', config=path)}"
    elif command == "distill" and kind != "cached":
        cure = f"It is trained by: {make('train', config=path)}"
    else:
        return
    raise ValueError(f"{path} is the config of {WORDS[kind]}. {cure}")
