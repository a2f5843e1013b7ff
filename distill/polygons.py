"""Quadrilaterals: corners of rotated boxes, upright bounds, IoU, and the search for pairs that overlap.

Polygons are (8,) rows x1 y1 ... x4 y4 in pixels throughout.
"""

from __future__ import annotations

import numpy as np
import shapely

_PAIRS_PER_BATCH = 8192  # polygon pairs clipped at a time; keeps the working set inside the processor's cache


def rbox_to_polygon(boxes: np.ndarray) -> np.ndarray:
    """(n, 5) cx cy w h angle -> (n, 8) corners; angle in radians, clockwise on the screen (y points down).

    Raises:
        ValueError: the boxes have no five columns.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"rotated boxes must be of shape (n, 5): cx cy w h angle[rad]; got {boxes.shape}")
    cx, cy, width, height, angle = boxes.T
    cos, sin = np.cos(angle), np.sin(angle)
    corners = []
    for along, across in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        corners.append(cx + along * width * cos - across * height * sin)
        corners.append(cy + along * width * sin + across * height * cos)
    return np.stack(corners, axis=1)


def polygon_bounds(polygons: np.ndarray) -> np.ndarray:
    """(n, 8) -> (n, 4) xmin ymin xmax ymax of the enclosing upright box."""
    x, y = polygons[:, 0::2], polygons[:, 1::2]
    return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def overlapping_boxes(
    a: np.ndarray,
    b: np.ndarray,
    group_a: np.ndarray | None = None,
    group_b: np.ndarray | None = None,
    margin: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs of the upright boxes that overlap: a (n, 4), b (m, 4) xmin ymin xmax ymax -> (K,), (K,).

    Only boxes of the same group (integers from 0 on, e.g. the image) pair up. `margin` is added to each overlap's
    width and height before they are asked to be positive: 1 is the devkit's inclusive pixel. The order of the pairs is
    arbitrary.
    """
    if not len(a) or not len(b):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    group_a = np.zeros(len(a), dtype=np.int64) if group_a is None else group_a
    group_b = np.zeros(len(b), dtype=np.int64) if group_b is None else group_b
    # One tree for all groups, side by side. It only proposes pairs: a little slack makes up for the shift's rounding.
    left, right = (float(extreme(np.concatenate([a, b]))) for extreme in (np.min, np.max))
    stride = right - left + margin + 1
    slack = 1e-12 * (abs(left) + (2 + group_a.max()) * stride)
    tree = shapely.STRtree(_side_by_side(b, group_b * stride, margin + slack))
    row, column = tree.query(_side_by_side(a, group_a * stride, margin + slack))
    extent = np.minimum(a[row, 2:], b[column, 2:]) + margin - np.maximum(a[row, :2], b[column, :2])
    hit = (extent > 0).all(axis=1) & (group_a[row] == group_b[column])
    return row[hit], column[hit]


def _side_by_side(boxes: np.ndarray, shift: np.ndarray, growth: float) -> np.ndarray:
    """Boxes (n, 4) as shapely's, each moved right by its shift (n,) and grown to the right and downwards."""
    x, y, right, bottom = boxes.T
    shapes: np.ndarray = shapely.box(x + shift, y, right + shift + growth, bottom + growth)
    return shapes


def polygon_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of quadrilaterals: a (8,) or (K, 8) against b (K, 8) -> (K,) float64.

    Exact up to rounding for every simple quadrilateral, convex or concave, in either winding. The area common to two
    quadrilaterals is the integral of the product of their winding numbers, as in the devkit, which adds up signed
    triangles: so a self-crossing quadrilateral weighs its second loop negatively, here as there, and its "IoU" may
    leave [0, 1]. Where the union has no area the IoU is 0.
    """
    b = np.asarray(b, dtype=np.float64).reshape(-1, 8)
    a = np.broadcast_to(np.asarray(a, dtype=np.float64), b.shape)
    iou = np.empty(len(b))
    for start in range(0, len(b), _PAIRS_PER_BATCH):
        batch = slice(start, start + _PAIRS_PER_BATCH)
        iou[batch] = _pair_iou(a[batch], b[batch])
    return iou


def _pair_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of a[k] and b[k], (K, 8) each -> (K,)."""
    # Corners as complex numbers x + iy, seen from a's first corner: far from the origin the areas would lose digits.
    origin = a[:, :2].copy().view(np.complex128)
    corners_a = np.ascontiguousarray(a).view(np.complex128) - origin
    corners_b = np.ascontiguousarray(b).view(np.complex128) - origin
    area_a, area_b = _signed_area(corners_a), _signed_area(corners_b)

    convex = _is_convex(corners_a) & _is_convex(corners_b)
    common = np.empty(len(a))
    common[convex] = _convex_intersection(
        _counter_clockwise(corners_a[convex], area_a[convex]), _counter_clockwise(corners_b[convex], area_b[convex])
    )
    if not convex.all():
        common[~convex] = _fan_intersection(corners_a[~convex], corners_b[~convex])
        common[~convex] *= np.where(area_a[~convex] < 0, -1, 1) * np.where(area_b[~convex] < 0, -1, 1)

    union = np.abs(area_a) + np.abs(area_b) - common
    iou: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Spelt out: a complex product may be fused, and then the cross product of a vector with itself is not exactly 0.
    product: np.ndarray = a.real * b.imag - a.imag * b.real
    return product


def _signed_area(corners: np.ndarray) -> np.ndarray:
    """(P, n) complex -> (P,) shoelace area, positive where x turns towards y."""
    first = corners[:, :1]
    spokes = corners - first
    return 0.5 * _cross(spokes[:, 1:-1], spokes[:, 2:]).sum(axis=1)


def _counter_clockwise(corners: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Reverse the polygons with negative area."""
    return np.where(area[:, None] < 0, corners[:, ::-1], corners)


def _is_convex(corners: np.ndarray) -> np.ndarray:
    """(P, 4) complex -> (P,) bool: strictly convex. Four turns of one sign exclude crossing sides as well."""
    sides = np.roll(corners, -1, axis=1) - corners
    turns = _cross(sides, np.roll(sides, -1, axis=1))
    return (turns > 0).all(axis=1) | (turns < 0).all(axis=1)


def _fan_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integral of the product of the winding numbers of a[k] and b[k], (P, 4) complex each -> (P,).

    A quadrilateral's winding number is that of triangle 0 1 2 plus that of triangle 0 2 3, signs included.
    """
    total = np.zeros(len(a))
    for fan_a in ([0, 1, 2], [0, 2, 3]):
        triangle_a = a[:, fan_a]
        area_a = _signed_area(triangle_a)
        for fan_b in ([0, 1, 2], [0, 2, 3]):
            triangle_b = b[:, fan_b]
            area_b = _signed_area(triangle_b)
            oriented_a, oriented_b = _counter_clockwise(triangle_a, area_a), _counter_clockwise(triangle_b, area_b)
            total += np.sign(area_a) * np.sign(area_b) * _convex_intersection(oriented_a, oriented_b)
    return total


def _convex_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Common area of convex counter-clockwise polygons, (P, n) and (P, m) complex -> (P,): a cut by each side of b."""
    for side in range(b.shape[1]):
        a = _cut(a, b[:, side], b[:, (side + 1) % b.shape[1]])
    return np.abs(_signed_area(a))


def _cut(corners: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """What lies left of the line start -> stop: (P, n) complex and (P,) twice -> (P, n').

    Rows with fewer corners than the longest repeat their first one, which changes no area; an empty row is all zeros.
    """
    height = _cross((stop - start)[:, None], corners - start[:, None])
    next_height = np.roll(height, -1, axis=1)
    crosses = ((height > 0) & (next_height < 0)) | ((height < 0) & (next_height > 0))
    fraction = np.divide(height, height - next_height, out=np.zeros_like(height), where=crosses)
    crossing = corners + fraction * (np.roll(corners, -1, axis=1) - corners)

    num, width = corners.shape
    # Walk the outline: each corner that stays, then the point where the side behind it crosses the line.
    kept = np.stack([height >= 0, crosses], axis=2).reshape(num, 2 * width)
    points = np.stack([corners, crossing], axis=2).reshape(num, 2 * width)

    slot = np.cumsum(kept, axis=1)
    count = slot[:, -1]
    row, column = np.nonzero(kept)
    result = np.zeros((num, max(3, int(count.max(initial=0)))), dtype=np.complex128)
    result[row, slot[row, column] - 1] = points[row, column]
    return np.where(np.arange(result.shape[1]) < count[:, None], result, result[:, :1])
