"""Polygons of tests, and their IoU by shapely."""

import numpy as np
from shapely.geometry import Polygon

SQUARE = (0, 0, 10, 0, 10, 10, 0, 10)


def rectangle(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    """An upright rectangle from its corner nearest the origin."""
    return (x, y, x + width, y, x + width, y + height, x, y + height)


def reference_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU by shapely."""
    first, second = Polygon(a.reshape(4, 2)), Polygon(b.reshape(4, 2))
    common = first.intersection(second).area
    union = first.area + second.area - common
    return common / union if union > 0 else 0.0
