"""The compact scene: a few objects of any class on land, a shore or open water, for images too small for streets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.scenes.objects import KINDS
from pipelines.scenes.pen import Pose
from pipelines.scenes.site import Rect, Site, scatter_trees, strip

COMPACT_BASES = ("grass", "dry grass", "soil", "concrete", "asphalt", "forest")
# A compact scene's metre is five pixels at scale 1; it only sizes the scenery beside the objects.
PIXELS_PER_METRE = 5.0

_UP = -np.pi / 2


def compact(site: Site) -> None:
    """Three to eight objects of any allowed class on a patch of land, a shore or open water; for small images."""
    names = [name for name in KINDS if site.allows(name)]
    if not names:
        scatter_trees(site, Rect(-site.radius, -site.radius, site.radius, site.radius), 6)
        return
    chosen = [names[int(site.rng.integers(len(names)))] for _ in range(int(site.rng.integers(3, 9)))]
    wet = sum(_is_afloat(name) for name in chosen) / len(chosen)
    shore = _compact_shore(site, wet)
    longest = 0.42 * min(site.size) / site.metre
    sizes = [min(site.uniform(*KINDS[name].compact) / PIXELS_PER_METRE, longest) for name in chosen]
    for order in np.argsort(sizes)[::-1]:
        _place_compact(site, chosen[order], sizes[order], shore)
    reach = site.radius
    scatter_trees(site, Rect(-reach, -reach, reach, shore - 1), int(site.rng.integers(2, 9)), (1.0, 2.2))
    for _ in range(int(site.rng.integers(0, 3))):
        x, y = site.uniform(-reach, reach), site.uniform(-reach, shore)
        long, short = site.uniform(3, 8), site.uniform(2, 6)
        building = Rect(x - long, y - short, x + long, y + short)
        if building.y1 < shore:
            site.building(building, 3.0, turn=site.uniform(0, 3.1))


def _is_afloat(name: str) -> bool:
    return name in ("ship", "harbor")


def _compact_shore(site: Site, wet: float) -> float:
    """Divide the scene into land above and water below; returns the shore (y, m)."""
    reach = 1.5 * site.radius
    half = min(site.size) / 2 / site.metre
    if wet == 0:
        shore = reach
    elif wet == 1 and site.chance(0.6):
        shore = -reach
    else:
        shore = half * (1 - 2 * float(np.clip(wet, 0.35, 0.65))) + site.uniform(-0.1, 0.1) * half
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


def _place_compact(site: Site, name: str, length: float, shore: float) -> None:
    """Find a free place of the right ground for one object; smaller after every few failures, else none."""
    aspect = _compact_aspect(site, name, length)
    may_be_cut = site.chance(0.12)
    for attempt in range(48):
        size = length * 0.85 ** (attempt // 12)
        width = size * aspect
        heading = _compact_heading(site, name)
        middle = _place_inside(site, heading, size, width, may_be_cut)
        x, y = site.to_site(middle)[0]
        pose = site.pose(x, y, heading, size, width)
        corners = pose.corners()
        depths = site.to_site(corners)[:, 1] - shore
        on_ground = depths.min() > 0.3 if _is_afloat(name) else depths.max() < -1.5
        if not on_ground or site.share_inside(corners) < 0.75:
            continue
        surroundings = _pond(pose).corners() if name == "bridge" else pose.corners(margin=3)
        if site.is_free(surroundings) and site.add(name, x, y, heading, size, width):
            _compact_setting(site, name, pose, (x, y), heading, size, width)
            return


def _compact_aspect(site: Site, name: str, length: float) -> float:
    """Width / length of an object; planes and ships come in all their builds."""
    build = float(site.rng.random())
    if name == "plane" and build < 0.4:
        return site.uniform(1.12, 1.28) if build < 0.25 else site.uniform(0.64, 0.74)
    if name == "ship" and build < 0.2:
        return site.uniform(0.17, 0.22)
    aspect = site.uniform(*KINDS[name].aspect)
    return max(aspect, 4.5 / (length * site.metre)) if name == "harbor" else aspect


def _compact_heading(site: Site, name: str) -> float:
    """Any heading, exactly along the image's axes for one in five; rad in the site frame."""
    if KINDS[name].is_round:
        return _UP - site.turn
    if site.chance(0.2):
        return float(site.rng.integers(4)) * np.pi / 2 - site.turn
    return site.uniform(0, 2 * np.pi)


def _place_inside(site: Site, heading: float, length: float, width: float, may_be_cut: bool) -> np.ndarray:
    """(1, 2) px: a random centre whose box lies inside the image, or merely a centre inside."""
    cos, sin = abs(np.cos(heading + site.turn)), abs(np.sin(heading + site.turn))
    reach = np.array([(cos * length + sin * width, sin * length + cos * width)]) * site.metre / 2 + 1
    low = np.zeros((1, 2)) if may_be_cut else reach
    return low + (np.asarray(site.size) - 1 - 2 * low) * site.rng.random((1, 2))


def _pond(pose: Pose) -> Pose:
    """The water under a bridge that stands alone: a little shorter than the deck, wider than it."""
    return replace(pose, length=0.88 * pose.length, width=4.2 * pose.width)


def _compact_setting(
    site: Site, name: str, pose: Pose, spot: tuple[float, float], heading: float, length: float, width: float
) -> None:
    """The ground about an object: a road under a car, water under a bridge, an apron under a court or plane."""
    along = np.array([np.cos(heading), np.sin(heading)])
    centre = np.asarray(spot)
    if name == "bridge":
        site.fill(strip(centre - along * length, centre + along * length, 0.86 * width), "road")
        pond = _pond(pose).corners()
        site.ground.fill(pond, "river" if site.chance(0.5) else "water")
        site.reserve(pond)
    elif name == "roundabout":
        for turn in np.arange(int(site.rng.integers(3, 5))) * np.pi / 2:
            site.fill(
                strip(spot, tuple(centre + length * np.array((np.cos(turn), np.sin(turn)))), 0.26 * length), "road"
            )
    elif name in ("small-vehicle", "large-vehicle") and site.chance(0.6):
        site.fill(strip(centre - along * length * 1.5, centre + along * length * 1.5, 2.2 * width), "road")
    elif KINDS[name].ground in ("concrete", "paving", "court", "asphalt") and site.chance(0.8):
        margin = site.uniform(0.1, 0.3) * min(pose.length, pose.width)
        site.ground.fill(pose.corners(margin), KINDS[name].ground)
