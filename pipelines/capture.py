"""The capture: teacher over every view of a block, region rows gathered, quantised, measured."""

from __future__ import annotations

import pipelines.openmmlab  # noqa: F401  isort: skip

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache.layout import ERROR_COLUMNS, ERROR_TEMPERATURES
from cache.plan import Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec, ValueRange, subtract_row_max
from cache.view import FLIPS
from distill.region import box_region
from distill.teacher import FrozenTeacher
from pipelines.experiment import training_set, view_pipeline

# Seed of the probe's sample; the codec's steps depend on it.
PROBE_SEED = 0


@dataclass(frozen=True)
class PatchViews:
    """All views of one patch, ready for the teacher; F flips.

    images: (F, 3, H, W) uint8. prior_index, weight: F arrays of the views' regions.
    """

    patch: int
    images: Tensor
    prior_index: list[np.ndarray]
    weight: list[np.ndarray]


@dataclass(frozen=True)
class PatchLogits:
    """The teacher's logits at the region of a patch's views, on the teacher's device; M rows."""

    prior_index: np.ndarray  # (M,) uint32
    weight: np.ndarray  # (M,) float32
    cls_logits: Tensor  # (M, C) float32
    box_logits: Tensor  # (M, D, K) float32, row maximum at 0


@dataclass
class BlockTargets:
    """The rows of one block as the writer takes them, and their measured errors."""

    block: int
    fields: dict[str, np.ndarray]
    error: np.ndarray


class Capture:
    """Runs the teacher over the views of a plan.

    Batches are the views of one patch: they never cross a block, so a block's bytes do not depend on others.
    """

    def __init__(self, config: Config, plan: Plan, teacher: FrozenTeacher, workers: int) -> None:
        self.plan = plan
        self.teacher = teacher
        self.workers = workers
        self.views = ViewDataset(config, plan, teacher)
        self.preprocessor = MODELS.build(config.model.data_preprocessor).to(teacher.device)

    def blocks(self, blocks: Sequence[int], codecs: dict[str, FieldCodec]) -> Iterator[BlockTargets]:
        """The targets of every named block, in order; the next block's images load meanwhile.

        Raises:
            ValueError: a value that the codec cannot hold, naming view, field, value and range.
        """
        members = [self.patches_of(block) for block in blocks]
        answers = self.logits([patch for patches in members for patch in patches])
        for block, patches in zip(blocks, members, strict=True):
            yield self._block(block, [next(answers) for _ in patches], codecs)

    def logits(self, patches: Sequence[int]) -> Iterator[PatchLogits]:
        """The teacher's answers for the named patches, in order."""
        loader = DataLoader(
            self.views,
            batch_size=None,
            sampler=list(patches),
            num_workers=min(self.workers, len(patches)),
            collate_fn=_as_it_is,
        )
        for views in loader:
            yield self.ask(views)

    def ask(self, views: PatchViews) -> PatchLogits:
        """Teacher forward on the views of one patch, rows gathered."""
        batch = self.preprocessor({"inputs": list(views.images), "data_samples": None})
        cls_scores, bbox_preds = self.teacher.forward(batch["inputs"])
        counts = [len(index) for index in views.prior_index]
        prior_index = np.concatenate(views.prior_index)
        image_index = np.repeat(np.arange(len(counts)), counts)
        device = self.teacher.device
        _, cls_logits, box_logits = self.teacher.head.gather(
            cls_scores, bbox_preds, torch.from_numpy(image_index).to(device), torch.from_numpy(prior_index).to(device)
        )
        return PatchLogits(
            prior_index.astype(np.uint32), np.concatenate(views.weight), cls_logits, subtract_row_max(box_logits)
        )

    def probe(self, num_views: int) -> dict[str, ValueRange]:
        """Value ranges over a seeded sample of views, stratified by rows."""
        per_patch = self.plan.rows_per_view.reshape(len(self.plan.patch_ids), -1).sum(axis=1)
        count = min(len(per_patch), max(1, num_views // len(self.views.flips)))
        strata = np.array_split(np.argsort(per_patch, kind="stable"), count)
        random = np.random.default_rng(PROBE_SEED)
        low, high = dict.fromkeys(LOGIT_FIELDS, np.inf), dict.fromkeys(LOGIT_FIELDS, -np.inf)
        for answer in self.logits([int(random.choice(stratum)) for stratum in strata]):
            for field in LOGIT_FIELDS:
                values: Tensor = getattr(answer, field)
                if values.numel():
                    low[field] = min(low[field], float(values.min()))
                    high[field] = max(high[field], float(values.max()))
        if not all(np.isfinite([*low.values(), *high.values()])):
            raise ValueError(
                f"the teacher's logits are not finite in the probe (low {low}, high {high}). Check its checkpoint"
            )
        return {field: ValueRange(low[field], high[field]) for field in LOGIT_FIELDS}

    def patches_of(self, block: int) -> list[int]:
        """Patch positions of a block, in the order of their rows."""
        return list(dict.fromkeys(int(self.plan.view_patch[view]) for view in self.plan.views_of_block(block)))

    def _block(self, block: int, answers: list[PatchLogits], codecs: dict[str, FieldCodec]) -> BlockTargets:
        fields = {
            "prior_index": np.concatenate([answer.prior_index for answer in answers]),
            "weight": np.concatenate([answer.weight for answer in answers]),
        }
        error = dict.fromkeys(ERROR_COLUMNS, 0.0)
        for field in LOGIT_FIELDS:
            codec = codecs[field]
            for answer, patch in zip(answers, self.patches_of(block), strict=True):
                check_range(codec, getattr(answer, field), field, f"patch {self.plan.patch_ids[patch]}")
            logits = torch.cat([getattr(answer, field) for answer in answers])
            codes = codec.encode(logits).to(getattr(torch, codec.dtype))
            fields[field] = codes.cpu().numpy()
            if len(logits):
                decoded = torch.from_numpy(codec.decode(fields[field])).to(logits.device)
                error |= measure_error(logits, decoded, field.removesuffix("_logits"))
        return BlockTargets(block, fields, np.asarray([error[column] for column in ERROR_COLUMNS]))


class ViewDataset(Dataset):
    """The training set's patches, each as all its views, by position in the plan."""

    def __init__(self, config: Config, plan: Plan, teacher: FrozenTeacher) -> None:
        pack = {"type": "mmdet.PackDetInputs", "meta_keys": ("img_id", "img_shape")}
        self.dataset = training_set(config, [*view_pipeline(config), pack])
        self.plan = plan
        self.head = teacher.head
        self.region = dict(config.region)
        self.flips = [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))]
        self.position = {self.dataset.get_data_info(index)["img_id"]: index for index in range(len(self.dataset))}

    def __len__(self) -> int:
        return len(self.plan.patch_ids)

    def __getitem__(self, patch: int) -> PatchViews:
        patch_id = self.plan.patch_ids[patch]
        info = self.dataset.get_data_info(self.position[patch_id])
        shape = tuple(int(side) for side in self.plan.patch_shape[patch])
        grid = self.head.grid(*shape)
        images, indices, weights = [], [], []
        for flip in self.flips:
            packed = self.dataset.pipeline({**info, "forced_flip": flip})
            sample = packed["data_samples"]
            if tuple(sample.img_shape) != shape:
                raise ValueError(
                    f"image {info['img_path']}: decoded shape is {tuple(sample.img_shape)} but its header says {shape}"
                )
            prior_index, weight = box_region(sample.gt_instances.bboxes.tensor.numpy(), grid, **self.region)
            images.append(packed["inputs"])
            indices.append(prior_index)
            weights.append(weight)
        return PatchViews(patch, torch.stack(images), indices, weights)


def check_range(codec: FieldCodec, values: Tensor, field: str, where: str) -> None:
    """Refuse values that the codec cannot hold within its bound (see `FieldCodec.check_range`)."""
    if values.numel():
        codec.check_range(float(values.min()), float(values.max()), field, where)


def measure_error(logits: Tensor, decoded: Tensor, name: str) -> dict[str, float]:
    """Largest absolute error, and mean KL(teacher || stored) of a softmax row in nats by temperature."""
    measured = {f"{name}_max_abs_error": float((logits - decoded).abs().max())}
    for temperature in ERROR_TEMPERATURES:
        teacher = F.log_softmax(logits.double() / temperature, dim=-1)
        stored = F.log_softmax(decoded.double() / temperature, dim=-1)
        divergence = (teacher.exp() * (teacher - stored)).sum(dim=-1)
        measured[f"{name}_mean_kl_t{int(temperature)}"] = float(divergence.mean().clamp(min=0))
    return measured


def describe_numeric(teacher: FrozenTeacher, views_per_batch: int) -> dict[str, Any]:
    """What the bytes of a block depend on beside views and teacher, as the manifest states it."""
    return {
        "torch": torch.__version__,
        "dtype": "float32",
        "device": teacher.device.type,
        "threads": torch.get_num_threads(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "views_per_batch": views_per_batch,
    }


def _as_it_is(views: PatchViews) -> PatchViews:
    return views
