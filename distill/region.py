"""The region of a view, for plan, capture and loaders: ground truth and grid -> priors and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from cache.grid import AnchorGrid
from cache.region import region_threshold, region_weights
from distill.assign import atss_assignment, circumscribed_boxes, prior_corners
from distill.boxes import legacy_oc
from distill.losses import MAIN_WEIGHT
from distill.polygons import polygon_iou, rbox_to_polygon

# How a rotated object enters the region: as published, by its circumscribed horizontal box, or as it is.
BOX_FORMS = ("legacy_oc", "hbb", "rotated")
# Objects at once in the pairwise overlaps of `atss_main_vlr`, whose temporaries are (objects, priors, 2).
_OBJECTS_PER_CHUNK = 16
# The VLR weight is the other half of a weight, and must stay below it in float16 as well.
LARGEST_VLR_WEIGHT = 0.9990234375


@dataclass(frozen=True)
class RegionRule:
    """Which priors carry a weight.

    Attributes:
        weights: ((G, 4 or 5) boxes, grid, the rule's options) -> (P,) float32 weights in [0, 1].
        box_size: numbers of a box that the rule takes.
        describe: the rule's options -> all of them as the manifest states them; ValueError for one that is unknown.
        holds: (stored options, rule and options of a student) -> does the student's region lie inside?
    """

    weights: Callable[..., np.ndarray]
    box_size: int
    describe: Callable[..., dict[str, Any]]
    holds: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


def describe_region(*, rule: str = "iou_above_alpha", **options: Any) -> dict[str, Any]:
    """The region rule as the manifest states it.

    Raises:
        ValueError: the rule or one of its options is unknown.
    """
    try:
        return {"rule": rule, **_rule(rule).describe(**options)}
    except TypeError as error:
        raise ValueError(f"region of rule {rule!r}: {error}") from None


def box_region(
    boxes: np.ndarray, grid: AnchorGrid, *, rule: str = "iou_above_alpha", **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) sorted flat indices and (n,) float32 weights above 0.

    Args:
        boxes: (G, 5) rotated boxes of any convention, or (G, 4) x1, y1, x2, y2, as the rule takes them.
        grid: priors of the view.
        rule: 'iou_above_alpha' (rotated LD), 'atss_main' or 'atss_main_vlr' (horizontal LD).
        options: of the rule.

    Raises:
        ValueError: an unknown rule, or boxes of another kind.
    """
    chosen = _rule(rule)
    if boxes.shape[1] != chosen.box_size:
        raise ValueError(f"region.rule {rule!r} takes boxes of {chosen.box_size} numbers, not {boxes.shape[1]}")
    weights = chosen.weights(boxes, grid, **options)
    prior_index = np.flatnonzero(weights)
    return prior_index, weights[prior_index]


def is_inside(student: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether one described region picks some of the priors of another, and fewer, whatever the labels."""
    return student != stored and _rule(stored["rule"]).holds(stored, student)


# --- iou_above_alpha: the rotated recipe (docs/method.md, Region) ---


def _alpha_weights(
    boxes: np.ndarray, grid: AnchorGrid, *, factor: float, topk: int, box_form: str = "legacy_oc"
) -> np.ndarray:
    """'legacy_oc' drops the angle of the legacy form (published, transposes axis-aligned objects); 'hbb' takes the
    circumscribed horizontal box; 'rotated' the rotated IoU itself, slower.
    """
    if box_form == "rotated":
        return _rotated_weights(boxes, grid, factor, topk)
    plain = legacy_oc(boxes)[:, :4] if box_form == "legacy_oc" else _circumscribed(boxes)
    return region_weights(plain, grid, factor=factor, topk=topk)


def _describe_alpha(*, factor: float, topk: int, box_form: str = "legacy_oc") -> dict[str, Any]:
    if box_form not in BOX_FORMS:
        raise ValueError(f"region.box_form is {box_form!r}; one of {', '.join(BOX_FORMS)} needed")
    return {"factor": factor, "topk": topk, "box_form": box_form}


def _alpha_holds(stored: Mapping[str, Any], student: Mapping[str, Any]) -> bool:
    """A higher threshold picks fewer priors."""
    same = {**stored, "factor": None} == {**student, "factor": None}
    return same and student["factor"] > stored["factor"]


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


# --- atss_main and atss_main_vlr: docs/method.md, Horizontal LD ---


def _main_weights(boxes: np.ndarray, grid: AnchorGrid, *, topk: int) -> np.ndarray:
    """`MAIN_WEIGHT` at the priors that ATSS makes positive: those that mmdet's `LDHead` reads."""
    return np.where(_atss_positive(boxes, grid, topk), np.float32(MAIN_WEIGHT), np.float32(0))


def _main_vlr_weights(boxes: np.ndarray, grid: AnchorGrid, *, topk: int, factor: float = 0.25) -> np.ndarray:
    """`MAIN_WEIGHT` in the main region, and half the VLR weight added where a prior lies in the VLR."""
    return _main_weights(boxes, grid, topk=topk) + _vlr_weights(boxes, grid, topk, factor) / 2


def _describe_main_vlr(*, topk: int, factor: float = 0.25) -> dict[str, Any]:
    return {"topk": topk, "factor": factor}


def _main_vlr_holds(stored: Mapping[str, Any], student: Mapping[str, Any]) -> bool:
    if student["rule"] == "atss_main":
        return student["topk"] == stored["topk"]
    same = {**stored, "factor": None} == {**student, "factor": None}
    return same and student["factor"] > stored["factor"]


def _atss_positive(boxes: np.ndarray, grid: AnchorGrid, topk: int) -> np.ndarray:
    """(P,) which priors mmdet's ATSS assigns to an object."""
    objects = torch.from_numpy(boxes.astype(np.float32))
    labels = torch.zeros(len(objects), dtype=torch.int64)
    prior_index, _ = atss_assignment(_atss(topk), InstanceData(bboxes=objects, labels=labels), grid)
    positive = np.zeros(grid.num_priors, dtype=bool)
    positive[prior_index] = True
    return positive


@cache
def _atss(topk: int) -> ATSSAssigner:
    return ATSSAssigner(topk=topk, iou_calculator={"type": "mmdet.BboxOverlaps2D"})


def _vlr_weights(boxes: np.ndarray, grid: AnchorGrid, topk: int, factor: float) -> np.ndarray:
    """(P,) best IoU with an object in whose valuable localization region a prior lies: factor alpha <= DIoU < alpha.

    alpha is the threshold of ATSS: mean plus sample deviation of the IoU of the `topk` nearest priors a level.
    """
    weights = torch.zeros(grid.num_priors)
    priors = prior_corners(grid)
    for start in range(0, len(boxes), _OBJECTS_PER_CHUNK):
        objects = torch.from_numpy(boxes[start : start + _OBJECTS_PER_CHUNK].astype(np.float32))
        iou = bbox_overlaps(objects, priors)
        distance = torch.cdist(_centers(objects), _centers(priors))
        levels = zip(iou.split(grid.level_sizes, dim=1), distance.split(grid.level_sizes, dim=1), strict=True)
        nearest = torch.cat(
            [
                level_iou.gather(1, level_distance.topk(min(topk, level_iou.shape[1]), dim=1, largest=False).indices)
                for level_iou, level_distance in levels
            ],
            dim=1,
        )
        alpha = (nearest.mean(dim=1) + nearest.std(dim=1))[:, None]
        diou = iou - (distance / _enclosing_diagonal(objects, priors)) ** 2
        inside = (diou >= factor * alpha) & (diou < alpha)
        weights = torch.maximum(weights, torch.where(inside, iou, 0).amax(dim=0))
    return weights.clamp(max=LARGEST_VLR_WEIGHT).numpy()


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _enclosing_diagonal(objects: Tensor, priors: Tensor) -> Tensor:
    """(G, P) diagonal of the smallest box around each pair."""
    low = torch.minimum(objects[:, None, :2], priors[None, :, :2])
    high = torch.maximum(objects[:, None, 2:], priors[None, :, 2:])
    return (high - low).norm(dim=2)


RULES: Mapping[str, RegionRule] = {
    "iou_above_alpha": RegionRule(_alpha_weights, 5, _describe_alpha, _alpha_holds),
    "atss_main": RegionRule(_main_weights, 4, lambda *, topk: {"topk": topk}, lambda stored, student: False),
    "atss_main_vlr": RegionRule(_main_vlr_weights, 4, _describe_main_vlr, _main_vlr_holds),
}


def _rule(name: str) -> RegionRule:
    if name not in RULES:
        raise ValueError(f"region.rule is {name!r}; one of {', '.join(RULES)} needed")
    return RULES[name]
