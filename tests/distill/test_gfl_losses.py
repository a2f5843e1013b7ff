"""GFL's losses from a plan against mmdet's own, which search what the plan knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.losses.gfocal_loss import quality_focal_loss as mmdet_quality_focal_loss
from mmdet.structures.bbox import bbox_overlaps
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmrotate.registry import MODELS
from torch import Tensor, nn

from distill.adapter import adapter_of
from distill.gfl import aligned_overlaps, quality_focal_loss
from distill.settings import read_config
from distill.targets import BatchTargets, ViewTargets
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def head() -> nn.Module:
    init_default_scope("mmrotate")
    torch.manual_seed(0)
    model = read_config(REPOSITORY / "configs/distill/gfl_r18_1x_coco.py").model
    return MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})


def some_boxes(seed: int, count: int, width: float = 128) -> Tensor:
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, width - 20, (count, 2)), random.uniform(2, 70, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + side], axis=1).astype(np.float32))


@pytest.mark.parametrize("generalized", [False, True])
def test_overlaps_are_mmdets(generalized) -> None:
    """To the bit, of boxes that overlap, touch, lie apart, and have no area."""
    boxes, others = some_boxes(0, 300), some_boxes(1, 300)
    others[:20] = boxes[:20]
    others[20:30] = boxes[20:30] + 100
    others[30:40, 2:] = others[30:40, :2]
    boxes[30:35, 2:] = boxes[30:35, :2]
    boxes.requires_grad_()
    mode = "giou" if generalized else "iou"
    known, found = (
        bbox_overlaps(boxes, others, mode, is_aligned=True),
        aligned_overlaps(boxes, others, generalized=generalized),
    )
    assert torch.equal(found, known)
    upstream = torch.randn(300)
    gradients = [torch.autograd.grad(values, boxes, upstream)[0][40:] for values in (known, found)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_quality_focal_loss_is_mmdets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 5, generator=generator) * 3).requires_grad_()
    labels = torch.full((200,), 5)
    row = torch.randperm(200, generator=generator)[:30].sort().values
    labels[row] = torch.randint(5, (30,), generator=generator)
    score = torch.zeros(200)
    score[row] = torch.rand(30, generator=generator)
    weight = torch.rand(200, generator=generator)
    known = mmdet_quality_focal_loss(logits, (labels, score), weight, beta=2.0, reduction="none")
    found = quality_focal_loss(logits, row, labels[row], score[row], 2.0) * weight
    assert torch.equal(found, known)
    assert torch.equal(*(torch.autograd.grad(values.sum(), logits)[0] for values in (found, known)))


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        pytest.param([(128, 160), (128, 160)], (4, 3), id="equal"),
        pytest.param([(128, 160), (192, 128)], (5, 2), id="crossed"),
        pytest.param([(128, 160), (128, 160)], (3, 0), id="one-empty"),
        pytest.param([(128, 128)], (0,), id="empty"),
    ],
)
def test_planned_losses_are_the_heads_own(head, sizes, counts) -> None:
    adapter = adapter_of(head)
    views, objects, metas = [], [], []
    for seed, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 80, count))
        truth = InstanceData(bboxes=some_boxes(seed, count), labels=labels)
        grid = adapter.grid(height, width)
        assigned = adapter.plan_assignment(head.assigner, truth, grid)
        views.append(ViewTargets(grid, assigned[0], np.ones(len(assigned[0]), np.float32), assigned=assigned))
        objects.append(truth)
        metas.append(dict(img_shape=(height, width), pad_shape=(height, width)))
    targets = BatchTargets.of(views, objects)
    generator = torch.Generator().manual_seed(0)
    maps = tuple(
        [torch.randn(len(sizes), channels, *size, generator=generator).requires_grad_() for size in feature_sizes]
        for feature_sizes in [targets.region.grid.feature_sizes]
        for channels in (80, 68)
    )
    own, planned = head.loss_by_feat(*maps, objects, metas), head.planned_losses(maps, targets.assigned)
    assert set(planned) == set(own) == {"loss_cls", "loss_bbox", "loss_dfl"}
    for name, values in own.items():
        torch.testing.assert_close(torch.stack(planned[name]), torch.stack(values), rtol=1e-6, atol=1e-7)
    inputs = [level for of_kind in maps for level in of_kind]
    for level, gradients in enumerate(
        zip(*(torch.autograd.grad(sum(map(sum, losses.values())), inputs) for losses in (planned, own)), strict=True)
    ):
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8, msg=f"{level}")
