"""The legacy box form against the published code's boxes and flips."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrotate.structures.bbox import QuadriBoxes, RotatedBoxes

from distill.boxes import legacy_oc
from distill.transforms import RandomViewFlip

FLIPS = ("none", "horizontal", "vertical", "diagonal")
CASES = ("P1142__1024__0___824", "P0032__1__0___0", "P0019__1__0___768", "P0770@0,0,1024")


def flipped(boxes: RotatedBoxes, flip: str, size: int) -> np.ndarray:
    """Boxes through the training pipeline's own flip."""
    transform = RandomViewFlip(prob=0.5, direction="horizontal", flip_offset=1.0)
    image = np.zeros((size, size, 3), np.uint8)
    results = {"img": image, "img_shape": (size, size), "gt_bboxes": boxes.clone(), "forced": {"RandomViewFlip": flip}}
    return transform(results)["gt_bboxes"].tensor.numpy()


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("case", CASES)
def test_polygons_to_flipped_legacy_boxes(golden, case: str, flip: str) -> None:
    stored = np.load(golden / f"region__{case}__{flip}.npz")
    boxes = QuadriBoxes(torch.from_numpy(stored["polygons"]).float()).convert_to("rbox")
    np.testing.assert_allclose(legacy_oc(boxes.tensor.numpy()), stored["legacy_oc"], rtol=1e-6, atol=1e-6)
    result = legacy_oc(flipped(boxes, flip, 1024))
    np.testing.assert_allclose(result, stored["flipped_legacy_oc"], rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("flip", FLIPS)
def test_synthetic_flips(synthetic_golden, flip: str) -> None:
    stored = np.load(synthetic_golden / "flips_seed51.npz")
    result = legacy_oc(flipped(RotatedBoxes(torch.from_numpy(stored["none"])), flip, int(stored["size"])))
    np.testing.assert_allclose(result, stored[flip], rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # An upright image rectangle of width 40 and height 20 is stored transposed, at pi/2.
        pytest.param([5, 6, 40, 20, 0.0], [5, 6, 20, 40, math.pi / 2], id="axis-aligned"),
        pytest.param([5, 6, 20, 40, math.pi / 2], [5, 6, 20, 40, math.pi / 2], id="already-legacy"),
        pytest.param([5, 6, 40, 20, -math.pi / 2], [5, 6, 40, 20, math.pi / 2], id="minus-right-angle"),
        pytest.param([5, 6, 40, 20, 0.3], [5, 6, 40, 20, 0.3], id="tilted"),
        pytest.param([5, 6, 40, 20, -0.3], [5, 6, 20, 40, math.pi / 2 - 0.3], id="negative-tilt"),
        pytest.param([5, 6, 40, 20, math.pi - 1e-7], [5, 6, 20, 40, math.pi / 2], id="snapped-to-flat"),
    ],
)
def test_hand_computed(box, expected) -> None:
    np.testing.assert_allclose(legacy_oc(np.array([box])), [expected], rtol=1e-9)


# An image of 100 x 100: x becomes 99 - x as in mmrotate 0.x, and one flip mirrors the angle where two turn it by pi.
@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        pytest.param("none", [30, 80, 40, 20, 0.3], id="none"),
        pytest.param("horizontal", [69, 80, 20, 40, math.pi / 2 - 0.3], id="horizontal"),
        pytest.param("vertical", [30, 19, 20, 40, math.pi / 2 - 0.3], id="vertical"),
        pytest.param("diagonal", [69, 19, 40, 20, 0.3], id="diagonal"),
    ],
)
def test_flips_by_hand(flip, expected) -> None:
    result = legacy_oc(flipped(RotatedBoxes(torch.tensor([[30, 80, 40, 20, 0.3]])), flip, 100))
    np.testing.assert_allclose(result, [expected], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1000, width=32),
            st.floats(0, 1000, width=32),
            st.floats(1, 500, width=32),
            st.floats(1, 500, width=32),
            st.floats(-6, 6, width=32),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_same_rectangle_in_the_legacy_range(boxes) -> None:
    boxes = np.array(boxes, dtype=np.float64)
    result = legacy_oc(boxes)
    assert ((result[:, 4] > 0) & (result[:, 4] <= math.pi / 2)).all()
    np.testing.assert_allclose(legacy_oc(result), result)
    # A snapped angle moves a side of 500 px by 500 * 1e-5, its moments by up to 500 ** 2 * 1e-5 = 2.5.
    np.testing.assert_allclose(covariance(result), covariance(boxes), rtol=1e-4, atol=3)
    np.testing.assert_array_equal(legacy_oc(torch.from_numpy(boxes)).numpy(), result)


def covariance(boxes: np.ndarray) -> np.ndarray:
    """(N, 3) second moments of each rectangle: the same for every way to write it."""
    width, height, angle = boxes[:, 2], boxes[:, 3], boxes[:, 4]
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = width**2, height**2
    return np.stack(
        [along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin], 1
    )
