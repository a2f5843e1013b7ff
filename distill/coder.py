"""Box deltas: the regression targets of mmrotate 0.x (docs/method.md, Legacy boxes), and decoding for the losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from mmrotate.models.task_modules.coders import DeltaXYWHTRBBoxCoder
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import RotatedBoxes, norm_angle
from torch import Tensor

from distill.boxes import legacy_oc

# Of a box's side to its prior's, in mmrotate's decoding.
LARGEST_LOG_RATIO = abs(math.log(16 / 1000))


@TASK_UTILS.register_module()
class LegacyDeltaXYWHTRBBoxCoder(DeltaXYWHTRBBoxCoder):
    """`DeltaXYWHTRBBoxCoder` whose targets have angles in (0, pi/2], width along the angle.

    mmrotate 1.x encodes 'oc' boxes with angles in [-pi/2, 0): the same rectangles, but other targets for a loss on
    deltas. Decoding is the parent's, since deltas name a box in any convention.

    Raises:
        ValueError: an option that the published coder does not use.
    """

    target_angle = "legacy_oc"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        unused = {"norm_factor": self.norm_factor, "edge_swap": self.edge_swap, "proj_xy": self.proj_xy}
        for name, value in unused.items():
            if value:
                raise ValueError(f"{name} is {value}; LegacyDeltaXYWHTRBBoxCoder encodes as published, without it")
        if self.angle_version != "oc":
            raise ValueError(f"angle_version is {self.angle_version!r}; LegacyDeltaXYWHTRBBoxCoder knows 'oc' only")

    def encode(self, bboxes: RotatedBoxes, gt_bboxes: RotatedBoxes) -> Tensor:
        """(N, 5) deltas x, y, w, h, angle that lead from priors to objects; neither is changed."""
        priors = get_box_tensor(bboxes).float()
        objects = legacy_oc(get_box_tensor(gt_bboxes)).float()
        centers = (objects[:, :2] - priors[:, :2]) / priors[:, 2:4]
        sides = torch.log(objects[:, 2:4] / priors[:, 2:4])
        deltas = torch.cat([centers, sides, objects[:, 4:] - priors[:, 4:]], dim=1)
        scaled = zip(deltas.unbind(dim=1), self.means, self.stds, strict=True)
        return torch.stack([(delta - mean) / std for delta, mean, std in scaled], dim=1)


def decode_deltas(coder: DeltaXYWHTRBBoxCoder, priors: Tensor, deltas: Tensor) -> Tensor:
    """(n, 5) boxes of deltas at priors (n, 5), to the bit as the coder decodes them.

    The coder makes its means and deviations on the CPU and sends them to the device in every call, which waits for it.
    """
    if coder.norm_factor or coder.edge_swap or coder.proj_xy or coder.add_ctr_clamp:
        return get_box_tensor(coder.decode(RotatedBoxes(priors), deltas))
    scaled = zip(deltas.unbind(dim=1), coder.means, coder.stds, strict=True)
    x, y, width, height, angle = (delta * std + mean for delta, mean, std in scaled)
    prior_x, prior_y, prior_width, prior_height, prior_angle = priors.unbind(dim=1)
    boxes = [
        prior_x + prior_width * x,
        prior_y + prior_height * y,
        prior_width * width.clamp(min=-LARGEST_LOG_RATIO, max=LARGEST_LOG_RATIO).exp(),
        prior_height * height.clamp(min=-LARGEST_LOG_RATIO, max=LARGEST_LOG_RATIO).exp(),
        norm_angle(prior_angle + angle, coder.angle_version),
    ]
    return torch.stack(boxes, dim=1)
