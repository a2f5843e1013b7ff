"""A scene under construction: where things may stand, what is painted when, and what is labelled.

Site frame: metres, origin at the image centre, turned against the image by one angle per scene.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import cv2
import numpy as np

from distill.dota import Labels
from pipelines.scenes.ground import Ground, apply_shadows, develop
from pipelines.scenes.kinds import KINDS, draw_object
from pipelines.scenes.pen import Pen, Points, Pose, Stroke, cast_shadows, paint
from pipelines.scenes.scenery import draw_building, draw_tree

UP = -np.pi / 2
"""Heading towards the image's upper edge, rad."""
_LEAST_WIDTH = 3.5


class Rect(NamedTuple):
    """An upright rectangle of the site frame, m."""

    x0: float
    y0: float
    x1: float
    y1: float

    def points(self) -> np.ndarray:
        """(4, 2) corners, m."""
        return np.array([(self.x0, self.y0), (self.x1, self.y0), (self.x1, self.y1), (self.x0, self.y1)])

    def turned(self, heading: float) -> Spot:
        """The rectangle turned about its centre."""
        return Spot((self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2, heading, self.x1 - self.x0, self.y1 - self.y0)


class Spot(NamedTuple):
    """Where something stands: its centre, m; its heading in the site frame, rad; its length and width, m."""

    x: float
    y: float
    heading: float
    length: float
    width: float


class Site:
    """Collects ground, strokes and labels of one scene, then renders it.

    rng: the scene's generator. size: (width, height), px. classes: names that may appear. metre: px per metre.
    turn: rad, site frame to image. base: material of bare ground. sun: (2,) shadow offset per height.
    """

    def __init__(
        self, rng: np.random.Generator, size: tuple[int, int], classes: Collection[str], metre: float, base: str
    ) -> None:
        self.rng = rng
        self.size = size
        self.classes = classes
        self.metre = metre
        axis_aligned = rng.random() < 0.2
        self.turn = float(rng.integers(4) * np.pi / 2 if axis_aligned else rng.uniform(0, 2 * np.pi))
        cos, sin = np.cos(self.turn) * metre, np.sin(self.turn) * metre
        self._axes = np.array([(cos, sin), (-sin, cos)])
        self._middle = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
        bearing = rng.uniform(0, 2 * np.pi)
        self.sun = np.array([np.cos(bearing), np.sin(bearing)]) * rng.uniform(0.25, 1.0)
        self.radius = float(np.hypot(*size)) / 2 / metre
        self.ground = Ground(rng, size, base)
        self._flat: list[Stroke] = []
        self._raised: list[Stroke] = []
        self._occupied = np.zeros((size[1], size[0]), dtype=np.uint8)
        self._polygons: list[np.ndarray] = []
        self._names: list[str] = []

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        """A number between the two bounds."""
        return low + (high - low) * float(self.rng.random())

    def to_image(self, points: Points) -> np.ndarray:
        """(N, 2) m -> (N, 2) px."""
        image: np.ndarray = np.asarray(points, dtype=np.float64) @ self._axes + self._middle
        return image

    def to_site(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) px -> (N, 2) m."""
        # The axes are orthogonal with length `metre`, so that their transpose inverts them.
        site: np.ndarray = (points - self._middle) @ self._axes.T / self.metre**2
        return site

    def pose(self, spot: Spot) -> Pose:
        """The pose, in pixels, of what stands there."""
        x, y = self.to_image([(spot.x, spot.y)])[0]
        return Pose(x, y, spot.heading + self.turn, spot.length * self.metre, spot.width * self.metre)

    def fill(self, area: Rect | Points, material: str) -> None:
        """Cover ground with a material."""
        self.ground.fill(self.to_image(area.points() if isinstance(area, Rect) else area), material)

    def is_free(self, polygon: np.ndarray) -> bool:
        """Whether nothing stands on a polygon, (N, 2) px, as far as the image shows it."""
        window, mask = self._footprint(polygon)
        return not (self._occupied[window] & mask).any()

    def reserve(self, polygon: np.ndarray) -> None:
        """Keep everything else off a polygon, (N, 2) px."""
        window, mask = self._footprint(polygon)
        self._occupied[window] |= mask

    def add(self, name: str, pose: Pose) -> bool:
        """Draw and label an object; False where its place is taken or it would be too narrow to tell."""
        if KINDS[name].is_round:
            # A circle's box has no direction of its own: upright, first corner top-left.
            pose = Pose(pose.x, pose.y, UP, pose.length, pose.width)
        corners = pose.corners()
        if min(pose.length, pose.width) < _LEAST_WIDTH or not self.is_free(corners):
            return False
        self.reserve(corners)
        for stroke in draw_object(name, pose, self.rng, self.sun):
            # Painted before shadows fall, so that a tree's shadow lies on a court as it does on grass.
            (self._flat if KINDS[name].is_flat and stroke.height == 0 else self._raised).append(stroke)
        # As precise as a label file, so that what is written reads back as it was.
        self._polygons.append(np.round(corners.reshape(8), 1))
        self._names.append(name)
        return True

    def share_inside(self, polygon: np.ndarray) -> float:
        """Share of a convex polygon's area, (N, 2) px, that the image shows."""
        width, height = self.size
        frame = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], dtype=np.float32)
        if (polygon >= 0).all() and (polygon <= frame[2]).all():
            return 1.0
        convex = polygon.astype(np.float32)
        shown, _ = cv2.intersectConvexConvex(convex, frame)
        return float(shown) / max(float(cv2.contourArea(convex)), 1e-6)

    def building(self, rect: Rect, turn: float) -> None:
        """A one-storey building, turned about its centre, where there is room."""
        self._scenery(rect.turned(turn), draw_building, height=3.0, reserve=True)

    def trees(self, rect: Rect, count: int, radii: tuple[float, float]) -> None:
        """Trees at random places of a rectangle, where there is room; radii m, least and most."""
        for _ in range(count):
            x, y = self.uniform(rect.x0, rect.x1), self.uniform(rect.y0, rect.y1)
            radius = self.uniform(*radii)
            crown = Rect(x - radius, y - radius, x + radius, y + radius).turned(0.0)
            self._scenery(crown, draw_tree, height=1.3 * radius, reserve=False)

    def labels(self) -> Labels:
        """The labels so far, difficulty 0."""
        return Labels(
            np.asarray(self._polygons, dtype=np.float64).reshape(-1, 8),
            tuple(self._names),
            np.zeros(len(self._names), dtype=np.int64),
        )

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR of all that was laid out."""
        image = self.ground.image
        paint(image, self._flat)
        shadow = np.zeros(image.shape[:2], dtype=np.uint8)
        cast_shadows(shadow, self._raised, self.sun)
        image = apply_shadows(image, shadow, self.uniform(0.45, 0.7))
        paint(image, self._raised)
        return develop(image, self.ground.unevenness(), self.rng)

    def _scenery(self, spot: Spot, draw: Callable[[Pen, float], None], *, height: float, reserve: bool) -> None:
        """Draw what has no label, `height` m high, unless it would be unseen or in the way."""
        pose = self.pose(spot)
        corners = pose.corners()
        if min(pose.length, pose.width) < 2 or self.share_inside(corners) == 0.0 or not self.is_free(corners):
            return
        if reserve:
            self.reserve(corners)
        pen = Pen(pose, self.rng, self.sun)
        draw(pen, height * self.metre)
        self._raised += pen.strokes

    def _footprint(self, polygon: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
        left, top = (min(max(int(side), 0), limit) for side, limit in zip(polygon.min(axis=0), self.size, strict=True))
        right, bottom = (
            min(max(int(side) + 2, low), limit)
            for side, low, limit in zip(polygon.max(axis=0), (left, top), self.size, strict=True)
        )
        mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
        if mask.size:
            cv2.fillPoly(mask, [np.round((polygon - (left, top)) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        return (slice(top, bottom), slice(left, right)), mask
