"""Chosen priors of a batch as rows: which they are, and what a head or a teacher says there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from cache.grid import AnchorGrid

Maps = tuple[list[Tensor], list[Tensor]]
"""A head's raw class and box maps, one of each a level."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Chosen priors of a batch, one row each; M rows.

    grid: the priors of the batch. num_images: B.
    image_index: (M,) int64, position in the batch. prior_index: (M,) int64, flat index of `grid`.
    """

    grid: AnchorGrid
    num_images: int
    image_index: Tensor
    prior_index: Tensor

    @classmethod
    def of(cls, grid: AnchorGrid, prior_index: Sequence[Tensor]) -> Rows:
        """The rows of B images, each with its own (m,) priors, image after image."""
        counts = torch.tensor([len(index) for index in prior_index], device=prior_index[0].device)
        image_index = torch.repeat_interleave(torch.arange(len(prior_index), device=counts.device), counts)
        return cls(grid, len(prior_index), image_index, torch.cat(list(prior_index)))

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        return replace(self, image_index=self.image_index.to(device), prior_index=self.prior_index.to(device))

    @cached_property
    def level_offsets(self) -> Tensor:
        """(L + 1,) int64: `AnchorGrid.level_offsets` beside the rows."""
        return torch.from_numpy(self.grid.level_offsets).to(self.prior_index.device)

    @cached_property
    def level(self) -> Tensor:
        """(M,) int64: the level of each row."""
        return torch.searchsorted(self.level_offsets[1:], self.prior_index, right=True)

    def sum_by_level(self, values: Tensor) -> Tensor:
        """(M,) values -> (L,) their sum on each level."""
        return values.new_zeros(self.grid.num_levels).index_add(0, self.level, values)


@dataclass(frozen=True, eq=False)
class Logits:
    """What a head predicts at chosen priors: cls_logits (M, C) and box_logits (M, D, K), both float32."""

    cls_logits: Tensor
    box_logits: Tensor


@dataclass(frozen=True, eq=False)
class Targets(Logits):
    """The teacher's answers at the region of a batch, and the region's weights (M,); fields as a record's."""

    rows: Rows
    weight: Tensor


def subtract_row_max(logits: Tensor) -> Tensor:
    """Shift each softmax row so that its largest logit is 0; the softmax is the same.

    A row of one logit is a number, and stays.
    """
    return logits if logits.shape[-1] == 1 else logits - logits.amax(dim=-1, keepdim=True)
