"""Average precision as the DOTA devkit measures it (Task 1, oriented boxes), and what leads there.

Merging patch detections into images, rotated NMS, the `Task1_<class>.txt` files, the 11-point AP at IoU 0.50 to 0.95
and the figures that the published script prints. NumPy only. The protocol is section 5 of the algorithm's
specification; polygons are (8,) rows x1 y1 ... x4 y4 in pixels throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distill.dota import Labels, PatchName, parse_patch_name, read_labels

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# The devkit's grid, rounding included: its fourth point is 0.30000000000000004, so 3 of 10 objects do not reach it.
RECALL_POINTS = np.arange(0.0, 1.1, 0.1)
# The devkit counts pixels inclusively (xmax - xmin + 1): boxes less than this far apart still "overlap".
INCLUSIVE_PIXEL = 1.0
MERGE_NMS_THRESHOLD = 0.1

_PAIRS_PER_BATCH = 8192  # polygon pairs clipped at a time; keeps the working set inside the processor's cache
_RANGES_PER_BATCH = 1 << 21  # interval pairs expanded at a time; bounds memory on dense images
_NMS_BLOCK = 1024


@dataclass(frozen=True)
class Detections:
    """The detections of one class, over all images.

    image_ids: n ids (patch names before merging).
    scores: (n,) float64.
    polygons: (n, 8) float64, pixels.

    Raises:
        ValueError: lengths differ, or a score or coordinate is not finite.
    """

    image_ids: tuple[str, ...]
    scores: np.ndarray
    polygons: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.image_ids)
        if self.scores.shape != (num,) or self.polygons.shape != (num, 8):
            raise ValueError(
                f"{num} image ids need scores of shape ({num},) and polygons of shape ({num}, 8), "
                f"not {self.scores.shape} and {self.polygons.shape}"
            )
        finite = np.isfinite(self.scores) & np.isfinite(self.polygons).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            raise ValueError(
                f"detection {first} (image {self.image_ids[first]}) has a score or coordinate that is not finite; "
                "look for NaN or overflow in the detector's outputs"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def of(cls, image_ids: Iterable[str], scores: Any, polygons: Any) -> Detections:
        """Detections from anything array-like; an empty sequence gives none."""
        return cls(
            tuple(image_ids),
            np.asarray(scores, dtype=np.float64).reshape(-1),
            np.asarray(polygons, dtype=np.float64).reshape(-1, 8),
        )

    def take(self, index: np.ndarray) -> Detections:
        """The detections at `index` (integers), in that order."""
        return Detections(tuple(self.image_ids[i] for i in index), self.scores[index], self.polygons[index])


NO_DETECTIONS = Detections.of((), (), ())


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

    def legacy_cumulative(self) -> np.ndarray:
        """(T,) what the published script prints per threshold (see `legacy_from_true`); its AP is their mean."""
        return legacy_from_true(self.threshold_means, len(self.classes))

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP55, ... as fractions, in this order."""
        return _summary(self.thresholds, self.threshold_means)

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
            "legacy_printed_per_threshold": legacy.tolist(),
            "legacy_AP": float(legacy.mean()),
        }


# --- polygons ---------------------------------------------------------------------------------------------------------


def rbox_to_polygon(boxes: np.ndarray) -> np.ndarray:
    """(n, 5) cx cy w h angle -> (n, 8) corners; angle in radians, clockwise on the screen (y points down).

    Raises:
        ValueError: the boxes have no five columns.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"rotated boxes must be of shape (n, 5): cx cy w h angle[rad]; got {boxes.shape}")
    cx, cy, width, height, angle = boxes.T
    cos, sin = np.cos(angle), np.sin(angle)
    corners = []
    for along, across in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        corners.append(cx + along * width * cos - across * height * sin)
        corners.append(cy + along * width * sin + across * height * cos)
    return np.stack(corners, axis=1)


def polygon_bounds(polygons: np.ndarray) -> np.ndarray:
    """(n, 8) -> (n, 4) xmin ymin xmax ymax of the enclosing upright box."""
    x, y = polygons[:, 0::2], polygons[:, 1::2]
    return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def polygon_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of quadrilaterals: a (8,) or (K, 8) against b (K, 8) -> (K,) float64.

    Exact up to rounding for every simple quadrilateral, convex or concave, in either winding. The area common to two
    quadrilaterals is the integral of the product of their winding numbers, as in the devkit, which adds up signed
    triangles: so a self-crossing quadrilateral weighs its second loop negatively, here as there, and its "IoU" may
    leave [0, 1]. Where the union has no area the IoU is 0.
    """
    b = np.asarray(b, dtype=np.float64).reshape(-1, 8)
    a = np.broadcast_to(np.asarray(a, dtype=np.float64), b.shape)
    iou = np.empty(len(b))
    for start in range(0, len(b), _PAIRS_PER_BATCH):
        batch = slice(start, start + _PAIRS_PER_BATCH)
        iou[batch] = _pair_iou(a[batch], b[batch])
    return iou


def _pair_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of a[k] and b[k], (K, 8) each -> (K,)."""
    # Corners as complex numbers x + iy, seen from a's first corner: far from the origin the areas would lose digits.
    origin = a[:, :2].copy().view(np.complex128)
    corners_a = np.ascontiguousarray(a).view(np.complex128) - origin
    corners_b = np.ascontiguousarray(b).view(np.complex128) - origin
    area_a, area_b = _signed_area(corners_a), _signed_area(corners_b)

    convex = _is_convex(corners_a) & _is_convex(corners_b)
    common = np.empty(len(a))
    common[convex] = _convex_intersection(
        _counter_clockwise(corners_a[convex], area_a[convex]), _counter_clockwise(corners_b[convex], area_b[convex])
    )
    if not convex.all():
        common[~convex] = _fan_intersection(corners_a[~convex], corners_b[~convex])
        common[~convex] *= np.where(area_a[~convex] < 0, -1, 1) * np.where(area_b[~convex] < 0, -1, 1)

    union = np.abs(area_a) + np.abs(area_b) - common
    iou: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Spelt out: a complex product may be fused, and then the cross product of a vector with itself is not exactly 0.
    product: np.ndarray = a.real * b.imag - a.imag * b.real
    return product


def _signed_area(corners: np.ndarray) -> np.ndarray:
    """(P, n) complex -> (P,) shoelace area, positive where x turns towards y."""
    first = corners[:, :1]
    spokes = corners - first
    return 0.5 * _cross(spokes[:, 1:-1], spokes[:, 2:]).sum(axis=1)


def _counter_clockwise(corners: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Reverse the polygons with negative area."""
    return np.where(area[:, None] < 0, corners[:, ::-1], corners)


def _is_convex(corners: np.ndarray) -> np.ndarray:
    """(P, 4) complex -> (P,) bool: strictly convex. Four turns of one sign exclude crossing sides as well."""
    sides = np.roll(corners, -1, axis=1) - corners
    turns = _cross(sides, np.roll(sides, -1, axis=1))
    return (turns > 0).all(axis=1) | (turns < 0).all(axis=1)


def _fan_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integral of the product of the winding numbers of a[k] and b[k], (P, 4) complex each -> (P,).

    A quadrilateral's winding number is that of triangle 0 1 2 plus that of triangle 0 2 3, signs included.
    """
    total = np.zeros(len(a))
    for fan_a in ([0, 1, 2], [0, 2, 3]):
        triangle_a = a[:, fan_a]
        area_a = _signed_area(triangle_a)
        for fan_b in ([0, 1, 2], [0, 2, 3]):
            triangle_b = b[:, fan_b]
            area_b = _signed_area(triangle_b)
            oriented_a, oriented_b = _counter_clockwise(triangle_a, area_a), _counter_clockwise(triangle_b, area_b)
            total += np.sign(area_a) * np.sign(area_b) * _convex_intersection(oriented_a, oriented_b)
    return total


def _convex_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Common area of convex counter-clockwise polygons, (P, n) and (P, m) complex -> (P,): a cut by each side of b."""
    for side in range(b.shape[1]):
        a = _cut(a, b[:, side], b[:, (side + 1) % b.shape[1]])
    return np.abs(_signed_area(a))


def _cut(corners: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """What lies left of the line start -> stop: (P, n) complex and (P,) twice -> (P, n').

    Rows with fewer corners than the longest repeat their first one, which changes no area; an empty row is all zeros.
    """
    height = _cross((stop - start)[:, None], corners - start[:, None])
    next_height = np.roll(height, -1, axis=1)
    crosses = ((height > 0) & (next_height < 0)) | ((height < 0) & (next_height > 0))
    fraction = np.divide(height, height - next_height, out=np.zeros_like(height), where=crosses)
    crossing = corners + fraction * (np.roll(corners, -1, axis=1) - corners)

    num, width = corners.shape
    # Walk the outline: each corner that stays, then the point where the side behind it crosses the line.
    kept = np.stack([height >= 0, crosses], axis=2).reshape(num, 2 * width)
    points = np.stack([corners, crossing], axis=2).reshape(num, 2 * width)

    slot = np.cumsum(kept, axis=1)
    count = slot[:, -1]
    row, column = np.nonzero(kept)
    result = np.zeros((num, max(3, int(count.max(initial=0)))), dtype=np.complex128)
    result[row, slot[row, column] - 1] = points[row, column]
    return np.where(np.arange(result.shape[1]) < count[:, None], result, result[:, :1])


def overlapping_boxes(
    a: np.ndarray,
    b: np.ndarray,
    group_a: np.ndarray | None = None,
    group_b: np.ndarray | None = None,
    margin: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs of the upright boxes that overlap: a (n, 4), b (m, 4) xmin ymin xmax ymax -> (K,), (K,).

    Only boxes of the same group (integers, e.g. the image) pair up. `margin` is added to each overlap's width and
    height before they are asked to be positive: 1 is the devkit's inclusive pixel. The order of the pairs is arbitrary.
    """
    group_a = np.zeros(len(a), dtype=np.int64) if group_a is None else group_a
    group_b = np.zeros(len(b), dtype=np.int64) if group_b is None else group_b
    sweeps = [_Sweep.along(axis, a, b, group_a, group_b, margin) for axis in (0, 1)]
    # Sweep along the axis with fewer overlapping intervals: rows of moored ships overlap almost all along one axis.
    sweep = min(sweeps, key=lambda sweep: sweep.num_pairs)
    found_a, found_b = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for row, column in sweep.pairs():
        # Both axes: the sweep also yields intervals without extent that lie inside others.
        extent = np.minimum(a[row, 2:], b[column, 2:]) + margin - np.maximum(a[row, :2], b[column, :2])
        hit = (extent > 0).all(axis=1)
        found_a.append(row[hit])
        found_b.append(column[hit])
    return np.concatenate(found_a), np.concatenate(found_b)


@dataclass(frozen=True)
class _Sweep:
    """Overlapping intervals [start, stop) of two sets, group by group, found from sorted starts.

    Two intervals overlap where b starts inside a, or a starts inside b but not at the same place: no pair comes twice.
    first, last: the positions in the other set's sorted starts that lie inside each interval.
    """

    order_a: np.ndarray
    order_b: np.ndarray
    first_b: np.ndarray
    last_b: np.ndarray
    first_a: np.ndarray
    last_a: np.ndarray

    @classmethod
    def along(
        cls, axis: int, a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray, margin: float
    ) -> _Sweep:
        # Ranks instead of coordinates: integers carry the group exactly, where an offset per image would round.
        ends = [a[:, axis], a[:, 2 + axis] + margin, b[:, axis], b[:, 2 + axis] + margin]
        values, rank = np.unique(np.concatenate(ends), return_inverse=True)
        key = np.concatenate([group_a, group_a, group_b, group_b]).astype(np.int64) * (len(values) + 1) + rank
        parts: list[np.ndarray] = np.split(key, np.cumsum([len(a), len(a), len(b)]))
        start_a, stop_a, start_b, stop_b = parts
        order_a, order_b = np.argsort(start_a, kind="stable"), np.argsort(start_b, kind="stable")
        return cls(
            order_a,
            order_b,
            np.searchsorted(start_b[order_b], start_a),
            np.searchsorted(start_b[order_b], stop_a),
            np.searchsorted(start_a[order_a], start_b, side="right"),
            np.searchsorted(start_a[order_a], stop_b),
        )

    @property
    def num_pairs(self) -> int:
        inside_a, inside_b = self.last_b - self.first_b, self.last_a - self.first_a
        return int(np.maximum(inside_a, 0).sum() + np.maximum(inside_b, 0).sum())

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of (index into a, index into b)."""
        for row, position in _expand_ranges(self.first_b, self.last_b):
            yield row, self.order_b[position]
        for row, position in _expand_ranges(self.first_a, self.last_a):
            yield self.order_a[position], row


def _expand_ranges(first: np.ndarray, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (k, p) with first[k] <= p < last[k], in batches of bounded size."""
    length = np.maximum(last - first, 0)
    end = np.cumsum(length)
    start = 0
    while start < len(length):
        done = end[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(end, done + _RANGES_PER_BATCH, side="right")))
        part = length[start:stop]
        row = np.repeat(np.arange(start, stop), part)
        step = np.arange(len(row)) - np.repeat(np.cumsum(part) - part, part)
        yield row, first[row] + step
        start = stop


# --- merging patches --------------------------------------------------------------------------------------------------


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


def detections_by_class(
    predictions: Iterable[tuple[str, np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str]
) -> dict[str, Detections]:
    """Sort a detector's predictions by class.

    predictions: per image or patch its name, polygons (n, 8), scores (n,), labels (n,) that index `classes`.

    Raises:
        ValueError: a label outside `classes`.
    """
    predictions = list(predictions)
    names = np.repeat(np.arange(len(predictions)), [len(polygons) for _, polygons, _, _ in predictions])
    polygons = np.concatenate([np.zeros((0, 8)), *(part.reshape(-1, 8) for _, part, _, _ in predictions)])
    scores = np.concatenate([np.zeros(0), *(part for _, _, part, _ in predictions)])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(part for _, _, _, part in predictions)])
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"predicted labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes "
            f"({', '.join(classes)}); evaluate with the classes that the detector was trained on"
        )
    by_class = {}
    for label, class_name in enumerate(classes):
        mine = labels == label
        by_class[class_name] = Detections.of([predictions[k][0] for k in names[mine]], scores[mine], polygons[mine])
    return by_class


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


def select_images(detections: Mapping[str, Detections], image_ids: Iterable[str]) -> dict[str, Detections]:
    """The detections that lie on the given images."""
    wanted = set(image_ids)
    return {
        name: of_class.take(np.flatnonzero([image in wanted for image in of_class.image_ids]))
        for name, of_class in detections.items()
    }


def round_coordinates(detections: Mapping[str, Detections]) -> dict[str, Detections]:
    """Coordinates with the two decimals of a Task1 file, so that figures from memory and from files agree."""
    return {
        name: Detections(of_class.image_ids, of_class.scores, np.round(of_class.polygons, 2))
        for name, of_class in detections.items()
    }


# --- files ------------------------------------------------------------------------------------------------------------


def detection_path(folder: str | Path, class_name: str) -> Path:
    """`<folder>/Task1_<class>.txt`."""
    return Path(folder) / f"Task1_{class_name}.txt"


def format_detections(detections: Detections) -> str:
    """The text of a Task1 file: id, score with all its digits, eight coordinates with two decimals.

    Raises:
        ValueError: an image id holds white space, which the format cannot express.
    """
    for name in set(detections.image_ids):
        if len(name.split()) != 1:
            raise ValueError(f"image id {name!r} is empty or holds white space; rename the image")
    lines = []
    rows = zip(detections.image_ids, detections.scores.tolist(), detections.polygons.tolist(), strict=True)
    for name, score, polygon in rows:
        lines.append(f"{name} {score!r} {' '.join(f'{value:.2f}' for value in polygon)}\n")
    return "".join(lines)


def parse_detections(text: str, source: str | Path) -> Detections:
    """Parse the text of a Task1 file; blank lines are passed over. `source` is named in errors.

    Raises:
        ValueError: a line without 10 fields, or with a field that is no finite number.
    """
    image_ids: list[str] = []
    numbers: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        where, cure = f"{source}, line {number}", f"Correct or remove the line: {line.strip()!r}"
        if len(fields) != 10:
            raise ValueError(f"{where}: {len(fields)} fields, 10 needed (image score x1 y1 x2 y2 x3 y3 x4 y4). {cure}")
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise ValueError(f"{where}: {error}. {cure}") from None
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: the score or a coordinate is not finite. {cure}")
        image_ids.append(fields[0])
        numbers.append(values)
    table = np.asarray(numbers, dtype=np.float64).reshape(-1, 9)
    return Detections(tuple(image_ids), table[:, 0], table[:, 1:])


def write_detections(folder: str | Path, detections: Mapping[str, Detections]) -> list[Path]:
    """Write one Task1 file per class, empty ones included; the folder is made where needed."""
    paths = []
    for name, of_class in detections.items():
        path = detection_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_detections(of_class), encoding="utf-8")
        paths.append(path)
    return paths


def read_detections(folder: str | Path, classes: Sequence[str]) -> dict[str, Detections]:
    """Read the Task1 files of `classes`.

    Raises:
        ValueError: a file is missing or malformed.
    """
    detections = {}
    for name in classes:
        path = detection_path(folder, name)
        if not path.is_file():
            raise ValueError(f"detection file {path} does not exist; a class without detections needs an empty file")
        detections[name] = parse_detections(_read_text(path), path)
    return detections


def read_image_list(path: str | Path) -> list[str]:
    """Image ids from a list file, one a line; blank lines are passed over.

    Raises:
        ValueError: the file is missing or empty, an id comes twice or holds white space.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"image list {path} does not exist")
    first_line: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if len(name.split()) != 1:
            raise ValueError(f"{path}, line {number}: {name!r} holds white space; write one image id a line")
        if name in first_line:
            raise ValueError(f"{path}, line {number}: {name!r} stands on line {first_line[name]} already; remove one")
        first_line[name] = number
    if not first_line:
        raise ValueError(f"image list {path} names no image; write one image id a line")
    return list(first_line)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); write it again") from None


def read_ground_truth(folder: str | Path, image_ids: Iterable[str] | None = None) -> dict[str, Labels]:
    """Image id -> labels from a labelTxt folder: of the given images, or of all, sorted by id.

    Raises:
        ValueError: the folder is missing or holds no label file, or a label file is missing or malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"label folder {folder} does not exist")
    if image_ids is None:
        image_ids = sorted(path.stem for path in folder.glob("*.txt"))
        if not image_ids:
            raise ValueError(f"label folder {folder} holds no .txt file")
    return {name: read_labels(folder / f"{name}.txt") for name in image_ids}


def patches_without_objects(label_folder: str | Path) -> list[str]:
    """The patches whose label file names no object, sorted.

    The published test loader never shows them to the detector, so false positives there go uncounted; leave them out
    of inference to reproduce its figures, keep them for honest ones.
    """
    return [name for name, labels in read_ground_truth(label_folder).items() if len(labels) == 0]


# --- average precision ------------------------------------------------------------------------------------------------


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


def true_from_legacy(printed: np.ndarray, num_classes: int) -> np.ndarray:
    """The true class means (T,) behind the figures that the published script prints; inverts `legacy_from_true`."""
    printed = np.asarray(printed, dtype=np.float64)
    return printed - np.concatenate([[0.0], printed[:-1]]) / num_classes


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


# --- reports ----------------------------------------------------------------------------------------------------------


def _threshold_name(threshold: float) -> str:
    return f"AP{100 * threshold:.4g}"


def _summary(thresholds: Sequence[float], means: np.ndarray) -> dict[str, float]:
    per_threshold = {_threshold_name(t): float(mean) for t, mean in zip(thresholds, means, strict=True)}
    return {"AP": float(means.mean()), **per_threshold}


def format_table(result: DevkitResult, legacy_cumulative: bool = False) -> str:
    """Aligned plain text in percent: AP, AP50, ... AP95 over all classes, then AP50, AP75 and AP of each class.

    `legacy_cumulative` adds the row that the published script would have printed.
    """
    summary = result.summary()
    overall = [["", *summary], ["all classes", *map(_percent, summary.values())]]
    if legacy_cumulative:
        overall.append(["as published script", *map(_percent, result.legacy_summary().values())])

    shown = [k for k, t in enumerate(result.thresholds) if _threshold_name(t) in ("AP50", "AP75")]
    per_class = [["class", "objects", "detections", *(_threshold_name(result.thresholds[k]) for k in shown), "AP"]]
    for column, name in enumerate(result.classes):
        counts = [str(result.num_objects[column]), str(result.num_detections[column])]
        figures = [*(result.ap[k, column] for k in shown), result.ap[:, column].mean()]
        per_class.append([name, *counts, *map(_percent, figures)])
    return f"{_align(overall)}\n\n{_align(per_class)}\n"


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
