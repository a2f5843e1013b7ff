"""What a loader adds to the images of a batch: the region's rows, the teacher's answers there, the planned assignment.

All of it depends on labels, priors and stored records alone, so it is computed where the images are loaded. A training
step then knows how many rows of each kind there are without asking its device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from cache.cells import CellCodec
from cache.codec import LOGIT_FIELDS, Codec
from cache.grid import AnchorGrid
from cache.reader import CodedRecord
from distill.rows import Logits, Rows, stack_by_level, with_tensors


@dataclass(frozen=True)
class ViewTargets:
    """What a loader adds to one view; n rows.

    grid: the view's priors, padding included. prior_index, weight: (n,) its region, as a record's. record: the
    teacher's answers there; None where the teacher is live. assigned: the planned assignment, as a record's; None where
    the student assigns by itself.
    """

    grid: AnchorGrid
    prior_index: np.ndarray
    weight: np.ndarray
    record: CodedRecord | None = None
    assigned: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """The teacher's answers as loaders ship them, in the order of a batch's M rows: as they are stored.

    cls_logits: (M, C) and box_logits: (M, sum of bins), floats; None where cells are stored.
    coefficients: (J, n) int8 codes of n cells; cell_row: (M,) int64 row of each prior among the n x A of the decoded
    cells; None where rows are.
    """

    cls_logits: Tensor | None = None
    box_logits: Tensor | None = None
    coefficients: Tensor | None = None
    cell_row: Tensor | None = None

    @classmethod
    def of(cls, records: Sequence[CodedRecord], sizes: np.ndarray, priors: int) -> Answers:
        """In a loader: those of a batch, for rows of these sizes; `priors`: A."""

        def in_order(values: Sequence[np.ndarray]) -> Tensor:
            return torch.from_numpy(stack_by_level(values, sizes))

        codes = [one.coefficients for one in records if one.coefficients is not None]
        if not codes:
            return cls(*(in_order([getattr(one, name) for one in records]) for name in LOGIT_FIELDS))
        cells = np.cumsum([0, *(one.shape[1] for one in codes)])
        rows = [one.cell_row + priors * start for one, start in zip(records, cells, strict=False)]
        return cls(coefficients=torch.from_numpy(np.concatenate(codes, axis=1)), cell_row=in_order(rows))


class TargetDecoder(nn.Module):
    """Logits of what loaders ship, on the device that it is on: of cells by one product.

    Args:
        box_shape: of a prior's box logits, (D, K).
        codec: of the cache.
    """

    basis: Tensor
    offset: Tensor

    def __init__(self, box_shape: tuple[int, ...], codec: Codec) -> None:
        super().__init__()
        self.box_shape = box_shape
        self.classes = 0
        if isinstance(codec, CellCodec):
            self.classes = codec.head.classes
            # In no checkpoint: they are the cache's.
            self.register_buffer("basis", torch.from_numpy(np.float32(codec.step) * codec.basis), persistent=False)
            self.register_buffer("offset", torch.from_numpy(codec.offset), persistent=False)

    def forward(self, answers: Answers) -> Logits:
        """Class logits (M, C) and box logits (M, D, K), float32; rows of bins are shifted as the codec leaves them."""
        if answers.coefficients is None:
            assert answers.cls_logits is not None
            assert answers.box_logits is not None
            return Logits(answers.cls_logits.float(), answers.box_logits.float().unflatten(1, self.box_shape))
        assert answers.cell_row is not None
        if not self.classes:
            raise ValueError("the cache holds cells, whose basis the student was not given. Train with make distill")
        with torch.autocast(self.basis.device.type, enabled=False):
            cells = answers.coefficients.T.float() @ self.basis + self.offset
        values = self.classes + math.prod(self.box_shape)
        logits = cells.view(-1, values)[answers.cell_row]
        cls_logits, box_logits = logits.split([self.classes, values - self.classes], dim=1)
        return Logits(cls_logits, box_logits.unflatten(1, self.box_shape))


@dataclass(frozen=True, eq=False)
class PlannedAssignment:
    """What the priors of a batch shall learn; n positive ones.

    positive: the positive priors. centers: (n, 2) float32, x and y in pixels. labels: (n,) int64. boxes: (n, 4 or 5)
    float32, their objects', in the head's own form. ignored: (k,) int64, places of ignored priors in (B, P).
    grids: each image's own priors; those of the batch beside them lie in its padding and learn nothing.
    """

    positive: Rows
    centers: Tensor
    labels: Tensor
    boxes: Tensor
    ignored: Tensor
    grids: tuple[AnchorGrid, ...]

    @classmethod
    def of(cls, grid: AnchorGrid, views: Sequence[ViewTargets], objects: Sequence[InstanceData]) -> PlannedAssignment:
        """From the assignments of B views and their ground truth, on the grid of the batch."""
        positive, ignored, matched = [], [], []
        for image, view in enumerate(views):
            assert view.assigned is not None
            prior, place = view.assigned
            prior = view.grid.reindex(prior, grid)
            is_positive = place >= 0
            positive.append(prior[is_positive])
            ignored.append(prior[~is_positive] + image * grid.num_priors)
            matched.append(place[is_positive])
        rows = Rows.of(grid, positive)
        pairs = list(zip(objects, matched, strict=True))
        labels = [one.labels.numpy()[places] for one, places in pairs]
        boxes = [get_box_tensor(one.bboxes).numpy()[places] for one, places in pairs]
        return cls(
            rows,
            centers=torch.from_numpy(_centers(rows)),
            labels=torch.from_numpy(stack_by_level(labels, rows.sizes)),
            boxes=torch.from_numpy(stack_by_level(boxes, rows.sizes)),
            ignored=torch.from_numpy(np.concatenate(ignored)),
            grids=tuple(view.grid for view in views),
        )

    @property
    def avg_factor(self) -> int:
        """Divisor of losses, as mmdet's samplers count: an image has at least one."""
        return int(self.positive.sizes.sum(axis=0).clip(min=1).sum())

    def dense(self, num_classes: int, pos_weight: float) -> tuple[Tensor, Tensor]:
        """(B, P) labels, `num_classes` for negatives, and (B, P) float32 label weights, 0 for ignored priors."""
        rows, grid, device = self.positive, self.positive.grid, self.labels.device
        labels = torch.full((rows.num_images, grid.num_priors), num_classes, device=device)
        weights = torch.ones(labels.shape, device=device)
        for image, own in enumerate(self.grids):
            if own != grid:
                weights[image] = 0
                for level, (height, width) in enumerate(own.feature_sizes):
                    start, stop = grid.level_offsets[level : level + 2].tolist()
                    cells = weights[image, start:stop].view(*grid.feature_sizes[level], -1)
                    cells[:height, :width] = 1
        weights.view(-1).index_fill_(0, self.ignored, 0)
        labels[rows.image_index, rows.prior_index] = self.labels
        if pos_weight > 0:
            weights[rows.image_index, rows.prior_index] = pos_weight
        return labels, weights


def _centers(rows: Rows) -> np.ndarray:
    """(M, 2) float32 x and y of the rows' cells in pixels, without an array of all anchors."""
    level, _, _, cell, _ = rows.place.numpy()
    widths = np.asarray([width for _, width in rows.grid.feature_sizes])
    row, column = np.divmod(cell, widths[level])
    return (np.stack([column, row], axis=1) * np.asarray(rows.grid.strides)[level, None]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class OneSize:
    """The images of a batch that have one size, and their rows on the priors of that size."""

    images: tuple[int, ...]
    rows: Rows


@dataclass(frozen=True, eq=False)
class BySize:
    """The same region as a live teacher is asked about it: size by size, without the padding that makes a batch.

    order: (M,) int64: where the rows of the region lie among those of all sizes.
    """

    sizes: tuple[OneSize, ...]
    order: Tensor

    @classmethod
    def of(cls, views: Sequence[ViewTargets]) -> BySize:
        """Of the views of a batch."""
        groups: dict[AnchorGrid, list[int]] = {}
        for image, view in enumerate(views):
            groups.setdefault(view.grid, []).append(image)
        sizes = tuple(
            OneSize(tuple(images), Rows.of(grid, [views[image].prior_index for image in images]))
            for grid, images in groups.items()
        )
        levels = np.concatenate([one.rows.level.numpy() for one in sizes])
        images = np.concatenate([np.asarray(one.images)[one.rows.image_index.numpy()] for one in sizes])
        return cls(sizes, torch.from_numpy(np.lexsort((images, levels))))


@dataclass(frozen=True, eq=False)
class BatchTargets:
    """What loaders add to a batch, which they pack; M rows.

    region: the rows of the region. weight: (M,) float32. answers: the teacher's; None where it is live. assigned: what
    priors shall learn; None where the student assigns by itself. by_size: for a live teacher, where sizes differ.
    """

    region: Rows
    weight: Tensor
    answers: Answers | None
    assigned: PlannedAssignment | None
    by_size: BySize | None = None

    @classmethod
    def of(cls, views: Sequence[ViewTargets], objects: Sequence[InstanceData]) -> BatchTargets:
        """Those of B views, `objects` being their ground truth, on the priors of the batch: padded to the largest."""
        # New grids: one that has been used carries an array of all its anchors, which must not travel.
        views = [replace(view, grid=replace(view.grid)) for view in views]
        height, width = max(view.grid.height for view in views), max(view.grid.width for view in views)
        grid = replace(views[0].grid, height=height, width=width)
        region = Rows.of(grid, [view.grid.reindex(view.prior_index, grid) for view in views])
        records = [view.record for view in views if view.record is not None]
        planned = all(view.assigned is not None for view in views)
        return cls(
            region,
            weight=torch.from_numpy(stack_by_level([view.weight for view in views], region.sizes)),
            answers=Answers.of(records, region.sizes, grid.anchors_per_cell) if records else None,
            assigned=PlannedAssignment.of(grid, views, objects) if planned else None,
            by_size=None if records or all(view.grid == grid for view in views) else BySize.of(views),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BatchTargets:
        """The same on another device."""
        return with_tensors(self, partial(Tensor.to, device=device, non_blocking=non_blocking))

    def pin_memory(self) -> BatchTargets:
        """The same in memory that a device copies from without the host; torch's loaders call it."""
        return with_tensors(self, Tensor.pin_memory)

    def record(self, image: int, grid: AnchorGrid) -> CodedRecord:
        """What one image learns from a cache, as it is stored; `grid`: the image's own."""
        assert self.answers is not None
        own = {"prior_index": self.region.prior_index, "weight": self.weight}
        own |= {name: getattr(self.answers, name) for name in (*LOGIT_FIELDS, "cell_row")}
        values = {
            name: self.region.by_image(of_batch)[image].cpu().numpy()
            for name, of_batch in own.items()
            if of_batch is not None
        }
        moved = grid.reindex(np.arange(grid.num_priors), self.region.grid)
        values["prior_index"] = np.searchsorted(moved, values["prior_index"])
        if self.answers.coefficients is not None:
            # The batch holds the cells of all its images.
            cell, prior = np.divmod(values["cell_row"], grid.anchors_per_cell)
            cells, place = np.unique(cell, return_inverse=True)
            values["cell_row"] = place * grid.anchors_per_cell + prior
            values["coefficients"] = self.answers.coefficients[:, cells].cpu().numpy()
        return CodedRecord(**values)


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def collate_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch as mmengine collates it; where the pipeline has packed `targets`, they are those of the batch."""
    batch: dict[str, Any] = pseudo_collate(samples)
    if "targets" in batch:
        batch["targets"] = BatchTargets.of(batch["targets"], [one.gt_instances for one in batch["data_samples"]])
    return batch
