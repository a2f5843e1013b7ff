"""A scene under construction: where things may stand, what is painted when, and the unlabelled scenery.

Site frame: metres, origin at the image centre, turned against the image by one angle per scene, so that a layout of
straight streets serves every orientation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np

from distill.dota import Labels
from pipelines.scenes.ground import Ground, apply_shadows, develop
from pipelines.scenes.objects import KINDS, draw_object
from pipelines.scenes.pen import (
    CONTAINERS,
    DARK,
    WHITE,
    Colour,
    Pen,
    Points,
    Pose,
    Stroke,
    arc,
    cast_shadows,
    mirrored,
    mix,
    paint,
    shade,
)

# Painted before shadows fall, so that a tree's shadow lies on a court as it does on grass.
_FLAT_CLASSES = frozenset(
    (
        "baseball-diamond",
        "ground-track-field",
        "tennis-court",
        "basketball-court",
        "soccer-ball-field",
        "roundabout",
        "swimming-pool",
    )
)
_LEAST_INSIDE = 0.7
_LEAST_WIDTH = 3.5
_MOST_OBJECTS = 900
_UP = -np.pi / 2


class Rect(NamedTuple):
    """An upright rectangle of the site frame, m."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Extent in x, m."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Extent in y, m."""
        return self.y1 - self.y0

    @property
    def centre(self) -> tuple[float, float]:
        """Middle point, m."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def shrunk(self, margin: float) -> Rect:
        """The rectangle less `margin` m on every side; never inside out."""
        x, y = min(margin, self.width / 2), min(margin, self.height / 2)
        return Rect(self.x0 + x, self.y0 + y, self.x1 - x, self.y1 - y)

    def halves(self, gap: float) -> tuple[Rect, Rect]:
        """The two halves across the longer side, `gap` m apart."""
        x, y = self.centre
        if self.width >= self.height:
            return self._replace(x1=x - gap / 2), self._replace(x0=x + gap / 2)
        return self._replace(y1=y - gap / 2), self._replace(y0=y + gap / 2)

    def points(self) -> np.ndarray:
        """(4, 2) corners, m."""
        return np.array([(self.x0, self.y0), (self.x1, self.y0), (self.x1, self.y1), (self.x0, self.y1)])


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

    def allows(self, *names: str) -> bool:
        """Whether any of the classes may appear."""
        return any(name in self.classes for name in names)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        """A number between the two bounds, in either order: what does not fit in sight may turn them round."""
        return low + (high - low) * float(self.rng.random())

    def to_image(self, points: Points) -> np.ndarray:
        """(N, 2) m -> (N, 2) px."""
        return np.asarray(points, dtype=np.float64) @ self._axes + self._middle

    def to_site(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) px -> (N, 2) m."""
        # The axes are orthogonal with length `metre`, so that their transpose inverts them.
        return (points - self._middle) @ self._axes.T / self.metre**2

    def pose(self, x: float, y: float, heading: float, length: float, width: float) -> Pose:
        """A pose in pixels from metres and a heading of the site frame."""
        centre = self.to_image([(x, y)])[0]
        return Pose(centre[0], centre[1], heading + self.turn, length * self.metre, width * self.metre)

    def sees(self, rect: Rect) -> bool:
        """Whether some of a rectangle may lie in the image."""
        points = self.to_image(rect.points())
        return bool((points.max(axis=0) > 0).all() and (points.min(axis=0) < self.size).all())

    def fill(self, area: Rect | Points, material: str, tint: float = 1.0) -> None:
        """Cover ground with a material."""
        points = area.points() if isinstance(area, Rect) else area
        self.ground.fill(self.to_image(points), material, tint)

    def mark(self, points: Points, colour: Colour, metres: float = 0.15) -> None:
        """Paint a line on the ground, `metres` wide and at least one pixel."""
        self._flat.append(Stroke(self.to_image(points), colour, max(1, round(metres * self.metre))))

    def patch(self, points: Points, colour: Colour) -> None:
        """Paint a plain polygon on the ground."""
        self._flat.append(Stroke(self.to_image(points), colour))

    def is_free(self, polygon: np.ndarray) -> bool:
        """Whether nothing stands on a polygon, (N, 2) px, as far as the image shows it."""
        window, mask = self._footprint(polygon)
        return not (self._occupied[window] & mask).any()

    def reserve(self, polygon: np.ndarray) -> None:
        """Keep everything else off a polygon, (N, 2) px."""
        window, mask = self._footprint(polygon)
        self._occupied[window] |= mask

    def add(
        self, name: str, x: float, y: float, heading: float, length: float, width: float, *, on_top: bool = False
    ) -> bool:
        """Stand an object, m; False where its class may not appear or its place is taken or out of sight.

        `on_top`: neither ask whether the place is free nor take it, for what carries others or lies on another.
        """
        if name not in self.classes or len(self._names) >= _MOST_OBJECTS:
            return False
        pose = self.pose(x, y, heading, length, width)
        if KINDS[name].is_round:
            # A circle's box has no direction of its own: upright, first corner top-left.
            pose = Pose(pose.x, pose.y, _UP, pose.length, pose.width)
        corners = pose.corners()
        inside = self.share_inside(corners)
        if min(pose.length, pose.width) < _LEAST_WIDTH or inside == 0.0:
            return False
        if not on_top:
            if not self.is_free(corners):
                return False
            self.reserve(corners)
        for stroke in draw_object(name, pose, self.rng, self.sun):
            flat = name in _FLAT_CLASSES and stroke.height == 0
            (self._flat if flat else self._raised).append(stroke)
        if inside >= _LEAST_INSIDE:
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

    def building(self, rect: Rect, storeys_m: float, *, turn: float = 0.0) -> None:
        """An unlabelled building where there is room; `storeys_m` its height, m."""
        pen = self._scenery_pen(rect, turn)
        if pen is not None:
            _draw_building(pen, storeys_m * self.metre)
            self._raised += pen.strokes

    def container(self, x: float, y: float, heading: float, length: float = 12.2) -> None:
        """A shipping container: a box like a lorry's load, but no vehicle."""
        half = length / 2
        pen = self._scenery_pen(Rect(x - half, y - 1.25, x + half, y + 1.25), heading)
        if pen is not None:
            colour = pen.pick(CONTAINERS)
            pen.rectangle((-0.5, 0.5), (-0.5, 0.5), colour, 2.6 * self.metre)
            for rib in np.linspace(-0.45, 0.45, 7):
                pen.line([(rib, -0.42), (rib, 0.42)], shade(colour, 0.9))
            self._raised += pen.strokes

    def tree(self, x: float, y: float, radius: float) -> None:
        """A crown with light on the sunny side, where there is room; radius m."""
        pen = self._scenery_pen(Rect(x - radius, y - radius, x + radius, y + radius), 0.0, reserve=False)
        if pen is not None:
            _draw_tree(pen, 1.3 * radius * self.metre)
            self._raised += pen.strokes

    def small_thing(self, x: float, y: float, length: float, width: float, colour: Colour, height: float = 0.6) -> None:
        """A plain unlabelled box: sun lounger, crate, kiosk; m."""
        pen = self._scenery_pen(Rect(x - length / 2, y - width / 2, x + length / 2, y + width / 2), 0.0)
        if pen is not None:
            pen.rectangle((-0.5, 0.5), (-0.5, 0.5), colour, height * self.metre)
            self._raised += pen.strokes

    def wake(self, x: float, y: float, heading: float, length: float, width: float) -> None:
        """Foam behind a moving ship, outside its box; m."""
        pose = self.pose(x, y, heading, length, width)
        column, row = (
            int(np.clip(value, 0, limit - 1)) for value, limit in zip((pose.x, pose.y), self.size, strict=True)
        )
        water: Colour = tuple(float(channel) for channel in self.ground.image[row, column])  # type: ignore[assignment]
        reach = self.uniform(0.8, 2.2)
        self._flat.append(Stroke(pose.to_image(mirrored([(-0.5, 0.36), (-0.5 - reach, 0.1)])), mix(water, WHITE, 0.22)))
        self._flat.append(
            Stroke(pose.to_image(mirrored([(-0.5, 0.3), (-0.5 - 0.5 * reach, 0.1)])), mix(water, WHITE, 0.5))
        )
        for side in (-1.0, 1.0):
            wave = pose.to_image([(-0.5, 0.5 * side), (-0.5 - 0.8 * reach, (0.5 + 0.9 * reach) * side)])
            self._flat.append(Stroke(wave, mix(water, WHITE, 0.18), max(1, round(0.08 * pose.width))))

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

    def _scenery_pen(self, rect: Rect, turn: float, *, reserve: bool = True) -> Pen | None:
        """A pen for unlabelled scenery; None where it would be unseen or in the way."""
        pose = self.pose(*rect.centre, turn, rect.width, rect.height)
        corners = pose.corners()
        if min(pose.length, pose.width) < 2 or self.share_inside(corners) == 0.0 or not self.is_free(corners):
            return None
        if reserve:
            self.reserve(corners)
        return Pen(pose, self.rng, self.sun)

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


def _draw_building(pen: Pen, height: float) -> None:
    """Flat, gabled or ribbed metal roof; height px."""
    roof = pen.pick(
        [
            (86, 120, 176),
            (96, 104, 120),
            (150, 154, 156),
            (206, 210, 210),
            (160, 130, 96),
            (80, 84, 92),
            (112, 136, 152),
        ],
        [3, 2, 3, 2, 1, 2, 2],
    )
    pen.rectangle((-0.5, 0.5), (-0.5, 0.5), shade(roof, 0.82), height)
    rim = (0.8 / pen.pose.length + 0.01, 0.8 / pen.pose.width + 0.01)
    f, r = 0.5 - rim[0], 0.5 - rim[1]
    kind = pen.rng.random()
    if kind < 0.4:
        pen.rectangle((-f, f), (-r, r), roof)
        _draw_roof_units(pen, roof)
    elif kind < 0.75:
        lit, dim = (0.0, r), (-r, 0.0)
        if pen.sunny_side < 0:
            lit, dim = dim, lit
        pen.rectangle((-f, f), lit, shade(roof, 1.1))
        pen.rectangle((-f, f), dim, shade(roof, 0.88))
        pen.line([(-f, 0), (f, 0)], shade(roof, 1.2))
    else:
        pen.rectangle((-f, f), (-r, r), roof)
        for rib in np.linspace(-f, f, int(np.clip(pen.pose.length / 6, 3, 24)))[1:-1]:
            pen.line([(rib, -r), (rib, r)], shade(roof, 0.93))
        if pen.chance(0.5):
            pen.line([(-f, 0), (f, 0)], shade(roof, 1.12), 2)


def _draw_roof_units(pen: Pen, roof: Colour) -> None:
    """Air conditioners and skylights: small boxes that look like cars from above."""
    for _ in range(int(pen.rng.integers(0, 7))):
        f, r = pen.rng.uniform(-0.38, 0.38, 2)
        half = pen.rng.uniform(0.012, 0.05, 2)
        grey = pen.pick([WHITE, (150, 150, 150), DARK, shade(roof, 0.7)])
        pen.rectangle((f - half[0], f + half[0]), (r - half[1], r + half[1]), grey)


def _draw_tree(pen: Pen, height: float) -> None:
    """Three ragged crowns, each smaller, lighter and nearer the sun."""
    leaf = pen.pick([(40, 72, 50), (46, 86, 62), (52, 82, 74), (60, 98, 82), (84, 92, 118)], [5, 4, 3, 2, 0.4])
    steps = 11 if pen.pose.width > 14 else 8
    turn = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    sun_x, sun_y = pen.towards_sun
    cos, sin = np.cos(-pen.pose.heading), np.sin(-pen.pose.heading)
    drift = np.array([sun_x * cos - sun_y * sin, sun_x * sin + sun_y * cos])
    ragged = pen.rng.uniform(0.8, 1.0, (3, steps))
    for layer, (size, tone) in enumerate(((0.5, 0.78), (0.36, 1.0), (0.2, 1.22))):
        crown = np.stack((np.cos(turn), np.sin(turn)), axis=1) * (ragged[layer] * size)[:, None]
        pen.polygon(crown + drift * (0.5 - size) * 0.5, shade(leaf, tone), height if layer == 0 else 0.0, floats=True)


def circle(x: float, y: float, radius: float) -> np.ndarray:
    """(40, 2) m, for ground that is round."""
    return arc((x, y), (radius, radius), 0, 351, 40)


def strip(start: tuple[float, float], stop: tuple[float, float], width: float) -> np.ndarray:
    """(4, 2) m: a straight band `width` m wide from start to stop."""
    along = np.subtract(stop, start) / max(float(np.hypot(*np.subtract(stop, start))), 1e-9)
    across = np.array([-along[1], along[0]]) * width / 2
    return np.array([start + across, stop + across, stop - across, start - across])


def scatter_trees(site: Site, rect: Rect, count: int, radii: tuple[float, float] = (1.5, 4.0)) -> None:
    """Trees at random places of a rectangle."""
    low, high = radii
    for _ in range(count):
        site.tree(site.uniform(rect.x0, rect.x1), site.uniform(rect.y0, rect.y1), site.uniform(low, high))
