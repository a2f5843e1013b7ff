"""Inputs and comparisons of the golden values, as golden/README.md describes them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import QuadriBoxes, RotatedBoxes
from torch import Tensor, nn

from cache.view import FLIPS
from distill.dota import DOTA_CLASSES, list_images, read_labels
from distill.region import box_region
from distill.rows import Rows, Targets, stack_by_level

CASES = ("P0032__1__0___0@256,256,512", "P0019__1__0___768@0,512,512")
CASES_AND_FLIPS = tuple(f"{case}/{flip}" for case in CASES for flip in FLIPS)
STRIDES = (8, 16, 32, 64, 128)
STUDENT_SEED, TEACHER_SEED = 0, 1000
CLASS_PRIOR_BIAS = -4.59511985


def seeded_maps(seed: int, size: int, num_images: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Class and box maps of the student, then of the teacher."""
    random = np.random.RandomState(seed)
    models = []
    for _ in range(2):
        cls_maps, box_maps = [], []
        for stride in STRIDES:
            side = math.ceil(size / stride)
            for channels, shift, maps in ((135, 3.0, cls_maps), (405, 0.0, box_maps)):
                values = random.standard_normal((num_images, channels, side, side)) * 1.5 - shift
                maps.append(torch.from_numpy(values.astype(np.float32)))
        models += [cls_maps, box_maps]
    return tuple(models)


def fill_seeded_weights(model: nn.Module, seed: int) -> None:
    """Give every weight its value from its name and the seed."""
    filled = {}
    for name, value in model.state_dict().items():
        tensor = value
        if name.endswith("running_mean"):
            tensor = torch.zeros_like(value)
        elif name.endswith("running_var"):
            tensor = torch.ones_like(value)
        elif name.endswith("bias"):
            tensor = torch.full_like(value, CLASS_PRIOR_BIAS if name == "bbox_head.retina_cls.bias" else 0.0)
        elif name.endswith("weight") and value.dim() == 1:
            tensor = torch.ones_like(value)
        elif name.endswith("weight"):
            random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
            normal = torch.from_numpy(random.standard_normal(tuple(value.shape)).astype(np.float32))
            tensor = normal * _gain(name) * math.sqrt(2 / value[0].numel())
        filled[name] = tensor
    model.load_state_dict(filled)


def _gain(name: str) -> float:
    if name in ("bbox_head.retina_cls.weight", "bbox_head.retina_reg.weight"):
        return 0.03
    return 0.5 if name.startswith("backbone.") and "conv2" in name else 1.0


def loaded_crop(sample: Path, case: str) -> dict[str, Any]:
    """What the loading transforms give for a case: pixels and polygons of a crop of a patch."""
    patch_id, corner = case.split("@")
    left, top, side = map(int, corner.split(","))
    image = cv2.imread(str(list_images(sample / "train" / "images")[patch_id]), cv2.IMREAD_COLOR)
    labels = read_labels(sample / "train" / "labelTxt" / f"{patch_id}.txt")
    polygons = labels.polygons - np.tile((left, top), 4)
    center = polygons.reshape(-1, 4, 2).mean(axis=1)
    inside = ((center >= 0) & (center < side)).all(axis=1)
    names = [name for name, kept in zip(labels.class_names, inside, strict=True) if kept]
    return {
        "img_id": case,
        "img_path": patch_id,
        "img": np.ascontiguousarray(image[top : top + side, left : left + side]),
        "img_shape": (side, side),
        "ori_shape": (side, side),
        "gt_bboxes": QuadriBoxes(torch.from_numpy(polygons[inside]).float()),
        "gt_bboxes_labels": np.array([DOTA_CLASSES.index(name) for name in names], dtype=np.int64),
        "gt_ignore_flags": np.zeros(len(names), dtype=bool),
    }


def distillation_terms(
    head: nn.Module, distillation: nn.Module, student: Sequence, teacher: Sequence, boxes: Sequence[np.ndarray]
) -> dict[str, Tensor]:
    """Per-level LD and KD of a batch, by the code that training runs."""
    grid = head.adapter.grid_of_maps(student[0])
    regions = [box_region(box, grid, factor=0.25, topk=9) for box in boxes]
    rows = Rows.of(grid, [index for index, _ in regions])
    answers = head.adapter.gather(teacher, rows)
    weight = torch.from_numpy(stack_by_level([weight for _, weight in regions], rows.sizes))
    targets = Targets(answers.cls_logits, answers.box_logits, rows, weight)
    return distillation(head.adapter.gather(student, rows), targets)


def detection_terms(
    head: nn.Module, student: Sequence, boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray], size: int
) -> dict[str, Tensor]:
    """Per-level class and box loss of a batch."""
    instances = [
        InstanceData(bboxes=RotatedBoxes(torch.from_numpy(box)), labels=torch.from_numpy(label).long())
        for box, label in zip(boxes, labels, strict=True)
    ]
    meta = dict(img_shape=(size, size), pad_shape=(size, size), batch_input_shape=(size, size))
    losses = head.loss_by_feat(*student, instances, [meta] * len(instances))
    return {name: torch.stack(values) for name, values in losses.items()}


class GoldenAssigner:
    """Answers with the published run's positives; negatives and ignored priors by the usual thresholds.

    Ties between priors of equal IoU break by the last bit of an angle (golden/README.md), so positives are given.

    Args:
        iou_calculator: the configuration's, for the thresholds.
        assigned: `pos_inds` and `pos_gt` of each image of the batch, in order.
    """

    def __init__(self, iou_calculator: Any, assigned: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.iou_calculator = iou_calculator
        self.assigned = assigned
        self.calls = 0

    def assign(self, priors: InstanceData, gt_instances: InstanceData, _: InstanceData | None = None) -> AssignResult:
        assigned = self.assigned[self.calls]
        self.calls += 1
        overlaps = self.iou_calculator(gt_instances.bboxes, priors.priors).max(dim=0).values
        gt_inds = torch.where(overlaps < 0.4, 0, -1)
        positive = torch.from_numpy(assigned["pos_inds"].astype(np.int64))
        gt_inds[positive] = torch.from_numpy(assigned["pos_gt"].astype(np.int64)) + 1
        if "neg_inds_count" in assigned:
            assert abs(int((gt_inds == 0).sum()) - int(assigned["neg_inds_count"])) <= 2
        labels = torch.where(gt_inds > 0, gt_instances.labels[(gt_inds - 1).clamp(min=0)], -1)
        return AssignResult(len(gt_instances), gt_inds, overlaps, labels)


def require_grad(maps: list[Tensor]) -> list[Tensor]:
    return [tensor.requires_grad_(True) for tensor in maps]


def assert_gradients(losses: Tensor, expected: Mapping[str, list[float]], student: Sequence, relative: float) -> None:
    """L2 norms per level of the gradient of the summed loss on the student's maps."""
    cls_maps, box_maps = student
    gradients = torch.autograd.grad(losses.sum(), [*cls_maps, *box_maps], retain_graph=True, allow_unused=True)
    norms = [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients]
    np.testing.assert_allclose(norms[:5], expected["cls_l2"], rtol=relative, atol=1e-8)
    np.testing.assert_allclose(norms[5:], expected["box_l2"], rtol=relative, atol=1e-8)
