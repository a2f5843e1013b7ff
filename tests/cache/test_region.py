"""The region against the published code, the literal procedure, and laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.grid import AnchorGrid
from cache.region import region_weights

FLIPS = ("none", "horizontal", "vertical", "diagonal")
CASES = ("P1142__1024__0___824", "P0032__1__0___0", "P0019__1__0___768", "P0770@0,0,1024")


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("case", CASES)
def test_golden_regions(golden, case: str, flip: str) -> None:
    summary = json.loads((golden / "regions.json").read_text())[f"{case}/{flip}"]
    stored = np.load(golden / f"region__{case}__{flip}.npz")
    grid = AnchorGrid.retina(summary["size"], summary["size"])
    weights = region_weights(stored["flipped_legacy_oc"][:, :4], grid)
    expected = np.zeros(grid.num_priors, dtype=np.float32)
    expected[stored["prior_index"]] = stored["weight"]
    assert np.setxor1d(np.flatnonzero(weights), stored["prior_index"]).size <= 2
    np.testing.assert_allclose(weights, expected, atol=5e-6)
    np.testing.assert_allclose(grid.level_counts(np.flatnonzero(weights)), summary["level_counts"], atol=2)
    assert weights.sum(dtype=np.float64) == pytest.approx(summary["sum"], rel=1e-6)
    assert weights.max() == pytest.approx(summary["max"], rel=1e-5)


@pytest.mark.parametrize("seed", [31, 32, 33])
def test_golden_synthetic_regions(synthetic_golden, seed: int) -> None:
    stored = np.load(synthetic_golden / f"gt_seed{seed}.npz")
    size = json.loads((synthetic_golden / "losses.json").read_text())[str(seed)]["size"]
    weights = region_weights(stored["legacy_oc"][:, :4], AnchorGrid.retina(size, size))
    assert np.setxor1d(np.flatnonzero(weights), stored["prior_index"]).size <= 2
    np.testing.assert_allclose(weights[stored["prior_index"]], stored["weight"], atol=5e-6)


# (boxes, rows per level, sum of weights) as the published code computes them, boxes without their angle.
PUBLISHED = [
    pytest.param([[515, 509, 64, 64]], [695, 337, 94, 0, 0], 271.68, id="square"),
    pytest.param([[515, 509, 100, 30]], [782, 390, 88, 0, 0], 243.71, id="elongated"),
    pytest.param([[515, 509, 64, 64], [540, 520, 100, 30]], [1000, 463, 111, 0, 0], 368.74, id="both"),
]


@pytest.mark.parametrize(("boxes", "counts", "total"), PUBLISHED)
def test_published_counts(boxes, counts, total) -> None:
    grid = AnchorGrid.retina(1024, 1024)
    weights = region_weights(np.array(boxes, dtype=np.float32), grid)
    np.testing.assert_allclose(grid.level_counts(np.flatnonzero(weights)), counts, atol=2)
    assert weights.sum(dtype=np.float64) == pytest.approx(total, abs=0.006)


def literal_region(boxes: np.ndarray, grid: AnchorGrid, factor: float, topk: int) -> np.ndarray:
    """The rule of docs/method.md step by step over all priors: the slow way, in float64."""
    anchors = grid.anchors.astype(np.float64)
    weights = np.zeros(grid.num_priors)
    for center_x, center_y, width, height in boxes.astype(np.float64):
        overlap = np.ones(len(anchors))
        for axis, (center, side) in enumerate([(center_x, width), (center_y, height)]):
            low = np.maximum(anchors[:, axis] - anchors[:, axis + 2] / 2, center - side / 2)
            high = np.minimum(anchors[:, axis] + anchors[:, axis + 2] / 2, center + side / 2)
            overlap *= np.maximum(high - low, 0)
        iou = overlap / (anchors[:, 2] * anchors[:, 3] + width * height - overlap)
        distance = np.hypot(anchors[:, 0] - center_x, anchors[:, 1] - center_y)
        candidates = []
        for start, stop in zip(grid.level_offsets[:-1], grid.level_offsets[1:], strict=True):
            candidates.extend(start + np.argsort(distance[start:stop], kind="stable")[:topk])
        alpha = iou[candidates].mean() + iou[candidates].std(ddof=1)
        weights = np.maximum(weights, np.where(iou >= factor * alpha, iou, 0))
    return weights


def eighths(low: int, high: int) -> st.SearchStrategy[float]:
    """Multiples of 1/8: which of two priors is nearer does not depend on the precision that it is computed in."""
    return st.integers(8 * low, 8 * high).map(lambda value: value / 8)


boxes_strategy = st.lists(st.tuples(eighths(-20, 220), eighths(-20, 150), eighths(2, 150), eighths(2, 150)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(boxes=boxes_strategy, factor=st.sampled_from([0.25, 0.5, 1.0]), topk=st.sampled_from([1, 5, 9, 20, 40]))
def test_windowed_search_equals_the_literal_procedure(boxes, factor, topk) -> None:
    grid = AnchorGrid.retina(128, 192, strides=(8, 16, 64))
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    fast, slow = region_weights(boxes, grid, factor, topk), literal_region(boxes, grid, factor, topk)
    # A prior whose IoU is within rounding of the threshold may fall on either side.
    differing = (fast > 0) != (slow > 0)
    assert differing.sum() <= 1
    np.testing.assert_allclose(fast[~differing], slow[~differing], atol=5e-6)


def test_no_objects_no_region() -> None:
    grid = AnchorGrid.retina(64, 64)
    weights = region_weights(np.zeros((0, 4), dtype=np.float32), grid)
    assert weights.shape == (grid.num_priors,)
    assert not weights.any()


def test_main_region_lies_inside_the_region() -> None:
    grid = AnchorGrid.retina(256, 256)
    boxes = np.array([[100, 120, 60, 30], [200, 50, 12, 12]], dtype=np.float32)
    whole, main = region_weights(boxes, grid), region_weights(boxes, grid, factor=1.0)
    assert 0 < (main > 0).sum() < (whole > 0).sum()
    np.testing.assert_array_equal(main[main > 0], whole[main > 0])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        pytest.param(np.zeros((2, 5), np.float32), r"shape \(2, 5\)", id="five-columns"),
        pytest.param(np.array([[1, 1, np.nan, 1]], np.float32), "not finite: row 0", id="nan"),
    ],
)
def test_unusable_boxes_are_refused(boxes, message) -> None:
    with pytest.raises(ValueError, match=message):
        region_weights(boxes, AnchorGrid.retina(64, 64))


@pytest.mark.parametrize("count", [1, 500, 2000])
def test_many_objects_are_the_maximum_over_each(count: int) -> None:
    grid = AnchorGrid.retina(256, 256)
    random = np.random.default_rng(count)
    sides = random.uniform(3, 60, (count, 2))
    boxes = np.hstack([random.uniform(0, 256, (count, 2)), sides]).astype(np.float32)
    alone = np.zeros(grid.num_priors, dtype=np.float32)
    for box in boxes:
        np.maximum(alone, region_weights(box[None], grid), out=alone)
    np.testing.assert_array_equal(region_weights(boxes, grid), alone)
