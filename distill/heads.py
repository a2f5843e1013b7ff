"""The distribution head of teacher and student: each box delta is the mean of a softmax over bins (docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmcv.ops import box_iou_rotated
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from mmrotate.models.dense_heads import RotatedRetinaHead
from mmrotate.registry import MODELS
from mmrotate.structures.bbox import RotatedBoxes
from torch import Tensor, nn

from cache.grid import AnchorGrid
from distill.adapter import HeadAdapter, adapts, anchor_fields, bin_values, expected_value
from distill.assign import planned_assignment
from distill.coder import decode_deltas
from distill.rows import Maps, Rows, in_float32
from distill.targets import PlannedAssignment

NUM_PARAMETERS = 5


@dataclass(frozen=True, eq=False)
class Assignment:
    """What the priors of a batch shall learn, on the device; B images, P priors, n rows.

    labels: (B, P) int64, the number of classes for negatives. label_weights: (B, P), 0 for ignored priors.
    positive: the positive priors, which take part in the box loss, and perhaps others beside them. priors: (n, 5) their
    boxes. boxes: (n, 5) their objects' boxes, or coder deltas, as the box loss takes them. weight: (n,) 0 for rows that
    are not positive; None where all are. avg_factor: divisor of all losses.
    """

    labels: Tensor
    label_weights: Tensor
    positive: Rows
    priors: Tensor
    boxes: Tensor
    weight: Tensor | None
    avg_factor: int


class Integral(nn.Module):
    """Expected value of a softmax over evenly spaced bins.

    Args:
        reg_max: number of bins minus one.
        value_range: values of the first and the last bin.
    """

    project: Tensor

    def __init__(self, reg_max: int, value_range: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("project", bin_values(value_range, reg_max + 1))

    def forward(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Logits with the bins on `dim` -> expected values without it."""
        shape = [1] * logits.dim()
        shape[dim] = -1
        return expected_value(logits, self.project.view(shape), dim)


@MODELS.register_module()
class RotatedRetinaDistributionHead(RotatedRetinaHead):
    """Rotated RetinaNet head that predicts a distribution over bins for x, y, w, h and angle.

    `forward` returns raw logits: class maps (B, A * C, H, W) and box maps (B, A * 5 * (reg_max + 1), H, W), channels
    prior-major, then parameter, then bin. Losses and predictions of the parent see the expected deltas.

    Args:
        reg_max: bins minus one.
        xywh_range, angle_range: values of the outer bins, in coder deltas and radians.
        box_loss_rows: "positive" computes the box loss where its weight is not 0; "all" everywhere, as mmrotate does.
            The losses are the same.
    """

    def __init__(
        self,
        *args: Any,
        reg_max: int = 8,
        xywh_range: tuple[float, float] = (-2.0, 2.0),
        angle_range: tuple[float, float] = (-5.0, 2.0),
        box_loss_rows: str = "positive",
        **kwargs: Any,
    ) -> None:
        if box_loss_rows not in ("positive", "all"):
            raise ValueError(f"box_loss_rows is {box_loss_rows!r}; 'positive' or 'all' needed")
        self.box_loss_rows = box_loss_rows
        self.reg_max = reg_max
        # A config's list compares as a tuple.
        self.xywh_range = (xywh_range[0], xywh_range[1])
        self.angle_range = (angle_range[0], angle_range[1])
        super().__init__(*args, **kwargs)
        # Buffer names are those of the published checkpoints.
        self.integral = Integral(reg_max, self.xywh_range)
        self.integral_angle = Integral(reg_max, self.angle_range)
        self.register_buffer("base_anchors", torch.stack(self.prior_generator.base_anchors), persistent=False)
        self.adapter = RotatedRetinaAdapter.of(self)

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = self.num_base_priors * NUM_PARAMETERS * self.num_bins
        self.retina_reg = nn.Conv2d(self.feat_channels, channels, 3, padding=1)

    @property
    def num_bins(self) -> int:
        return self.reg_max + 1

    def expected_at(self, box_logits: Tensor) -> Tensor:
        """(n, 5, K) logits of rows -> (n, 5) coder deltas."""
        return torch.cat([self.integral(box_logits[:, :4]), self.integral_angle(box_logits[:, 4:])], dim=1)

    def expected_deltas(self, box_map: Tensor) -> Tensor:
        """(B, A * 5 * K, H, W) logits of any precision -> (B, A * 5, H, W) float32 coder deltas."""
        logits = box_map.float().unflatten(1, (-1, NUM_PARAMETERS, self.num_bins))
        xywh = self.integral(logits[:, :, :4], dim=3)
        angle = self.integral_angle(logits[:, :, 4:], dim=3)
        return torch.cat([xywh, angle], dim=2).flatten(1, 2)

    def priors(self, grid: AnchorGrid) -> Tensor:
        """(P, 5) all priors as the generator makes them, on the CPU: ties of their IoU break by the last bit."""
        levels = self.prior_generator.grid_priors(grid.feature_sizes, device="cpu")
        return torch.cat([get_box_tensor(level) for level in levels])

    def priors_at(self, rows: Rows, centers: Tensor) -> Tensor:
        """(n, 5) the priors of rows as the generator makes them, of their cells' centers (n, 2)."""
        level, _, anchor, _, _ = rows.place
        corners = HorizontalBoxes(self.base_anchors[level, anchor] + centers.repeat(1, 2), clone=False)
        priors = corners.convert_to("rbox")
        angle = self.prior_generator.angle_version
        return priors.regularize_boxes(angle) if angle else priors.tensor

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, list[Tensor]]:
        """The parent's losses on the expected deltas, in float32 also where the network runs in lower precision."""
        with in_float32(cls_scores, bbox_preds) as (scores, boxes):
            truth = batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
            if self.box_loss_rows == "all" or self.loss_bbox_type != "normal":
                return super().loss_by_feat(scores, [self.expected_deltas(box) for box in boxes], *truth)
            return self.losses_of((scores, boxes), self.assignment(scores, *truth))

    def planned_losses(self, maps: Maps, planned: PlannedAssignment) -> dict[str, list[Tensor]]:
        """The same losses from a planned assignment: no IoU is computed, and the device is not waited for.

        Raises:
            ValueError: a box loss that needs every prior.
        """
        if self.loss_bbox_type != "normal":
            raise ValueError(
                f"bbox_head.loss_bbox_type is {self.loss_bbox_type!r}, whose loss no plan serves. Set plan_assignment "
                "= False in the config"
            )
        with in_float32(*maps) as widened:
            return self.losses_of(widened, self.planned_assignment(planned))

    def planned_assignment(self, planned: PlannedAssignment) -> Assignment:
        """What a plan says, as the losses take it."""
        labels, label_weights = planned.dense(self.num_classes, self.train_cfg["pos_weight"])
        priors, boxes = self.priors_at(planned.positive, planned.centers), planned.boxes
        if not self.reg_decoded_bbox:
            boxes = self.bbox_coder.encode(RotatedBoxes(priors), RotatedBoxes(boxes))
        return Assignment(labels, label_weights, planned.positive, priors, boxes, None, planned.avg_factor)

    def assignment(
        self,
        cls_scores: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> Assignment:
        """What the parent's assigner says, by IoU of every prior with every object."""
        device = cls_scores[0].device
        anchors, valid = self.get_anchors([score.shape[-2:] for score in cls_scores], batch_img_metas, device=device)
        labels, label_weights, targets, weights, avg_factor, samples = self.get_targets(
            anchors, valid, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore, return_sampling_results=True
        )
        grid = self.adapter.grid_of_maps(cls_scores)
        count = sum(len(sample.pos_inds) for sample in samples)
        places, reals, priors, boxes = [], [], [], []
        for level, of_level in enumerate(weights):
            (image, local), is_real = _positive_places(of_level[..., 0] > 0, count)
            anchor, cell = local % grid.anchors_per_cell, local // grid.anchors_per_cell
            prior = local + int(grid.level_offsets[level])
            places.append(torch.stack([torch.full_like(image, level), image, anchor, cell, prior]))
            reals.append(is_real)
            priors.append(get_box_tensor(anchors[0][level])[local])
            boxes.append(targets[level][image, local])
        sizes = np.asarray([[place.shape[1]] for place in places])
        return Assignment(
            labels=torch.cat(labels, dim=1),
            label_weights=torch.cat(label_weights, dim=1),
            positive=Rows(grid, sizes, torch.cat(places, dim=1)),
            priors=torch.cat(priors),
            boxes=torch.cat(boxes),
            weight=torch.cat(reals),
            avg_factor=avg_factor,
        )

    def losses_of(self, maps: Maps, assigned: Assignment) -> dict[str, list[Tensor]]:
        """Class loss of all priors and box loss of the positive ones, level by level.

        The parent computes expected deltas, decoded boxes and box loss of every prior and multiplies nearly all of them
        by 0: the same sum, for a tenth of the step.
        """
        grid, rows = assigned.positive.grid, assigned.positive
        losses: dict[str, list[Tensor]] = {"loss_cls": []}
        for index, cls_map in enumerate(maps[0]):
            start, stop = grid.level_offsets[index : index + 2].tolist()
            logits = cls_map.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
            labels, weights = assigned.labels[:, start:stop], assigned.label_weights[:, start:stop]
            losses["loss_cls"].append(
                self.loss_cls(logits, labels.reshape(-1), weights.reshape(-1), avg_factor=assigned.avg_factor)
            )
        predicted = self.expected_at(rows.take(maps[1]).unflatten(1, (NUM_PARAMETERS, self.num_bins)))
        if self.reg_decoded_bbox:
            predicted = decode_deltas(self.bbox_coder, assigned.priors, predicted)
        # Without weights, which a loss would ask for one above 0; without rows, a loss may be of any shape.
        values = self.loss_bbox(predicted, assigned.boxes, reduction_override="none") if len(predicted) else predicted
        values = values.flatten(1).sum(dim=1) if values.dim() > 1 else values
        values = values if assigned.weight is None else values * assigned.weight
        return losses | {"loss_bbox": list((rows.sum_by_level(values) / assigned.avg_factor).unbind())}

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        """The parent's detections from the expected deltas."""
        deltas = [self.expected_deltas(box) for box in bbox_preds]
        return super().predict_by_feat([score.float() for score in cls_scores], deltas, *args, **kwargs)


def _positive_places(is_positive: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Images and priors (2, k) where a mask (B, N) of a level is set, and (k,) 1; `most`: on all levels together.

    A device would have to be waited for to learn how many a level has. There, each has `most`, and the 1 is a 0 for
    those that are made up.
    """
    if is_positive.device.type == "cpu":
        place = torch.nonzero(is_positive).T
        return place, torch.ones(place.shape[1])
    place = torch.nonzero_static(is_positive, size=most).T
    return place.clamp(min=0), (place[0] >= 0).float()


@adapts(RotatedRetinaDistributionHead)
@dataclass(frozen=True, eq=False)
class RotatedRetinaAdapter(HeadAdapter):
    """Rotated RetinaNet: five coder deltas, relative to the prior."""

    kind = "rotated_retina"
    box_layer = "retina_reg"
    box_parameters = ("x", "y", "w", "h", "angle")
    bin_units = ("prior widths", "prior heights", "ln(width / prior width)", "ln(height / prior height)", "rad")

    head: RotatedRetinaDistributionHead

    @classmethod
    def of(cls, head: RotatedRetinaDistributionHead) -> RotatedRetinaAdapter:
        coder = head.bbox_coder
        # Options of the coder that scale or turn what a bin means; stated where a head departs from the published one.
        options = {
            "target_means": (list(coder.means), [0.0] * NUM_PARAMETERS),
            "target_stds": (list(coder.stds), [1.0] * NUM_PARAMETERS),
            "norm_factor": (coder.norm_factor, None),
            "edge_swap": (coder.edge_swap, False),
            "proj_xy": (coder.proj_xy, False),
        }
        return cls(
            **anchor_fields(head),
            num_bins=head.num_bins,
            bin_ranges=(*[head.xywh_range] * 4, head.angle_range),
            conventions={
                "anchor_angle": head.prior_generator.angle_version,
                # Teacher and student must regress the same angle: LD compares their bins.
                "coder_angle": getattr(coder, "target_angle", coder.angle_version),
                **{name: value for name, (value, published) in options.items() if value != published},
            },
            head=head,
        )

    def decode(
        self, priors: Tensor, strides: Tensor, expected: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """(M, 5) cx, cy, w, h in pixels and the angle in radians; centres inside `max_shape`."""
        upright = RotatedBoxes(torch.cat([priors, torch.zeros_like(priors[:, :1])], dim=1))
        return get_box_tensor(self.coder.decode(upright, expected, max_shape=max_shape))

    def corners(self, boxes: Tensor) -> Tensor:
        return RotatedBoxes.rbox2corner(boxes)

    def box_change(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change = (after - before).abs()
        # The same box again after half a turn.
        degrees = torch.rad2deg(change[:, 4]) % 180
        # On the CPU: mmcv's operators may have been built without a GPU's.
        iou = box_iou_rotated(before.cpu(), after.cpu(), aligned=True)
        return change[:, :4].amax(dim=1), torch.minimum(degrees, 180 - degrees), iou

    def plan_assignment(
        self, assigner: BaseAssigner, gt_instances: InstanceData, grid: AnchorGrid
    ) -> tuple[np.ndarray, np.ndarray]:
        return planned_assignment(assigner, gt_instances, grid, self.head.priors(grid))
