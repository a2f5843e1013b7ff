"""GFL heads: horizontal boxes as distributions over the distances to their four sides (mmdet's GFLHead and LDHead)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmdet.models.dense_heads import GFLHead, LDHead
from mmdet.utils import InstanceList, OptInstanceList
from mmrotate.registry import MODELS
from torch import Tensor, nn

from distill.adapter import HorizontalAdapter, adapts, anchor_fields


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
