"""What a scene needs to know about each of the fifteen DOTA classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.scenes.pen import Pen, Pose, Stroke
from pipelines.scenes.structures import (
    draw_baseball_diamond,
    draw_basketball_court,
    draw_bridge,
    draw_ground_track_field,
    draw_harbor,
    draw_roundabout,
    draw_soccer_field,
    draw_storage_tank,
    draw_swimming_pool,
    draw_tennis_court,
)
from pipelines.scenes.vehicles import draw_helicopter, draw_large_vehicle, draw_plane, draw_ship, draw_small_vehicle


@dataclass(frozen=True)
class ObjectKind:
    """What a scene needs to know about a class.

    draw: fills the box. aspect: width / length, least and most. longer_side: px at scale 1, least and most. ground:
    the surface it stands on. is_round: the box has no direction. is_flat: shadows of other things fall on it.
    """

    draw: Callable[[Pen], None]
    aspect: tuple[float, float]
    longer_side: tuple[float, float]
    ground: str
    is_round: bool = False
    is_flat: bool = False


KINDS: dict[str, ObjectKind] = {
    "plane": ObjectKind(draw_plane, (0.84, 1.03), (56, 104), "concrete"),
    "baseball-diamond": ObjectKind(draw_baseball_diamond, (0.97, 1.03), (56, 104), "grass", is_flat=True),
    "bridge": ObjectKind(draw_bridge, (0.16, 0.4), (64, 104), "water"),
    "ground-track-field": ObjectKind(draw_ground_track_field, (0.48, 0.56), (80, 104), "grass", is_flat=True),
    "small-vehicle": ObjectKind(draw_small_vehicle, (0.4, 0.48), (32, 44), "asphalt"),
    "large-vehicle": ObjectKind(draw_large_vehicle, (0.16, 0.3), (56, 96), "asphalt"),
    "ship": ObjectKind(draw_ship, (0.25, 0.36), (40, 96), "water"),
    "tennis-court": ObjectKind(draw_tennis_court, (0.45, 0.5), (56, 96), "court", is_flat=True),
    "basketball-court": ObjectKind(draw_basketball_court, (0.52, 0.58), (56, 96), "court", is_flat=True),
    "storage-tank": ObjectKind(draw_storage_tank, (1.0, 1.0), (34, 72), "soil", is_round=True),
    "soccer-ball-field": ObjectKind(draw_soccer_field, (0.6, 0.7), (72, 104), "grass", is_flat=True),
    "roundabout": ObjectKind(draw_roundabout, (1.0, 1.0), (60, 104), "asphalt", is_round=True, is_flat=True),
    "harbor": ObjectKind(draw_harbor, (0.1, 0.5), (64, 104), "water"),
    "swimming-pool": ObjectKind(draw_swimming_pool, (0.5, 0.8), (36, 72), "paving", is_flat=True),
    "helicopter": ObjectKind(draw_helicopter, (0.74, 0.86), (44, 88), "concrete"),
}


def draw_object(name: str, pose: Pose, rng: np.random.Generator, sun: np.ndarray) -> list[Stroke]:
    """The strokes of one object of class `name` that fills `pose`'s box."""
    pen = Pen(pose, rng, sun)
    KINDS[name].draw(pen)
    return pen.strokes
