"""Drawing in an object's own frame: poses, strokes, the pen that collects them, and how they are painted.

Object frame: (forward, right), both from -0.5 to 0.5 across the oriented box, so that a drawing which reaches all four
sides has a tight label. Colours are BGR. Pixel coordinates name pixel centres, as OpenCV's do.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]] | np.ndarray

WHITE: Colour = (235, 238, 238)
DARK: Colour = (45, 42, 40)
GLASS: Colour = (70, 58, 48)
GRASS: Colour = (62, 104, 84)
ASPHALT: Colour = (98, 97, 96)
CONCRETE: Colour = (166, 176, 180)
CONTAINERS: tuple[Colour, ...] = (
    (60, 70, 150),
    (140, 90, 50),
    (90, 120, 70),
    (60, 110, 170),
    (170, 172, 170),
    (90, 80, 84),
)

# OpenCV's antialiased fill reaches about 0.6 px past the polygon on each side; drawings are inset by as much.
_FILL_GROWTH = 1.2
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Pose:
    """Where an object lies.

    x, y: centre, px. heading: rad, clockwise from +x in the image (y points down). length: along the heading, px.
    width: across it, px.
    """

    x: float
    y: float
    heading: float
    length: float
    width: float

    def to_image(self, points: Points) -> np.ndarray:
        """(N, 2) object frame -> (N, 2) px."""
        return self._map(points, self.length, self.width)

    def to_ink(self, points: Points) -> np.ndarray:
        """As `to_image`, but inset so that the painted pixels end where the box ends."""
        return self._map(points, max(self.length - _FILL_GROWTH, 1.0), max(self.width - _FILL_GROWTH, 1.0))

    def corners(self, margin: float = 0.0) -> np.ndarray:
        """(4, 2) px: front-left, front-right, back-right, back-left; `margin` px wider on every side."""
        box = np.array([(0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
        return self._map(box, self.length + 2 * margin, self.width + 2 * margin)

    def _map(self, points: Points, length: float, width: float) -> np.ndarray:
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        axes = np.array([(cos * length, sin * length), (-sin * width, cos * width)])
        placed: np.ndarray = np.asarray(points, dtype=np.float64) @ axes + (self.x, self.y)
        return placed


class Stroke(NamedTuple):
    """One painted shape.

    points: (N, 2) px. colour: BGR. thickness: px, 0 = filled. height: px above ground, 0 = casts no shadow.
    floats: whether light passes beneath (wings), so that only the outline is cast and not a solid block.
    """

    points: np.ndarray
    colour: Colour
    thickness: int = 0
    height: float = 0.0
    floats: bool = False


def paint(image: np.ndarray, strokes: Iterable[Stroke]) -> None:
    """Paint strokes in order onto (H, W, 3) or (H, W) uint8, in place."""
    for stroke in strokes:
        points = _fixed_point(stroke.points)
        if stroke.thickness:
            cv2.polylines(image, [points], False, stroke.colour, stroke.thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            cv2.fillPoly(image, [points], stroke.colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def cast_shadows(mask: np.ndarray, strokes: Iterable[Stroke], sun: np.ndarray) -> None:
    """Mark in (H, W) uint8 where strokes keep the sun off; `sun` (2,) is the shadow's offset per height."""
    for stroke in strokes:
        if stroke.height <= 0:
            continue
        shadow = stroke.points + sun * stroke.height
        if not stroke.floats:
            # A block's shadow is the ground swept from its foot to the shadow of its roof.
            shadow = np.asarray(cv2.convexHull(np.concatenate((stroke.points, shadow)).astype(np.float32))[:, 0])
        cv2.fillPoly(mask, [_fixed_point(shadow)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made lighter (> 1) or darker (< 1)."""
    return tuple(float(min(max(channel * factor, 0), 255)) for channel in colour)  # type: ignore[return-value]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    return tuple((1 - share) * a + share * b for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def arc(centre: tuple[float, float], radii: tuple[float, float], start: float, stop: float, steps: int) -> np.ndarray:
    """(steps, 2) points on an ellipse; start and stop in degrees, from forward towards right."""
    turn = np.deg2rad(np.linspace(start, stop, steps))
    return np.stack((centre[0] + radii[0] * np.cos(turn), centre[1] + radii[1] * np.sin(turn)), axis=1)


def mirrored(side: Points) -> np.ndarray:
    """A closed outline from its right half, given front to back."""
    right = np.asarray(side, dtype=np.float64)
    return np.concatenate((right, right[::-1] * (1, -1)))


class Pen:
    """Collects the strokes of one object, drawn in its own frame.

    pose: the object's box. rng: its own generator. sun: (2,) px, the shadow's offset per height.
    """

    def __init__(self, pose: Pose, rng: np.random.Generator, sun: np.ndarray) -> None:
        self.pose = pose
        self.rng = rng
        self.aspect = pose.width / pose.length
        self.strokes: list[Stroke] = []
        right = np.array([-np.sin(pose.heading), np.cos(pose.heading)])
        self.sunny_side = -1.0 if float(right @ sun) > 0 else 1.0
        self.towards_sun = -sun / max(float(np.hypot(*sun)), 1e-9)

    def polygon(self, points: Points, colour: Colour, height: float = 0.0, floats: bool = False) -> None:
        """Fill a polygon; `height` in px."""
        self.strokes.append(Stroke(self.pose.to_ink(points), colour, 0, height, floats))

    def rectangle(self, f: tuple[float, float], r: tuple[float, float], colour: Colour, height: float = 0.0) -> None:
        """Fill a rectangle, forward from f[0] to f[1] and right from r[0] to r[1]."""
        self.polygon([(f[0], r[0]), (f[1], r[0]), (f[1], r[1]), (f[0], r[1])], colour, height)

    def disc(self, radius: float, colour: Colour, height: float = 0.0, shift: float = 0.0) -> None:
        """Fill a circle about the centre, radius in box widths, moved `shift` box widths towards the sun."""
        centre = np.array([self.pose.x, self.pose.y]) + self.towards_sun * shift * self.pose.width
        ink = max(self.pose.width - _FILL_GROWTH, 1.0) * radius
        steps = int(np.clip(ink * 1.5, 14, 72))
        circle = arc((0, 0), (ink, ink), 0, 360 - 360 / steps, steps) + centre
        self.strokes.append(Stroke(circle, colour, 0, height))

    def line(self, points: Points, colour: Colour, thickness: float = 1.0, closed: bool = False) -> None:
        """Draw a line; `thickness` in px, at least 1."""
        path = self.pose.to_ink(points)
        if closed:
            path = np.concatenate((path, path[:1]))
        self.strokes.append(Stroke(path, colour, max(1, round(thickness))))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, colours: Sequence[Colour], weights: Sequence[float] | None = None) -> Colour:
        """One of the colours, its brightness varied a little."""
        limits = list(accumulate(weights or [1.0] * len(colours)))
        place = bisect_right(limits, float(self.rng.random()) * limits[-1])
        return shade(colours[place], 0.88 + 0.2 * float(self.rng.random()))
