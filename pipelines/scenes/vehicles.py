"""Planes, helicopters, ships and road vehicles as drawings that fill the box of their pen's pose."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipelines.scenes.pen import (
    CONTAINERS,
    DARK,
    GLASS,
    WHITE,
    Colour,
    Pen,
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
