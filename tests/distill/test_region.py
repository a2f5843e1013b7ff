"""The box forms of the region: as published, circumscribed, rotated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmcv.ops import box_iou_rotated

from cache.grid import AnchorGrid
from cache.region import region_weights
from distill.region import BOX_FORMS, box_region, describe_region

GRID = AnchorGrid.retina(128, 160, strides=(8, 16, 32))
RULE = {"factor": 0.25, "topk": 9}
# cx, cy, w, h, angle: tilted, upright and lying.
BOXES = np.array([[60, 50, 50, 20, 0.4], [100, 80, 40, 18, 0.0], [30, 90, 16, 44, math.pi / 2]], dtype=np.float32)


def test_forms_of_an_axis_aligned_object() -> None:
    """Published: transposed, 18 wide and 40 high. Circumscribed and rotated: 40 wide and 18 high, as in the image."""
    box = BOXES[1:2]
    transposed = np.flatnonzero(region_weights(np.array([[100, 80, 18, 40]], np.float32), GRID))
    upright = np.flatnonzero(region_weights(np.array([[100, 80, 40, 18]], np.float32), GRID))
    np.testing.assert_array_equal(box_region(box, GRID, **RULE)[0], transposed)
    np.testing.assert_array_equal(box_region(box, GRID, **RULE, box_form="hbb")[0], upright)
    index, weight = box_region(box, GRID, **RULE, box_form="rotated")
    np.testing.assert_array_equal(index, upright)
    np.testing.assert_allclose(weight, box_region(box, GRID, **RULE, box_form="hbb")[1], atol=1e-5)


def test_circumscribed_box_of_a_tilted_object() -> None:
    cos, sin = math.cos(0.4), math.sin(0.4)
    outer = np.array([[60, 50, 50 * cos + 20 * sin, 50 * sin + 20 * cos]], dtype=np.float32)
    expected = region_weights(outer, GRID)
    index, weight = box_region(BOXES[:1], GRID, **RULE, box_form="hbb")
    np.testing.assert_array_equal(index, np.flatnonzero(expected))
    np.testing.assert_allclose(weight, expected[index], atol=1e-6)


@pytest.mark.parametrize("position", range(3))
def test_rotated_weights_are_the_iou_of_the_detectors_operator(position: int) -> None:
    """One object, every prior: the literal rule with mmcv's rotated IoU."""
    box = BOXES[position : position + 1]
    anchors = np.hstack([GRID.anchors, np.zeros((GRID.num_priors, 1), np.float32)])
    iou = box_iou_rotated(torch.from_numpy(box), torch.from_numpy(anchors))[0].numpy()
    distance = np.hypot(*(GRID.anchors[:, :2] - box[0, :2]).T)
    levels = zip(GRID.level_offsets[:-1], GRID.level_offsets[1:], strict=True)
    candidates = np.concatenate([start + np.argsort(distance[start:stop], kind="stable")[:9] for start, stop in levels])
    alpha = iou[candidates].mean() + iou[candidates].std(ddof=1)
    index, weight = box_region(box, GRID, **RULE, box_form="rotated")
    expected = np.flatnonzero(iou >= 0.25 * alpha)
    assert np.setxor1d(index, expected).size <= 1
    np.testing.assert_allclose(weight, iou[index], atol=1e-4)


@pytest.mark.parametrize("form", BOX_FORMS)
def test_several_objects_are_the_maximum_and_none_is_empty(form: str) -> None:
    alone = np.zeros(GRID.num_priors, np.float32)
    for box in BOXES:
        index, weight = box_region(box[None], GRID, **RULE, box_form=form)
        alone[index] = np.maximum(alone[index], weight)
    index, weight = box_region(BOXES, GRID, **RULE, box_form=form)
    np.testing.assert_array_equal(index, np.flatnonzero(alone))
    np.testing.assert_array_equal(weight, alone[index])
    assert len(box_region(BOXES[:0], GRID, **RULE, box_form=form)[0]) == 0


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"region\.box_form is 'obb'; one of legacy_oc, hbb, rotated"):
        describe_region(factor=0.25, topk=9, box_form="obb")
