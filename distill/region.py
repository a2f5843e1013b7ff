"""The region of a sample, for plan, capture and live step: ground truth -> legacy boxes -> priors and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from cache.grid import AnchorGrid
from cache.region import region_weights
from distill.boxes import legacy_oc

# How the angle of the ground truth enters the region; recorded in the manifest.
BOX_FORM = "legacy_oc"


def describe_region(factor: float, topk: int) -> dict[str, Any]:
    """The region rule as the manifest states it."""
    return {"rule": "iou_above_alpha", "factor": factor, "topk": topk, "box_form": BOX_FORM}


def box_region(boxes: np.ndarray, grid: AnchorGrid, *, factor: float, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) sorted flat indices and (n,) float32 weights above 0, from (G, 5) rotated boxes of any convention."""
    weights = region_weights(legacy_oc(boxes)[:, :4], grid, factor=factor, topk=topk)
    prior_index = np.flatnonzero(weights)
    return prior_index, weights[prior_index]


def sample_region(sample: DetDataSample, grid: AnchorGrid, *, factor: float, topk: int) -> InstanceData:
    """`prior_index` and `weight` of a packed sample; taken from `sample.region` where the pipeline has put it."""
    if "region" in sample:
        return sample.region
    prior_index, weight = box_region(sample_boxes(sample), grid, factor=factor, topk=topk)
    return InstanceData(prior_index=torch.from_numpy(prior_index), weight=torch.from_numpy(weight))


def sample_boxes(sample: DetDataSample) -> np.ndarray:
    """(G, 5) float32 ground-truth boxes of a packed sample."""
    boxes = sample.gt_instances.bboxes
    return getattr(boxes, "tensor", boxes).cpu().numpy()
