"""Detections of patches -> detections of images: shifted into place, then rotated non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distill.detections import Detections
from distill.dota import PatchName, parse_patch_name
from distill.polygons import overlapping_boxes, polygon_bounds, polygon_iou

MERGE_NMS_THRESHOLD = 0.1
_NMS_BLOCK = 1024


def merge_patches(
    detections: Mapping[str, Detections], threshold: float = MERGE_NMS_THRESHOLD
) -> dict[str, Detections]:
    """Patch detections -> image detections: shift by the patch's place, then NMS per class on the full image.

    A name that is no patch's is taken as an image at offset 0. Images come out sorted by id, each by falling score.
    """
    return {name: _merge_class(patches, threshold) for name, patches in detections.items()}


def _merge_class(patches: Detections, threshold: float) -> Detections:
    """Merge the detections of one class."""
    places = {name: parse_patch_name(name) or PatchName(name, 0, 0, 0) for name in set(patches.image_ids)}
    place_of = [places[name] for name in patches.image_ids]
    image_ids = np.array([place.image_id for place in place_of], dtype=object)
    offsets = np.array([(place.x, place.y) * 4 for place in place_of], dtype=np.float64).reshape(-1, 8)
    shifted = Detections(tuple(image_ids), patches.scores, patches.polygons + offsets)

    names, image_index = np.unique(image_ids.astype(str), return_inverse=True)
    by_image = np.argsort(image_index, kind="stable")
    members = np.split(by_image, np.searchsorted(image_index[by_image], np.arange(1, len(names))))
    kept = [m[rotated_nms(shifted.polygons[m], shifted.scores[m], threshold)] for m in members]
    return shifted.take(np.concatenate(kept))


def rotated_nms(polygons: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression: (n, 8), (n,) -> kept indices, best score first; equal scores in given order.

    A box is dropped where its IoU with a kept box exceeds `threshold` (>= 0).
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    polygons = np.asarray(polygons, dtype=np.float64).reshape(-1, 8)[order]
    bounds = polygon_bounds(polygons) if len(polygons) else np.zeros((0, 4))
    kept = np.zeros(0, dtype=np.int64)
    # Block by block, so that heaps of boxes on one object are compared with the few kept ones, not with each other.
    for start in range(0, len(polygons), _NMS_BLOCK):
        block = np.arange(start, min(start + _NMS_BLOCK, len(polygons)))
        _, hidden = _suppressing_pairs(polygons, bounds, kept, block, threshold)
        block = np.setdiff1d(block, hidden)
        kept = np.concatenate([kept, _greedy(block, *_suppressing_pairs(polygons, bounds, block, block, threshold))])
    return order[kept]


def _suppressing_pairs(
    polygons: np.ndarray, bounds: np.ndarray, better: np.ndarray, worse: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """(i from `better`, j from `worse`), i < j, whose IoU exceeds the threshold; indices in score order."""
    row, column = overlapping_boxes(bounds[better], bounds[worse])
    i, j = better[row], worse[column]
    i, j = i[i < j], j[i < j]
    close = polygon_iou(polygons[i], polygons[j]) > threshold
    return i[close], j[close]


def _greedy(candidates: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Those of `candidates` (ascending) that no kept one suppresses; the pairs say that i suppresses j."""
    order = np.argsort(i, kind="stable")
    i, j = i[order], j[order]
    first, last = np.searchsorted(i, candidates), np.searchsorted(i, candidates, side="right")
    dropped: set[int] = set()
    kept = []
    for candidate, begin, end in zip(candidates.tolist(), first.tolist(), last.tolist(), strict=True):
        if candidate not in dropped:
            kept.append(candidate)
            dropped.update(j[begin:end].tolist())
    return np.asarray(kept, dtype=np.int64)
