"""The distillation region: which priors carry a weight, from boxes and grid alone (docs/method.md, "Region")."""

from __future__ import annotations

from typing import Any

import numpy as np

from cache.grid import AnchorGrid

# Floor of the union, as in the detector's IoU.
_MIN_UNION = np.float32(1e-6)


def region_weights(boxes: np.ndarray, grid: AnchorGrid, factor: float = 0.25, topk: int = 9) -> np.ndarray:
    """Region weight of every prior: the best IoU that reaches its object's threshold, else 0.

    For each object, alpha is the mean plus the sample deviation of its IoU with the `topk` nearest priors of
    every level; a prior belongs to the object's region when IoU >= factor * alpha. `factor=1` keeps the main
    region only. Only priors that overlap an object are touched, so the cost follows the objects' area.

    Args:
        boxes: (G, 4) float32 cx, cy, w, h in pixels, angle already dropped (`distill.boxes.legacy_oc`).
        grid: priors of the image.
        factor: lower bound of the region in units of alpha.
        topk: nearest priors a level that alpha is computed from.

    Returns:
        (P,) float32 weights in [0, 1]; zeros without objects.

    Raises:
        ValueError: boxes of another shape, not finite, factor outside 0 to 1, or topk < 1.
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}, (G, 4) needed: cx, cy, w, h")
    if not np.isfinite(boxes).all():
        raise ValueError(f"boxes hold values that are not finite: row {int(np.argwhere(~np.isfinite(boxes))[0, 0])}")
    if not 0 <= factor <= 1:
        raise ValueError(f"factor is {factor}, 0 to 1 needed")
    if topk < 1:
        raise ValueError(f"topk is {topk}, at least 1 needed")

    weights = np.zeros(grid.num_priors, dtype=np.float32)
    levels = [_Level(grid, level, weights) for level in range(grid.num_levels)]
    for center_x, center_y, width, height in boxes:
        box = np.array(
            [center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2],
            dtype=np.float32,
        )
        candidates = np.concatenate([level.nearest_iou(box, topk) for level in levels])
        threshold = region_threshold(candidates, factor)
        for level in levels:
            level.mark(box, threshold)
    return weights


def region_threshold(candidates: np.ndarray, factor: float) -> np.floating[Any]:
    """The IoU that a prior must reach: `factor` times mean plus sample deviation of an object's candidate IoUs."""
    deviation = candidates.std(ddof=1) if candidates.size > 1 else np.float32(0)
    threshold: np.floating[Any] = np.float32(factor) * (candidates.mean() + deviation)
    return threshold


class _Level:
    """One level's priors as a (rows, columns, anchors) view into the flat weights."""

    def __init__(self, grid: AnchorGrid, level: int, weights: np.ndarray) -> None:
        self.rows, self.columns = grid.feature_sizes[level]
        self.stride = grid.strides[level]
        self.half_sides = grid.shapes(level) / 2  # (A, 2)
        start, stop = grid.level_offsets[level : level + 2]
        self.weights = weights[start:stop].reshape(self.rows, self.columns, -1)

    def nearest_iou(self, box: np.ndarray, topk: int) -> np.ndarray:
        """IoU of the `topk` priors whose centres are nearest; ties go to the lower flat index.

        All anchors of a cell share its centre, so whole cells are ranked. Distance grows along each axis away
        from the nearest cell, so the n nearest cells lie within n - 1 steps of it: a small window is exact.
        """
        num_anchors = len(self.half_sides)
        num_cells = -(-topk // num_anchors)
        center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        columns = _around(center_x / self.stride, num_cells, self.columns)
        rows = _around(center_y / self.stride, num_cells, self.rows)
        delta_x = (columns * self.stride).astype(np.float32) - center_x
        delta_y = (rows * self.stride).astype(np.float32) - center_y
        distance = np.sqrt(delta_x[None, :] ** 2 + delta_y[:, None] ** 2)
        nearest = np.argsort(distance, axis=None, kind="stable")[:num_cells]
        iou = self._iou(box, columns, rows)
        return iou.reshape(-1, num_anchors)[nearest].ravel()[:topk]

    def mark(self, box: np.ndarray, threshold: np.floating[Any]) -> None:
        """Raise the weights of the priors whose IoU with the box reaches the threshold."""
        reach = self.half_sides.max(axis=0)
        columns = _within(box[0] - reach[0], box[2] + reach[0], self.stride, self.columns)
        rows = _within(box[1] - reach[1], box[3] + reach[1], self.stride, self.rows)
        if columns.size == 0 or rows.size == 0:
            return
        iou = self._iou(box, columns, rows)
        iou[iou < threshold] = 0
        window = self.weights[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.maximum(window, iou, out=window)

    def _iou(self, box: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, columns, A) IoU of the box with the priors of a window."""
        overlap_x, side_x = self._overlap(box[0], box[2], columns, self.half_sides[:, 0])
        overlap_y, side_y = self._overlap(box[1], box[3], rows, self.half_sides[:, 1])
        overlap: np.ndarray = overlap_y[:, None, :] * overlap_x[None, :, :]
        union = side_y[:, None, :] * side_x[None, :, :]
        union += (box[2] - box[0]) * (box[3] - box[1])
        union -= overlap
        np.maximum(union, _MIN_UNION, out=union)
        overlap /= union
        return overlap

    def _overlap(
        self, low: np.float32, high: np.float32, cells: np.ndarray, half_side: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Overlap with [low, high] and own side of the priors along one axis, each (cells, A)."""
        center = (cells * self.stride).astype(np.float32)[:, None]
        start, stop = center - half_side, center + half_side
        overlap = np.minimum(stop, high) - np.maximum(start, low)
        return np.maximum(overlap, np.float32(0)), stop - start


def _around(position: float, reach: int, count: int) -> np.ndarray:
    """Cells within `reach` steps of a position in cells."""
    nearest = min(max(round(float(position)), 0), count - 1)
    return np.arange(max(nearest - reach, 0), min(nearest + reach, count - 1) + 1)


def _within(low: float, high: float, stride: int, count: int) -> np.ndarray:
    """Cells whose centres lie in [low, high] pixels."""
    first = max(int(np.ceil(low / stride)), 0)
    last = min(int(np.floor(high / stride)), count - 1)
    return np.arange(first, last + 1)
