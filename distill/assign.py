"""IoU of priors with the circumscribed horizontal box of each object: what the published rows assign by.

Small objects lie inside several priors of one size and have the same IoU with all of them; low-quality matching keeps
those whose float32 IoU equals the maximum, so rounding decides how many are positive. The calculators differ in that
alone (docs/method.md, Which IoU the assignment uses).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner, BaseAssigner
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.structures import InstanceData
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import RotatedBoxes, rbbox_overlaps
from torch import Tensor

from cache.grid import AnchorGrid
from distill.boxes import legacy_oc

# Objects per call of the pairwise overlap, whose temporaries are (objects, priors, 2).
_OBJECTS_PER_CHUNK = 16


@TASK_UTILS.register_module()
class CircumscribedRBboxOverlaps2D:
    """Rotated IoU of the first boxes' circumscribed boxes with the second boxes: ties break as in the published run.

    On a CPU it takes more than a microsecond a pair: over 10 s for 40 objects on a patch of 1024 px.
    """

    def __call__(
        self,
        bboxes1: RotatedBoxes | Tensor,
        bboxes2: RotatedBoxes | Tensor,
        mode: str = "iou",
        is_aligned: bool = False,
    ) -> Tensor:
        """(m, n) overlaps of objects (m, 5) with priors (n, 5), or (m,) where they are aligned."""
        boxes = circumscribed_boxes(get_box_tensor(bboxes1))
        return rbbox_overlaps(boxes, get_box_tensor(bboxes2), mode, is_aligned)


@TASK_UTILS.register_module()
class CircumscribedHBboxOverlaps2D:
    """Horizontal IoU of both boxes' circumscribed boxes, from their corners: the same IoU, computed simply.

    Some fifty times cheaper on a CPU. Meant for priors at angle 0. It finds the positives that mmrotate's
    `FakeRBboxOverlaps2D` finds, which computes this IoU by the rotated operator.
    """

    def __call__(
        self,
        bboxes1: RotatedBoxes | Tensor,
        bboxes2: RotatedBoxes | Tensor,
        mode: str = "iou",
        is_aligned: bool = False,
    ) -> Tensor:
        """(m, n) overlaps of objects (m, 5) with priors (n, 5), or (m,) where they are aligned."""
        objects, priors = outer_corners(bboxes1), outer_corners(bboxes2)
        if is_aligned:
            return bbox_overlaps(objects, priors, mode, is_aligned)
        chunks = objects.split(_OBJECTS_PER_CHUNK)
        return torch.cat([bbox_overlaps(chunk, priors, mode) for chunk in chunks])


def circumscribed_boxes(boxes: Tensor) -> Tensor:
    """(N, 5) rotated boxes of any convention -> (cx, cy, height, width, pi/2) of the upright box around each.

    The order of operations is the published one: the last bit matters (see above).
    """
    boxes = legacy_oc(boxes)
    # Legacy angles lie in (0, pi/2]: neither is negative.
    cos, sin = torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])
    width = cos * boxes[:, 2] + sin * boxes[:, 3]
    height = sin * boxes[:, 2] + cos * boxes[:, 3]
    angle = torch.full_like(width, math.pi / 2)
    return torch.stack([boxes[:, 0], boxes[:, 1], height, width, angle], dim=1)


def planned_assignment(
    assigner: BaseAssigner, gt_instances: InstanceData, grid: AnchorGrid, priors: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The priors that an assigner does not call negative, and each one's object.

    Only priors that an object's outer box touches are shown to it: the IoU of all others is 0. Where an object touches
    none, low-quality matching gives it all priors of IoU 0, so all are shown.

    Args:
        assigner: of IoU, such as `MaxIoUAssigner`.
        gt_instances: (G,) rotated boxes and labels.
        grid, priors: where the priors lie, and (P, 5) the head's own boxes of them.

    Returns:
        (m,) int64 sorted flat indices, and (m,) int64 places in `gt_instances`; -1 for ignored priors.
    """
    corners = outer_corners(gt_instances.bboxes).cpu().numpy()
    near = np.zeros(grid.num_priors, dtype=bool)
    shown_to_all = True
    for box in corners:
        touched = False
        for level, (rows, columns) in enumerate(grid.feature_sizes):
            reach = grid.shapes(level).max(axis=0) / 2
            stride = grid.strides[level]
            # One cell more on each side than the box needs: rounding must not lose one.
            left, top = (np.floor((box[:2] - reach) / stride) - 1).clip(min=0).astype(int)
            right, bottom = np.ceil((box[2:] + reach) / stride).astype(int) + 2
            start, stop = grid.level_offsets[level : level + 2].tolist()
            window = near[start:stop].reshape(rows, columns, -1)[top : max(bottom, 0), left : max(right, 0)]
            window[...] = True
            touched |= window.size > 0
        shown_to_all &= touched
    shown = np.flatnonzero(near) if shown_to_all else np.arange(grid.num_priors)
    # 0 negative, -1 ignored, k the object before k.
    shown_priors = InstanceData(priors=RotatedBoxes(priors[torch.from_numpy(shown)]))
    assigned = assigner.assign(shown_priors, gt_instances).gt_inds.numpy()
    kept = np.flatnonzero(assigned)
    return shown[kept].astype(np.int64), np.maximum(assigned[kept] - 1, -1).astype(np.int64)


def atss_assignment(
    assigner: ATSSAssigner, gt_instances: InstanceData, grid: AnchorGrid
) -> tuple[np.ndarray, np.ndarray]:
    """As `planned_assignment`, for horizontal boxes and ATSS, which asks for the nearest priors of every level."""
    objects = InstanceData(bboxes=get_box_tensor(gt_instances.bboxes), labels=gt_instances.labels)
    priors = InstanceData(priors=prior_corners(grid))
    assigned = assigner.assign(priors, list(grid.level_sizes), objects).gt_inds.numpy()
    kept = np.flatnonzero(assigned)
    return kept, np.maximum(assigned[kept] - 1, -1)


def prior_corners(grid: AnchorGrid) -> Tensor:
    """(P, 4) x1, y1, x2, y2 of a grid's priors."""
    centers, sides = torch.from_numpy(grid.anchors).split(2, dim=1)
    return torch.cat([centers - sides / 2, centers + sides / 2], dim=1)


def outer_corners(boxes: RotatedBoxes | Tensor) -> Tensor:
    """(N, 4) x1, y1, x2, y2 of the upright boxes around rotated ones.

    As mmrotate converts them, but for sine and cosine: rounded from float64 they are the same on every device, and so
    are the ties that a plan made on a CPU has broken.
    """
    boxes = get_box_tensor(boxes)
    centers, half_width, half_height = boxes[:, :2], boxes[:, 2:3] / 2, boxes[:, 3:4] / 2
    angle = boxes[:, 4:].double()
    cos, sin = angle.cos().to(boxes.dtype), angle.sin().to(boxes.dtype)
    reach = [
        (half_width * cos).abs() + (half_height * sin).abs(),
        (half_width * sin).abs() + (half_height * cos).abs(),
    ]
    bias = torch.cat(reach, dim=1)
    return torch.cat([centers - bias, centers + bias], dim=1)
