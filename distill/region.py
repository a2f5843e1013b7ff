"""The region of a sample, for plan, capture and live step: ground truth -> legacy boxes -> priors and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from cache.grid import AnchorGrid
from cache.region import region_threshold, region_weights
from distill.assign import circumscribed_boxes
from distill.boxes import legacy_oc
from distill.devkit import polygon_iou, rbox_to_polygon

# How a rotated object enters the region: as published, by its circumscribed horizontal box, or as it is.
BOX_FORMS = ("legacy_oc", "hbb", "rotated")


def describe_region(factor: float, topk: int, box_form: str = "legacy_oc") -> dict[str, Any]:
    """The region rule as the manifest states it.

    Raises:
        ValueError: the box form is unknown.
    """
    if box_form not in BOX_FORMS:
        raise ValueError(f"region.box_form is {box_form!r}; one of {', '.join(BOX_FORMS)} needed")
    return {"rule": "iou_above_alpha", "factor": factor, "topk": topk, "box_form": box_form}


def box_region(
    boxes: np.ndarray, grid: AnchorGrid, *, factor: float, topk: int, box_form: str = "legacy_oc"
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) sorted flat indices and (n,) float32 weights above 0, from (G, 5) rotated boxes of any convention.

    'legacy_oc' drops the angle of the legacy form (published, transposes axis-aligned objects); 'hbb' takes the
    circumscribed horizontal box; 'rotated' the rotated IoU itself, slower.
    """
    if box_form == "rotated":
        weights = _rotated_weights(boxes, grid, factor, topk)
    else:
        plain = legacy_oc(boxes)[:, :4] if box_form == "legacy_oc" else _circumscribed(boxes)
        weights = region_weights(plain, grid, factor=factor, topk=topk)
    prior_index = np.flatnonzero(weights)
    return prior_index, weights[prior_index]


def _circumscribed(boxes: np.ndarray) -> np.ndarray:
    """(G, 4) float32 cx, cy, w, h of the circumscribed horizontal boxes."""
    # The published form of such a box is upright at pi/2: its height comes first.
    return circumscribed_boxes(torch.from_numpy(boxes.astype(np.float32))).numpy()[:, [0, 1, 3, 2]]


def _rotated_weights(boxes: np.ndarray, grid: AnchorGrid, factor: float, topk: int) -> np.ndarray:
    """(P,) weights by the rule of `cache.region` with the IoU of exact polygons, at priors that touch the outer box."""
    weights = np.zeros(grid.num_priors, dtype=np.float32)
    anchors = grid.anchors
    for box, outer in zip(boxes.astype(np.float32), _circumscribed(boxes), strict=True):
        distance = np.hypot(anchors[:, 0] - outer[0], anchors[:, 1] - outer[1])
        nearest = np.concatenate(
            [
                start + np.argsort(distance[start:stop], kind="stable")[:topk]
                for start, stop in zip(grid.level_offsets[:-1], grid.level_offsets[1:], strict=True)
            ]
        )
        near = np.flatnonzero((2 * np.abs(anchors[:, :2] - outer[:2]) < anchors[:, 2:] + outer[2:]).all(axis=1))
        iou = _rotated_iou(box, anchors[near])
        iou[iou < region_threshold(_rotated_iou(box, anchors[nearest]), factor)] = 0
        weights[near] = np.maximum(weights[near], iou)
    return weights


def _rotated_iou(box: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(n,) float32 IoU of one rotated box with (n, 4) horizontal anchors."""
    upright = np.concatenate([anchors, np.zeros((len(anchors), 1), dtype=np.float32)], axis=1)
    return polygon_iou(rbox_to_polygon(box[None])[0], rbox_to_polygon(upright)).astype(np.float32)


def sample_region(sample: DetDataSample, grid: AnchorGrid, **rule: Any) -> InstanceData:
    """`prior_index` and `weight` of a packed sample; taken from `sample.region` where the pipeline has put it.

    `rule` is that of `box_region`.
    """
    if "region" in sample:
        return sample.region
    prior_index, weight = box_region(sample_boxes(sample), grid, **rule)
    return InstanceData(prior_index=torch.from_numpy(prior_index), weight=torch.from_numpy(weight))


def sample_boxes(sample: DetDataSample) -> np.ndarray:
    """(G, 5) float32 ground-truth boxes of a packed sample."""
    boxes = sample.gt_instances.bboxes
    return getattr(boxes, "tensor", boxes).cpu().numpy()
