"""One image and its labels -> square patches, by the rules of mmrotate's img_split (ss_train.json, ms_train.json)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import shapely

from distill.dota import DOTA_CLASSES, Labels, PatchName

CUT_DIFFICULTY = 2


@dataclass(frozen=True)
class Window:
    """A square part of an image: columns x to x + size, rows y to y + size, in pixels of the whole image."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class SplitRule:
    """How images become patches; the defaults are the published ones.

    Raises:
        ValueError: a value outside its range.
    """

    size: int = 1024
    """Side of a patch, pixels."""
    overlap: int = 200
    """Pixels that neighbouring patches share."""
    rates: tuple[float, ...] = (1.0,)
    """Patches of an image that is this much larger: their windows have `size` / rate pixels, and training resizes."""
    keep_ratio: float = 0.7
    """Smallest share of an object's area inside a patch with which the patch keeps the object."""
    image_rate_threshold: float = 0.6
    """Share of a patch that must be image rather than padding."""
    padding_bgr: tuple[int, int, int] = (104, 116, 124)
    """Colour right of and below a small image, in OpenCV's channel order."""
    classes: tuple[str, ...] = DOTA_CLASSES
    """Classes whose objects the patches keep."""
    ignore_classes: tuple[str, ...] = ()
    """Classes that labels may hold but patches leave out; any other class is an error."""

    def __post_init__(self) -> None:
        _check_rates(self.rates)
        for size, overlap in _sizes(self.size, self.overlap, self.rates):
            _check_window_size(size, overlap)
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {self.keep_ratio}; it must lie above 0 and be at most 1")
        if not 0 <= self.image_rate_threshold < 1:
            raise ValueError(f"image_rate_threshold is {self.image_rate_threshold}; it must be at least 0 and below 1")
        for name in set(self.classes) & set(self.ignore_classes):
            raise ValueError(f"class {name!r} is in both classes and ignore_classes; remove it from one of them")


@dataclass(frozen=True)
class Patch:
    """One patch: its name, its pixels (size, size, 3) uint8 BGR, its labels in its own coordinates."""

    name: PatchName
    pixels: np.ndarray
    labels: Labels


def windows(
    width: int,
    height: int,
    size: int,
    overlap: int,
    image_rate_threshold: float = 0.6,
    rates: Sequence[float] = (1.0,),
) -> list[Window]:
    """The windows over a `width` x `height` image, rate by rate and column by column; never none.

    Windows of a rate have `size` / rate pixels and share `overlap` / rate, both rounded down. The last window of a row
    or column moves back to touch the border. A window whose image share is not above the threshold is dropped; where
    that drops all of every rate, those within 0.01 of the largest share are kept.

    Raises:
        ValueError: a side below 1, or an overlap outside 0 .. size - 1.
    """
    if min(width, height) < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no windows")
    candidates = []
    for side, shared in _sizes(size, overlap, rates):
        _check_window_size(side, shared)
        columns, rows = (_starts(length, side, side - shared) for length in (width, height))
        candidates += [Window(x, y, side) for x in columns for y in rows]
    shares = [min(w.size, width - w.x) * min(w.size, height - w.y) / w.size**2 for w in candidates]
    kept = [window for window, share in zip(candidates, shares, strict=True) if share > image_rate_threshold]
    best = max(shares)
    return kept or [window for window, share in zip(candidates, shares, strict=True) if best - share < 0.01]


def inside_ratios(polygons: np.ndarray, window: Window) -> np.ndarray:
    """(G,) share of each polygon's area inside the window; polygons (G, 8). A polygon without area has share 0."""
    shapes = shapely.polygons(polygons.reshape(-1, 4, 2))
    # Corners in crossed order, as a few hand-made labels have, make a shape that cannot be intersected as it is.
    crossed = ~shapely.is_valid(shapes)
    shapes[crossed] = shapely.make_valid(shapes[crossed])
    areas = shapely.area(shapes)
    frame = shapely.box(window.x, window.y, window.x + window.size, window.y + window.size)
    shared = shapely.area(shapely.intersection(shapes, frame))
    ratios: np.ndarray = np.divide(shared, areas, out=np.zeros_like(areas), where=areas > 0)
    return ratios


def crop_labels(labels: Labels, window: Window, keep_ratio: float = 0.7) -> Labels:
    """The objects with at least `keep_ratio` of their area inside, in the window's coordinates.

    Polygons are not clipped. An object with a corner outside the window gets difficulty 2; that is the reference's
    "share below 1" without its rounding.
    """
    kept = np.flatnonzero(inside_ratios(labels.polygons, window) >= keep_ratio)
    corners = labels.polygons[kept].reshape(-1, 4, 2) - (window.x, window.y)
    is_cut = ((corners < 0) | (corners > window.size)).any(axis=(1, 2))
    return Labels(
        corners.reshape(-1, 8),
        tuple(labels.class_names[index] for index in kept),
        np.where(is_cut, CUT_DIFFICULTY, labels.difficulty[kept]),
    )


def crop_image(image: np.ndarray, window: Window, padding_bgr: Sequence[int]) -> np.ndarray:
    """The window's pixels, (size, size, 3) uint8; padding fills what lies right of or below the image (H, W, 3)."""
    part = image[window.y : window.y + window.size, window.x : window.x + window.size]
    if part.shape[:2] == (window.size, window.size):
        return part
    patch = np.empty((window.size, window.size, 3), dtype=np.uint8)
    patch[:] = padding_bgr
    patch[: part.shape[0], : part.shape[1]] = part
    return patch


def split_image(image: np.ndarray, labels: Labels, image_id: str, rule: SplitRule) -> Iterator[Patch]:
    """The patches of one image, (H, W, 3) uint8 BGR, one at a time."""
    height, width = image.shape[:2]
    for window in windows(width, height, rule.size, rule.overlap, rule.image_rate_threshold, rule.rates):
        yield Patch(
            PatchName(image_id, window.size, window.x, window.y),
            crop_image(image, window, rule.padding_bgr),
            crop_labels(labels, window, rule.keep_ratio),
        )


def _sizes(size: int, overlap: int, rates: Sequence[float]) -> list[tuple[int, int]]:
    """Side and overlap of the windows of each rate."""
    return [(int(size / rate), int(overlap / rate)) for rate in rates]


def _check_rates(rates: Sequence[float]) -> None:
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.01 <= rate <= 100:
            raise ValueError(f"rates are {list(rates)}; numbers from 0.01 to 100 are needed")
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"rates are {list(rates)}; at least one is needed, and each once")


def _check_window_size(size: int, overlap: int) -> None:
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"patches of {size} pixels cannot overlap by {overlap}; 0 <= overlap < size is needed")


def _starts(length: int, size: int, step: int) -> list[int]:
    if length <= size:
        return [0]
    count = ceil((length - size) / step) + 1
    return [min(index * step, length - size) for index in range(count)]
