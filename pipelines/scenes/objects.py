"""The fifteen DOTA classes as drawings, and what the layouts need to know about each.

Every `draw_*` fills the box of its pen's pose, so that the label is tight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.scenes.pen import (
    ASPHALT,
    CONCRETE,
    CONTAINERS,
    DARK,
    GLASS,
    GRASS,
    WHITE,
    Colour,
    Pen,
    Pose,
    Stroke,
    arc,
    mirrored,
    mix,
    shade,
)


def draw_plane(pen: Pen) -> None:
    """Airliner, propeller aircraft (wider than long) or fighter (narrow)."""
    span = pen.pose.width
    body = pen.pick([WHITE, (205, 208, 208), (176, 178, 176), (140, 146, 146)], [6, 3, 2, 1])
    trim = pen.pick([body, (60, 60, 190), (150, 80, 40), (40, 120, 200), (80, 110, 60)], [3, 2, 2, 1, 1])
    if pen.aspect > 1.06:
        _draw_propeller_plane(pen, body, trim)
        return
    if pen.aspect < 0.78:
        _draw_fighter(pen, pen.pick([(150, 150, 146), (122, 126, 126), (108, 122, 124), (176, 176, 172)]))
        return
    sweep = float(pen.rng.uniform(0.16, 0.26))
    root = float(pen.rng.uniform(0.08, 0.16))
    hull = float(pen.rng.uniform(0.05, 0.062)) / max(pen.aspect, 0.5)
    lift = 0.09 * span
    for side in (-1.0, 1.0):
        tone = shade(body, 1.0 if side == pen.sunny_side else 0.93)
        wing = np.array([(root, 0.02), (root - sweep, 0.5), (root - sweep - 0.06, 0.5), (root - 0.21, 0.02)]) * (
            1,
            side,
        )
        pen.polygon(wing, tone, lift, floats=True)
        pen.line(wing[2:] + np.array((0.012, 0)), shade(tone, 0.8))
        tail = np.array([(-0.36, 0.01), (-0.455, 0.2), (-0.5, 0.2), (-0.475, 0.01)]) * (1, side)
        pen.polygon(tail, tone, lift, floats=True)
        for place in (0.17, 0.32)[: 2 if pen.aspect > 0.97 and span > 60 else 1]:
            front = root - sweep * place + 0.055
            pen.rectangle((front - 0.085, front), (side * place - 0.021, side * place + 0.021), shade(body, 0.72))
            pen.rectangle((front - 0.014, front), (side * place - 0.021, side * place + 0.021), DARK)
    outline = mirrored(
        [
            (0.5, 0.003),
            (0.485, hull * 0.5),
            (0.44, hull * 0.9),
            (0.38, hull),
            (-0.25, hull),
            (-0.4, hull * 0.6),
            (-0.5, hull * 0.2),
        ]
    )
    pen.polygon(outline, body, lift * 0.8, floats=True)
    lit = np.array([(0.46, 0.1), (0.38, 0.25), (-0.3, 0.25), (-0.45, 0.08), (-0.3, 0.75), (0.38, 0.75), (0.44, 0.5)])
    pen.polygon(lit * (1, -pen.sunny_side * hull), shade(body, 0.84))
    pen.polygon(mirrored([(0.475, hull * 0.25), (0.455, hull * 0.6), (0.445, hull * 0.6)]), GLASS)
    pen.polygon(mirrored([(-0.28, hull * 0.7), (-0.4, hull * 0.6), (-0.5, hull * 0.2)]), trim)
    pen.line([(-0.36, 0), (-0.495, 0)], shade(trim, 0.75), 0.012 * span)


def _draw_propeller_plane(pen: Pen, body: Colour, trim: Colour) -> None:
    lift = 0.1 * pen.pose.width
    chord = float(pen.rng.uniform(0.15, 0.2))
    taper = float(pen.rng.uniform(0.0, 0.05))
    pen.polygon(mirrored([(-0.34, 0.19), (-0.5, 0.19)]), body, lift, floats=True)
    wing = mirrored([(0.24, 0.0), (0.24 - taper, 0.5), (0.24 - chord + taper, 0.5), (0.22 - chord, 0.0)])
    pen.polygon(wing, body, lift, floats=True)
    pen.line(np.array([(0.25 - chord, -0.45), (0.25 - chord, 0.45)]), shade(body, 0.8))
    if pen.chance(0.3):
        for side in (-0.17, 0.17):
            pen.rectangle((0.08, 0.36), (side - 0.025, side + 0.025), shade(body, 0.8))
            pen.line([(0.36, side - 0.07), (0.36, side + 0.07)], DARK)
    pen.line([(0.485, -0.1), (0.485, 0.1)], DARK)
    pen.polygon(
        mirrored([(0.5, 0.015), (0.44, 0.045), (0.1, 0.055), (-0.5, 0.012)]), mix(body, trim, 0.25), lift, floats=True
    )
    pen.polygon(mirrored([(0.26, 0.035), (0.14, 0.045), (0.08, 0.03)]), GLASS)
    pen.line([(-0.05, 0), (-0.49, 0)], trim, 0.015 * pen.pose.width)


def _draw_fighter(pen: Pen, body: Colour) -> None:
    lift = 0.06 * pen.pose.length
    pen.polygon(mirrored([(0.16, 0.05), (-0.24, 0.5), (-0.34, 0.5), (-0.36, 0.05)]), body, lift, floats=True)
    pen.polygon(
        mirrored([(-0.3, 0.06), (-0.43, 0.3), (-0.5, 0.3), (-0.46, 0.06)]), shade(body, 0.94), lift, floats=True
    )
    pen.polygon(
        mirrored([(0.5, 0.004), (0.36, 0.045), (0.1, 0.085), (-0.47, 0.08)]), shade(body, 1.06), lift, floats=True
    )
    pen.polygon(mirrored([(0.36, 0.012), (0.3, 0.035), (0.2, 0.02)]), GLASS)
    for side in (-0.09, 0.09):
        pen.line([(-0.28, side), (-0.46, side)], shade(body, 0.62), 0.02 * pen.pose.width)


def draw_ship(pen: Pen) -> None:
    """Motor or sailing yacht; cargo ship or barge when slender."""
    if pen.aspect < 0.24:
        _draw_cargo_ship(pen)
        return
    hull = pen.pick(
        [WHITE, (214, 216, 214), (120, 70, 40), (70, 62, 56), (70, 70, 160), (120, 150, 150)], [7, 3, 1, 1, 0.7, 1]
    )
    deck = pen.pick([(222, 226, 228), (190, 204, 212), (140, 170, 196), (176, 176, 172)])
    outline = np.array([(0.5, 0.02), (0.42, 0.2), (0.31, 0.35), (0.16, 0.46), (-0.02, 0.5), (-0.3, 0.49), (-0.5, 0.4)])
    pen.polygon(mirrored(outline), hull, 0.2 * pen.pose.width)
    pen.polygon(mirrored(outline * (0.9, 0.74)), deck)
    if pen.chance(0.3):
        cloth = pen.pick([(130, 80, 40), WHITE, (70, 120, 70), (60, 60, 150)])
        pen.polygon(mirrored([(0.2, 0.12), (0.12, 0.2), (-0.18, 0.22)]), shade(deck, 0.86))
        pen.line([(0.12, 0), (-0.34, 0)], cloth, 0.14 * pen.pose.width)
        pen.disc(0.05, shade(DARK, 1.6), 0.8 * pen.pose.length)
        return
    roof = pen.pick([WHITE, (205, 206, 204), (150, 110, 80), (120, 120, 116)], [5, 2, 1, 1])
    pen.polygon(mirrored([(0.2, 0.1), (0.12, 0.27), (-0.2, 0.31)]), GLASS, 0.3 * pen.pose.width)
    pen.polygon(mirrored([(0.07, 0.16), (0.02, 0.24), (-0.17, 0.27)]), roof)
    pen.rectangle((-0.46, -0.26), (-0.28, 0.28), pen.pick([(120, 150, 176), (190, 194, 196), (110, 84, 60), DARK]))


def _draw_cargo_ship(pen: Pen) -> None:
    hull = pen.pick([(60, 60, 130), (60, 52, 46), (120, 84, 56), (110, 112, 110), (70, 96, 66)])
    deck = pen.pick([(100, 110, 150), (120, 126, 126), (92, 116, 92), (146, 146, 140)])
    bow = [(0.5, 0.34)] if pen.chance(0.3) else [(0.5, 0.02), (0.47, 0.22), (0.42, 0.4), (0.35, 0.49)]
    outline = np.array([*bow, (0.3, 0.5), (-0.44, 0.5), (-0.5, 0.36)])
    pen.polygon(mirrored(outline), hull, 0.35 * pen.pose.width)
    pen.polygon(mirrored(outline * (0.975, 0.84)), deck)
    bays = int(np.clip(pen.pose.length / (1.1 * pen.pose.width), 3, 8))
    edges = np.linspace(-0.26, 0.33, bays + 1)
    containers = pen.chance(0.5)
    for back, front in pairwise(edges):
        if not containers:
            pen.rectangle((back + 0.012, front - 0.012), (-0.3, 0.3), shade(deck, 1.22))
            continue
        for row in np.linspace(-0.36, 0.18, 4):
            pen.rectangle((back + 0.008, front - 0.008), (row, row + 0.17), pen.pick(CONTAINERS))
    pen.rectangle((-0.44, -0.31), (-0.4, 0.4), WHITE, 0.5 * pen.pose.width)
    pen.rectangle((-0.42, -0.39), (-0.12, 0.12), shade(hull, 1.3))


def draw_small_vehicle(pen: Pen) -> None:
    """Car, pick-up or van."""
    body = pen.pick(
        [
            WHITE,
            (186, 188, 188),
            (52, 48, 46),
            (112, 112, 110),
            (44, 40, 150),
            (130, 80, 44),
            (96, 128, 140),
            (80, 96, 70),
        ],
        [5, 4, 4, 3, 1.4, 1.4, 0.8, 0.5],
    )
    outline = mirrored([(0.5, 0.3), (0.44, 0.46), (0.3, 0.5), (-0.42, 0.5), (-0.5, 0.38)])
    pen.polygon(outline, body, 0.5 * pen.pose.width)
    kind = pen.rng.random()
    if kind < 0.15:
        pen.polygon(mirrored([(0.38, 0.34), (0.28, 0.4)]), GLASS)
        pen.rectangle((-0.45, 0.24), (-0.4, 0.4), shade(body, 1.07))
        return
    pen.polygon(mirrored([(0.27, 0.36), (0.13, 0.4), (-0.3, 0.4), (-0.38, 0.32)]), mix(GLASS, body, 0.15))
    if kind < 0.3:
        pen.rectangle((-0.06, 0.13), (-0.36, 0.36), shade(body, 1.07))
        pen.rectangle((-0.46, -0.1), (-0.38, 0.38), shade(body, 0.6))
        return
    pen.rectangle((-0.25, 0.12), (-0.34, 0.34), shade(body, 1.08))


def draw_large_vehicle(pen: Pen) -> None:
    """Bus, lorry with trailer, or box van."""
    if pen.chance(0.35):
        _draw_bus(pen)
        return
    cab = pen.pick([WHITE, (150, 90, 50), (50, 50, 160), (100, 100, 100), (60, 120, 160)], [5, 2, 2, 2, 1])
    load = pen.pick(
        [WHITE, (196, 198, 198), (128, 130, 128), (150, 110, 70), (70, 80, 140), (84, 112, 84)], [6, 4, 2, 1, 1, 1]
    )
    gap = float(np.clip(0.5 - 0.85 * pen.aspect, 0.0, 0.4))
    pen.rectangle((gap - 0.08, gap + 0.05), (-0.3, 0.3), DARK, 0.5 * pen.pose.width)
    pen.polygon(mirrored([(0.5, 0.4), (0.47, 0.48), (gap + 0.03, 0.48)]), cab, 0.9 * pen.pose.width)
    pen.rectangle((0.44, 0.475), (-0.4, 0.4), GLASS)
    pen.rectangle((-0.5, gap - 0.015), (-0.5, 0.5), load, 1.1 * pen.pose.width)
    pen.rectangle((-0.5, gap - 0.015), (0.3 * pen.sunny_side, 0.5 * pen.sunny_side), shade(load, 1.08))
    for place in np.linspace(-0.4, gap - 0.12, int(pen.rng.integers(0, 5))):
        pen.line([(place, -0.44), (place, 0.44)], shade(load, 0.86))


def _draw_bus(pen: Pen) -> None:
    body = pen.pick([(60, 180, 228), WHITE, (70, 70, 170), (150, 110, 70), (90, 140, 90)], [4, 5, 1.5, 1.5, 1])
    pen.polygon(mirrored([(0.5, 0.4), (0.47, 0.5), (-0.5, 0.5)]), body, 1.0 * pen.pose.width)
    pen.rectangle((0.44, 0.48), (-0.42, 0.42), GLASS)
    pen.rectangle((-0.46, 0.4), (-0.34, 0.34), shade(body, 1.1))
    for place in np.linspace(-0.3, 0.25, int(pen.rng.integers(2, 4))):
        pen.rectangle((place - 0.03, place + 0.03), (-0.16, 0.16), shade(body, 0.75))


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
        pen.rectangle(tuple(sorted((end * 0.29, end * 0.485))), (-0.16, 0.16), key)
        pen.line([(end * 0.485, -0.16), (end * 0.29, -0.16), (end * 0.29, 0.16), (end * 0.485, 0.16)], paint_)
        pen.line(arc((end * 0.29, 0), (0.11 * pen.aspect, 0.11), 0, 360, 16), paint_)
        three = arc((end * 0.44, 0), (0.43 * pen.aspect, 0.43), 90, 270, 16)
        pen.line((three - (end * 0.44, 0)) * (end, 1) + (end * 0.44, 0), paint_)


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


def finger_places(length: float, width: float) -> np.ndarray:
    """Where a pier's fingers stand, forward in box lengths; moored ships go between them."""
    count = max(3, round(length / (0.42 * width)) + 1)
    return np.linspace(-0.44, 0.5, count)


def draw_harbor(pen: Pen) -> None:
    """Pier: plain when slender, else with fingers, a T head or two arms. The land end is at the back."""
    deck = pen.pick([(150, 158, 160), (120, 138, 150), (108, 112, 112), (176, 186, 190), (96, 116, 134)])
    height = 0.5 * min(pen.pose.width, 12.0)
    if pen.aspect < 0.16:
        parts = [((-0.5, 0.5), (-0.5, 0.5))]
    elif pen.aspect < 0.34:
        half = 0.07
        fingers = finger_places(pen.pose.length, pen.pose.width)
        breadth = 0.75 / pen.pose.length
        parts = [((place - 2 * breadth, place), (-0.5, 0.5)) for place in fingers]
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


def draw_helicopter(pen: Pen) -> None:
    """Cabin, tail boom, tail rotor, crossed main rotor."""
    body = pen.pick(
        [(70, 84, 80), (190, 194, 194), (60, 60, 160), (150, 100, 60), (60, 150, 190), (60, 58, 56)],
        [3, 3, 1.5, 1.5, 1, 1.5],
    )
    lift = 0.12 * pen.pose.length
    hub = 0.5 - 0.5 * pen.aspect
    pen.polygon(mirrored([(-0.02, 0.05), (-0.48, 0.025)]), shade(body, 0.92), lift, floats=True)
    pen.rectangle((-0.42, -0.36), (-0.15, 0.15), shade(body, 0.85))
    pen.polygon(mirrored([(-0.4, 0.02), (-0.5, 0.06)]), body, lift, floats=True)
    pen.polygon(arc((hub - 0.02, 0), (0.215, 0.13), 0, 345, 20), body, lift, floats=True)
    pen.polygon(mirrored([(hub + 0.17, 0.05), (hub + 0.11, 0.1), (hub + 0.06, 0.09)]), GLASS)
    pen.polygon(arc((hub - 0.03, 0), (0.08, 0.05), 0, 330, 10), shade(body, 0.75))
    blade = mix(DARK, body, 0.25) if pen.chance(0.6) else (190, 192, 192)
    first = 45.0 if pen.chance(0.5) else 0.0
    # The rotor touches the box at its tips: a cross on the axes needs no scaling, a diagonal one does.
    reach = 0.5 if first == 0.0 else 0.5 * np.sqrt(2.0)
    thick = max(0.014, 0.55 / pen.pose.width)
    for turn in (first, first + 90):
        sweep, drift = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        along, across = np.array([sweep, drift]), np.array([-drift, sweep]) * thick
        tip = along * (reach - thick * (first > 0))
        span = np.array([tip + across, tip - across, -tip - across, -tip + across]) * (pen.aspect, 1) + (hub, 0)
        pen.polygon(span, blade, lift * 1.2, floats=True)
    pen.polygon(arc((hub, 0), (0.03, 0.03 / pen.aspect), 0, 330, 10), DARK)


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
    return (points - low) / (high - low) - 0.5


def _line_width(pen: Pen) -> tuple[float, float]:
    """One pixel and a quarter, in box lengths and box widths: the painted outer line of a court."""
    return 1.25 / pen.pose.length, 1.25 / pen.pose.width


@dataclass(frozen=True)
class ObjectKind:
    """What the layouts need to know about a class.

    draw: fills the box. length: m, shortest and longest. aspect: width / length, least and most. compact: px at
    scale 1 of the longer side in small scenes. ground: the surface it stands on. is_round: the box has no direction.
    """

    draw: Callable[[Pen], None]
    length: tuple[float, float]
    aspect: tuple[float, float]
    compact: tuple[float, float]
    ground: str
    is_round: bool = False


KINDS: dict[str, ObjectKind] = {
    "plane": ObjectKind(draw_plane, (26, 48), (0.84, 1.03), (56, 104), "concrete"),
    "baseball-diamond": ObjectKind(draw_baseball_diamond, (26, 40), (0.97, 1.03), (56, 104), "grass"),
    "bridge": ObjectKind(draw_bridge, (30, 70), (0.16, 0.4), (64, 104), "water"),
    "ground-track-field": ObjectKind(draw_ground_track_field, (130, 176), (0.48, 0.56), (80, 104), "grass"),
    "small-vehicle": ObjectKind(draw_small_vehicle, (4.1, 5.4), (0.4, 0.48), (32, 44), "asphalt"),
    "large-vehicle": ObjectKind(draw_large_vehicle, (8.5, 17.5), (0.16, 0.3), (56, 96), "asphalt"),
    "ship": ObjectKind(draw_ship, (8, 20), (0.25, 0.36), (40, 96), "water"),
    "tennis-court": ObjectKind(draw_tennis_court, (23, 25), (0.45, 0.5), (56, 96), "court"),
    "basketball-court": ObjectKind(draw_basketball_court, (25, 29), (0.52, 0.58), (56, 96), "court"),
    "storage-tank": ObjectKind(draw_storage_tank, (9, 30), (1.0, 1.0), (34, 72), "soil", is_round=True),
    "soccer-ball-field": ObjectKind(draw_soccer_field, (85, 105), (0.6, 0.7), (72, 104), "grass"),
    "roundabout": ObjectKind(draw_roundabout, (24, 44), (1.0, 1.0), (60, 104), "asphalt", is_round=True),
    "harbor": ObjectKind(draw_harbor, (35, 90), (0.1, 0.5), (64, 104), "water"),
    "swimming-pool": ObjectKind(draw_swimming_pool, (7, 12), (0.5, 0.8), (36, 72), "paving"),
    "helicopter": ObjectKind(draw_helicopter, (12, 19), (0.74, 0.86), (44, 88), "concrete"),
}


def draw_object(name: str, pose: Pose, rng: np.random.Generator, sun: np.ndarray) -> list[Stroke]:
    """The strokes of one object of class `name` that fills `pose`'s box."""
    pen = Pen(pose, rng, sun)
    KINDS[name].draw(pen)
    return pen.strokes
