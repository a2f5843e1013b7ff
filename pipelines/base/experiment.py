"""What every command reads from a config: the student's identity, its views, and its training set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmdet.models.task_modules.assigners import BaseAssigner
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from mmrotate.registry import DATASETS, MODELS, TASK_UTILS

from cache.layout import ASSIGNED_FIELDS
from cache.manifest import as_stored
from distill.adapter import HeadAdapter, adapter_of
from distill.interface import describe_interface, require_classes
from distill.region import describe_region
from distill.settings import read_config
from distill.transforms import describe_views, fixed_steps, view_steps
from pipelines.base.options import require_known_options


def load_config(path: str | Path, options: Mapping[str, Any] | None = None, *, source: str = "--cfg-options") -> Config:
    """Read a config file, apply options, register what it names, and refuse what would have no effect.

    Raises:
        ValueError: as `read_config` and `require_known_options`.
    """
    config = read_config(path, options, source=source)
    init_default_scope(config.get("default_scope", "mmrotate"))
    require_known_options(config, f"config {path}")
    return config


def register(config: Config) -> None:
    """What `load_config` does beside reading, for a config that comes from another process."""
    import_modules_from_strings(**config.get("custom_imports", {"imports": []}))
    init_default_scope(config.get("default_scope", "mmrotate"))


def build_adapter(config: Config) -> HeadAdapter:
    """The adapter of the student's head.

    Raises:
        ValueError: no adapter knows the head, or it predicts another number of classes than the config names.
    """
    head = MODELS.build(
        {**config.model.bbox_head, "train_cfg": config.model.train_cfg, "test_cfg": config.model.test_cfg}
    )
    adapter = adapter_of(head)
    require_classes(adapter, config.classes)
    return adapter


def view_pipeline(config: Config) -> list[dict[str, Any]]:
    """The part of the training pipeline that makes a view."""
    return view_steps(config.train_dataloader.dataset.pipeline)


def training_set(config: Config, pipeline: list[dict[str, Any]]) -> BaseDetDataset:
    """The student's training set with another pipeline."""
    return DATASETS.build({**config.train_dataloader.dataset, "pipeline": pipeline, "serialize_data": False})


def entries_of(dataset: BaseDetDataset) -> dict[str, dict[str, Any]]:
    """The entries of a training set by patch id, the name that a cache knows them by, in the set's order."""
    return {str(info["img_id"]): info for info in map(dataset.get_data_info, range(len(dataset)))}


def build_assigner(config: Config) -> BaseAssigner | None:
    """The assigner whose answers the cache shall hold; None where the config does not plan them.

    Raises:
        ValueError: a config whose assignment depends on more than priors and labels.
    """
    if not config.get("plan_assignment", False):
        return None
    if config.model.train_cfg.allowed_border >= 0:
        raise ValueError(
            f"train_cfg.allowed_border is {config.model.train_cfg.allowed_border}; a planned assignment needs -1 (all "
            "priors). Set it, or plan_assignment = False"
        )
    return TASK_UTILS.build(config.model.train_cfg.assigner)


def describe_assignment(config: Config) -> dict[str, Any] | None:
    """The planned assignment as the manifest states it; None where the config does not plan it."""
    if not config.get("plan_assignment", False):
        return None
    return {"arrays": list(ASSIGNED_FIELDS), "assigner": config.model.train_cfg.assigner.to_dict()}


def describe_student(config: Config) -> dict[str, Any]:
    """The sections of the manifest that student and cache must share, from the student's config alone.

    Raises:
        ValueError: a training pipeline whose views cannot be enumerated, or a head of another number of classes.
    """
    dataset = config.train_dataloader.dataset
    interface = describe_interface(build_adapter(config), config.model.data_preprocessor, config.classes)
    data = {
        **DATASETS.get(dataset.type).kept_objects(dataset),
        "transforms": fixed_steps(dataset.pipeline, dataset.get("views")),
    }
    return as_stored(
        {
            "head": interface["head"],
            "views": describe_views(dataset.pipeline, dataset.get("views")),
            "preprocessing": {**interface["preprocessing"], **data},
            "region": describe_region(**config.region),
        }
    )
