"""Losses and gradients of the published code, from seeded head outputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes

from distill.losses import GatheredTargets
from distill.region import box_region

CASES = ["P0032__1__0___0@256,256,512", "P0019__1__0___768@0,512,512"]
FLIPS = ["none", "horizontal", "vertical", "diagonal"]
STRIDES = (8, 16, 32, 64, 128)


def seeded_maps(seed: int, size: int, num_images: int) -> tuple[list, list, list, list]:
    """Student and teacher maps as golden/README.md draws them."""
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


def distillation_terms(head, distillation, student, teacher, boxes: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Per-level LD and KD of a batch, by the code that training runs."""
    grid = head.grid_of_maps(student[0])
    regions = [box_region(box, grid, factor=0.25, topk=9) for box in boxes]
    image_index = torch.from_numpy(np.repeat(np.arange(len(boxes)), [len(index) for index, _ in regions]))
    prior_index = torch.from_numpy(np.concatenate([index for index, _ in regions]))
    _, teacher_cls, teacher_box = head.gather(*teacher, image_index, prior_index)
    targets = GatheredTargets(
        image_index,
        prior_index,
        torch.from_numpy(np.concatenate([weight for _, weight in regions])),
        teacher_cls,
        teacher_box,
    )
    level, cls_logits, box_logits = head.gather(*student, image_index, prior_index)
    return distillation(cls_logits, box_logits, targets, level, len(boxes), grid.num_levels)


def assert_gradients(losses: torch.Tensor, expected: dict, student, relative: float) -> None:
    cls_maps, box_maps = student
    gradients = torch.autograd.grad(losses.sum(), [*cls_maps, *box_maps], retain_graph=True, allow_unused=True)
    norms = [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients]
    np.testing.assert_allclose(norms[:5], expected["cls_l2"], rtol=relative, atol=1e-8)
    np.testing.assert_allclose(norms[5:], expected["box_l2"], rtol=relative, atol=1e-8)


def golden_cases(golden):
    """(name, seed, size, boxes of each image, expected) of every seeded case."""
    for key, expected in json.loads((golden / "losses.json").read_text()).items():
        case, flip, seed = key.rsplit("/", 2)
        boxes = np.load(golden / f"assigned__{case}__{flip}.npz")["flipped_legacy_oc"]
        yield key, int(seed.removeprefix("seed")), 512, [boxes], expected


def require_grad(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.requires_grad_(True) for tensor in maps]


@pytest.mark.parametrize("position", range(8))
def test_ld_and_kd_with_gradients(golden, gwd_head, gwd_distillation, position) -> None:
    _, seed, size, boxes, expected = list(golden_cases(golden))[position]
    maps = seeded_maps(seed, size, len(boxes))
    student = require_grad(maps[0]), require_grad(maps[1])
    terms = distillation_terms(gwd_head, gwd_distillation, student, maps[2:], boxes)
    for name, values in terms.items():
        np.testing.assert_allclose(values.detach().numpy(), expected[name], rtol=1e-5, atol=1e-8)
        assert_gradients(values, expected[f"grad_{name}"], student, 1e-5)


class GoldenAssigner:
    """Answers with the published run's positives; negatives and ignored priors by the usual thresholds.

    Ties between priors of equal IoU break by the last bit of an angle (golden/README.md), so positives are given.
    """

    def __init__(self, iou_calculator, assigned) -> None:
        self.iou_calculator = iou_calculator
        self.assigned = assigned

    def assign(self, priors, gt_instances, gt_instances_ignore=None) -> AssignResult:
        overlaps = self.iou_calculator(gt_instances.bboxes, priors.priors).max(dim=0).values
        gt_inds = torch.where(overlaps < 0.4, 0, -1)
        gt_inds[torch.from_numpy(self.assigned["pos_inds"]).long()] = (
            torch.from_numpy(self.assigned["pos_gt"]).long() + 1
        )
        assert abs(int((gt_inds == 0).sum()) - int(self.assigned["neg_inds_count"])) <= 2
        labels = torch.where(gt_inds > 0, gt_instances.labels[(gt_inds - 1).clamp(min=0)], -1)
        return AssignResult(len(gt_instances), gt_inds, overlaps, labels)


@pytest.mark.parametrize("position", range(8))
def test_class_and_box_loss_with_the_golden_positives(golden, gwd_head, monkeypatch, position) -> None:
    key, seed, size, boxes, expected = list(golden_cases(golden))[position]
    case, flip, _ = key.rsplit("/", 2)
    assigned = np.load(golden / f"assigned__{case}__{flip}.npz")
    maps = seeded_maps(seed, size, 1)
    student = require_grad(maps[0]), require_grad(maps[1])
    monkeypatch.setattr(gwd_head, "assigner", GoldenAssigner(gwd_head.assigner.iou_calculator, assigned))
    labels = torch.from_numpy(assigned["labels"]).long()
    instances = InstanceData(bboxes=RotatedBoxes(torch.from_numpy(boxes[0])), labels=labels)
    meta = dict(img_shape=(size, size), pad_shape=(size, size), batch_input_shape=(size, size))
    for name, values in gwd_head.loss_by_feat(*student, [instances], [meta]).items():
        np.testing.assert_allclose([float(value) for value in values], expected[name], rtol=1e-5, atol=1e-7)
        assert_gradients(torch.stack(values), expected[f"grad_{name}"], student, 1e-5)
