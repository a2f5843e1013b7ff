"""Average precision as the DOTA devkit measures it (Task 1, oriented boxes): docs/method.md, "Evaluation".

The 11-point AP at IoU 0.50 to 0.95, and the figures that the published script prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from distill.detections import NO_DETECTIONS, Detections
from distill.dota import Labels
from distill.polygons import overlapping_boxes, polygon_bounds, polygon_iou

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# The devkit's grid, rounding included: its fourth point is 0.30000000000000004, so 3 of 10 objects do not reach it.
RECALL_POINTS = np.arange(0.0, 1.1, 0.1)
# The devkit counts pixels inclusively (xmax - xmin + 1): boxes less than this far apart still "overlap".
INCLUSIVE_PIXEL = 1.0


@dataclass(frozen=True)
class DevkitResult:
    """AP of every class at every threshold, as fractions in [0, 1].

    classes: C names. thresholds: T IoU thresholds. ap: (T, C).
    num_objects: (C,) objects that count, difficult ones excluded. num_detections: (C,).
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    ap: np.ndarray
    num_objects: np.ndarray
    num_detections: np.ndarray

    @property
    def threshold_means(self) -> np.ndarray:
        """(T,) mean over all C classes; a class without objects counts as 0, as published."""
        return self.ap.sum(axis=1) / len(self.classes)

    @property
    def mean(self) -> float:
        """AP: the mean over thresholds and classes."""
        return float(self.threshold_means.mean())

    @property
    def present(self) -> np.ndarray:
        """(C,) whether a class has an object that counts."""
        return self.num_objects > 0

    @property
    def present_means(self) -> np.ndarray:
        """(T,) mean over the classes that have objects; NaN where none has."""
        return np.asarray(
            self.ap[:, self.present].mean(axis=1) if self.present.any() else np.full(len(self.ap), np.nan)
        )

    def legacy_cumulative(self) -> np.ndarray:
        """(T,) what the published script prints per threshold (see `legacy_from_true`); its AP is their mean."""
        return legacy_from_true(self.threshold_means, len(self.classes))

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP55, ... as fractions, in this order."""
        return _summary(self.thresholds, self.threshold_means)

    def present_summary(self) -> dict[str, float]:
        """The same keys over the classes that have objects; empty where all have, or none."""
        is_other = 0 < self.present.sum() < len(self.classes)
        return _summary(self.thresholds, self.present_means) if is_other else {}

    def legacy_summary(self) -> dict[str, float]:
        """The same keys with the figures that the published script prints."""
        return _summary(self.thresholds, self.legacy_cumulative())

    def to_json(self) -> dict[str, Any]:
        """A dict of plain lists and numbers, legacy figures included."""
        legacy = self.legacy_cumulative()
        return {
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "num_objects": self.num_objects.tolist(),
            "num_detections": self.num_detections.tolist(),
            "ap": self.ap.tolist(),
            "mean_ap_per_threshold": self.threshold_means.tolist(),
            "AP": self.mean,
            "present": self.present_summary(),
            "legacy_printed_per_threshold": legacy.tolist(),
            "legacy_AP": float(legacy.mean()),
        }


def average_precision_11(recall: np.ndarray, precision: np.ndarray) -> float:
    """11-point AP (VOC 2007): mean over the recall points of the best precision at that recall or beyond.

    recall, precision: (n,) in order of falling score. A point that is never reached counts as 0.
    """
    reached = recall >= RECALL_POINTS[:, None]
    return float(np.where(reached, precision, 0.0).max(axis=1, initial=0.0).sum() / len(RECALL_POINTS))


def legacy_from_true(threshold_means: np.ndarray, num_classes: int) -> np.ndarray:
    """The figures that the published script prints for the true class means (T,), thresholds ascending.

    It carries its running sum from one threshold into the next: printed_k = true_k + printed_(k-1) / num_classes.
    """
    printed = np.array(threshold_means, dtype=np.float64)
    for k in range(1, len(printed)):
        printed[k] += printed[k - 1] / num_classes
    return printed


def evaluate_detections(
    detections: Mapping[str, Detections],
    ground_truth: Mapping[str, Labels],
    classes: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
) -> DevkitResult:
    """AP of every class at every IoU threshold, on the images of `ground_truth` (image id -> labels).

    A class without objects or without detections has AP 0; other classes' detections and objects are passed over.
    Difficulty above 0 (difficult, or cut by a patch border) marks an object that neither counts nor costs.

    Raises:
        ValueError: no class or threshold, thresholds not rising inside [0, 1), a detection on an image without labels.
    """
    _check_protocol(classes, thresholds)
    image_index = {name: index for index, name in enumerate(ground_truth)}
    objects = _Objects.of(ground_truth.values())
    ap = np.zeros((len(thresholds), len(classes)))
    num_objects = np.zeros(len(classes), dtype=np.int64)
    num_detections = np.zeros(len(classes), dtype=np.int64)
    for column, name in enumerate(classes):
        found = detections.get(name, NO_DETECTIONS)
        found = found.take(np.argsort(-found.scores, kind="stable"))
        of_class = objects.of_class(name)
        best, iou = _best_objects(found, _image_indices(found, image_index, name), of_class)
        ap[:, column] = [_average_precision(best, iou, of_class.difficult, threshold) for threshold in thresholds]
        num_objects[column] = np.count_nonzero(~of_class.difficult)
        num_detections[column] = len(found)
    return DevkitResult(tuple(classes), tuple(map(float, thresholds)), ap, num_objects, num_detections)


def _check_protocol(classes: Sequence[str], thresholds: Sequence[float]) -> None:
    if not classes:
        raise ValueError("no class to evaluate; name at least one")
    if len(set(classes)) < len(classes):
        raise ValueError(f"a class stands twice in {list(classes)}; remove one")
    rising = all(low < high for low, high in pairwise(thresholds))
    if not len(thresholds) or not rising or thresholds[0] < 0 or thresholds[-1] >= 1:
        raise ValueError(f"IoU thresholds must rise inside [0, 1), not {[*thresholds]}; the devkit's are {THRESHOLDS}")


@dataclass(frozen=True)
class _Objects:
    """Ground truth of all images in one row of arrays: image (m,), names (m,), polygons (m, 8), difficult (m,)."""

    image: np.ndarray
    names: np.ndarray
    polygons: np.ndarray
    difficult: np.ndarray

    @classmethod
    def of(cls, labels: Iterable[Labels]) -> _Objects:
        labels = list(labels)
        return cls(
            np.repeat(np.arange(len(labels)), [len(of_image) for of_image in labels]),
            np.array([name for of_image in labels for name in of_image.class_names], dtype=str),
            np.concatenate([np.zeros((0, 8)), *(of_image.polygons for of_image in labels)]),
            np.concatenate([np.zeros(0, dtype=bool), *(of_image.difficulty > 0 for of_image in labels)]),
        )

    def of_class(self, name: str) -> _Objects:
        mine = self.names == name
        return _Objects(self.image[mine], self.names[mine], self.polygons[mine], self.difficult[mine])


def _image_indices(detections: Detections, image_index: Mapping[str, int], class_name: str) -> np.ndarray:
    """(n,) index of each detection's image."""
    try:
        return np.array([image_index[name] for name in detections.image_ids], dtype=np.int64)
    except KeyError as error:
        raise ValueError(
            f"a {class_name} detection lies on image {error.args[0]!r}, which is not among the {len(image_index)} "
            "images with ground truth. Add its label file or drop its detections."
        ) from None


def _best_objects(detections: Detections, image: np.ndarray, objects: _Objects) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the object with the highest IoU, first in file order on ties, and that IoU: (n,), (n,).

    No object in reach: -1 and 0. Neither depends on the threshold, nor on what other detections have taken.
    """
    best, best_iou = np.full(len(detections), -1), np.zeros(len(detections))
    if not len(detections) or not len(objects.image):
        return best, best_iou
    # Pairs outside the prefilter share no area, so the inclusive pixel decides what is computed but never an AP.
    row, column = overlapping_boxes(
        polygon_bounds(detections.polygons), polygon_bounds(objects.polygons), image, objects.image, INCLUSIVE_PIXEL
    )
    iou = polygon_iou(detections.polygons[row], objects.polygons[column])
    order = np.lexsort((column, -iou, row))
    winner = order[np.unique(row[order], return_index=True)[1]]
    best[row[winner]], best_iou[row[winner]] = column[winner], iou[winner]
    return best, best_iou


def _average_precision(best: np.ndarray, iou: np.ndarray, difficult: np.ndarray, threshold: float) -> float:
    """AP at one threshold from each detection's best object and IoU, in order of falling score.

    The first detection above the threshold takes an object, later ones are false positives, those on a difficult
    object count as neither.
    """
    num_objects = np.count_nonzero(~difficult)
    if not num_objects:
        return 0.0
    hit = iou > threshold
    ignored = np.zeros(len(hit), dtype=bool)
    ignored[hit] = difficult[best[hit]]
    taking = np.flatnonzero(hit & ~ignored)
    true_positive = np.zeros(len(hit), dtype=bool)
    true_positive[taking[np.unique(best[taking], return_index=True)[1]]] = True
    num_true = np.cumsum(true_positive)
    num_false = np.cumsum(~true_positive & ~ignored)
    # Leading ignored detections leave 0 of 0: precision 0, as the devkit's smallest float in the divisor gives.
    return average_precision_11(num_true / num_objects, num_true / np.maximum(num_true + num_false, 1))


def _threshold_name(threshold: float) -> str:
    return f"AP{100 * threshold:.4g}"


def _summary(thresholds: Sequence[float], means: np.ndarray) -> dict[str, float]:
    per_threshold = {_threshold_name(t): float(mean) for t, mean in zip(thresholds, means, strict=True)}
    return {"AP": float(means.mean()), **per_threshold}


def format_table(result: DevkitResult) -> str:
    """Aligned plain text in percent: AP50, AP75 and AP of each class, and their means."""
    shown = [k for k, t in enumerate(result.thresholds) if _threshold_name(t) in ("AP50", "AP75")]
    rows = [["class", "objects", "detections", *(_threshold_name(result.thresholds[k]) for k in shown), "AP"]]

    def add(name: str, ap: np.ndarray, objects: np.ndarray, detections: np.ndarray) -> None:
        figures = [*ap[shown], ap.mean()]
        rows.append([name, str(objects.sum()), str(detections.sum()), *map(_percent, figures)])

    for column, name in enumerate(result.classes):
        add(name, result.ap[:, column], result.num_objects[column], result.num_detections[column])
    add(f"mean of {len(result.classes)}", result.threshold_means, result.num_objects, result.num_detections)
    if 0 < result.present.sum() < len(result.classes):
        mean = result.present_means
        counts = result.num_objects[result.present], result.num_detections[result.present]
        add(f"mean of the {result.present.sum()} with objects", mean, *counts)
    return f"{_align(rows)}\n"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
