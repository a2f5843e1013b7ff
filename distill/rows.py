"""Chosen priors of a batch as rows: which they are, and what a head or a teacher says there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.grid import AnchorGrid

Maps = tuple[list[Tensor], list[Tensor]]
"""A head's raw class and box maps, one of each a level."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Chosen priors of a batch, one row each: level after level, and in a level image after image; M rows.

    How many there are is known to whoever chose them: a device is never asked for it.

    grid: the priors of the batch. sizes: (L, B) int64, rows of each level and image; (L, 1), of all images together,
    where nobody asks for an image's own. place: (5, M) int64: level, image, anchor, cell of the level, and flat index
    of `grid`.
    """

    grid: AnchorGrid
    sizes: np.ndarray
    place: Tensor

    @classmethod
    def of(cls, grid: AnchorGrid, prior_index: Sequence[np.ndarray]) -> Rows:
        """The rows of B images, each with its own (m,) sorted flat indices."""
        sizes = np.stack([grid.level_counts(index) for index in prior_index], axis=1)
        prior = stack_by_level(prior_index, sizes)
        level, image = (np.repeat(index, sizes.ravel()) for index in np.indices(sizes.shape).reshape(2, -1))
        cell, anchor = np.divmod(prior - grid.level_offsets[level], grid.anchors_per_cell)
        place = np.stack([level, image, anchor, cell, prior]).astype(np.int64)
        return cls(grid, sizes, torch.from_numpy(place))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Rows:
        """The same rows on another device."""
        return with_tensors(self, partial(Tensor.to, device=device, non_blocking=non_blocking))

    @property
    def num_images(self) -> int:
        return int(self.sizes.shape[1])

    @property
    def level_sizes(self) -> list[int]:
        """Rows of each level."""
        return self.sizes.sum(axis=1).tolist()

    @property
    def level(self) -> Tensor:
        return self.place[0]

    @property
    def image_index(self) -> Tensor:
        return self.place[1]

    @property
    def prior_index(self) -> Tensor:
        return self.place[4]

    def take(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, A * n, H, W) maps of every level -> (M, n) values at the rows, without a dense copy."""
        sizes = tuple(tuple(level.shape[-2:]) for level in maps)
        assert self.grid.feature_sizes == sizes, f"feature sizes {sizes}, the grid says {self.grid.feature_sizes}"
        parts = []
        for level, place in zip(maps, self.place.split(self.level_sizes, dim=1), strict=True):
            _, image, anchor, cell, _ = place
            parts.append(level.unflatten(1, (self.grid.anchors_per_cell, -1)).flatten(3)[image, anchor, :, cell])
        return torch.cat(parts)

    def sum_by_level(self, values: Tensor) -> Tensor:
        """(M,) values -> (L,) their sum on each level; on every device the same bits each time."""
        return torch.stack([part.sum() for part in values.split(self.level_sizes)])

    def by_image(self, values: Tensor) -> list[Tensor]:
        """(M, ...) values -> those of each image, in the order of its priors."""
        parts = values.split(self.sizes.ravel().tolist())
        return [torch.cat(parts[image :: self.num_images]) for image in range(self.num_images)]


def stack_by_level(values: Sequence[np.ndarray], sizes: np.ndarray) -> np.ndarray:
    """(n, ...) values of every image at its sorted priors -> (M, ...) in the order of `Rows` of these sizes."""
    ends = np.cumsum(sizes, axis=0)
    parts = zip(ends - sizes, ends, strict=True)
    return np.concatenate([part[start:end] for level in parts for part, start, end in zip(values, *level, strict=True)])


@dataclass(frozen=True, eq=False)
class Logits:
    """What a head predicts at chosen priors: cls_logits (M, C) and box_logits (M, D, K), both float32."""

    cls_logits: Tensor
    box_logits: Tensor


@dataclass(frozen=True, eq=False)
class Targets(Logits):
    """The teacher's answers at the region of a batch, and the region's weights (M,)."""

    rows: Rows
    weight: Tensor


def subtract_row_max(logits: Tensor) -> Tensor:
    """Shift each softmax row so that its largest logit is 0; the softmax is the same.

    A row of one logit is a number, and stays.
    """
    return logits if logits.shape[-1] == 1 else logits - logits.amax(dim=-1, keepdim=True)


@contextmanager
def in_float32(*maps: list[Tensor]) -> Iterator[Any]:
    """Maps of any precision as float32, and autocast off.

    Boxes are pixels: their squares overflow float16, and matrix products of the Gaussian losses would be cast.
    """
    with torch.autocast(maps[0][0].device.type, enabled=False):
        yield tuple([level.float() for level in of_kind] for of_kind in maps)


def with_tensors[Value](value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """A dataclass with every tensor in it changed, in dataclasses inside it, and tuples of such, as well."""
    changed: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if isinstance(inner, Tensor):
            changed[field.name] = change(inner)
        elif _holds_tensors(inner):
            changed[field.name] = with_tensors(inner, change)
        elif isinstance(inner, tuple) and all(map(_holds_tensors, inner)):
            changed[field.name] = tuple(with_tensors(one, change) for one in inner)
    return replace(value, **changed)  # type: ignore[type-var]


def _holds_tensors(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, AnchorGrid)
