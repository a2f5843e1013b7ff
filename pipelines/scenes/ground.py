"""Ground textures, lighting and sensor of the built-in scenes.

Every texture is one look-up of a noise field in a colour table, so that a whole material costs a few milliseconds.
All images are (H, W, 3) uint8 BGR.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.scenes.pen import Colour, shade

_LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Material:
    """A surface: its colours from dark to light, and how much of each noise field shows.

    broad, fine, ripple: weights of the noise fields, 0 to 1. spread: how far the brightness varies between scenes.
    """

    colours: tuple[Colour, ...]
    broad: float
    fine: float
    ripple: float = 0.0
    spread: float = 0.1


MATERIALS: dict[str, Material] = {
    "grass": Material(((46, 76, 58), (62, 104, 84), (84, 128, 112)), 0.6, 0.4),
    "dry grass": Material(((72, 104, 104), (98, 134, 138), (122, 156, 164)), 0.65, 0.45),
    "soil": Material(((84, 108, 126), (112, 138, 156), (138, 160, 176)), 0.6, 0.4),
    "forest": Material(((26, 44, 32), (40, 64, 48), (56, 88, 68)), 0.35, 0.9),
    "asphalt": Material(((88, 88, 86), (104, 104, 102), (116, 117, 116)), 0.5, 0.25, spread=0.18),
    "road": Material(((92, 92, 92), (104, 105, 105), (120, 121, 121)), 0.4, 0.2, spread=0.15),
    "concrete": Material(((148, 156, 160), (168, 178, 182), (186, 196, 200)), 0.6, 0.2, spread=0.14),
    "paving": Material(((142, 156, 166), (172, 186, 196)), 0.4, 0.35, spread=0.14),
    "court": Material(((84, 110, 86), (100, 126, 100)), 0.3, 0.15, spread=0.2),
    "water": Material(((58, 52, 26), (76, 70, 42), (94, 90, 58)), 0.45, 0.12, 0.45, spread=0.25),
    "river": Material(((74, 84, 64), (92, 106, 88), (108, 122, 106)), 0.5, 0.12, 0.4, spread=0.2),
}


class Ground:
    """The painted surface of one scene, and the noise that its materials share.

    image: (H, W, 3) uint8 BGR.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], base: str) -> None:
        width, height = size
        self._rng = rng
        self._shape = (height, width)
        self._fields = {
            "broad": _noise(rng, self._shape, 4, (48, 24, 12, 6, 3), (1.0, 0.8, 0.6, 0.4, 0.3)),
            "fine": _noise(rng, self._shape, 1, (5, 2), (1.0, 0.9)),
        }
        self._textures: dict[str, np.ndarray] = {}
        self.image = self.texture(base).copy()

    def texture(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 of a material over the whole scene; made once."""
        if name not in self._textures:
            material = MATERIALS[name]
            if material.ripple and "ripple" not in self._fields:
                self._fields["ripple"] = _ripples(self._rng, self._shape)
            level = cv2.addWeighted(self._fields["broad"], material.broad, self._fields["fine"], material.fine, 128.0)
            if material.ripple:
                level = cv2.addWeighted(level, 1.0, self._fields["ripple"], material.ripple, 0.0)
            level = np.clip(level, 0, 255).astype(np.uint8)
            self._textures[name] = cv2.applyColorMap(level, self._colour_table(material))
        return self._textures[name]

    def fill(self, points: np.ndarray, name: str) -> None:
        """Cover a polygon, (N, 2) px, with a material."""
        height, width = self._shape
        low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, (width, height))
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, (width, height))
        if (high <= low).any():
            return
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), dtype=np.uint8)
        cv2.fillPoly(mask, [np.round((points - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        blend_masked(self.image[window], self.texture(name)[window], mask)

    def unevenness(self) -> np.ndarray:
        """(H, W) float32 in grey levels: dirt and wear that lie on roofs and decks as on ground."""
        return cv2.addWeighted(self._fields["broad"], 0.1, self._fields["fine"], 0.07, 0.0)

    def _colour_table(self, material: Material) -> np.ndarray:
        """(256, 1, 3) uint8, dark to light, with this scene's brightness of the material."""
        tone = float(self._rng.uniform(1 - material.spread, 1 + material.spread))
        colours = np.array([shade(colour, tone) for colour in material.colours], dtype=np.float32)
        # The middle half of the noise spans all colours; its tails stay within the outer ones.
        place = np.linspace(70, 186, len(colours))
        table = np.stack([np.interp(_LEVELS, place, colours[:, channel]) for channel in range(3)], axis=1)
        return np.round(table).astype(np.uint8)[:, None]


def blend_masked(target: np.ndarray, source: np.ndarray, mask: np.ndarray) -> None:
    """Copy `source` over `target` where `mask` (uint8) is 255, mixed where it is between; in place."""
    rows, columns = np.nonzero(cv2.inRange(mask, 1, 254))
    cv2.copyTo(source, cv2.inRange(mask, 255, 255), target)
    share = mask[rows, columns, None].astype(np.float32) / 255
    mixed = target[rows, columns] * (1 - share) + source[rows, columns] * share
    target[rows, columns] = np.round(mixed).astype(np.uint8)


def apply_shadows(image: np.ndarray, mask: np.ndarray, depth: float) -> np.ndarray:
    """The image darkened where `mask` (uint8) is set; `depth` is the share of light lost. Shadows are bluish."""
    soft = cv2.GaussianBlur(mask, (3, 3), 0)
    tables = [_shadow_table(depth * loss) for loss in (0.86, 0.97, 1.0)]
    dark = cv2.LUT(image, np.stack(tables, axis=1)[None])
    shaded = image.copy()
    blend_masked(shaded, dark, soft)
    return shaded


def develop(image: np.ndarray, unevenness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the sensor makes of the scene: blur, noise, exposure, colour cast; grey on some.

    unevenness: (H, W) float32, grey levels added to everything.
    """
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.35, 0.85)))
    grey = rng.random() < 0.08
    contrast, brightness = float(rng.uniform(0.75, 1.15)), float(rng.uniform(-26, 16))
    cast = rng.uniform(0.94, 1.06, 3)
    noise = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(1.5, 5.0))
    # Neighbouring pixels share part of the noise, as after the resampling of real imagery.
    noise = cv2.GaussianBlur(noise, (3, 3), 0.6) + unevenness
    if grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        cast = np.ones(3)
    tables = [np.clip((_LEVELS - 118) * (contrast * gain) + 118 * gain + brightness, 0, 255) for gain in cast]
    exposed = cv2.LUT(image, np.round(np.stack(tables, axis=1)).astype(np.uint8)[None])
    return cv2.add(exposed, cv2.merge([noise] * 3), dtype=cv2.CV_8U)


def _shadow_table(loss: float) -> np.ndarray:
    return np.round(_LEVELS * (1 - loss)).astype(np.uint8)


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    step: int,
    cells: tuple[float, ...],
    weights: tuple[float, ...],
) -> np.ndarray:
    """(H, W) float32 smooth noise, mean 0, standard deviation 32; `cells`: its wavelengths in steps of `step` px."""
    height, width = (side // step + 2 for side in shape)
    total = np.zeros((height, width), dtype=np.float32)
    for cell, weight in zip(cells, weights, strict=True):
        grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32)
        total += np.float32(weight) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    total -= total.mean()
    total *= np.float32(32.0) / np.float32(max(float(total.std()), 1e-6))
    return total if (height, width) == shape else cv2.resize(total, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _ripples(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 wavelets about 0, longer along the crest than across."""
    height, width = shape
    across, along = float(rng.uniform(2.5, 6)), float(rng.uniform(9, 20))
    if rng.random() < 0.5:
        across, along = along, across
    grid = rng.standard_normal((int(height / across) + 2, int(width / along) + 2), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(38.0)
