"""Quadrilaterals: IoU by hand and by shapely, corners, and the search for pairs against all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from distill import polygons
from distill.polygons import overlapping_boxes, polygon_bounds, polygon_iou, rbox_to_polygon
from tests.distill.polygon_tools import SQUARE, rectangle, reference_iou

# --- polygon IoU ------------------------------------------------------------------------------------------------------

sides = st.floats(1, 100)
# Whole numbers and right angles now and then, so that sides coincide and corners touch.
positions = st.one_of(st.floats(-60, 60), st.integers(-6, 6).map(lambda k: 10.0 * k))
angles = st.one_of(st.floats(-np.pi, np.pi), st.integers(-4, 4).map(lambda k: k * np.pi / 4))
rectangles = st.tuples(positions, positions, sides, sides, angles).map(lambda box: rbox_to_polygon(np.array([box]))[0])


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        pytest.param(SQUARE, SQUARE, 1.0, id="same"),
        pytest.param(SQUARE, rectangle(5, 0, 10, 10), 50 / 150, id="half"),
        pytest.param(SQUARE, rectangle(10, 0, 10, 10), 0.0, id="shared-side"),
        pytest.param(SQUARE, rectangle(30, 30, 5, 5), 0.0, id="apart"),
        # The diamond on the square's side midpoints covers half of it.
        pytest.param(SQUARE, (5, 0, 10, 5, 5, 10, 0, 5), 0.5, id="diamond"),
        # A dart: triangle (0,0) (4,0) (2,4) of area 8 less its notch (0,0) (4,0) (2,1) of area 2. The strip y < 1 holds
        # 3.5 of the triangle (its width falls from 4 to 3) and the whole notch: 1.5 in common, 6 + 4 - 1.5 in all.
        pytest.param((0, 0, 2, 1, 4, 0, 2, 4), rectangle(0, 0, 4, 1), 1.5 / 8.5, id="concave"),
        # Sides (6,0)-(0,2) and (3,2)-(0,0) cross at (2, 4/3): a loop of area 4, and one of area 1 in the other sense,
        # which counts negatively. Both lie in the rectangle of 12: (4 - 1) / (3 + 12 - 3).
        pytest.param((0, 0, 6, 0, 0, 2, 3, 2), rectangle(0, 0, 6, 2), 0.25, id="self-crossing"),
        pytest.param((0, 0, 10, 0, 10, 0, 0, 10), SQUARE, 0.5, id="triangle-with-double-corner"),
        pytest.param((3, 3) * 4, (3, 3) * 4, 0.0, id="points"),
        pytest.param(rectangle(0, 5, 10, 0), SQUARE, 0.0, id="line"),
    ],
)
def test_polygon_iou_by_hand(a: tuple[float, ...], b: tuple[float, ...], iou: float) -> None:
    assert polygon_iou(np.array(a), np.array([b])) == pytest.approx([iou], abs=1e-15)


@settings(max_examples=150, deadline=None)
@given(rectangles, rectangles)
def test_polygon_iou_of_rectangles_is_shapelys(a: np.ndarray, b: np.ndarray) -> None:
    iou = polygon_iou(a, b[None])[0]
    assert iou == pytest.approx(reference_iou(a, b), abs=1e-9)
    assert -1e-12 <= iou <= 1 + 1e-12


@settings(max_examples=100, deadline=None)
@given(rectangles, rectangles, st.integers(0, 3), st.booleans(), st.integers(0, 20000))
def test_polygon_iou_ignores_order_start_winding_and_place(
    a: np.ndarray, b: np.ndarray, start: int, turned: bool, shift: int
) -> None:
    corners = np.roll(a.reshape(4, 2), start, axis=0)
    same = (corners[::-1] if turned else corners).reshape(8)
    iou = polygon_iou(a, b[None])[0]
    assert polygon_iou(b, a[None])[0] == pytest.approx(iou, abs=1e-12)
    assert polygon_iou(same, b[None])[0] == pytest.approx(iou, abs=1e-12)
    assert polygon_iou(a + shift, b[None] + shift)[0] == pytest.approx(iou, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_polygon_iou_of_any_simple_quadrilateral_is_shapelys(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 12, (2, 40, 8)).astype(float)
    simple = [k for k in range(40) if Polygon(a[k].reshape(4, 2)).is_valid and Polygon(b[k].reshape(4, 2)).is_valid]
    expected = [reference_iou(a[k], b[k]) for k in simple]
    np.testing.assert_allclose(polygon_iou(a[simple], b[simple]), expected, atol=1e-9)


def test_polygon_iou_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = np.random.default_rng(0).uniform(0, 50, (40, 8))
    whole = polygon_iou(crowd[0], crowd)
    monkeypatch.setattr(polygons, "_PAIRS_PER_BATCH", 7)
    np.testing.assert_array_equal(polygon_iou(crowd[0], crowd), whole)


def test_rbox_to_polygon_turns_clockwise_on_the_screen() -> None:
    # y points down: a quarter turn takes the box's right (its length) to the bottom.
    assert polygon_bounds(rbox_to_polygon(np.array([[50, 60, 20, 10, np.pi / 2]])))[0] == pytest.approx(
        [45, 50, 55, 70]
    )
    # 45 degrees, w = 20 sqrt(2), h -> 0: from (40, 50) to (60, 70).
    thin = rbox_to_polygon(np.array([[50, 60, 20 * np.sqrt(2), 0, np.pi / 4]]))
    assert thin[0] == pytest.approx([40, 50, 60, 70, 60, 70, 40, 50])
    with pytest.raises(ValueError, match=r"must be of shape \(n, 5\).*got \(2, 8\)"):
        rbox_to_polygon(np.zeros((2, 8)))


# --- candidate pairs --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    margin=st.sampled_from([0.0, 1.0]),
    num_a=st.integers(0, 30),
    num_b=st.integers(0, 30),
    scale=st.sampled_from([1.0, 0.1, 1e9]),
    shift=st.sampled_from([0.0, -1e7, 1e7 + 0.3]),
    last_group=st.sampled_from([0, 2, 10**6]),
)
def test_overlapping_boxes_are_those_of_all_pairs(
    seed: int, margin: float, num_a: int, num_b: int, scale: float, shift: float, last_group: int
) -> None:
    """Wherever the boxes lie: on whole numbers many touch, and fractions far out are rounded."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (num_a + num_b, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 8, corner.shape)], axis=1) * scale + shift
    group = rng.choice([0, last_group // 2, last_group], len(boxes))
    a, b, group_a, group_b = boxes[:num_a], boxes[num_a:], group[:num_a], group[num_a:]

    reach = np.minimum(a[:, None, 2:], b[:, 2:]) + margin - np.maximum(a[:, None, :2], b[:, :2])
    expected = np.argwhere((reach > 0).all(axis=2) & (group_a[:, None] == group_b))
    found = sorted(zip(*(index.tolist() for index in overlapping_boxes(a, b, group_a, group_b, margin)), strict=True))
    assert found == [tuple(pair) for pair in expected.tolist()]
