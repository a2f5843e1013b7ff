"""The capture: teacher over every view of a block, region rows gathered, quantised, measured."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache.layout import ERROR_COLUMNS, ERROR_TEMPERATURES
from cache.plan import VIEWS_PER_BLOCK, Plan
from cache.quantize import LOGIT_FIELDS, FieldCodec, subtract_row_max
from cache.view import FLIPS
from distill.adapter import HeadAdapter
from distill.teacher import FrozenTeacher
from pipelines.base.command import positive_int
from pipelines.base.experiment import describe_assignment, describe_student, require_plain_preprocessor
from pipelines.capture.views import TrainingViews

# What the teacher may compute in: float32, or autocast to one of the others.
DTYPES = ("float32", "bfloat16", "float16")
# Rows of a block, evenly spaced, whose boxes are compared: rotated IoU costs microseconds a pair on a CPU.
BOX_CHANGE_ROWS = 65536


@dataclass(frozen=True)
class PatchViews:
    """All views of one patch, ready for the teacher; F flips.

    images: (F, 3, H, W) uint8. prior_index, weight: F arrays of the views' regions. assigned: F pairs of the planned
    assignment; none where it is not planned.
    """

    patch: int
    images: Tensor
    prior_index: list[np.ndarray]
    weight: list[np.ndarray]
    assigned: Sequence[tuple[np.ndarray, np.ndarray]] = ()


@dataclass(frozen=True)
class PatchLogits:
    """The teacher's logits at the region of a patch's views, on the teacher's device; M rows.

    seconds: the teacher's forward pass and the gathering, this patch's share of its batch.
    """

    patch: int
    seconds: float
    prior_index: np.ndarray  # (M,) uint32
    weight: np.ndarray  # (M,) float32
    cls_logits: Tensor  # (M, C) float32
    box_logits: Tensor  # (M, D, K) float32, row maximum at 0
    assigned: Sequence[tuple[np.ndarray, np.ndarray]]  # F pairs (m,) priors and objects, or none


@dataclass
class BlockTargets:
    """The rows of one block as the writer takes them, and their measured errors."""

    block: int
    fields: dict[str, np.ndarray]
    error: np.ndarray


class Capture:
    """Runs the teacher over the views of a plan.

    Batches are whole patches of one block, so that a block's bytes do not depend on other blocks.

    Args:
        loaders: processes that load; 0 where this one does.
        patches_per_batch: patches, each with all its views, in one forward pass.
        dtype: one of DTYPES.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        teacher: FrozenTeacher,
        loaders: int,
        *,
        patches_per_batch: int = 1,
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"capture dtype is {dtype!r}; one of {', '.join(DTYPES)} needed")
        self.plan = plan
        self.teacher = teacher
        self.loaders = loaders
        self.patches_per_batch = patches_per_batch
        self.dtype = dtype
        self.views = ViewDataset(config, plan)
        self.preprocessor = MODELS.build(config.model.data_preprocessor).to(teacher.device)

    def blocks(self, blocks: Sequence[int], codecs: dict[str, FieldCodec]) -> Iterator[BlockTargets]:
        """The targets of every named block, in order; the next block's images load meanwhile.

        Raises:
            ValueError: a value that the codec cannot hold, naming view, field, value and range.
        """
        batches = [batch for block in blocks for batch in self.batches(self.patches_of(block))]
        answers = self.logits(batches)
        for block in blocks:
            yield self.encode(block, [next(answers) for _ in self.patches_of(block)], codecs)

    def batches(self, patches: Sequence[int]) -> list[list[int]]:
        """Consecutive patches of one size, at most `patches_per_batch` together."""
        runs = groupby(patches, key=lambda patch: tuple(self.plan.patch_shape[patch].tolist()))
        return [list(batch) for _, run in runs for batch in batched(run, self.patches_per_batch)]

    def logits(self, batches: Sequence[Sequence[int]]) -> Iterator[PatchLogits]:
        """The teacher's answers for the patches of every batch, in order."""
        patches = [patch for batch in batches for patch in batch]
        loaded = iter(
            DataLoader(
                self.views,
                batch_size=None,
                sampler=patches,
                num_workers=min(self.loaders, len(patches)),
                collate_fn=_as_it_is,
            )
        )
        for batch in batches:
            yield from self.ask([next(loaded) for _ in batch])

    def ask(self, patches: Sequence[PatchViews]) -> list[PatchLogits]:
        """Teacher forward on the views of patches of one size, rows gathered."""
        device = self.teacher.device
        images = [image for views in patches for image in views.images]
        batch = self.preprocessor({"inputs": images, "data_samples": None})
        regions = [index for views in patches for index in views.prior_index]
        image_index = np.repeat(np.arange(len(regions)), [len(index) for index in regions])
        started = time.perf_counter()
        with torch.autocast(device.type, getattr(torch, self.dtype), enabled=self.dtype != "float32"):
            maps = self.teacher.forward(batch["inputs"])
        _, cls_logits, box_logits = self.teacher.adapter.gather(
            *maps,
            torch.from_numpy(image_index).to(device),
            torch.from_numpy(np.concatenate(regions)).to(device),
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - started) / len(patches)
        rows = [sum(map(len, views.prior_index)) for views in patches]
        return [
            PatchLogits(
                patch=views.patch,
                seconds=seconds,
                prior_index=np.concatenate(views.prior_index).astype(np.uint32),
                weight=np.concatenate(views.weight),
                cls_logits=cls_rows.float(),
                box_logits=subtract_row_max(box_rows.float()),
                assigned=views.assigned,
            )
            for views, cls_rows, box_rows in zip(patches, cls_logits.split(rows), box_logits.split(rows), strict=True)
        ]

    def patches_of(self, block: int) -> list[int]:
        """Patch positions of a block, in the order of their rows."""
        return list(dict.fromkeys(int(self.plan.view_patch[view]) for view in self.plan.views_of_block(block)))

    def encode(self, block: int, answers: Sequence[PatchLogits], codecs: dict[str, FieldCodec]) -> BlockTargets:
        """The answers for the patches of a block as the writer takes them, with what the codec has done to them.

        Raises:
            ValueError: as `blocks`.
        """
        for answer in answers:
            self._require_storable(answer, codecs)
        prior_index = np.concatenate([answer.prior_index for answer in answers])
        weight = np.concatenate([answer.weight for answer in answers])
        fields = {"prior_index": prior_index, "weight": weight.astype(codecs["weight"].dtype)}
        pairs = [pair for answer in answers for pair in answer.assigned]
        if pairs:
            fields["assigned_prior"] = np.concatenate([prior for prior, _ in pairs]).astype(np.uint32)
            fields["assigned_object"] = np.concatenate([matched for _, matched in pairs]).astype(np.int32)
        error = dict.fromkeys(ERROR_COLUMNS, 0.0)
        logits = {field: torch.cat([getattr(answer, field) for answer in answers]) for field in LOGIT_FIELDS}
        decoded = {}
        for field, values in logits.items():
            fields[field] = codecs[field].encode(values).to(getattr(torch, codecs[field].dtype)).cpu().numpy()
            if len(values) and codecs[field].dtype != "float32":
                decoded[field] = torch.from_numpy(codecs[field].decode(fields[field])).to(values.device)
                error |= measure_error(values, decoded[field], field.removesuffix("_logits"))
        if len(prior_index) and codecs["box_logits"].dtype != "float32":
            rows = np.linspace(0, len(prior_index) - 1, min(len(prior_index), BOX_CHANGE_ROWS)).astype(np.int64)
            before, after = (
                self._boxes(answers, values, rows) for values in (logits["box_logits"], decoded["box_logits"])
            )
            error |= measure_box_change(self.teacher.adapter, before, after)
        return BlockTargets(block, fields, np.asarray([error[column] for column in ERROR_COLUMNS]))

    def _require_storable(self, answer: PatchLogits, codecs: dict[str, FieldCodec]) -> None:
        """Refuse a value that its codec cannot hold within the bound, naming its view."""
        views = np.flatnonzero(self.plan.view_patch == answer.patch)
        rows = self.plan.rows_per_view[views].tolist()
        patch_id = self.plan.patch_ids[answer.patch]
        if sum(rows) != len(answer.weight):
            raise ValueError(
                f"patch {patch_id}: its region has {len(answer.weight)} rows, the plan says {sum(rows)}. The labels "
                "have changed since the plan: start a new cache"
            )
        require_weights(codecs["weight"], answer.weight, f"patch {patch_id}")
        for field in LOGIT_FIELDS:
            values: Tensor = getattr(answer, field)
            for view, part in zip(views, values.split(rows), strict=True):
                if part.numel():
                    where = f"view {self.plan.view(int(view))}"
                    codecs[field].check_range(float(part.min()), float(part.max()), field, where)

    def _boxes(self, answers: Sequence[PatchLogits], box_logits: Tensor, rows: np.ndarray) -> Tensor:
        """Expected boxes of some rows (sorted) of a block's box logits."""
        boxes, start = [], 0
        for answer in answers:
            stop = start + len(answer.prior_index)
            own = rows[(rows >= start) & (rows < stop)]
            grid = self.views.views.grid(*self.plan.patch_shape[answer.patch].tolist())
            prior_index = torch.from_numpy(answer.prior_index[own - start].astype(np.int64))
            boxes.append(self.teacher.adapter.expected_boxes(grid, prior_index, box_logits[own]))
            start = stop
        return torch.cat(boxes)


class ViewDataset(Dataset):
    """The training set's patches, each as all its views, by position in the plan."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.views = TrainingViews(config, pixels=True)
        self.plan = plan
        self.flips = [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))]

    def __len__(self) -> int:
        return len(self.plan.patch_ids)

    def __getitem__(self, patch: int) -> PatchViews:
        patch_id = self.plan.patch_ids[patch]
        planned = tuple(int(side) for side in self.plan.patch_shape[patch])
        images, indices, weights, assigned = [], [], [], []
        for flip in self.flips:
            sample = self.views.sample(patch_id, flip)
            shape = sample.grid.height, sample.grid.width
            if shape != planned:
                raise ValueError(
                    f"image {self.views.info(patch_id)['img_path']}: decoded shape is {shape} with padding but its "
                    f"header says {planned}"
                )
            prior_index, weight = self.views.region(sample)
            images.append(sample.image)
            indices.append(prior_index)
            weights.append(weight)
            pair = self.views.assignment(sample)
            if pair is not None:
                assigned.append(pair)
        return PatchViews(patch, torch.stack(images), indices, weights, assigned)


def require_weights(codec: FieldCodec, weight: np.ndarray, where: str) -> None:
    """Refuse weights that the codec would round to 0: a stored prior has a weight above 0."""
    lost = weight.astype(codec.dtype) == 0
    if lost.any():
        raise ValueError(
            f"{where}: weight {weight[lost][0]:.3g} is 0 in {codec.dtype}. Capture into a new cache with codec "
            "'exact', or codec=dict(weight='float32')"
        )


def measure_error(logits: Tensor, decoded: Tensor, name: str) -> dict[str, float]:
    """Largest absolute error, and mean KL(teacher || stored) of a softmax row in nats by temperature."""
    error = (logits - decoded).double()
    measured = {f"{name}_max_abs_error": float(error.abs().max())}
    # Exponentials cost more than all the rest: those of lower temperatures are powers of the first.
    tenth = {}
    for whose, values in (("teacher", logits), ("stored", decoded)):
        tenth[whose] = subtract_row_max(values).double().div_(10).exp_()
    shift = decoded.amax(dim=-1).double() - logits.amax(dim=-1).double()
    for temperature in ERROR_TEMPERATURES:
        teacher, stored = (values ** (10 / temperature) for values in tenth.values())
        weight = teacher.sum(dim=-1)
        # log(sum of exp(stored)) - log(sum of exp(teacher)), with the maxima that were subtracted.
        log_ratio = (stored.sum(dim=-1) / weight).log() + shift / temperature
        divergence = (teacher * error).sum(dim=-1) / weight / temperature + log_ratio
        measured[f"{name}_mean_kl_t{int(temperature)}"] = max(0.0, float(divergence.mean()))
    return measured


def measure_box_change(adapter: HeadAdapter, before: Tensor, after: Tensor) -> dict[str, float]:
    """What the codec does to expected boxes (M, 4 or 5): pixels, degrees, and 1 - IoU of before and after."""
    pixels, degrees, iou = adapter.box_change(before, after)
    lost = (1 - iou).clamp(min=0)
    return {
        "box_max_pixels": float(pixels.max()),
        "box_max_degrees": float(degrees.max()),
        "box_mean_iou_loss": float(lost.mean()),
        "box_max_iou_loss": float(lost.max()),
    }


def load_teacher(config: Config, arguments: argparse.Namespace) -> FrozenTeacher:
    """The teacher that the config or the command line names, on the device."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return FrozenTeacher.load(
        arguments.teacher or config.teacher.config,
        arguments.checkpoint or config.teacher.checkpoint,
        classes=list(config.classes),
    ).to(device)


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """Which teacher, and where it runs."""
    parser.add_argument("--teacher", help="the teacher's config (default: the student config's teacher.config)")
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the student config's teacher.checkpoint)")
    parser.add_argument("--device", help="where the teacher runs (default: cuda where there is one, else cpu)")


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    """How the teacher runs; the manifest states it, for the bytes depend on it."""
    parser.add_argument(
        "--patches-per-batch", type=positive_int, default=1, help="patches, with all their views, at once (default: 1)"
    )
    parser.add_argument(
        "--views-per-block",
        type=positive_int,
        default=VIEWS_PER_BLOCK,
        help=f"views that are written and committed together (default: {VIEWS_PER_BLOCK})",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the teacher computes in")


def make_capture(config: Config, plan: Plan, teacher: FrozenTeacher, arguments: argparse.Namespace) -> Capture:
    """The capture that the command line asks for."""
    return Capture(
        config,
        plan,
        teacher,
        arguments.loaders,
        patches_per_batch=arguments.patches_per_batch,
        dtype=arguments.dtype,
    )


def describe_capture(config: Config, capture: Capture) -> dict[str, Any]:
    """The manifest of the cache that a capture makes, but for its plan and codec.

    Raises:
        ValueError: teacher and student see different tensors.
    """
    student = describe_student(config)
    preprocessing = capture.teacher.model_config["data_preprocessor"]
    require_plain_preprocessor(preprocessing)
    for key in ("mean", "std", "bgr_to_rgb", "pad_size_divisor"):
        ours, theirs = student["preprocessing"][key], preprocessing.get(key)
        if ours != theirs:
            raise ValueError(
                f"preprocessing.{key} is {theirs} in the teacher's config but {ours} in the student's. Both see the "
                "same tensor: make them equal"
            )
    return {
        "teacher": capture.teacher.describe(),
        "numeric": describe_numeric(capture),
        "assignment": describe_assignment(config),
        **student,
    }


def describe_numeric(capture: Capture) -> dict[str, Any]:
    """What the bytes of a block depend on beside views and teacher, as the manifest states it."""
    teacher = capture.teacher
    return {
        "torch": torch.__version__,
        "dtype": capture.dtype,
        "device": teacher.device.type,
        "threads": torch.get_num_threads(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "views_per_batch": capture.patches_per_batch * len(capture.views.flips),
    }


def _as_it_is(views: PatchViews) -> PatchViews:
    return views
