"""The frozen teacher: config and checkpoint -> head outputs for a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor

from distill.adapter import HeadAdapter, adapter_of
from distill.checkpoint import load_checkpoint, load_weights, state_dict_of, weights_digest


class FrozenTeacher:
    """A detector in evaluation mode that never changes.

    Build it with `load`; `forward` gives the raw maps of its head.
    """

    def __init__(self, model: SingleStageDetector, model_config: dict[str, Any]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model_config = model_config
        self.adapter: HeadAdapter = adapter_of(model.bbox_head)

    @classmethod
    def load(
        cls, config: str | Path | Config, checkpoint: str | Path, classes: list[str] | None = None
    ) -> FrozenTeacher:
        """Build the teacher of a config file and load its weights.

        Raises:
            ValueError: a missing file, a checkpoint without a distribution head, weights of another model, or other
                classes than `classes`.
        """
        if not isinstance(config, Config):
            if not Path(config).is_file():
                raise ValueError(f"teacher config {config} does not exist. Give TEACHER=<config file>")
            config = Config.fromfile(config)
        state = state_dict_of(load_checkpoint(checkpoint), checkpoint)
        if classes is not None and list(config.classes) != list(classes):
            raise ValueError(
                f"teacher classes are {list(config.classes)} but the student's are {list(classes)}. "
                "Teacher and student must share classes and their order"
            )
        model_config = _without_downloads(config.model.to_dict())
        model = MODELS.build(model_config)
        try:
            adapter = adapter_of(getattr(model, "bbox_head", None))
        except ValueError as error:
            raise ValueError(f"teacher: {error}") from None
        _require_distribution_head(model, adapter, state, checkpoint)
        load_weights(model, state, checkpoint, "TEACHER=")
        return cls(model, json.loads(json.dumps(model_config)))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> FrozenTeacher:
        """Move the weights; nothing happens where they already are."""
        if self.device != torch.device(device):
            self.model.to(device)
        return self

    @torch.no_grad()
    def forward(self, batch_inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Raw class and box maps of every level for preprocessed images (B, 3, H, W)."""
        cls_scores, bbox_preds = self.model.bbox_head(self.model.extract_feat(batch_inputs))
        return list(cls_scores), list(bbox_preds)

    def describe(self) -> dict[str, Any]:
        """The teacher's identity as the manifest states it."""
        return {"weights_sha256": weights_digest(self.model.state_dict()), "model": self.model_config}


def _without_downloads(model_config: dict[str, Any]) -> dict[str, Any]:
    """The model's config without pretrained backbones: the checkpoint holds every weight."""
    cleaned = dict(model_config)
    cleaned["backbone"] = {key: value for key, value in cleaned["backbone"].items() if key != "init_cfg"}
    return cleaned


def _require_distribution_head(
    model: SingleStageDetector, adapter: HeadAdapter, state: Mapping[str, Tensor], checkpoint: str | Path
) -> None:
    """A plain regression head read as bins would give answers that look right and mean nothing."""
    name = f"bbox_head.{adapter.box_layer}.weight"
    wanted = tuple(model.state_dict()[name].shape)
    found = tuple(state[name].shape) if name in state else None
    if found is None or found[0] != wanted[0]:
        raise ValueError(
            f"checkpoint {checkpoint} has no distribution head: {wanted[0]} box channels expected, "
            f"{'none' if found is None else found[0]} found. Train the teacher with make teacher"
        )
