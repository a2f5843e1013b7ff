"""The frozen teacher: config and checkpoint -> head outputs for a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor

from distill.adapter import HeadAdapter, adapter_of
from distill.arithmetic import Arithmetic
from distill.checkpoint import load_checkpoint, load_weights, state_dict_of, weights_digest
from distill.errors import TeacherNeeded
from distill.interface import describe_interface
from distill.rows import Maps
from distill.settings import read_config

# Sizes of batches that a teacher is compiled for, one after the other.
MAX_COMPILED_SIZES = 64


class FrozenTeacher:
    """A detector in evaluation mode that never changes.

    Build it with `load`; `forward` gives the raw maps of its head.
    """

    def __init__(
        self, model: SingleStageDetector, model_config: dict[str, Any], classes: Sequence[str] | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model_config = model_config
        self.classes = classes
        self.arithmetic: Arithmetic | None = None
        self.deterministic = True
        self.adapter: HeadAdapter = adapter_of(model.bbox_head)

    @classmethod
    def load(cls, config: str | Path | Config, checkpoint: str | Path) -> FrozenTeacher:
        """Build the teacher of a config file and load its weights.

        Raises:
            ValueError: a missing file, a checkpoint without a distribution head, or weights of another model.
        """
        if not isinstance(config, Config):
            if not Path(config).is_file():
                raise TeacherNeeded(f"teacher config {config} does not exist")
            config = read_config(config)
        source = config.filename
        if not Path(checkpoint).is_file():
            raise TeacherNeeded(f"the teacher's checkpoint {checkpoint} does not exist", source)
        state = state_dict_of(load_checkpoint(checkpoint), checkpoint)
        model_config = _without_downloads(config.model.to_dict())
        model = MODELS.build(model_config)
        try:
            adapter = adapter_of(getattr(model, "bbox_head", None))
        except ValueError as error:
            raise TeacherNeeded(f"teacher config {source}: {error}") from None
        _require_distribution_head(model, adapter, state, checkpoint, source)
        load_weights(model, state, checkpoint, "TEACHER=")
        return cls(model, json.loads(json.dumps(model_config)), config.get("classes"))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> FrozenTeacher:
        """Move the weights; nothing happens where they already are."""
        if self.device != torch.device(device):
            self.model.to(device)
        return self

    def compute_in(self, arithmetic: Arithmetic, *, deterministic: bool = True) -> FrozenTeacher:
        """Answer in this arithmetic from now on, `deterministic` as in `applied`; without, in that of the process."""
        if arithmetic.compile and not (self.arithmetic and self.arithmetic.compile):
            # Past its limit torch would go on without compiling, and the answers would be others.
            torch._dynamo.config.recompile_limit = MAX_COMPILED_SIZES
            for part in (self.model.backbone, self.model.neck):
                # For each size anew: with sizes as variables, an answer would depend on those that came before.
                part.compile(dynamic=False)
        if arithmetic.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.arithmetic, self.deterministic = arithmetic, deterministic
        return self

    def preprocess(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 BGR -> the tensor that the teacher sees, on its device."""
        if self.device.type == "cuda":
            # One copy for all, which nobody waits for.
            images = images.pin_memory().to(self.device, non_blocking=True)
        return self.model.data_preprocessor({"inputs": images, "data_samples": None})["inputs"]

    @torch.no_grad()
    def forward(self, batch_inputs: Tensor) -> Maps:
        """Raw class and box maps of every level for preprocessed images (B, 3, H, W).

        Raises:
            ValueError: the teacher shall be compiled and cannot be.
        """
        arithmetic = self.arithmetic
        if arithmetic is not None and arithmetic.channels_last:
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        try:
            with (
                arithmetic.applied(batch_inputs.device, deterministic=self.deterministic)
                if arithmetic
                else nullcontext()
            ):
                cls_scores, bbox_preds = self.model.bbox_head(self.model.extract_feat(batch_inputs))
        except RuntimeError as error:
            if arithmetic is None or not arithmetic.compile:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"the compiled teacher does not run ({reason}). Leave out --compile") from error
        return list(cls_scores), list(bbox_preds)

    def describe(self) -> dict[str, Any]:
        """The teacher's identity as the manifest states it."""
        return {"weights_sha256": weights_digest(self.model.state_dict()), "model": self.model_config}

    def interface(self, *, named_classes: bool = True) -> dict[str, dict[str, Any]]:
        """What a student must share with it; see `describe_interface`.

        Raises:
            ValueError: its config names no classes, or others than its head has.
        """
        if named_classes and self.classes is None:
            raise ValueError("the teacher's config has no `classes`; a cache needs their names")
        classes = self.classes if named_classes else None
        return describe_interface(self.adapter, self.model_config["data_preprocessor"], classes)


def _without_downloads(model_config: dict[str, Any]) -> dict[str, Any]:
    """The model's config without pretrained backbones: the checkpoint holds every weight."""
    cleaned = dict(model_config)
    cleaned["backbone"] = {key: value for key, value in cleaned["backbone"].items() if key != "init_cfg"}
    return cleaned


def _require_distribution_head(
    model: SingleStageDetector,
    adapter: HeadAdapter,
    state: Mapping[str, Tensor],
    checkpoint: str | Path,
    config: str | None,
) -> None:
    """A plain regression head read as bins would give answers that look right and mean nothing; so would other bins."""
    built = model.state_dict()
    name = f"bbox_head.{adapter.box_layer}.weight"
    wanted = tuple(built[name].shape)
    found = tuple(state[name].shape) if name in state else None
    if found is None or found[0] != wanted[0]:
        raise TeacherNeeded(
            f"checkpoint {checkpoint} has no distribution head: {wanted[0]} box channels expected, "
            f"{'none' if found is None else found[0]} found. LD compares distributions over bins, and a plain detector "
            "predicts none; as load_from of the teacher's config it can be where its training starts",
            config,
        )
    for name in built:
        # The values of the bins: loading them would silently replace those of the config, which the manifest states.
        if name.startswith("bbox_head.integral") and name in state and not torch.allclose(built[name], state[name]):
            ours, theirs = ((float(bins[0]), float(bins[-1])) for bins in (built[name], state[name]))
            raise ValueError(
                f"checkpoint {checkpoint}: {name} goes from {theirs[0]:g} to {theirs[1]:g} but from {ours[0]:g} to "
                f"{ours[1]:g} in the teacher's config. Give the config that it was trained with (TEACHER=)"
            )
