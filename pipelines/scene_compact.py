"""The compact scene: a few objects of any class on land, a shore or open water, for images too small for streets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.scene_objects import KINDS
from pipelines.scene_pen import Pose
from pipelines.scene_site import Rect, Site, scatter_trees, strip

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
    kind = KINDS[name]
    aspect = site.uniform(*kind.aspect)
    if name == "plane" and site.chance(0.3):
        aspect = site.uniform(1.12, 1.28)
    if name == "harbor":
        aspect = max(aspect, 4.5 / (length * site.metre))
    for attempt in range(48):
        size = length * 0.85 ** (attempt // 12)
        width = size * aspect
        pixel = (site.uniform(0, site.size[0]), site.uniform(0, site.size[1]))
        heading = (
            float(site.rng.integers(4) * np.pi / 2) - site.turn if site.chance(0.2) else site.uniform(0, 2 * np.pi)
        )
        if kind.is_round:
            heading = _UP - site.turn
        x, y = site.to_site(pixel)
        pose = site.pose(x, y, heading, size, width)
        corners = pose.corners()
        surroundings = _pond(pose).corners() if name == "bridge" else pose.corners(margin=3)
        if site.share_inside(corners) < (0.75 if site.chance(0.1) else 1.0) or not site.is_free(surroundings):
            continue
        depths = [site.to_site(tuple(corner))[1] - shore for corner in corners]
        on_ground = min(depths) > 0.3 if _is_afloat(name) else max(depths) < -1.5
        if on_ground and site.add(name, x, y, heading, size, width):
            _compact_setting(site, name, pose, (x, y), heading, size, width)
            return


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
