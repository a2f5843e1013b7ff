"""What is built on the ground, from tanks to sports fields, as drawings that fill the box of their pen's pose."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipelines.scenes.pen import (
    ASPHALT,
    CONCRETE,
    GRASS,
    WHITE,
    Pen,
    arc,
    mix,
    shade,
)


def draw_storage_tank(pen: Pen) -> None:
    """Round tank: domed, flat, or with a floating roof whose rim shades the inside."""
    body = pen.pick([WHITE, (206, 210, 208), (160, 164, 162), (110, 140, 160), (120, 112, 98)], [6, 4, 2, 1, 1])
    pen.disc(0.5, shade(body, 0.8), float(pen.rng.uniform(0.3, 0.8)) * pen.pose.width)
    kind = pen.rng.random()
    if kind < 0.35:
        for radius, tone in ((0.45, 0.92), (0.34, 1.0), (0.2, 1.07)):
            pen.disc(radius, shade(body, tone), shift=(0.45 - radius) * 0.5)
    elif kind < 0.7:
        pen.disc(0.46, body)
        for turn in np.arange(0, 180, 45.0):
            spoke = arc((0, 0), (0.43, 0.43), turn, turn + 180, 2)
            pen.line(spoke, shade(body, 0.92))
        pen.disc(0.06, shade(body, 0.7))
    else:
        pen.disc(0.47, shade(body, 1.05))
        pen.disc(0.43, shade(body, 0.5))
        pen.disc(0.36, shade(body, 0.85), shift=-0.06)


def draw_roundabout(pen: Pen) -> None:
    """Ring of road, kerb, planted island."""
    road = pen.pick([ASPHALT, (118, 120, 120), (82, 80, 80)])
    pen.disc(0.5, mix(road, WHITE, float(pen.rng.uniform(0.05, 0.4))))
    pen.disc(0.485, road)
    island = float(pen.rng.uniform(0.2, 0.33))
    if pen.chance(0.5):
        lane = (island + 0.485) / 2
        for start in range(0, 360, 30):
            pen.line(arc((0, 0), (lane, lane), start, start + 16, 5), mix(road, WHITE, 0.5))
    pen.disc(island + 0.02, CONCRETE)
    pen.disc(island, pen.pick([GRASS, (74, 118, 96), (110, 142, 160), (130, 144, 150)], [4, 3, 1, 1]))
    if pen.chance(0.5):
        pen.disc(island * 0.45, pen.pick([(56, 78, 56), (46, 92, 62), CONCRETE, (150, 130, 90)]), 0.05 * pen.pose.width)
    for turn in np.arange(0, 360, 360 / 5)[: int(pen.rng.integers(0, 6))]:
        spot = arc((0, 0), (island * 0.68, island * 0.68), turn, turn, 1)[0]
        pen.polygon(arc(tuple(spot), (0.045, 0.045), 0, 330, 10), (44, 74, 52), 0.05 * pen.pose.width)


def draw_bridge(pen: Pen) -> None:
    """Deck along the heading with parapets, lanes, and arches or trusses on some."""
    deck = pen.pick([ASPHALT, (128, 130, 130), (150, 158, 160), (108, 120, 132)])
    rail = pen.pick([(176, 182, 184), (200, 202, 202), (130, 136, 140)])
    pen.rectangle((-0.5, 0.5), (-0.5, 0.5), rail, 0.35 * min(pen.pose.width, 30.0))
    inner = 0.5 - max(0.07, 1.0 / pen.pose.width)
    pen.rectangle((-0.5, 0.5), (-inner, inner), deck)
    dashes = np.linspace(-0.48, 0.48, max(4, round(pen.pose.length / 12)))
    for start, stop in zip(dashes[:-1:2], dashes[1::2], strict=False):
        pen.line([(start, 0), (stop, 0)], mix(deck, WHITE, 0.6))
    if pen.chance(0.35):
        for place in np.linspace(-0.36, 0.36, max(3, round(pen.pose.length / pen.pose.width))):
            pen.line([(place, -0.46), (place, 0.46)], shade(rail, 0.9), 0.08 * pen.pose.width)


def draw_harbor(pen: Pen) -> None:
    """Pier: plain when slender, else with fingers, a T head or two arms. The land end is at the back."""
    deck = pen.pick([(150, 158, 160), (120, 138, 150), (108, 112, 112), (176, 186, 190), (96, 116, 134)])
    height = 0.5 * min(pen.pose.width, 12.0)
    if pen.aspect < 0.16:
        parts = [((-0.5, 0.5), (-0.5, 0.5))]
    elif pen.aspect < 0.34:
        half = 0.07
        count = max(3, round(pen.pose.length / (0.42 * pen.pose.width)) + 1)
        breadth = 0.75 / pen.pose.length
        parts = [((place - 2 * breadth, place), (-0.5, 0.5)) for place in np.linspace(-0.44, 0.5, count)]
        parts.append(((-0.5, 0.5), (-half, half)))
    elif pen.chance(0.5):
        head = 0.35 * pen.aspect
        parts = [((-0.5, 0.5), (-0.16, 0.16)), ((0.5 - head, 0.5), (-0.5, 0.5))]
    else:
        arm = 0.2
        parts = [((-0.5, 0.5), (-0.5, -0.5 + arm)), ((-0.5, 0.42), (0.5 - arm, 0.5)), ((-0.5, -0.3), (-0.5, 0.5))]
    for f, r in parts:
        pen.rectangle(f, r, deck, height)
    (f0, f1), (r0, r1) = max(parts, key=lambda part: part[0][1] - part[0][0])
    for plank in np.linspace(f0, f1, max(2, round(pen.pose.length / 9)))[1:-1]:
        pen.line([(plank, r0 * 0.9 + r1 * 0.1), (plank, r0 * 0.1 + r1 * 0.9)], shade(deck, 0.9))


def draw_swimming_pool(pen: Pen) -> None:
    """Rectangle, kidney, oval or L of turquoise water with coping; lanes in the large ones."""
    water = pen.pick([(196, 172, 70), (188, 150, 50), (200, 190, 110), (170, 150, 84), (150, 120, 60)])
    coping = pen.pick([(206, 214, 216), (180, 190, 194), (150, 160, 170)])
    kind = pen.rng.random()
    if kind < 0.4:
        shape = np.array([(0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    elif kind < 0.6:
        shape = arc((0, 0), (0.5, 0.5), 0, 350, 28)
    elif kind < 0.8:
        turn = np.deg2rad(np.arange(0, 360, 11.0))
        radius = 0.4 + 0.1 * np.cos(2 * turn) + 0.07 * np.cos(3 * turn + pen.rng.uniform(0, 6))
        shape = _to_unit_box(np.stack((radius * np.cos(turn), 0.8 * radius * np.sin(turn)), axis=1))
    else:
        shape = np.array([(0.5, -0.5), (0.5, 0.5), (0.05, 0.5), (0.05, 0.1), (-0.5, 0.1), (-0.5, -0.5)])
    pen.polygon(shape, coping)
    inner = 1 - np.array([3.0 / pen.pose.length, 3.0 / pen.pose.width]).clip(0.05, 0.3)
    middle = shape.mean(axis=0)
    pool = middle + (shape - middle) * inner
    pen.polygon(pool, water)
    pen.polygon(middle + (shape - middle) * inner * 0.6, shade(water, float(pen.rng.uniform(0.86, 1.12))))
    if kind < 0.4 and pen.pose.width > 36:
        for lane in np.linspace(-0.5, 0.5, 8)[1:-1]:
            pen.line([(-0.45, lane * inner[1]), (0.45, lane * inner[1])], mix(water, WHITE, 0.5))


def _to_unit_box(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    unit: np.ndarray = (points - low) / (high - low) - 0.5
    return unit


def draw_baseball_diamond(pen: Pen) -> None:
    """Quarter circle of dirt about home plate, grass infield, mound and bases."""
    dirt = pen.pick([(92, 136, 176), (84, 116, 158), (116, 152, 178), (92, 120, 140)])
    grass = pen.pick([GRASS, (58, 92, 66), (70, 112, 96)])
    fan = np.concatenate(([(0.5, -0.5)], arc((0.5, -0.5), (1, 1), 90, 180, 24)))
    pen.polygon(fan, dirt)
    if pen.chance(0.75):
        pen.polygon([(0.4, -0.4), (0.4, 0.14), (-0.14, 0.14), (-0.14, -0.4)], grass)
        pen.disc(0.07, dirt)
    pen.polygon(arc((0.42, -0.42), (0.08, 0.08), 0, 345, 16), dirt)
    pen.line([(0.42, 0.45), (0.42, -0.42), (-0.45, -0.42)], mix(dirt, WHITE, 0.55))
    for base in ((0.4, 0.16), (-0.16, 0.16), (-0.16, -0.4)):
        pen.rectangle((base[0] - 0.016, base[0] + 0.016), (base[1] - 0.016, base[1] + 0.016), WHITE)


def draw_tennis_court(pen: Pen) -> None:
    """Outer lines, singles lines, service boxes and net."""
    floor = pen.pick([(150, 100, 60), (110, 96, 84), (96, 118, 78), (80, 96, 156), (112, 112, 106), (60, 110, 150)])
    paint_ = mix(floor, WHITE, float(pen.rng.uniform(0.5, 0.95)))
    pen.rectangle((-0.5, 0.5), (-0.5, 0.5), paint_)
    edge_f, edge_r = _line_width(pen)
    pen.rectangle((-0.5 + edge_f, 0.5 - edge_f), (-0.5 + edge_r, 0.5 - edge_r), floor)
    for side in (-0.375, 0.375):
        pen.line([(-0.49, side), (0.49, side)], paint_)
    for service in (-0.27, 0.27):
        pen.line([(service, -0.375), (service, 0.375)], paint_)
    pen.line([(-0.27, 0), (0.27, 0)], paint_)
    pen.line([(0, -0.49), (0, 0.49)], shade(floor, 0.6))


def draw_basketball_court(pen: Pen) -> None:
    """Outer lines, centre circle, keys and three-point arcs."""
    floor = pen.pick([(120, 116, 108), (90, 120, 84), (84, 104, 170), (150, 110, 70), (120, 150, 170), (108, 128, 112)])
    key = pen.pick([(70, 80, 170), (140, 96, 60), shade(floor, 0.8), (90, 130, 90)])
    paint_ = mix(floor, WHITE, float(pen.rng.uniform(0.5, 0.9)))
    pen.rectangle((-0.5, 0.5), (-0.5, 0.5), paint_)
    edge_f, edge_r = _line_width(pen)
    pen.rectangle((-0.5 + edge_f, 0.5 - edge_f), (-0.5 + edge_r, 0.5 - edge_r), floor)
    pen.line([(0, -0.48), (0, 0.48)], paint_)
    pen.line(arc((0, 0), (0.12 * pen.aspect, 0.12), 0, 360, 20), paint_)
    for end in (-1.0, 1.0):
        pen.rectangle((min(end * 0.29, end * 0.485), max(end * 0.29, end * 0.485)), (-0.16, 0.16), key)
        pen.line([(end * 0.485, -0.16), (end * 0.29, -0.16), (end * 0.29, 0.16), (end * 0.485, 0.16)], paint_)
        pen.line(arc((end * 0.29, 0), (0.11 * pen.aspect, 0.11), 0, 360, 16), paint_)
        three = arc((end * 0.44, 0), (0.43 * pen.aspect, 0.43), 90, 270, 16)
        pen.line((three - (end * 0.44, 0)) * (end, 1) + (end * 0.44, 0), paint_)


def _line_width(pen: Pen) -> tuple[float, float]:
    """One pixel and a quarter, in box lengths and box widths: the painted outer line of a court."""
    return 1.25 / pen.pose.length, 1.25 / pen.pose.width


def draw_ground_track_field(pen: Pen) -> None:
    """Oval running track: two straights, two half circles, lane lines, grass inside."""
    floor = pen.pick([(78, 92, 164), (70, 84, 146), (96, 118, 158), (140, 100, 76), (128, 132, 134)], [5, 4, 2, 1, 1])
    grass = pen.pick([GRASS, (66, 100, 78), (80, 120, 104), (86, 122, 128)])
    lanes = 0.125
    pen.polygon(_stadium(pen.aspect, 0.0), floor)
    paint_ = mix(floor, WHITE, 0.4)
    for inset in np.linspace(0.016, lanes, 5):
        path = _stadium(pen.aspect, float(inset))
        pen.line(path, paint_, closed=True)
    pen.polygon(_stadium(pen.aspect, lanes), grass)
    for end in (-1.0, 1.0):
        if pen.chance(0.5):
            bend = _stadium(pen.aspect, lanes + 0.02)
            pen.polygon(bend[bend[:, 0] * end > 0.5 - 0.5 * pen.aspect], floor)
    pen.line([(-0.05, 0.5 - lanes), (-0.05, 0.5)], WHITE)


def _stadium(aspect: float, inset: float) -> np.ndarray:
    """(N, 2) outline of a rectangle with half-circle ends, `inset` box widths inside the box."""
    radius = 0.5 - inset
    straight = 0.5 - 0.5 * aspect
    front = arc((straight, 0), (radius * aspect, radius), -90, 90, 24)
    return np.concatenate((front, -front))


def draw_soccer_field(pen: Pen) -> None:
    """Mown stripes, touch lines, centre circle and penalty areas."""
    grass = pen.pick([GRASS, (56, 96, 70), (84, 124, 100), (92, 132, 128)])
    paint_ = mix(grass, WHITE, float(pen.rng.uniform(0.35, 0.85)))
    stripes = int(pen.rng.integers(1, 13))
    contrast = float(pen.rng.uniform(1.0, 1.14))
    edges = np.linspace(-0.5, 0.5, stripes + 1)
    pen.rectangle((-0.5, 0.5), (-0.5, 0.5), grass)
    for number, (back, front) in enumerate(pairwise(edges)):
        if number % 2:
            pen.rectangle((back, front), (-0.5, 0.5), shade(grass, contrast))
    edge = (0.5 - 0.6 / pen.pose.length, 0.5 - 0.6 / pen.pose.width)
    pen.line([(-edge[0], -edge[1]), (edge[0], -edge[1]), (edge[0], edge[1]), (-edge[0], edge[1])], paint_, closed=True)
    pen.line([(0, -edge[1]), (0, edge[1])], paint_)
    pen.line(arc((0, 0), (0.135 * pen.aspect, 0.135), 0, 360, 28), paint_)
    for end in (-1.0, 1.0):
        for depth, half in ((0.157, 0.3), (0.052, 0.135)):
            inner = end * (0.5 - depth)
            pen.line([(end * edge[0], -half), (inner, -half), (inner, half), (end * edge[0], half)], paint_)
