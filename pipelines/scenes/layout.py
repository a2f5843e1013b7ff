"""How a scene is laid out: objects of any allowed class on land, along a shore or on open water."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from pipelines.scenes.kinds import KINDS
from pipelines.scenes.pen import Points, Pose
from pipelines.scenes.site import UP, Rect, Site, Spot

_BASES = ("grass", "dry grass", "soil", "concrete", "asphalt", "forest")
_AFLOAT = ("ship", "harbor")
# A metre is five pixels at scale 1; it only sizes the scenery beside the objects.
_PIXELS_PER_METRE = 5.0
# Three to eight objects share a square of this side, px, at least and at scale 1.
_LEAST_CROWD_SIDE, _CROWD_SIDE = 320, 450


def lay_out(rng: np.random.Generator, size: tuple[int, int], classes: Collection[str], scale: float) -> Site:
    """Three to eight objects, or as many times more as the image is larger, with trees and a few buildings."""
    base = _BASES[int(rng.integers(len(_BASES)))]
    site = Site(rng, size, classes, _PIXELS_PER_METRE * scale, base)
    crowds = max(1, int(size[0] * size[1] // max(_LEAST_CROWD_SIDE, _CROWD_SIDE * scale) ** 2))
    reach = site.radius
    names = [name for name in KINDS if name in classes]
    if not names:
        site.trees(Rect(-reach, -reach, reach, reach), 6 * crowds, (1.5, 4.0))
        return site
    chosen = [names[int(rng.integers(len(names)))] for _ in range(int(rng.integers(3, 9)) * crowds)]
    shore = _draw_shore(site, sum(name in _AFLOAT for name in chosen) / len(chosen))
    longest = 0.42 * min(size) / site.metre
    lengths = [min(site.uniform(*KINDS[name].longer_side) / _PIXELS_PER_METRE, longest) for name in chosen]
    for order in np.argsort(lengths)[::-1]:
        _place(site, chosen[order], lengths[order], shore)
    site.trees(Rect(-reach, -reach, reach, shore - 1), int(rng.integers(2, 9)) * crowds, (1.0, 2.2))
    for _ in range(int(rng.integers(0, 3)) * crowds):
        x, y = site.uniform(-reach, reach), site.uniform(-reach, shore)
        long, short = site.uniform(3, 8), site.uniform(2, 6)
        if y + short < shore:
            site.building(Rect(x - long, y - short, x + long, y + short), site.uniform(0, 3.1))
    return site


def _draw_shore(site: Site, afloat: float) -> float:
    """Divide the scene into land above and water below, by the share of objects afloat; returns the shore (y, m)."""
    reach = 1.5 * site.radius
    half = min(site.size) / 2 / site.metre
    if afloat == 0:
        shore = reach
    elif afloat == 1 and site.chance(0.6):
        shore = -reach
    else:
        shore = half * (1 - 2 * float(np.clip(afloat, 0.35, 0.65))) + site.uniform(-0.1, 0.1) * half
    if shore < reach:
        site.fill(Rect(-reach, shore, reach, reach), "water" if site.chance(0.7) else "river")
        site.fill(Rect(-reach, shore - 1.2, reach, shore), "concrete" if site.chance(0.5) else "soil")
    if shore > -reach and site.chance(0.5):
        x = site.uniform(-0.6, 0.6) * half
        site.fill(
            Rect(x, -reach, x + site.uniform(0.6, 1.4) * half, shore - 1.2),
            ("asphalt", "dry grass", "paving", "soil")[int(site.rng.integers(4))],
        )
    return shore


def _place(site: Site, name: str, length: float, shore: float) -> None:
    """Find a free place of the right ground for one object; smaller after every few failures, else none."""
    aspect = _aspect(site, name, length)
    may_be_cut = site.chance(0.12)
    for attempt in range(48):
        size = length * 0.85 ** (attempt // 12)
        heading = _heading(site, name)
        spot = Spot(*_centre(site, heading, size, size * aspect, may_be_cut), heading, size, size * aspect)
        pose = site.pose(spot)
        corners = pose.corners()
        depths = site.to_site(corners)[:, 1] - shore
        on_ground = depths.min() > 0.3 if name in _AFLOAT else depths.max() < -1.5
        if not on_ground or site.share_inside(corners) < 0.75:
            continue
        surroundings = _pond(pose).corners() if name == "bridge" else pose.corners(margin=3)
        if site.is_free(surroundings) and site.add(name, pose):
            _surround(site, name, spot)
            return


def _aspect(site: Site, name: str, length: float) -> float:
    """Width / length of an object; planes and ships come in all their builds."""
    build = float(site.rng.random())
    if name == "plane" and build < 0.4:
        return site.uniform(1.12, 1.28) if build < 0.25 else site.uniform(0.64, 0.74)
    if name == "ship" and build < 0.2:
        return site.uniform(0.17, 0.22)
    aspect = site.uniform(*KINDS[name].aspect)
    return max(aspect, 4.5 / (length * site.metre)) if name == "harbor" else aspect


def _heading(site: Site, name: str) -> float:
    """Any heading, exactly along the image's axes for one in five; rad in the site frame."""
    if KINDS[name].is_round:
        return UP - site.turn
    if site.chance(0.2):
        return float(site.rng.integers(4)) * np.pi / 2 - site.turn
    return site.uniform(0, 2 * np.pi)


def _centre(site: Site, heading: float, length: float, width: float, may_be_cut: bool) -> tuple[float, float]:
    """A random centre, m, with the whole box inside the image, or merely with the centre inside."""
    cos, sin = abs(np.cos(heading + site.turn)), abs(np.sin(heading + site.turn))
    reach = np.array([(cos * length + sin * width, sin * length + cos * width)]) * site.metre / 2 + 1
    low = np.zeros((1, 2)) if may_be_cut else reach
    x, y = site.to_site(low + (np.asarray(site.size) - 1 - 2 * low) * site.rng.random((1, 2)))[0]
    return x, y


def _pond(pose: Pose) -> Pose:
    """The water under a bridge that stands alone: a little shorter than the deck, wider than it."""
    return replace(pose, length=0.88 * pose.length, width=4.2 * pose.width)


def _surround(site: Site, name: str, spot: Spot) -> None:
    """The ground about an object: a road under a car, water under a bridge, an apron under a court or plane."""
    pose = site.pose(spot)
    along = np.array([np.cos(spot.heading), np.sin(spot.heading)])
    centre = np.array([spot.x, spot.y])
    if name == "bridge":
        site.fill(_strip(centre - along * spot.length, centre + along * spot.length, 0.86 * spot.width), "road")
        pond = _pond(pose).corners()
        site.ground.fill(pond, "river" if site.chance(0.5) else "water")
        site.reserve(pond)
    elif name == "roundabout":
        for turn in np.arange(int(site.rng.integers(3, 5))) * np.pi / 2:
            arm = centre + spot.length * np.array((np.cos(turn), np.sin(turn)))
            site.fill(_strip(centre, arm, 0.26 * spot.length), "road")
    elif name in ("small-vehicle", "large-vehicle") and site.chance(0.6):
        reach = along * spot.length * 1.5
        site.fill(_strip(centre - reach, centre + reach, 2.2 * spot.width), "road")
    elif KINDS[name].ground in ("concrete", "paving", "court", "asphalt") and site.chance(0.8):
        margin = site.uniform(0.1, 0.3) * min(pose.length, pose.width)
        site.ground.fill(pose.corners(margin), KINDS[name].ground)


def _strip(start: np.ndarray, stop: np.ndarray, width: float) -> Points:
    """(4, 2) m: a straight band `width` m wide from start to stop, (2,) m."""
    along = (stop - start) / max(float(np.hypot(*(stop - start))), 1e-9)
    across = np.array([-along[1], along[0]]) * width / 2
    return np.array([start + across, stop + across, stop - across, start - across])
