"""Unlabelled scenery as drawings: buildings and trees."""

from __future__ import annotations

import numpy as np

from pipelines.scenes.pen import DARK, WHITE, Colour, Pen, shade


def draw_building(pen: Pen, height: float) -> None:
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


def draw_tree(pen: Pen, height: float) -> None:
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
