"""What a config trains: a plain, a live or a cached student; and the store that a cached one reads."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from cache.storage import locate

MODELS = {"cached": "CachedDistiller", "live": "LiveDistiller"}
WORDS = {
    "cached": "a student with a cache",
    "live": "a student with a live teacher",
    "plain": "a detector without a teacher",
}
"""The kinds as messages name them."""
# A distilled student is a plain detector once it is trained.
DETECTOR = "mmdet.SingleStageDetector"


def kind_of(config: Config) -> str:
    """'cached', 'live' or 'plain' (without distillation; a teacher's own training is one too)."""
    model_type = str(config.model.type).rpartition(".")[2]
    return next((kind for kind, name in MODELS.items() if name == model_type), "plain")


def targets_step(config: Config) -> dict[str, Any]:
    """The transform of the training pipeline that loads the teacher's targets.

    Raises:
        ValueError: the pipeline has none, or several.
    """
    steps = _targets_steps(config)
    if len(steps) != 1:
        raise ValueError(f"the training pipeline has {len(steps)} LoadTeacherTargets, one is needed (configs/distill)")
    return steps[0]


def cache_path(config: Config) -> str | None:
    """The store that the training pipeline reads; None where it reads none."""
    return next((step.get("cache") for step in _targets_steps(config)), None)


def point_to_cache(config: Config) -> None:
    """Let the training pipeline and the student read the store that the config's `cache` names."""
    targets_step(config)["cache"] = config.model.cache = str(config.cache)
    loader = config.train_dataloader
    if locate(config.cache).is_remote and loader.num_workers:
        # This process has asked S3 by then, and one forked from it could not.
        loader.multiprocessing_context = "forkserver"


def point_to_head(config: Config) -> None:
    """Let the loaders of a student with a live teacher search its region on the priors of its head.

    Raises:
        ValueError: the training pipeline has no FindRegion, or several.
    """
    steps = [step for step in config.train_dataloader.dataset.pipeline if step["type"] == "FindRegion"]
    if len(steps) != 1:
        raise ValueError(
            f"the training pipeline has {len(steps)} FindRegion, one is needed where the teacher is live (configs/live)"
        )
    # Which kind a config is must be known before torch is imported.
    from pipelines.base.experiment import build_adapter

    grid = build_adapter(config).describe()["grid"]
    steps[0].update(grid=grid, pad_size_divisor=config.model.data_preprocessor.get("pad_size_divisor", 1))


def detector_config(config: Config) -> Config:
    """A copy whose model is the bare detector: neither teacher nor cache is needed to evaluate a student."""
    config = Config(config.to_dict())
    for key in ("distillation", "teacher", "region", "cache"):
        config.model.pop(key, None)
        config.pop(key, None)
    config.model.type = DETECTOR
    config.model.backbone.pop("init_cfg", None)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "codec", "plan_assignment"):
        config.pop(key, None)
    config.load_from, config.resume = None, False
    return config


def _targets_steps(config: Config) -> list[dict[str, Any]]:
    return [step for step in config.train_dataloader.dataset.pipeline if step["type"] == "LoadTeacherTargets"]
