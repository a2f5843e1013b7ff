"""What fills a block of land: car parks, courts, tank farms, houses, aprons and the like.

Each function takes the site and an upright rectangle, m, lays ground and adds objects; classes that may not appear
leave their place empty (bays without cars, pads without helicopters), which makes good negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.scenes.objects import KINDS
from pipelines.scenes.pen import CLAY, CONCRETE, GRASS, WHITE, mix
from pipelines.scenes.site import Rect, Site, circle, scatter_trees, strip

_EAST, _SOUTH, _WEST, _NORTH = 0.0, np.pi / 2, np.pi, -np.pi / 2
_PAINT = mix((104, 104, 102), WHITE, 0.55)
_YELLOW = (84, 176, 206)
# Longer blocks, m, would hold one hall or lawn too large to look real.
_LONG_BLOCK = 72.0


def size_of(site: Site, name: str) -> tuple[float, float]:
    """Length and width, m, of a new object of a class."""
    length = site.uniform(*KINDS[name].length)
    return length, length * site.uniform(*KINDS[name].aspect)


def add_vehicle(site: Site, x: float, y: float, heading: float, *, lorries: float = 0.1) -> bool:
    """A car, or with probability `lorries` a large vehicle."""
    name = "large-vehicle" if site.chance(lorries) else "small-vehicle"
    length, width = size_of(site, name)
    return site.add(name, x, y, heading, length, min(width, 3.0))


def road(site: Site, start: tuple[float, float], stop: tuple[float, float], width: float, traffic: float = 0.5) -> None:
    """A road with markings and moving traffic; `traffic` in vehicles per 10 m and lane."""
    site.fill(strip(start, stop, width), "road")
    length = float(np.hypot(*np.subtract(stop, start)))
    along = np.subtract(stop, start) / max(length, 1e-9)
    across = np.array([-along[1], along[0]])
    origin = np.asarray(start)
    for edge in (-0.46, 0.46):
        site.mark([origin + across * width * edge, np.asarray(stop) + across * width * edge], _PAINT)
    for place in np.arange(0, length, 9.0):
        site.mark([origin + along * place, origin + along * min(place + 4, length)], _PAINT)
    heading = float(np.arctan2(along[1], along[0]))
    for lane in (-0.24, 0.24):
        place = site.uniform(0, 20)
        while traffic and place < length:
            spot = origin + along * place + across * (width * lane + site.uniform(-0.3, 0.3))
            # Traffic keeps right: on the right of the direction start -> stop it drives that way.
            direction = heading if lane > 0 else heading + np.pi
            add_vehicle(site, *spot, direction + site.uniform(-0.03, 0.03), lorries=0.12)
            place += 9 + float(site.rng.exponential(10 / traffic))


def car_park(site: Site, rect: Rect) -> None:
    """Rows of bays back to back, aisles between, crowded or nearly empty."""
    site.fill(rect, "asphalt")
    crowd = site.uniform(0.25, 0.97)
    lies_down = rect.width >= rect.height
    run, depth = (rect.width, rect.height) if lies_down else (rect.height, rect.width)
    bay, row_depth, aisle = site.uniform(2.6, 3.0), 5.6, site.uniform(6.0, 7.5)
    across = 1.0
    while across + row_depth < depth:
        for facing in (1.0, -1.0):
            if across + row_depth > depth:
                break
            _bay_row(site, rect, lies_down, (2.0, run - 2.0, across, row_depth), bay, facing, crowd)
            across += row_depth
        across += aisle
    for corner in rect.shrunk(1.5).points():
        if site.chance(0.6):
            site.tree(*corner, site.uniform(1.5, 3))


def _bay_row(
    site: Site,
    rect: Rect,
    lies_down: bool,
    row: tuple[float, float, float, float],
    bay: float,
    facing: float,
    crowd: float,
) -> None:
    """One row of bays: run from row[0] to row[1], beginning row[2] deep, row[3] deep itself."""
    first, last, near, depth = row

    def place(run: float, across: float) -> tuple[float, float]:
        return (rect.x0 + run, rect.y0 + across) if lies_down else (rect.x0 + across, rect.y0 + run)

    line = mix(_PAINT, (104, 104, 102), site.uniform(0.0, 0.5))
    for run in np.arange(first, last, bay):
        site.mark([place(run, near + 0.3), place(run, near + depth - 0.3)], line)
        if run + bay > last or not site.chance(crowd):
            continue
        heading = (_SOUTH if lies_down else _EAST) * facing + (0 if lies_down or facing > 0 else np.pi)
        nose_in = 0.0 if site.chance(0.7) else np.pi
        x, y = place(run + bay / 2 + site.uniform(-0.15, 0.15), near + depth / 2 + site.uniform(-0.35, 0.35))
        length, width = size_of(site, "small-vehicle")
        site.add("small-vehicle", x, y, heading + nose_in + site.uniform(-0.04, 0.04), length, width)


def truck_yard(site: Site, rect: Rect) -> None:
    """Parked lorries side by side, container stacks, a shed."""
    site.fill(rect, "asphalt" if site.chance(0.6) else "concrete")
    y = rect.y0 + 2
    if rect.height > 55:
        site.building(Rect(rect.x0 + 4, y, rect.x1 - 4, y + site.uniform(14, 24)), site.uniform(6, 10))
        y += 34
    while y + 18 < rect.y1:
        crowd = site.uniform(0.35, 0.95)
        pitch = site.uniform(3.6, 4.6)
        length = site.uniform(*KINDS["large-vehicle"].length)
        slant = site.uniform(-0.3, 0.3) if site.chance(0.3) else 0.0
        if site.chance(0.25):
            container_stacks(site, Rect(rect.x0 + 3, y, rect.x1 - 3, y + 16))
        else:
            for x in np.arange(rect.x0 + 4, rect.x1 - 4, pitch):
                site.mark([(x - pitch / 2, y + 0.5), (x - pitch / 2, y + 17)], _PAINT)
                if site.chance(crowd):
                    heading = (_NORTH if site.chance(0.8) else _SOUTH) + slant + site.uniform(-0.02, 0.02)
                    site.add(
                        "large-vehicle", x, y + 9 + site.uniform(-0.6, 0.6), heading, length, site.uniform(2.5, 2.9)
                    )
        y += 18 + site.uniform(8, 14)
    for _ in range(3):
        spot = rect.shrunk(4)
        add_vehicle(
            site, site.uniform(spot.x0, spot.x1), site.uniform(spot.y0, spot.y1), site.uniform(0, 6.3), lorries=0.5
        )


def container_stacks(site: Site, rect: Rect) -> None:
    """Shipping containers in rows; they look like lorries and are none."""
    for y in np.arange(rect.y0 + 1.5, rect.y1 - 1.5, 2.8):
        for x in np.arange(rect.x0 + 7, rect.x1 - 6, 12.8):
            if site.chance(0.6):
                site.container(x, y, 0.0)


def container_yard(site: Site, rect: Rect) -> None:
    """Container stacks on concrete with lanes for lorries."""
    site.fill(rect, "concrete")
    y = rect.y0 + 2
    while y + 10 < rect.y1:
        container_stacks(site, Rect(rect.x0, y, rect.x1, y + 12))
        for x in np.arange(rect.x0 + 12, rect.x1 - 10, 22):
            if site.chance(0.4):
                add_vehicle(site, x, y + 15.5, _EAST if site.chance(0.5) else _WEST, lorries=0.8)
        y += 19


def warehouse(site: Site, rect: Rect) -> None:
    """A large hall, lorries at its docks, cars beside it."""
    site.fill(rect, "concrete" if site.chance(0.5) else "asphalt")
    hall = Rect(rect.x0 + 4, rect.y0 + 3, rect.x1 - 4, rect.y0 + 3 + 0.55 * rect.height)
    site.building(hall, site.uniform(6, 12))
    yard = rect.y1 - hall.y1
    length = min(site.uniform(9, 16), yard - 3)
    for x in np.arange(hall.x0 + 4, hall.x1 - 3, site.uniform(4.2, 6)):
        if length > 8 and site.chance(0.45):
            site.add("large-vehicle", x, hall.y1 + 1 + length / 2, _SOUTH, length, site.uniform(2.5, 2.9))
    if yard > length + 10:
        _bay_row(site, rect, True, (3.0, rect.width - 3, rect.height - 6.2, 5.6), 2.8, -1.0, site.uniform(0.3, 0.9))


def courts(site: Site, rect: Rect) -> None:
    """Tennis or basketball courts in rows on a coloured apron, behind fences."""
    names = [name for name in ("tennis-court", "basketball-court") if site.allows(name)] or ["tennis-court"]
    name = names[int(site.rng.integers(len(names)))]
    site.fill(rect, "grass")
    length, width = size_of(site, name)
    cell_x, cell_y = width + site.uniform(3, 7), length + site.uniform(4, 10)
    columns, rows = int((rect.width - 4) // cell_x), int((rect.height - 4) // cell_y)
    columns, rows = min(columns, 6), min(rows, int(site.rng.integers(1, 4)))
    if columns < 1 or rows < 1:
        lawn(site, rect)
        return
    x0 = rect.x0 + site.uniform(2, max(2.0, rect.width - columns * cell_x - 2))
    y0 = rect.y0 + site.uniform(2, max(2.0, rect.height - rows * cell_y - 2))
    apron = "court" if site.chance(0.6) else "clay court" if site.chance(0.6) else "asphalt"
    for row in range(rows):
        for column in range(columns):
            cell = Rect(x0 + column * cell_x, y0 + row * cell_y, x0 + (column + 1) * cell_x, y0 + (row + 1) * cell_y)
            site.fill(cell, apron)
            outline = cell.shrunk(0.2).points()
            site.mark(np.concatenate((outline, outline[:1])), (92, 98, 98))
            if site.chance(0.92):
                x, y = cell.centre
                site.add(name, x, y, _NORTH if site.chance(0.5) else _SOUTH, length, width)
            else:
                site.reserve(site.to_image(cell.points()))
    scatter_trees(site, rect, int(rect.width * rect.height / 260))


def ball_field(site: Site, rect: Rect) -> None:
    """One or two baseball infields in opposite corners of a meadow."""
    site.fill(rect, "lawn")
    reach = min(rect.width, rect.height)
    corners = [
        (rect.x0, rect.y0, _NORTH),
        (rect.x1, rect.y0, _EAST),
        (rect.x1, rect.y1, _SOUTH),
        (rect.x0, rect.y1, _WEST),
    ]
    first = int(site.rng.integers(4))
    for number in range(2 if max(rect.width, rect.height) > 75 and site.chance(0.6) else 1):
        x, y, heading = corners[(first + 2 * number) % 4]
        side = min(site.uniform(*KINDS["baseball-diamond"].length), reach - 8)
        inward = np.sign(np.subtract(rect.centre, (x, y)))
        centre = np.array([x, y]) + inward * (side / 2 + site.uniform(3, 7))
        apex = centre - inward * side / 2
        start = np.rad2deg(np.arctan2(inward[1], inward[0])) - 45
        turn = np.deg2rad(np.linspace(start, start + 90, 30))
        outfield = min(2.3 * side, reach - 6)
        fan = np.concatenate((apex[None], apex + outfield * np.stack((np.cos(turn), np.sin(turn)), axis=1)))
        site.fill(fan, "dry grass" if site.chance(0.4) else "lawn", site.uniform(0.9, 1.12))
        site.add("baseball-diamond", *centre, heading, side, side * site.uniform(0.98, 1.02))
    # A bare circle of the same dirt is no infield.
    if site.chance(0.3):
        x, y = rect.centre
        site.patch(circle(x, y, site.uniform(3, 7)), CLAY)
    scatter_trees(site, rect, int(rect.width * rect.height / 400))


def sports_field(site: Site, rect: Rect) -> None:
    """A running track about a soccer field where both fit, else a soccer field or a plain lawn."""
    site.fill(rect, "lawn" if site.chance(0.7) else "dry grass")
    long, short = max(rect.width, rect.height), min(rect.width, rect.height)
    heading = _EAST if rect.width >= rect.height else _SOUTH
    x, y = rect.centre
    aspect = site.uniform(*KINDS["ground-track-field"].aspect)
    length = min(site.uniform(*KINDS["ground-track-field"].length), long - 4, (short - 4) / aspect)
    width = length * aspect
    if length > 110 and (site.allows("ground-track-field") or not site.allows("soccer-ball-field")):
        site.add("ground-track-field", x, y, heading, length, width)
        if site.chance(0.75):
            pitch = 0.58 * length
            site.add("soccer-ball-field", x, y, heading, pitch, min(0.66 * pitch, 0.7 * width), on_top=True)
        stand = Rect(x - 0.3 * length, y - width / 2 - 11, x + 0.3 * length, y - width / 2 - 2)
        if heading == _EAST and stand.y0 > rect.y0:
            site.building(stand, 6)
    elif long > 70 and short > 45:
        pitch = min(site.uniform(*KINDS["soccer-ball-field"].length), long - 6, (short - 5) / 0.62)
        site.add("soccer-ball-field", x, y, heading, pitch, pitch * 0.62)
    scatter_trees(site, rect, int(rect.width * rect.height / 500))


def tank_farm(site: Site, rect: Rect) -> None:
    """Round tanks in bunds, one size to a cluster, with pipes between."""
    site.fill(rect, "concrete" if site.chance(0.5) else "soil")
    x = rect.x0
    while x < rect.x1 - 12:
        cluster = Rect(x, rect.y0, min(x + site.uniform(35, 80), rect.x1), rect.y1).shrunk(3)
        diameter = min(float(np.exp(site.uniform(np.log(6.5), np.log(30)))), cluster.width - 2, cluster.height - 2)
        if diameter < 5:
            break
        pitch = diameter * site.uniform(1.15, 1.45)
        columns, rows = int(cluster.width // pitch), int(cluster.height // pitch)
        outline = cluster.points()
        site.mark(np.concatenate((outline, outline[:1])), mix(CONCRETE, WHITE, 0.3), 0.5)
        for column in range(columns):
            spot_x = cluster.x0 + (column + 0.5) * cluster.width / columns
            site.mark([(spot_x, cluster.y0), (spot_x, cluster.y1)], (120, 126, 130), 0.4)
            for row in range(rows):
                if site.chance(0.88):
                    spot_y = cluster.y0 + (row + 0.5) * cluster.height / rows
                    site.add("storage-tank", spot_x, spot_y, _NORTH, diameter, diameter)
        x = cluster.x1 + 3
        if site.chance(0.3):
            site.building(Rect(x + 1, rect.y0 + 4, x + 9, rect.y0 + 20), 5)
            x += 12


def houses(site: Site, rect: Rect) -> None:
    """Lots with a house, garden, trees, car in the drive; pools behind many."""
    site.fill(rect, "lawn" if site.chance(0.7) else "dry grass")
    rows = 2 if rect.height > 42 else 1
    depth = rect.height / rows
    for row in range(rows):
        street = rect.y0 if row == 0 else rect.y1
        inward = 1.0 if row == 0 else -1.0
        x = rect.x0 + 1
        while x + 15 < rect.x1:
            lot = site.uniform(16, 23)
            _house_lot(site, x, min(lot, rect.x1 - x), street, inward, depth)
            x += lot
    scatter_trees(site, rect, int(rect.width * rect.height / 130))


def _house_lot(site: Site, x: float, lot: float, street: float, inward: float, depth: float) -> None:
    front = street + inward * site.uniform(4, 8)
    back = front + inward * min(site.uniform(9, 14), depth - 9)
    drive = x + lot - 3.5
    site.fill(strip((drive, street), (drive, back), 3.2), "paving")
    if site.chance(0.55):
        add_vehicle(site, drive, street + inward * 4, _SOUTH if site.chance(0.5) else _NORTH, lorries=0.0)
    site.building(
        Rect(x + 1.5, min(front, back), x + lot - 6, max(front, back)),
        site.uniform(4, 8),
        turn=site.uniform(-0.05, 0.05),
    )
    garden = abs(street + inward * depth - back)
    if garden > 8 and site.chance(0.45):
        length, width = size_of(site, "swimming-pool")
        spot = (x + lot / 2 + site.uniform(-2, 2), back + inward * min(garden / 2, 8))
        heading = site.uniform(0, np.pi) if site.chance(0.3) else _EAST
        deck = site.pose(*spot, heading, length + 3.5, width + 3.5)
        site.ground.fill(deck.corners(), "paving")
        site.add("swimming-pool", *spot, heading, length, width)


def pool_club(site: Site, rect: Rect) -> None:
    """Public baths: a large pool, smaller ones, loungers, a hall."""
    site.fill(rect, "paving")
    x, y = rect.centre
    length = min(site.uniform(20, 34), 0.6 * rect.width)
    width = min(length * site.uniform(0.4, 0.65), 0.5 * rect.height)
    site.add("swimming-pool", x, y, _EAST, length, width)
    for _ in range(int(site.rng.integers(1, 4))):
        small, ratio = site.uniform(7, 13), site.uniform(0.6, 1.0)
        spot = rect.shrunk(8)
        site.add(
            "swimming-pool",
            site.uniform(spot.x0, spot.x1),
            site.uniform(spot.y0, spot.y1),
            site.uniform(0, 3.1),
            small,
            small * ratio,
        )
    site.building(Rect(rect.x0 + 3, rect.y0 + 2, rect.x0 + 3 + 0.6 * rect.width, rect.y0 + 10), 5)
    for spot_x in np.arange(rect.x0 + 4, rect.x1 - 4, 2.2):
        if site.chance(0.6):
            site.small_thing(spot_x, rect.y1 - 4, 0.9, 2.0, WHITE if site.chance(0.6) else (150, 120, 60))
    scatter_trees(site, rect, int(rect.width * rect.height / 300))


def park(site: Site, rect: Rect) -> None:
    """Trees, paths, a pond or a sand pit: nothing to label."""
    site.fill(rect, "grass")
    x, y = rect.centre
    for target in rect.points()[: int(site.rng.integers(1, 4))]:
        site.fill(strip((x, y), tuple(target), 2.5), "paving")
    if site.chance(0.5):
        pond = circle(0, 0, site.uniform(5, 0.3 * min(rect.width, rect.height) + 5.1)) * (1, site.uniform(0.5, 0.9)) + (
            x,
            y,
        )
        site.fill(pond, "river" if site.chance(0.6) else "water")
        site.reserve(site.to_image(pond))
    elif site.chance(0.5):
        site.patch(circle(x, y, site.uniform(4, 10)), mix(CLAY, WHITE, 0.3))
    for _ in range(int(site.rng.integers(1, 5))):
        grove_x, grove_y = site.uniform(rect.x0, rect.x1), site.uniform(rect.y0, rect.y1)
        scatter_trees(site, Rect(grove_x - 14, grove_y - 14, grove_x + 14, grove_y + 14), 18, (2.5, 5.0))
    scatter_trees(site, rect, int(rect.width * rect.height / 300))


def lawn(site: Site, rect: Rect) -> None:
    """Grass with a few trees."""
    site.fill(rect, "grass" if site.chance(0.5) else "dry grass")
    scatter_trees(site, rect, int(rect.width * rect.height / 350))


def farmland(site: Site, rect: Rect) -> None:
    """Ploughed strips of different tone."""
    x = rect.x0
    while x < rect.x1:
        stop = min(x + site.uniform(18, 60), rect.x1)
        tint = site.uniform(0.75, 1.25)
        site.fill(Rect(x, rect.y0, stop, rect.y1), "field" if site.chance(0.6) else "soil", tint)
        tone = mix(GRASS, CLAY, site.uniform(0, 0.8))
        for furrow in np.arange(x + 1, stop, site.uniform(1.8, 4)):
            site.mark([(furrow, rect.y0), (furrow, rect.y1)], tuple(0.8 * tint * channel for channel in tone))
        x = stop + 1
    scatter_trees(site, Rect(rect.x0, rect.y0, rect.x1, rect.y0 + 2), int(rect.width / 14))


def helipads(site: Site, rect: Rect) -> None:
    """Pads with an H, some taken; a hangar."""
    site.fill(rect, "concrete" if site.chance(0.5) else "asphalt")
    hangar = Rect(rect.x0 + 3, rect.y0 + 2, rect.x1 - 3, rect.y0 + 2 + min(18, rect.height / 3))
    site.building(hangar, 8)
    _helicopter_stands(site, rect._replace(y0=hangar.y1))


def _helicopter_stands(site: Site, rect: Rect) -> None:
    for y in np.arange(rect.y0 + 15, rect.y1 - 11, 27):
        for x in np.arange(rect.x0 + 14, rect.x1 - 11, site.uniform(24, 30)):
            rim = circle(x, y, 8)
            site.mark(np.concatenate((rim, rim[:1])), _YELLOW if site.chance(0.4) else WHITE, 0.4)
            for line in ([(-2, -2.5), (-2, 2.5)], [(2, -2.5), (2, 2.5)], [(-2, 0), (2, 0)]):
                site.mark(np.array(line) + np.array((x, y)), WHITE, 0.5)
            if site.chance(0.75):
                length, width = size_of(site, "helicopter")
                site.add("helicopter", x, y, site.uniform(0, 6.3), length, width)


def apron(site: Site, rect: Rect) -> None:
    """Concrete slabs with airliners in a row, light aircraft in ranks, helicopters on pads."""
    site.fill(rect, "concrete")
    for x in np.arange(rect.x0, rect.x1, 7.5):
        site.mark([(x, rect.y0), (x, rect.y1)], (150, 158, 162), 0.1)
    for y in np.arange(rect.y0, rect.y1, 7.5):
        site.mark([(rect.x0, y), (rect.x1, y)], (150, 158, 162), 0.1)
    x, small = rect.x0 + 6, site.chance(0.35)
    while x < rect.x1 - 10:
        block = min(site.uniform(70, 160), rect.x1 - x)
        stand = Rect(x, rect.y0 + 3, x + block, rect.y1 - 3)
        if site.allows("helicopter") and site.chance(0.2):
            _helicopter_stands(site, stand)
        elif small:
            _light_aircraft(site, stand)
        else:
            _airliners(site, stand)
        x += block
        small = not small if site.chance(0.4) else small


def _airliners(site: Site, rect: Rect) -> None:
    x, fighters = rect.x0, site.chance(0.2)
    while True:
        length = site.uniform(15, 20) if fighters else site.uniform(*KINDS["plane"].length)
        length = min(length, rect.height - 4)
        width = length * (site.uniform(0.64, 0.74) if fighters else site.uniform(*KINDS["plane"].aspect))
        if x + width > rect.x1:
            return
        spot = (x + width / 2, rect.y0 + length / 2 + site.uniform(0, 5))
        site.mark([(spot[0], rect.y0), (spot[0], rect.y1)], _YELLOW, 0.3)
        if site.chance(0.82):
            turned = site.uniform(-0.4, 0.4) if site.chance(0.25) else site.uniform(-0.03, 0.03)
            site.add("plane", *spot, _NORTH + turned, length, width)
            for side in (-0.36, 0.36):
                if site.chance(0.5):
                    add_vehicle(
                        site, spot[0] + side * width, spot[1] - 0.38 * length, site.uniform(0, 6.3), lorries=0.4
                    )
        x += width + site.uniform(4, 12)


def _light_aircraft(site: Site, rect: Rect) -> None:
    pitch_x, pitch_y = site.uniform(14, 17), site.uniform(16, 24)
    for y in np.arange(rect.y0 + 8, rect.y1 - 6, pitch_y):
        heading = _NORTH if site.chance(0.5) else _SOUTH
        for x in np.arange(rect.x0 + 8, rect.x1 - 6, pitch_x):
            site.mark([(x - 4, y), (x + 4, y)], _YELLOW, 0.2)
            if site.chance(0.6):
                length = site.uniform(8.5, 11)
                site.add("plane", x, y, heading + site.uniform(-0.06, 0.06), length, length * site.uniform(1.12, 1.3))


@dataclass(frozen=True)
class Block:
    """One way to fill a block. serves: classes it may hold. least: m, the smaller side it needs."""

    fill: Callable[[Site, Rect], None]
    serves: tuple[str, ...]
    least: float = 18.0


BLOCKS: dict[str, Block] = {
    "car park": Block(car_park, ("small-vehicle",)),
    "truck yard": Block(truck_yard, ("large-vehicle",), 24),
    "container yard": Block(container_yard, ("large-vehicle",)),
    "warehouse": Block(warehouse, ("large-vehicle", "small-vehicle"), 30),
    "courts": Block(courts, ("tennis-court", "basketball-court"), 36),
    "ball field": Block(ball_field, ("baseball-diamond",), 40),
    "sports field": Block(sports_field, ("soccer-ball-field", "ground-track-field"), 50),
    "tank farm": Block(tank_farm, ("storage-tank",)),
    "houses": Block(houses, ("swimming-pool", "small-vehicle")),
    "pool club": Block(pool_club, ("swimming-pool",), 30),
    "park": Block(park, ()),
    "lawn": Block(lawn, ()),
    "farmland": Block(farmland, ()),
    "helipads": Block(helipads, ("helicopter",), 44),
    "apron": Block(apron, ("plane", "helicopter"), 50),
}


def fill_block(site: Site, rect: Rect, menu: dict[str, float]) -> None:
    """Fill a block with one of the menu (name -> weight); blocks that hold allowed classes come oftener.

    A long block is mostly split in two.
    """
    if not site.sees(rect):
        return
    if len(menu) > 1 and max(rect.width, rect.height) > _LONG_BLOCK and site.chance(0.7):
        for half in rect.halves(gap=2.0):
            fill_block(site, half, menu)
        return
    fitting = [name for name in menu if BLOCKS[name].least <= min(rect.width, rect.height)] or ["lawn"]
    weights = np.array([menu.get(name, 1.0) * (3.0 if site.allows(*BLOCKS[name].serves) else 1.0) for name in fitting])
    choice = fitting[int(site.rng.choice(len(fitting), p=weights / weights.sum()))]
    BLOCKS[choice].fill(site, rect)
