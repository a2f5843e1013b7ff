"""The head adapter: all that plan, capture, store and distillation know of a detection head (docs/heads.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

from cache.grid import AnchorGrid
from distill.rows import Logits, Maps, Rows


def bin_values(ends: tuple[float, float], num_bins: int) -> Tensor:
    """(K,) values of evenly spaced bins."""
    return torch.linspace(*ends, num_bins)


def expected_value(logits: Tensor, values: Tensor, dim: int = -1) -> Tensor:
    """The mean of `values` under the softmax of logits whose bins lie on `dim`, which goes."""
    return (logits.softmax(dim=dim) * values).sum(dim=dim)


@dataclass(frozen=True, eq=False)
class HeadAdapter(ABC):
    """A dense head that predicts class logits and, for each box parameter, logits over bins; one value a head.

    Its maps are (B, A * C, H, W) and (B, A * D * K, H, W) a level, channels prior-major, then parameter, then bin. A
    prior's flat index is that of `AnchorGrid`: level, row, column, anchor.

    Attributes:
        kind: the head's name in the manifest.
        box_layer: name in the head of the layer that predicts the bins.
        box_parameters, bin_units: (D) names, and what one unit of each parameter's bins means.
        strides, ratios, scales: of the priors, as `AnchorGrid` takes them.
        num_classes, num_bins: C and K.
        bin_ranges: (D) values of each parameter's first and last bin; the others lie evenly between.
        conventions: what else teacher and student must share for their bins to mean the same.
        coder: the head's own box coder.
    """

    kind: ClassVar[str]
    box_layer: ClassVar[str]
    box_parameters: ClassVar[tuple[str, ...]]
    bin_units: ClassVar[tuple[str, ...]]

    strides: tuple[int, ...]
    ratios: tuple[float, ...]
    scales: tuple[float, ...]
    num_classes: int
    num_bins: int
    bin_ranges: tuple[tuple[float, float], ...]
    conventions: Mapping[str, Any]
    coder: Any

    @classmethod
    @abstractmethod
    def of(cls, head: Any) -> Self:
        """The adapter of a head."""

    @abstractmethod
    def decode(
        self, priors: Tensor, strides: Tensor, expected: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """Boxes in pixels, in the head's own form, of expected values (M, D) at priors (M, 4) cx, cy, w, h.

        `strides` (M,) are those of the priors' levels; boxes or their centres stay inside `max_shape`.
        """

    @abstractmethod
    def corners(self, boxes: Tensor) -> Tensor:
        """(M, 4, 2) corner points of boxes in the head's own form, in order around the box."""

    @abstractmethod
    def box_change(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far boxes have moved: (M,) largest change in pixels, (M,) turn in degrees, (M,) IoU of the two."""

    def plan_assignment(self, assigner: Any, gt_instances: Any, grid: AnchorGrid) -> tuple[Any, Any]:
        """The priors that an assigner does not call negative, and their objects, for heads that can train from them.

        Raises:
            ValueError: this head assigns in every training step.
        """
        raise ValueError(f"a {self.kind} head has no planned assignment. Set plan_assignment = False in the config")

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    @property
    def box_shape(self) -> tuple[int, int]:
        """(D, K)."""
        return len(self.box_parameters), self.num_bins

    def grid(self, height: int, width: int) -> AnchorGrid:
        """The priors of an input of `height` x `width` pixels, padding included."""
        return AnchorGrid(height, width, self.strides, self.ratios, self.scales)

    def grid_of_maps(self, cls_scores: list[Tensor]) -> AnchorGrid:
        """The grid that maps of these sizes cover."""
        height, width = cls_scores[0].shape[-2:]
        return self.grid(height * self.strides[0], width * self.strides[0])

    def gather(self, maps: Maps, rows: Rows) -> Logits:
        """Raw maps -> logits at chosen priors, in the order of `rows`, without a dense copy of the maps."""
        cls_logits, box_logits = (rows.take(of_kind).float() for of_kind in maps)
        return Logits(cls_logits, box_logits.unflatten(1, self.box_shape))

    def expected(self, box_logits: Tensor) -> Tensor:
        """(M, D, K) logits -> (M, D) expected values of the bins, in `bin_units`."""
        bins = torch.stack([bin_values(ends, self.num_bins) for ends in self.bin_ranges])
        return expected_value(box_logits, bins.to(box_logits.device))

    def expected_boxes(
        self, grid: AnchorGrid, prior_index: np.ndarray, box_logits: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """Boxes of box logits (M, D, K) at the priors `prior_index` (M,) of a grid."""
        return self.boxes_at(*grid.priors_at(prior_index), box_logits, max_shape)

    def boxes_at(
        self, priors: np.ndarray, strides: np.ndarray, box_logits: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """Boxes of box logits (M, D, K) at priors (M, 4) of levels of these strides (M,)."""
        device = box_logits.device
        placed = torch.from_numpy(priors).to(device), torch.from_numpy(strides).to(device)
        return self.decode(*placed, self.expected(box_logits), max_shape)

    def describe(self) -> dict[str, Any]:
        """The head's geometry as the manifest states it; classes are the data's."""
        return {
            "kind": self.kind,
            "grid": {"strides": list(self.strides), "ratios": list(self.ratios), "scales": list(self.scales)},
            "box_parameters": list(self.box_parameters),
            "num_bins": self.num_bins,
            "bin_ranges": [list(ends) for ends in self.bin_ranges],
            "bin_units": list(self.bin_units),
            **self.conventions,
        }


class HorizontalAdapter(HeadAdapter):
    """A head whose boxes are x1, y1, x2, y2 in pixels."""

    def corners(self, boxes: Tensor) -> Tensor:
        left, top, right, bottom = boxes.unbind(dim=-1)
        return torch.stack([left, top, right, top, right, bottom, left, bottom], dim=-1).unflatten(-1, (4, 2))

    def box_change(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = (after - before).abs().amax(dim=1)
        return pixels, torch.zeros_like(pixels), bbox_overlaps(before, after, is_aligned=True)


_ADAPTERS: dict[type[nn.Module], type[HeadAdapter]] = {}


def adapts[Adapter: type[HeadAdapter]](head_class: type[nn.Module]) -> Callable[[Adapter], Adapter]:
    """Class decorator: this adapter serves heads of `head_class` and of classes derived from it."""

    def register(adapter_class: Adapter) -> Adapter:
        _ADAPTERS[head_class] = adapter_class
        return adapter_class

    return register


def adapter_of(head: nn.Module | None) -> HeadAdapter:
    """The adapter of a head.

    Raises:
        ValueError: no adapter knows heads of this class.
    """
    for head_class in type(head).__mro__:
        if head_class in _ADAPTERS:
            return _ADAPTERS[head_class].of(head)
    known = ", ".join(sorted(head_class.__name__ for head_class in _ADAPTERS))
    raise ValueError(
        f"bbox_head is {type(head).__name__}, which predicts no distributions that a cache knows; one of {known} is "
        "needed, or an adapter for it (docs/heads.md): LD compares distributions over bins. A teacher with bins may "
        "start from the weights of one without (load_from, docs/your-own.md)"
    )


def anchor_fields(head: Any) -> dict[str, Any]:
    """The fields of an adapter that an anchor generator of mmdet's kind and the head's coder tell.

    Raises:
        ValueError: priors that `AnchorGrid` cannot describe: strides that differ in x and y, or shifted centres.
    """
    generator = head.prior_generator
    offset = getattr(generator, "center_offset", 0)
    if offset or any(along_x != along_y for along_x, along_y in generator.strides):
        raise ValueError(
            f"bbox_head.anchor_generator has strides {generator.strides} and center_offset {offset}; square strides "
            "and 0 are needed"
        )
    return {
        "strides": tuple(int(stride[0]) for stride in generator.strides),
        "ratios": tuple(float(ratio) for ratio in generator.ratios),
        "scales": tuple(float(scale) for scale in generator.scales),
        "num_classes": int(head.cls_out_channels),
        "coder": head.bbox_coder,
    }
