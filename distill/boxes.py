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
    if isinstance(boxes, np.ndarray):
        return legacy_oc(torch.from_numpy(np.array(boxes))).numpy()
    # On the boxes' own device, without a copy to the host.
    x, y, width, height, angle = boxes.detach().reshape(-1, 5).unbind(dim=1)
    angle = torch.remainder(angle, math.pi)
    is_flat = torch.minimum(angle, math.pi - angle) < _SNAP
    is_upright = (angle - math.pi / 2).abs() < _SNAP
    is_steep = ~is_flat & ~is_upright & (angle > math.pi / 2)
    is_swapped = is_flat | is_steep
    first, second = torch.where(is_swapped, height, width), torch.where(is_swapped, width, height)
    turned = torch.where(is_steep, angle - math.pi / 2, angle)
    return torch.stack([x, y, first, second, torch.where(is_flat | is_upright, math.pi / 2, turned)], dim=1)
