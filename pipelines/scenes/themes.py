"""Themes of the built-in scenes: airport, marina, port, river, sports ground, town, industry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.scenes.blocks import add_vehicle, apron, fill_block, road
from pipelines.scenes.objects import KINDS, finger_places
from pipelines.scenes.pen import WHITE
from pipelines.scenes.site import Rect, Site, circle, scatter_trees, strip

_TOWN = {
    "houses": 3.0,
    "car park": 1.0,
    "courts": 1.2,
    "park": 0.7,
    "pool club": 0.8,
    "warehouse": 0.6,
    "ball field": 0.7,
}
_INDUSTRY = {
    "tank farm": 2.5,
    "truck yard": 2.0,
    "warehouse": 1.5,
    "car park": 1.0,
    "container yard": 0.7,
    "helipads": 1.3,
    "lawn": 0.3,
}
_SPORTS = {
    "courts": 2.5,
    "ball field": 2.0,
    "sports field": 1.2,
    "car park": 1.0,
    "pool club": 1.0,
    "park": 0.5,
    "houses": 0.5,
}
_COAST = {"car park": 1.3, "houses": 1.2, "pool club": 1.0, "warehouse": 0.8, "park": 0.6, "courts": 0.6}
_RIVERSIDE = {
    "farmland": 1.2,
    "houses": 1.2,
    "tank farm": 1.0,
    "park": 0.7,
    "car park": 0.8,
    "ball field": 0.6,
    "sports field": 0.6,
}
_LANDSIDE = {"car park": 1.0, "warehouse": 1.2, "helipads": 2.5, "lawn": 0.5, "truck yard": 0.8}
_PORT = {"container yard": 1.5, "truck yard": 1.5, "tank farm": 1.5, "warehouse": 1.2, "car park": 0.6}


_SOUTH = np.pi / 2


@dataclass(frozen=True)
class Theme:
    """A kind of scene.

    build: lays it out. serves: classes it is made for. base: bare ground. metre: px per metre at scale 1, least and
    most. weight: how often it comes.
    """

    build: Callable[[Site], None]
    serves: tuple[str, ...]
    base: str
    metre: tuple[float, float]
    weight: float = 1.0


def cuts(site: Site, low: float, high: float, spacing: float) -> list[float]:
    """Street positions from low to high, m, unevenly spaced, starting at an uneven offset."""
    places = [low - site.uniform(0, spacing)]
    while places[-1] < high:
        places.append(places[-1] + spacing * site.uniform(0.7, 1.4))
    return places


def city(
    site: Site,
    rect: Rect,
    menu: dict[str, float],
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    circus: float = 0.0,
    middle: dict[str, float] | None = None,
) -> None:
    """Streets at xs and ys with blocks between, all inside `rect`.

    menu: what the blocks hold. circus: chance of a roundabout at a crossing. middle: menu of the block at the origin.
    """
    width = site.uniform(8, 13)
    half = width / 2
    traffic = site.uniform(0.15, 0.6)
    circles = _plan_roundabouts(site, rect, xs, ys, circus)
    edges_x = [rect.x0 - half, *[x for x in xs if rect.x0 < x < rect.x1], rect.x1 + half]
    edges_y = [rect.y0 - half, *[y for y in ys if rect.y0 < y < rect.y1], rect.y1 + half]
    for x in edges_x[1:-1]:
        road(site, (x, rect.y0), (x, rect.y1), width, traffic)
    for y in edges_y[1:-1]:
        road(site, (rect.x0, y), (rect.x1, y), width, traffic)
    for x in edges_x[1:-1]:
        for y in edges_y[1:-1]:
            site.patch(Rect(x - half, y - half, x + half, y + half).points(), (105, 105, 104))
    for x0, x1 in pairwise(edges_x):
        for y0, y1 in pairwise(edges_y):
            block = Rect(x0 + half, y0 + half, x1 - half, y1 - half)
            if min(block.width, block.height) > 10:
                site.fill(block, "paving")
                at_origin = x0 < 0 < x1 and y0 < 0 < y1
                fill_block(site, block.shrunk(1.5), middle if middle and at_origin else menu)
    for x, y, diameter in circles:
        site.fill(circle(x, y, diameter / 2 + site.uniform(0.5, 3)), "paving")
        for arm in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            site.fill(strip((x, y), (x + arm[0] * (diameter / 2 + 4), y + arm[1] * (diameter / 2 + 4)), width), "road")
        site.add("roundabout", x, y, 0.0, diameter, diameter, on_top=True)


def _plan_roundabouts(
    site: Site, rect: Rect, xs: Sequence[float], ys: Sequence[float], chance: float
) -> list[tuple[float, float, float]]:
    """Crossings with a roundabout, as x, y, diameter; their ground is kept free of all else."""
    circles = []
    inner = rect.shrunk(20)
    crossings = [(x, y) for x in xs for y in ys if inner.x0 < x < inner.x1 and inner.y0 < y < inner.y1]
    # The crossing nearest the middle comes first: a town scene should show its roundabout.
    for number, (x, y) in enumerate(sorted(crossings, key=lambda spot: spot[0] ** 2 + spot[1] ** 2)):
        if site.allows("roundabout") and site.chance(chance if number == 0 else 0.4 * chance):
            diameter = site.uniform(*KINDS["roundabout"].length)
            site.reserve(site.to_image(circle(x, y, diameter / 2 + 1)))
            circles.append((x, y, diameter))
    return circles


def town(site: Site) -> None:
    """Streets, houses with pools, courts, car parks, roundabouts."""
    reach = site.radius
    city(
        site,
        Rect(-reach, -reach, reach, reach),
        _TOWN,
        cuts(site, -reach, reach, site.uniform(75, 110)),
        cuts(site, -reach, reach, site.uniform(55, 80)),
        circus=0.6,
    )


def industry(site: Site) -> None:
    """Tank farms, lorry yards, warehouses, helipads."""
    reach = site.radius
    xs, ys = (cuts(site, -reach, reach, site.uniform(80, 125)) for _ in range(2))
    city(site, Rect(-reach, -reach, reach, reach), _INDUSTRY, xs, ys, circus=0.2)


def sports_ground(site: Site) -> None:
    """A track or large field in the middle, courts and diamonds about it."""
    reach = site.radius
    long, short = site.uniform(165, 205), site.uniform(96, 120)
    west, north = -long * site.uniform(0.35, 0.65), -short * site.uniform(0.35, 0.65)
    xs = [west - 190, west - 95, west, west + long, west + long + 95, west + long + 190]
    ys = [north - 150, north - 75, north, north + short, north + short + 75, north + short + 150]
    whole = Rect(-reach, -reach, reach, reach)
    city(site, whole, _SPORTS, xs, ys, circus=0.2, middle={"sports field": 1.0})


def airport(site: Site) -> None:
    """Landside blocks, terminal, apron with aircraft, taxiway, runway."""
    reach = site.radius
    terminal = site.uniform(-0.45, 0.1) * reach
    landside = Rect(-reach, -reach, reach, terminal - 30)
    city(site, landside, _LANDSIDE, cuts(site, -reach, reach, 105), cuts(site, -reach, terminal - 30, 70), circus=0.2)
    site.fill(Rect(-reach, terminal - 30, reach, terminal), "concrete")
    x = -reach
    while x < reach:
        stop = x + site.uniform(30, 90)
        if site.chance(0.75):
            site.building(Rect(x, terminal - 28, stop - 5, terminal - site.uniform(9, 14)), site.uniform(8, 14))
        x = stop + site.uniform(0, 15)
    road(site, (-reach, terminal - 3), (reach, terminal - 3), 8, 0.3)
    edge = terminal
    for _ in range(int(site.rng.integers(1, 3))):
        depth = site.uniform(56, 80)
        apron(site, Rect(-reach, edge, reach, edge + depth))
        edge += depth
        site.fill(Rect(-reach, edge, reach, edge + 22), "asphalt" if site.chance(0.5) else "concrete")
        site.mark([(-reach, edge + 11), (reach, edge + 11)], (84, 176, 206), 0.5)
        edge += 22
    runway = edge + site.uniform(15, 40)
    site.fill(Rect(-reach, runway, reach, runway + 42), "asphalt")
    for side in (runway + 2, runway + 40):
        site.mark([(-reach, side), (reach, side)], WHITE, 0.8)
    for dash in np.arange(-reach, reach, 45):
        site.patch(Rect(dash, runway + 20.5, dash + 28, runway + 21.5).points(), (200, 204, 204))
    scatter_trees(site, Rect(-reach, runway + 60, reach, reach), int(reach / 4))


def marina(site: Site) -> None:
    """Finger piers full of yachts along a quay, boats under way, a town behind."""
    reach = site.radius
    coast = _coast(site, _COAST)
    x = -reach + site.uniform(0, 15)
    while x < reach:
        yacht = site.uniform(8, 15)
        kind = site.rng.random()
        if kind < 0.75:
            breadth = 1.75 * yacht
            length = float(np.clip(site.uniform(35, 95), breadth / 0.32, breadth / 0.17))
            _finger_pier(site, x + breadth / 2, coast, length, breadth, yacht)
        elif kind < 0.9:
            length, deck = site.uniform(35, 80), site.uniform(3, 5)
            breadth = deck + 2 * yacht
            site.add("harbor", x + breadth / 2, coast + length / 2 - 1, _SOUTH, length, deck, on_top=True)
            _moor_in_a_row(site, x + breadth / 2, coast + 6, length - 8, deck / 2, yacht)
        else:
            breadth = site.uniform(9, 16)
            length = breadth / site.uniform(0.38, 0.6)
            site.add("harbor", x + breadth / 2, coast + length / 2 - 1, _SOUTH, length, breadth)
        x += breadth + site.uniform(4, 22)
    _ships_under_way(site, Rect(-reach, coast + 50, reach, reach), int(site.rng.integers(2, 9)), (7, 22))


def port(site: Site) -> None:
    """Long quays and piers with cargo ships, container yards and tanks behind."""
    reach = site.radius
    coast = _coast(site, _PORT)
    x = -reach + site.uniform(0, 60)
    while x < reach:
        deck, length = site.uniform(9, 16), site.uniform(80, 150)
        site.add("harbor", x, coast + length / 2 - 1, _SOUTH, max(length, deck / 0.15), deck, on_top=True)
        for place in np.arange(coast + 8, coast + length, 22):
            if site.chance(0.3):
                add_vehicle(site, x, place, _SOUTH, lorries=0.7)
        for side in (-1.0, 1.0):
            place = coast + site.uniform(4, 15)
            while True:
                ship = site.uniform(28, 110)
                beam = ship * site.uniform(0.14, 0.2)
                if place + ship > coast + length + 15:
                    break
                if site.chance(0.75):
                    heading = _SOUTH if site.chance(0.5) else -_SOUTH
                    site.add("ship", x + side * (deck / 2 + beam / 2 + 1), place + ship / 2, heading, ship, beam)
                place += ship + site.uniform(3, 15)
        x += deck + site.uniform(45, 100)
    _ships_under_way(site, Rect(-reach, coast + 60, reach, reach), int(site.rng.integers(1, 6)), (10, 60))


def river(site: Site) -> None:
    """A river between town and fields, crossed by bridges."""
    reach = site.radius
    middle, width = site.uniform(-0.35, 0.35) * reach, site.uniform(28, 65)
    north, south = middle - width / 2, middle + width / 2
    site.fill(Rect(-reach, north - 5, reach, south + 5), "soil" if site.chance(0.5) else "grass")
    steps = np.arange(-reach, reach + 12, 12.0)
    wobble = site.rng.uniform(0, 2.5, (2, len(steps)))
    banks = np.concatenate((np.stack((steps, north + wobble[0]), 1), np.stack((steps, south - wobble[1]), 1)[::-1]))
    site.fill(banks, "river" if site.chance(0.6) else "water")
    xs = cuts(site, -reach, reach, site.uniform(62, 105))
    for x in xs:
        if site.chance(0.8):
            deck, length = site.uniform(5.5, 17), width + 8
            road(site, (x, north - 6), (x, north), deck, 0)
            road(site, (x, south), (x, south + 6), deck, 0)
            if site.add("bridge", x, middle, _SOUTH, length, deck, on_top=True):
                for place in np.arange(north + 6, south - 5, 11):
                    for lane in (-1.0, 1.0):
                        if site.chance(0.3):
                            add_vehicle(site, x - lane * deck * 0.22, place, _SOUTH * lane, lorries=0.15)
            site.reserve(site.to_image(strip((x, north - 6), (x, south + 6), deck)))
    city(site, Rect(-reach, -reach, reach, north - 5), _RIVERSIDE, xs, cuts(site, -reach, north, 65), circus=0.3)
    city(site, Rect(-reach, south + 5, reach, reach), _RIVERSIDE, xs, cuts(site, south + 40, reach, 65), circus=0.3)
    _ships_under_way(site, Rect(-reach, north + 6, reach, south - 6), int(site.rng.integers(2, 8)), (9, 45), along=True)
    scatter_trees(site, Rect(-reach, north - 5, reach, north - 1), int(reach / 6), (1.5, 3.0))


def _coast(site: Site, menu: dict[str, float]) -> float:
    """Land with a town, a road and a quay; returns where the water begins (y, m)."""
    reach = site.radius
    coast = site.uniform(-0.4, 0.1) * reach
    site.fill(Rect(-reach, -reach, reach, coast), "concrete" if site.chance(0.5) else "paving")
    city(
        site,
        Rect(-reach, -reach, reach, coast - 22),
        menu,
        cuts(site, -reach, reach, 95),
        cuts(site, -reach, coast - 40, 65),
        circus=0.3,
    )
    road(site, (-reach, coast - 16), (reach, coast - 16), 10, 0.5)
    site.mark([(-reach, coast - 0.5), (reach, coast - 0.5)], (190, 198, 200), 0.8)
    scatter_trees(site, Rect(-reach, coast - 9, reach, coast - 5), int(reach / 7), (1.5, 2.5))
    return coast


def _finger_pier(site: Site, x: float, coast: float, length: float, breadth: float, yacht: float) -> None:
    """A pier with fingers and yachts between them; x: its axis, m."""
    middle = coast + length / 2 - 1
    site.add("harbor", x, middle, _SOUTH, length, breadth, on_top=True)
    fingers = middle + finger_places(length, breadth) * length
    crowd = site.uniform(0.3, 0.98)
    for start, stop in pairwise(fingers):
        slots = max(1, int((stop - start - 1.5) // (0.33 * yacht)))
        for slot in range(slots):
            place = start + 0.2 + (slot + 0.5) * (stop - start - 1.4) / slots
            for side in (-1.0, 1.0):
                if site.chance(crowd):
                    _moor(site, x + side * 0.07 * breadth, place, side, yacht)


def _moor_in_a_row(site: Site, x: float, start: float, length: float, half_deck: float, yacht: float) -> None:
    """Yachts side by side, their ends to a plain pier."""
    crowd = site.uniform(0.4, 0.95)
    for place in np.arange(start, start + length, 0.36 * yacht + 0.5):
        for side in (-1.0, 1.0):
            if site.chance(crowd):
                _moor(site, x + side * half_deck, place, side, yacht)


def _moor(site: Site, edge: float, y: float, side: float, longest: float) -> None:
    """One yacht across a pier whose edge is at x = `edge`."""
    length = longest * site.uniform(0.72, 1.0)
    beam = min(length * site.uniform(*KINDS["ship"].aspect), 0.34 * longest)
    heading = (0.0 if side > 0 else np.pi) + (0.0 if site.chance(0.6) else np.pi) + site.uniform(-0.05, 0.05)
    site.add("ship", edge + side * (length / 2 + 0.5), y, heading, length, beam)


def _ships_under_way(site: Site, rect: Rect, count: int, lengths: tuple[float, float], *, along: bool = False) -> None:
    """Moving ships with wakes in open water; `along`: in the x direction, as on a river."""
    for _ in range(count):
        length = site.uniform(*lengths)
        beam = length * (site.uniform(0.16, 0.22) if length > 26 else site.uniform(*KINDS["ship"].aspect))
        x, y = site.uniform(rect.x0, rect.x1), site.uniform(rect.y0, max(rect.y0, rect.y1))
        heading = (0.0 if site.chance(0.5) else np.pi) if along else site.uniform(0, 2 * np.pi)
        if site.add("ship", x, y, heading + site.uniform(-0.1, 0.1), length, beam) and site.chance(0.6):
            site.wake(x, y, heading, length, beam)


THEMES: dict[str, Theme] = {
    "airport": Theme(
        airport, ("plane", "helicopter", "small-vehicle", "large-vehicle"), "grass", (2.9, 4.8), weight=1.4
    ),
    "marina": Theme(marina, ("ship", "harbor", "small-vehicle", "swimming-pool"), "water", (3.6, 5.6), weight=0.9),
    "port": Theme(port, ("ship", "harbor", "large-vehicle", "storage-tank"), "water", (2.8, 4.4), weight=0.8),
    "river": Theme(
        river, ("bridge", "ship", "storage-tank", "roundabout", "baseball-diamond"), "grass", (3.2, 5.2), weight=1.8
    ),
    "sports ground": Theme(
        sports_ground,
        (
            "ground-track-field",
            "soccer-ball-field",
            "tennis-court",
            "basketball-court",
            "baseball-diamond",
            "swimming-pool",
        ),
        "grass",
        (3.4, 4.8),
        weight=1.6,
    ),
    "town": Theme(
        town,
        ("roundabout", "small-vehicle", "swimming-pool", "tennis-court", "basketball-court", "baseball-diamond"),
        "grass",
        (3.8, 6.0),
        weight=1.0,
    ),
    "industry": Theme(
        industry, ("storage-tank", "large-vehicle", "small-vehicle", "helicopter"), "concrete", (3.4, 5.4), weight=1.1
    ),
}
