"""GFL heads: horizontal boxes as distributions over the distances to their four sides (mmdet's GFLHead and LDHead)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import GFLHead, LDHead
from mmdet.models.losses import GIoULoss, QualityFocalLoss
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.utils import InstanceList, OptInstanceList, reduce_mean
from mmengine.structures import InstanceData
from mmrotate.registry import MODELS
from torch import Tensor, nn

from cache.grid import AnchorGrid
from distill.adapter import HorizontalAdapter, adapts, anchor_fields
from distill.assign import atss_assignment
from distill.rows import Maps, in_float32
from distill.targets import PlannedAssignment


@adapts(GFLHead)
@dataclass(frozen=True, eq=False)
class GFLAdapter(HorizontalAdapter):
    """GFL: distances from a prior's centre to the left, top, right and bottom side, in strides of its level."""

    kind = "gfl"
    box_layer = "gfl_reg"
    box_parameters = ("left", "top", "right", "bottom")
    bin_units = ("strides", "strides", "strides", "strides")

    @classmethod
    def of(cls, head: GFLHead) -> GFLAdapter:
        bins = head.reg_max + 1
        ends = (0.0, float(head.reg_max))
        return cls(**anchor_fields(head), num_bins=bins, bin_ranges=(ends,) * 4, conventions={})

    def decode(
        self, priors: Tensor, strides: Tensor, expected: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """(M, 4) x1, y1, x2, y2 in pixels; sides inside `max_shape`."""
        return self.coder.decode(priors[:, :2], expected * strides[:, None], max_shape=max_shape)

    def plan_assignment(
        self, assigner: ATSSAssigner, gt_instances: InstanceData, grid: AnchorGrid
    ) -> tuple[np.ndarray, np.ndarray]:
        return atss_assignment(assigner, gt_instances, grid)


class _LeftOut(nn.Module):
    """A loss term that is computed elsewhere."""

    def forward(self, prediction: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return prediction.sum() * 0


@MODELS.register_module()
class GFLStudentHead(LDHead):
    """mmdet's `LDHead` without the term that reads the teacher: a distiller adds it from gathered rows.

    Its other losses are those of `LDHead`, whose divisor may fall below 1 where `GFLHead`'s does not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, loss_ld={"type": "mmdet.KnowledgeDistillationKLDivLoss"}, **kwargs)
        self.loss_ld = _LeftOut()

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, list[Tensor]]:
        """`loss_cls`, `loss_bbox` and `loss_dfl` of every level."""
        # The maps stand for the teacher's, which the term that is left out would read.
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, bbox_preds, batch_gt_instances_ignore
        )
        del losses["loss_ld"]
        return losses

    def planned_losses(self, maps: Maps, planned: PlannedAssignment) -> dict[str, list[Tensor]]:
        """The same losses from a planned assignment: the device is not waited for.

        mmdet searches the positive priors of every level and reads its divisors; here rows and counts are known.
        """
        with in_float32(*maps) as (cls_maps, box_maps):
            return self._planned_losses(cls_maps, box_maps, planned)

    def _planned_losses(
        self, cls_maps: list[Tensor], box_maps: list[Tensor], planned: PlannedAssignment
    ) -> dict[str, list[Tensor]]:
        rows = planned.positive
        weight = rows.take(cls_maps).detach().sigmoid().amax(dim=1)
        sizes = zip(rows.level_sizes, self.prior_generator.strides, strict=True)
        strides = torch.cat([weight.new_full((size, 1), stride) for size, (stride, _) in sizes])
        centers, boxes = planned.centers / strides, planned.boxes / strides
        bins = rows.take(box_maps)
        predicted = self.bbox_coder.decode(centers, self.integral(bins))
        quality = aligned_overlaps(predicted.detach(), boxes)
        distances = self.bbox_coder.encode(centers, boxes, self.reg_max).reshape(-1)
        dfl = self.loss_dfl(bins.reshape(-1, self.reg_max + 1), distances, reduction_override="none")
        divisor = reduce_mean(weight.sum() + 1e-6)
        loss_bbox = rows.sum_by_level(self._box_loss(predicted, boxes) * weight) / divisor
        loss_dfl = rows.sum_by_level(dfl.view(-1, 4).sum(dim=1) * weight) / 4 / divisor
        return {
            "loss_cls": self._quality_losses(cls_maps, planned, quality),
            "loss_bbox": list(loss_bbox.unbind()),
            "loss_dfl": list(loss_dfl.unbind()),
        }

    def _box_loss(self, predicted: Tensor, boxes: Tensor) -> Tensor:
        """(n,) of each row."""
        if type(self.loss_bbox) is GIoULoss:
            # The module sends its epsilon to the device in every call, which waits for it.
            loss = 1 - aligned_overlaps(predicted, boxes, generalized=True, eps=self.loss_bbox.eps)
            return self.loss_bbox.loss_weight * loss
        return self.loss_bbox(predicted, boxes, reduction_override="none")

    def _quality_losses(self, cls_maps: list[Tensor], planned: PlannedAssignment, quality: Tensor) -> list[Tensor]:
        """mmdet's `QualityFocalLoss` of every level, at positive priors with the IoU of their boxes."""
        loss: QualityFocalLoss = self.loss_cls
        rows = planned.positive
        _, label_weights = planned.dense(self.num_classes, self.train_cfg["pos_weight"])
        divisor = reduce_mean(quality.new_full((), planned.avg_factor))
        parts = zip(rows.place.split(rows.level_sizes, dim=1), quality.split(rows.level_sizes), strict=True)
        labels = planned.labels.split(rows.level_sizes)
        losses = []
        for level, ((_, image, anchor, cell, _), score) in enumerate(parts):
            start, stop = rows.grid.level_offsets[level : level + 2].tolist()
            logits = cls_maps[level].permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
            row = image * (stop - start) + cell * rows.grid.anchors_per_cell + anchor
            values = quality_focal_loss(logits, row, labels[level], score, loss.beta)
            total = (values * label_weights[:, start:stop].reshape(-1)).sum()
            losses.append(loss.loss_weight * total / (divisor + torch.finfo(torch.float32).eps))
        return losses


def quality_focal_loss(logits: Tensor, row: Tensor, label: Tensor, score: Tensor, beta: float) -> Tensor:
    """(N,) as mmdet's of logits (N, C), the positives being told: their rows, labels and scores (n,)."""
    target = torch.zeros_like(logits)
    negative = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    loss = negative * probability.pow(beta)
    place = row, label
    gap = (score - probability[place]).abs().pow(beta)
    positive = F.binary_cross_entropy_with_logits(logits[place], score, reduction="none") * gap
    return loss.index_put(place, positive).sum(dim=1)


def aligned_overlaps(boxes: Tensor, others: Tensor, *, generalized: bool = False, eps: float = 1e-6) -> Tensor:
    """(n,) IoU, or generalized IoU, of pairs of boxes x1, y1, x2, y2: mmdet's `bbox_overlaps` without its upload."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    overlap = _area(low, high)
    areas = [(some[:, 2] - some[:, 0]) * (some[:, 3] - some[:, 1]) for some in (boxes, others)]
    union = (areas[0] + areas[1] - overlap).clamp(min=eps)
    if not generalized:
        return overlap / union
    low, high = torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])
    around = _area(low, high).clamp(min=eps)
    return overlap / union - (around - union) / around


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(dim=1)
    return width * height
