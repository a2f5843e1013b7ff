"""IoU of priors with the circumscribed horizontal box of each object: what the published rows assign by (ld_spec 1.5).

Small objects lie inside several priors of one size and have the same IoU with all of them; low-quality matching keeps
those whose float32 IoU equals the maximum, so rounding decides how many are positive. The calculators differ in that
alone.
"""

from __future__ import annotations

import math

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import RotatedBoxes, rbbox_overlaps
from torch import Tensor

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
        objects, priors = _corners(bboxes1), _corners(bboxes2)
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


def _corners(boxes: RotatedBoxes | Tensor) -> Tensor:
    return RotatedBoxes(get_box_tensor(boxes)).convert_to("hbox").tensor
