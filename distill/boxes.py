"""The legacy 'oc' box form that the region needs (docs/method.md, Legacy boxes)."""

from __future__ import annotations

import math

import numpy as np
import torch

# Integer polygon corners cannot tilt a side by less than about 2e-4 rad, so this snaps rounding alone.
_SNAP = 1e-5


def legacy_oc[BoxArray: (np.ndarray, torch.Tensor)](boxes: BoxArray) -> BoxArray:
    """Rotated boxes of any angle convention in the legacy 'oc' form of mmrotate 0.x.

    Width is the side along the angle, and the angle lies in (0, pi/2]. An exactly axis-aligned box has angle pi/2,
    so its width runs vertically: width and height are transposed against the image.

    Args:
        boxes: (N, 5) cx, cy, w, h in pixels, angle in radians clockwise; array or tensor.

    Returns:
        (N, 5) of the same kind and dtype.
    """
    if isinstance(boxes, torch.Tensor):
        return torch.from_numpy(_legacy_oc(boxes.detach().cpu().numpy())).to(boxes)
    return _legacy_oc(np.asarray(boxes))


def _legacy_oc(boxes: np.ndarray) -> np.ndarray:
    boxes = boxes.reshape(-1, 5)
    angle = np.mod(boxes[:, 4], math.pi)
    flat = np.minimum(angle, math.pi - angle) < _SNAP
    upright = np.abs(angle - math.pi / 2) < _SNAP
    steep = ~flat & ~upright & (angle > math.pi / 2)
    swapped = flat | steep
    result = boxes.copy()
    result[swapped, 2], result[swapped, 3] = boxes[swapped, 3], boxes[swapped, 2]
    result[:, 4] = np.where(flat | upright, math.pi / 2, np.where(steep, angle - math.pi / 2, angle))
    return result
