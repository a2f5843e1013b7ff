"""A view as pictures show it: its image, its labels, its record, and the boxes that the teacher sees in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmengine.config import Config
from torch import Tensor

from cache.reader import CacheReader, TargetRecord
from distill.adapter import HeadAdapter
from pipelines.capture.views import TrainingViews, ViewSample

MIN_SCORE = 0.3
"""Least score of a box that is drawn: mmdet's own for pictures."""
FALLBACK_PRIORS = 20
"""Priors whose boxes are drawn where no score reaches it."""


@dataclass(frozen=True)
class DrawnView:
    """A view and what its record says; n rows.

    boxes: (n, 4, 2) corners of the decoded boxes. scores, labels: (n,) best class of each row. kept: rows of the
    detections after NMS, best first. is_sure: they reach `MIN_SCORE`.
    """

    patch_id: str
    draw: str
    sample: ViewSample
    adapter: HeadAdapter
    record: TargetRecord
    boxes: np.ndarray
    scores: Tensor
    labels: Tensor
    kept: list[int]
    is_sure: bool

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self.sample.image.permute(1, 2, 0).numpy()[..., ::-1]

    @property
    def objects(self) -> np.ndarray:
        """(G, 4, 2) corners of the labels."""
        return self.adapter.corners(self.sample.objects.bboxes.tensor).numpy()


def draw_ready(config: Config, views: TrainingViews, reader: CacheReader, patch_id: str, draw: str) -> DrawnView:
    """Image, labels and the stored record's detections of a view.

    Raises:
        ValueError: the cache holds no such view.
    """
    record, sample = reader.read(patch_id, draw), views.sample(patch_id, draw)
    boxes = decode_boxes(views.adapter, sample, record.prior_index, torch.from_numpy(record.box_logits))
    scores, labels = torch.from_numpy(record.cls_logits).sigmoid().max(dim=1)
    kept = torch.nonzero(scores >= MIN_SCORE).squeeze(1)
    is_sure = len(kept) > 0
    if not is_sure:
        kept = scores.topk(min(FALLBACK_PRIORS, len(scores))).indices
    if len(kept):
        _, order = batched_nms(boxes[kept], scores[kept], labels[kept], dict(config.model.test_cfg.nms))
        kept = kept[order]
    corners = views.adapter.corners(boxes).numpy()
    return DrawnView(patch_id, draw, sample, views.adapter, record, corners, scores, labels, kept.tolist(), is_sure)


def decode_boxes(adapter: HeadAdapter, sample: ViewSample, prior_index: np.ndarray, box_logits: Tensor) -> Tensor:
    """(n, 4 or 5) expected boxes at the given priors of a view."""
    height, width = sample.image.shape[-2:]
    return adapter.expected_boxes(sample.grid, prior_index, box_logits, (height, width))


def busy_patch(reader: CacheReader) -> str:
    """A captured patch with many rows: the 90th percentile."""
    plan = reader.plan
    rows = np.bincount(plan.view_patch, weights=plan.priors_per_view)
    missing = reader.missing_blocks()
    captured = np.unique(plan.view_patch[~np.isin(plan.block, missing)])
    order = captured[np.argsort(rows[captured], kind="stable")]
    return plan.patch_ids[int(order[int(0.9 * (len(order) - 1))])]
