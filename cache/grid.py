"""The grid of priors that a detection head predicts on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of an image of `height` x `width` pixels, in the head's flat order.

    A prior's flat index is level offset + (y * feature width + x) * A + anchor, with anchor = ratio-major,
    scale-minor (cache/FORMAT.md, "Words"): the order of `permute(0, 2, 3, 1).reshape(-1, C)` on the head's maps.
    Cell centres sit on multiples of the stride (centre offset 0).

    strides: pixels per cell, one per level; ratios: height / width; scales: anchor side in strides.
    """

    height: int
    width: int
    strides: tuple[int, ...]
    ratios: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def retina(
        cls,
        height: int,
        width: int,
        *,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        ratios: Sequence[float] = (1.0, 0.5, 2.0),
        octave_base_scale: float = 4,
        scales_per_octave: int = 3,
    ) -> AnchorGrid:
        """The grid of a RetinaNet head; the defaults are the published ones."""
        scales = tuple(octave_base_scale * 2 ** (step / scales_per_octave) for step in range(scales_per_octave))
        return cls(height, width, tuple(strides), tuple(ratios), scales)

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    @property
    def anchors_per_cell(self) -> int:
        return len(self.ratios) * len(self.scales)

    @cached_property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in cells of every level."""
        return tuple((math.ceil(self.height / s), math.ceil(self.width / s)) for s in self.strides)

    @cached_property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of priors of every level."""
        return tuple(height * width * self.anchors_per_cell for height, width in self.feature_sizes)

    @cached_property
    def level_offsets(self) -> np.ndarray:
        """(L + 1,) int64: flat index of each level's first prior, then the number of priors."""
        return np.concatenate([[0], np.cumsum(self.level_sizes)]).astype(np.int64)

    @property
    def num_priors(self) -> int:
        return int(self.level_offsets[-1])

    def shapes(self, level: int) -> np.ndarray:
        """(A, 2) float32 width and height in pixels of the anchors of one cell."""
        height_ratio = np.sqrt(np.asarray(self.ratios, dtype=np.float32))
        scales = np.asarray(self.scales, dtype=np.float32)
        stride = np.float32(self.strides[level])
        widths = (stride * (1 / height_ratio)[:, None] * scales[None, :]).ravel()
        heights = (stride * height_ratio[:, None] * scales[None, :]).ravel()
        return np.stack([widths, heights], axis=1)

    @cached_property
    def anchors(self) -> np.ndarray:
        """(P, 4) float32: cx, cy, w, h in pixels, in flat order."""
        levels = []
        for level, (height, width) in enumerate(self.feature_sizes):
            stride = self.strides[level]
            anchors = np.empty((height, width, self.anchors_per_cell, 4), dtype=np.float32)
            anchors[..., 0] = (np.arange(width, dtype=np.float32) * stride)[None, :, None]
            anchors[..., 1] = (np.arange(height, dtype=np.float32) * stride)[:, None, None]
            anchors[..., 2:] = self.shapes(level)
            levels.append(anchors.reshape(-1, 4))
        return np.concatenate(levels)

    def levels(self, prior_index: np.ndarray) -> np.ndarray:
        """(n,) int64: the level of each flat index."""
        return np.searchsorted(self.level_offsets[1:], prior_index, side="right").astype(np.int64)

    def priors_at(self, prior_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) anchors of flat indices, and (n,) int64 the strides of their levels."""
        return self.anchors[prior_index], np.asarray(self.strides, dtype=np.int64)[self.levels(prior_index)]

    def reindex(self, prior_index: Any, target: AnchorGrid) -> Any:
        """The same cells and anchors on a grid of another image size, as (n,) flat indices of that grid.

        An image padded to the size of a larger one keeps its priors; only their flat indices change.

        Args:
            prior_index: (n,) int64 array or tensor.
            target: a grid of the same strides, ratios and scales that is nowhere smaller.

        Raises:
            ValueError: the target is another kind of grid, or smaller.
        """
        if target == self:
            return prior_index
        same = (self.strides, self.ratios, self.scales) == (target.strides, target.ratios, target.scales)
        if not same or target.height < self.height or target.width < self.width:
            raise ValueError(f"priors of a grid {self} do not lie on {target}")
        result = prior_index
        for level in range(self.num_levels):
            start, stop = self.level_offsets[level : level + 2].tolist()
            per_row = self.feature_sizes[level][1] * self.anchors_per_cell
            target_per_row = target.feature_sizes[level][1] * target.anchors_per_cell
            local = prior_index - start
            moved = int(target.level_offsets[level]) + local // per_row * target_per_row + local % per_row
            is_here = (prior_index >= start) & (prior_index < stop)
            # Operations that arrays and tensors share.
            result = result + is_here * (moved - prior_index)
        return result

    def level_counts(self, prior_index: np.ndarray) -> np.ndarray:
        """(L,) int64: how many of the sorted flat indices lie on each level."""
        return np.diff(np.searchsorted(prior_index, self.level_offsets)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "width": self.width,
            "strides": list(self.strides),
            "ratios": list(self.ratios),
            "scales": list(self.scales),
        }


def grid_of(head: Mapping[str, Any], shape: Sequence[int] | np.ndarray) -> AnchorGrid | None:
    """The priors of a patch of this (height, width) in pixels, for the `head` section of a manifest.

    None where the head has no anchor grid.
    """
    grid = head.get("grid") or {}
    if not {"strides", "ratios", "scales"} <= set(grid):
        return None
    strides = tuple(int(stride) for stride in grid["strides"])
    return AnchorGrid(int(shape[0]), int(shape[1]), strides, tuple(grid["ratios"]), tuple(grid["scales"]))


def padded_shape(shape: Sequence[int], divisor: int) -> tuple[int, int]:
    """Height and width in pixels after padding to multiples of `divisor`, as a detector's preprocessor does."""
    height, width = (-(-int(side) // divisor) * divisor for side in shape[:2])
    return height, width
