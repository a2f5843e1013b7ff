"""The IoU calculators of the assignment: the published positives, hand-computed boxes, agreement."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes, fake_rbbox_overlaps

from distill.assign import (
    CircumscribedHBboxOverlaps2D,
    CircumscribedRBboxOverlaps2D,
    circumscribed_boxes,
    outer_corners,
    planned_assignment,
)
from tests.distill.golden_tools import CASES_AND_FLIPS

SYNTHETIC = [("gt_seed31", "", 512), ("gt_seed32", "", 512), ("gt_seed33", "", 384)]
SYNTHETIC += [("gt_batch2_seed41", "_0", 256), ("gt_batch2_seed41", "_1", 256)]


@pytest.fixture(scope="module")
def published_assigner():
    """The configured assigner with the published call for its IoU."""
    from mmrotate.registry import TASK_UTILS

    init_default_scope("mmrotate")
    calculator = dict(type="CircumscribedRBboxOverlaps2D")
    return TASK_UTILS.build(
        dict(type="mmdet.MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, iou_calculator=calculator)
    )


def assign(assigner, head, boxes: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """(P,) -1 ignored, 0 negative, object + 1 positive, for the head's own priors."""
    sizes = [(math.ceil(size / stride),) * 2 for stride in (8, 16, 32, 64, 128)]
    priors = RotatedBoxes.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
    instances = InstanceData(bboxes=RotatedBoxes(torch.from_numpy(boxes)), labels=torch.from_numpy(labels).long())
    return assigner.assign(InstanceData(priors=priors), instances).gt_inds.numpy()


@pytest.mark.parametrize("key", CASES_AND_FLIPS)
def test_positives_are_the_published_ones(golden, gwd_head, published_assigner, key) -> None:
    stored = np.load(golden / f"assigned__{key.replace('/', '__')}.npz")
    assigned = assign(published_assigner, gwd_head, stored["flipped_legacy_oc"], stored["labels"], 512)
    positive = np.flatnonzero(assigned > 0)
    np.testing.assert_array_equal(positive, stored["pos_inds"])
    np.testing.assert_array_equal(assigned[positive] - 1, stored["pos_gt"])
    assert (assigned == 0).sum() == stored["neg_inds_count"]


@pytest.mark.parametrize(("name", "suffix", "size"), SYNTHETIC)
def test_positives_of_synthetic_boxes(synthetic_golden, gwd_head, published_assigner, name, suffix, size) -> None:
    stored = np.load(synthetic_golden / f"{name}.npz")
    assigned = assign(published_assigner, gwd_head, stored[f"legacy_oc{suffix}"], stored[f"labels{suffix}"], size)
    positive = np.flatnonzero(assigned > 0)
    np.testing.assert_array_equal(positive, stored[f"pos_inds{suffix}"])
    np.testing.assert_array_equal(assigned[positive] - 1, stored[f"pos_gt{suffix}"])


def test_the_configured_iou_finds_at_most_a_few_more(golden, gwd_head) -> None:
    # Every published positive is one; the others are ties of the smallest objects.
    assert isinstance(gwd_head.assigner.iou_calculator, CircumscribedHBboxOverlaps2D)
    published = found = 0
    for key in CASES_AND_FLIPS:
        stored = np.load(golden / f"assigned__{key.replace('/', '__')}.npz")
        assigned = assign(gwd_head.assigner, gwd_head, stored["flipped_legacy_oc"], stored["labels"], 512)
        assert np.isin(stored["pos_inds"], np.flatnonzero(assigned > 0)).all()
        published, found = published + len(stored["pos_inds"]), found + int((assigned > 0).sum())
    assert published <= found <= 1.1 * published


@pytest.mark.parametrize(
    ("box", "width", "height"),
    [
        pytest.param([9, 7, 40, 20, 0.0], 40, 20, id="flat"),
        pytest.param([9, 7, 40, 20, math.pi / 2], 20, 40, id="upright"),
        # 40 cos 45 + 20 sin 45 = 60 / sqrt(2), both ways.
        pytest.param([9, 7, 40, 20, math.pi / 4], 60 / math.sqrt(2), 60 / math.sqrt(2), id="diagonal"),
        pytest.param([9, 7, 40, 20, -math.pi / 6], 20 * math.sqrt(3) + 10, 20 + 10 * math.sqrt(3), id="negative"),
    ],
)
def test_circumscribed_boxes_by_hand(box, width, height) -> None:
    result = circumscribed_boxes(torch.tensor([box], dtype=torch.float64))
    np.testing.assert_allclose(result, [[9, 7, height, width, math.pi / 2]], rtol=1e-9, atol=1e-9)


def test_corners_are_the_same_on_every_device() -> None:
    """Sines and cosines rounded from float64, which no library computes otherwise; the rest is single operations."""
    random = np.random.default_rng(0)
    boxes = random.uniform((0, 0, 4, 4, -7), (128, 128, 80, 80, 7), (5000, 5)).astype(np.float32)
    x, y, width, height, angle = boxes.T
    cos, sin = (function(angle.astype(np.float64)).astype(np.float32) for function in (np.cos, np.sin))
    reach = np.stack(
        [
            np.abs(width / 2 * cos) + np.abs(height / 2 * sin),
            np.abs(width / 2 * sin) + np.abs(height / 2 * cos),
        ]
    )
    expected = np.concatenate([np.stack([x, y]) - reach, np.stack([x, y]) + reach]).T
    np.testing.assert_array_equal(outer_corners(torch.from_numpy(boxes)), expected)
    # mmrotate's conversion, but for the last bit of a sine.
    known = RotatedBoxes(torch.from_numpy(boxes)).convert_to("hbox").tensor
    np.testing.assert_allclose(expected, known, rtol=0, atol=2e-5)


def test_both_calculators_give_the_same_iou() -> None:
    random = np.random.default_rng(0)
    boxes = random.uniform((0, 0, 4, 4, -2), (128, 128, 80, 80, 2), (70, 5)).astype(np.float32)
    priors = random.uniform((0, 0, 16, 16, 0), (128, 128, 90, 90, 1e-30), (50, 5)).astype(np.float32)
    boxes, priors = RotatedBoxes(torch.from_numpy(boxes)), RotatedBoxes(torch.from_numpy(priors))
    rotated, horizontal = CircumscribedRBboxOverlaps2D()(boxes, priors), CircumscribedHBboxOverlaps2D()(boxes, priors)
    # 70 objects take several chunks, the last one short.
    assert rotated.shape == horizontal.shape == (70, 50)
    np.testing.assert_allclose(horizontal, rotated, atol=2e-5)
    np.testing.assert_allclose(horizontal, fake_rbbox_overlaps(boxes, priors), atol=2e-5)
    aligned = CircumscribedHBboxOverlaps2D()(boxes[:50], priors, is_aligned=True)
    np.testing.assert_array_equal(aligned, horizontal[:50].diagonal())


@pytest.mark.parametrize("calculator", [CircumscribedRBboxOverlaps2D(), CircumscribedHBboxOverlaps2D()])
def test_no_objects(calculator) -> None:
    priors = RotatedBoxes(torch.tensor([[8.0, 8, 32, 32, 0]]))
    assert calculator(RotatedBoxes(torch.zeros(0, 5)), priors).shape == (0, 1)


@pytest.mark.parametrize("calculator", ["CircumscribedHBboxOverlaps2D", "CircumscribedRBboxOverlaps2D"])
@pytest.mark.parametrize("seed", range(6))
def test_the_planned_assignment_is_the_assigners(gwd_head, calculator: str, seed: int) -> None:
    """Shown some priors or all of them, the assigner says the same; also of objects outside, huge, tiny, or none."""
    from mmrotate.registry import TASK_UTILS

    random = np.random.default_rng(seed)
    count = [0, 1, 5, 20, 3, 3][seed]
    boxes = random.uniform((-20, -20, 2, 2, -1.5), (276, 212, 90, 60, 1.5), (count, 5)).astype(np.float32)
    if seed == 4:
        boxes[0] = (2000, 2000, 30, 10, 0.3)  # touches no prior: low-quality matching gives it every prior of IoU 0
    if seed == 5:
        boxes[0] = (128, 96, 400, 300, 0.2)
    labels = random.integers(0, 15, count)
    assigner = TASK_UTILS.build(
        dict(
            type="mmdet.MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            iou_calculator=dict(type=calculator),
        )
    )
    grid = gwd_head.adapter.grid(192, 256)
    priors = RotatedBoxes.cat(gwd_head.prior_generator.grid_priors(grid.feature_sizes, device="cpu"))
    objects = InstanceData(bboxes=RotatedBoxes(torch.from_numpy(boxes)), labels=torch.from_numpy(labels).long())
    known = assigner.assign(InstanceData(priors=priors), objects).gt_inds.numpy()

    prior_index, object_index = planned_assignment(assigner, objects, grid, gwd_head.priors(grid))
    np.testing.assert_array_equal(prior_index, np.flatnonzero(known))
    np.testing.assert_array_equal(object_index, np.maximum(known[prior_index] - 1, -1))
