"""Box deltas against the legacy 'oc' form: the regression targets of mmrotate 0.x (docs/method.md, Legacy boxes)."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from mmrotate.models.task_modules.coders import DeltaXYWHTRBBoxCoder
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import RotatedBoxes
from torch import Tensor

from distill.boxes import legacy_oc


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
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)
