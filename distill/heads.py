"""The distribution head of teacher and student: each box delta is the mean of a softmax over bins (docs/method.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmcv.ops import box_iou_rotated
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import BaseDataElement, InstanceData
from mmrotate.models.dense_heads import RotatedRetinaHead
from mmrotate.registry import MODELS
from mmrotate.structures.bbox import RotatedBoxes
from torch import Tensor, nn

from cache.grid import AnchorGrid
from distill.adapter import HeadAdapter, adapts, anchor_fields, bin_values, expected_value
from distill.assign import planned_assignment
from distill.rows import Maps, Rows

NUM_PARAMETERS = 5


@dataclass(frozen=True)
class Assignment:
    """What every prior of a batch shall learn; B images, P priors, n positive ones.

    labels: (B, P) int64, the number of classes for negatives. label_weights: (B, P), 0 for ignored priors.
    positive: the n positive priors. boxes: (n, 5) their objects' boxes, or coder deltas, as the box loss takes them.
    avg_factor: divisor of all losses.
    """

    labels: Tensor
    label_weights: Tensor
    positive: Rows
    boxes: Tensor
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
        self._priors: dict[tuple[AnchorGrid, torch.device], Tensor] = {}
        self.reg_max = reg_max
        # A config's list compares as a tuple.
        self.xywh_range = (xywh_range[0], xywh_range[1])
        self.angle_range = (angle_range[0], angle_range[1])
        super().__init__(*args, **kwargs)
        # Buffer names are those of the published checkpoints.
        self.integral = Integral(reg_max, self.xywh_range)
        self.integral_angle = Integral(reg_max, self.angle_range)
        self.adapter = RotatedRetinaAdapter.of(self)

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = self.num_base_priors * NUM_PARAMETERS * self.num_bins
        self.retina_reg = nn.Conv2d(self.feat_channels, channels, 3, padding=1)

    @property
    def num_bins(self) -> int:
        return self.reg_max + 1

    def expected_deltas(self, box_map: Tensor) -> Tensor:
        """(B, A * 5 * K, H, W) logits of any precision -> (B, A * 5, H, W) float32 coder deltas."""
        logits = box_map.float().unflatten(1, (-1, NUM_PARAMETERS, self.num_bins))
        xywh = self.integral(logits[:, :, :4], dim=3)
        angle = self.integral_angle(logits[:, :, 4:], dim=3)
        return torch.cat([xywh, angle], dim=2).flatten(1, 2)

    def priors(self, grid: AnchorGrid, device: torch.device | str = "cpu") -> Tensor:
        """(P, 5) all priors as the generator makes them: ties of their IoU break by the last bit."""
        key = grid, torch.device(device)
        if key not in self._priors:
            levels = self.prior_generator.grid_priors(grid.feature_sizes, device=device)
            # Images of a batch share a size, and batches mostly do.
            self._priors = {key: torch.cat([get_box_tensor(level) for level in levels])}
        return self._priors[key]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: OptInstanceList = None,
        records: Sequence[BaseDataElement] = (),
    ) -> dict[str, list[Tensor]]:
        """The parent's losses on the expected deltas, in float32 also where the network runs in lower precision.

        `records` hold the planned assignment of every image, where there is one: no IoU is computed then.
        """
        # Boxes are pixels: their squares overflow float16, and matrix products of the Gaussian losses would be cast.
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            scores = [score.float() for score in cls_scores]
            boxes = [box.float() for box in bbox_preds]
            if self.box_loss_rows == "all" or self.loss_bbox_type != "normal":
                deltas = [self.expected_deltas(box) for box in boxes]
                return super().loss_by_feat(
                    scores, deltas, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
                )
            if records:
                assigned = self.planned_assignment(scores, batch_gt_instances, batch_img_metas, records)
            else:
                assigned = self.assignment(scores, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
            return self.losses_of((scores, boxes), assigned)

    def assignment(
        self,
        cls_scores: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> Assignment:
        """What the parent's assigner says, by IoU of every prior with every object."""
        sizes = [score.shape[-2:] for score in cls_scores]
        anchors, valid = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        labels, label_weights, targets, weights, avg_factor = self.get_targets(
            anchors, valid, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        place = torch.nonzero(torch.cat(weights, dim=1)[..., 0] > 0, as_tuple=True)
        return Assignment(
            labels=torch.cat(labels, dim=1),
            label_weights=torch.cat(label_weights, dim=1),
            positive=Rows(self.adapter.grid_of_maps(cls_scores), len(batch_img_metas), *place),
            boxes=torch.cat(targets, dim=1)[place],
            avg_factor=avg_factor,
        )

    def planned_assignment(
        self,
        cls_scores: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        records: Sequence[BaseDataElement],
    ) -> Assignment:
        """The same from `assigned_prior` (m,) and `assigned_object` (m,) of every image, -1: an ignored prior."""
        device = cls_scores[0].device
        grid = self.adapter.grid_of_maps(cls_scores)
        labels = torch.full((len(batch_img_metas), grid.num_priors), self.num_classes, device=device)
        label_weights = torch.ones(labels.shape, device=device)
        priors, boxes = [], []
        for image, (objects, meta, record) in enumerate(zip(batch_gt_instances, batch_img_metas, records, strict=True)):
            own = self.adapter.grid(*meta["pad_shape"][:2])
            prior_index = own.reindex(record.assigned_prior, grid)
            if own != grid:
                # Priors in the padding of a smaller image learn nothing.
                label_weights[image] = 0
                label_weights[image, own.reindex(torch.arange(own.num_priors, device=device), grid)] = 1
            is_positive = record.assigned_object >= 0
            positive, matched = prior_index[is_positive], record.assigned_object[is_positive]
            label_weights[image, prior_index[~is_positive]] = 0
            labels[image, positive] = objects.labels[matched]
            if self.train_cfg["pos_weight"] > 0:
                label_weights[image, positive] = self.train_cfg["pos_weight"]
            priors.append(positive)
            boxes.append(get_box_tensor(objects.bboxes)[matched])
        rows, target_boxes = Rows.of(grid, priors), torch.cat(boxes)
        if not self.reg_decoded_bbox:
            matched_priors = RotatedBoxes(self.priors(grid, device)[rows.prior_index])
            target_boxes = self.bbox_coder.encode(matched_priors, RotatedBoxes(target_boxes))
        avg_factor = sum(max(len(positive), 1) for positive in priors)
        return Assignment(labels, label_weights, rows, target_boxes, avg_factor)

    def losses_of(self, maps: Maps, assigned: Assignment) -> dict[str, list[Tensor]]:
        """Class loss of all priors and box loss of the positive ones, level by level.

        The parent computes expected deltas, decoded boxes and box loss of every prior and multiplies nearly all of them
        by 0: the same sum, for a tenth of the step.
        """
        positive = assigned.positive
        box_logits = self.adapter.gather(maps, positive).box_logits
        predicted = self.adapter.expected(box_logits)
        if self.reg_decoded_bbox:
            priors = self.priors(positive.grid, box_logits.device)[positive.prior_index]
            predicted = get_box_tensor(self.bbox_coder.decode(RotatedBoxes(priors), predicted))
        losses: dict[str, list[Tensor]] = {"loss_cls": [], "loss_bbox": []}
        for index, cls_map in enumerate(maps[0]):
            start, stop = positive.grid.level_offsets[index : index + 2]
            logits = cls_map.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
            labels, weights = assigned.labels[:, start:stop], assigned.label_weights[:, start:stop]
            losses["loss_cls"].append(
                self.loss_cls(logits, labels.reshape(-1), weights.reshape(-1), avg_factor=assigned.avg_factor)
            )
            rows = torch.nonzero(positive.level == index).squeeze(1)
            ours, theirs = predicted[rows], assigned.boxes[rows]
            # Without a positive prior the loss is 0, and its gradient as well.
            losses["loss_bbox"].append(
                self.loss_bbox(ours, theirs, torch.ones_like(ours), avg_factor=assigned.avg_factor)
                if len(rows)
                else ours.sum()
            )
        return losses

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        """The parent's detections from the expected deltas."""
        deltas = [self.expected_deltas(box) for box in bbox_preds]
        return super().predict_by_feat([score.float() for score in cls_scores], deltas, *args, **kwargs)


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
