"""Ways of training that are timed side by side: plain, cached and live students, and what each may see of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmrotate.registry import MODELS
from torch import Tensor

from distill.arithmetic import Arithmetic
from distill.detectors import LiveDistiller
from pipelines.base.device import copy_beside_computing

Batch = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One way of training that the benchmark compares.

    model: the detector's config, from the cached student's. adapt: leaves in a batch of its loader what
    this detector may see. left_out: transforms of its pipeline that this detector's own loader does not run; None where
    the loader is another row's.
    """

    name: str
    title: str
    model: Callable[[Config], dict[str, Any]]
    adapt: Callable[[Batch], Batch]
    left_out: tuple[str, ...] | None


def plain_model(config: Config) -> dict[str, Any]:
    """mmrotate's own step: expected deltas, decoded boxes and box loss of every prior."""
    model = sparse_plain_model(config)
    return model | {"bbox_head": model["bbox_head"] | {"box_loss_rows": "all"}}


def sparse_plain_model(config: Config) -> dict[str, Any]:
    """The same losses with the box loss where its weight is not 0."""
    model = config.model.to_dict()
    del model["distillation"]
    model.pop("cache", None)
    return model | {"type": "mmdet.SingleStageDetector"}


def cached_model(config: Config) -> dict[str, Any]:
    return config.model.to_dict()


def live_model(config: Config) -> dict[str, Any]:
    model = config.model.to_dict()
    model.pop("cache", None)
    return model | {"type": "LiveDistiller", "teacher": dict(config.teacher)}


def keep_all(batch: Batch) -> Batch:
    """Everything that the loader has packed."""
    return batch


def drop_assignment(batch: Batch) -> Batch:
    """The teacher's answers; the student assigns by itself."""
    return {**batch, "targets": replace(batch["targets"], assigned=None)}


def drop_targets(batch: Batch) -> Batch:
    """Ground truth alone."""
    return {name: value for name, value in batch.items() if name != "targets"}


def keep_region(batch: Batch) -> Batch:
    """The region, without the teacher's answers."""
    return {**batch, "targets": replace(batch["targets"], answers=None, assigned=None)}


ROWS = (
    Row("plain", "plain, as mmrotate", plain_model, drop_targets, ("LoadTeacherTargets",)),
    Row("plain_sparse", "plain, sparse box loss", sparse_plain_model, drop_targets, None),
    Row("cached", "cached", cached_model, drop_assignment, ()),
    Row("cached_planned", "cached, planned assignment", cached_model, keep_all, ()),
    Row("live", "live", live_model, keep_region, None),
)


class Student:
    """A row's detector and its optimiser on the device; without an arithmetic in float32, as the process computes."""

    def __init__(
        self, row: Row, config: Config, device: torch.device, seed: int, arithmetic: Arithmetic | None = None
    ) -> None:
        self.row = row
        torch.manual_seed(seed)
        self.model: Any = MODELS.build(row.model(config))
        self.model.init_weights()
        copy_beside_computing(self.model)
        self.model.to(device).train()
        optim_wrapper = config.optim_wrapper
        if arithmetic is not None:
            optim_wrapper = self._compute_in(arithmetic, optim_wrapper)
        self.optim_wrapper: OptimWrapper = build_optim_wrapper(self.model, optim_wrapper)

    def _compute_in(self, arithmetic: Arithmetic, optim_wrapper: Mapping[str, Any]) -> Mapping[str, Any]:
        """The optimiser's config for an arithmetic, in which a live teacher answers as well; TF32 is the process's."""
        if arithmetic.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if isinstance(self.model, LiveDistiller):
            self.model.teacher.compute_in(arithmetic, deterministic=torch.backends.cudnn.deterministic)
        if arithmetic.dtype == "float32":
            return optim_wrapper
        return {**optim_wrapper, "type": "AmpOptimWrapper", "dtype": arithmetic.dtype}

    def see(self, batch: Batch) -> Batch:
        """What this student may see of a batch; a step changes samples."""
        samples = [sample.new() for sample in batch["data_samples"]]
        seen = self.row.adapt({**batch, "inputs": list(batch["inputs"]), "data_samples": samples})
        return {name: value for name, value in seen.items() if name != "load_seconds"}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One training step; its losses.

        Raises:
            ValueError: a loss that is not finite, whose step is no example of training.
        """
        losses: dict[str, Tensor] = self.model.train_step(batch, self.optim_wrapper)
        for name, value in losses.items():
            if not math.isfinite(float(value)):
                raise ValueError(
                    f"row {self.row.name}: {name} is {float(value)}; no time of such a step means anything"
                )
        return losses
