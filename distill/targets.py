"""What a loader adds to the images of a batch: the region's rows, the teacher's answers there, the planned assignment.

All of it depends on labels, priors and stored records alone, so it is computed where the images are loaded. A training
step then knows how many rows of each kind there are without asking its device.
"""

from __future__ import annotations

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
from torch import Tensor

from cache.grid import AnchorGrid
from cache.quantize import LOGIT_FIELDS
from cache.reader import TargetRecord
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
    record: TargetRecord | None = None
    assigned: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """The teacher's answers as loaders ship them, in the order of a batch's rows: all that a step knows of a record.

    cls_logits (M, C) and box_logits (M, D, K), float32.
    """

    cls_logits: Tensor
    box_logits: Tensor

    @classmethod
    def of(cls, records: Sequence[TargetRecord], sizes: np.ndarray) -> Answers:
        """In a loader: those of a batch, for rows of these sizes."""
        return cls(
            *(torch.from_numpy(stack_by_level([getattr(one, name) for one in records], sizes)) for name in LOGIT_FIELDS)
        )

    def logits(self) -> Logits:
        """In the step: logits on the device that the answers are on."""
        return Logits(self.cls_logits, self.box_logits)


def part_of(record: TargetRecord, prior_index: np.ndarray, weight: np.ndarray) -> TargetRecord:
    """The record of a smaller region, with its weights; every prior of it must be stored.

    Raises:
        ValueError: naming a prior that is not.
    """
    rows = np.searchsorted(record.prior_index, prior_index)
    inside = np.append(record.prior_index, -1)[rows] == prior_index
    if not inside.all():
        raise ValueError(f"prior {prior_index[~inside][0]} of the student's region is not stored")
    logits = {name: getattr(record, name)[rows] for name in LOGIT_FIELDS}
    return replace(record, prior_index=prior_index, weight=weight, **logits)


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
class BatchTargets:
    """What loaders add to a batch, which they pack; M rows.

    region: the rows of the region. weight: (M,) float32. answers: the teacher's; None where it is live. assigned: what
    priors shall learn; None where the student assigns by itself.
    """

    region: Rows
    weight: Tensor
    answers: Answers | None
    assigned: PlannedAssignment | None

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
            answers=Answers.of(records, region.sizes) if records else None,
            assigned=PlannedAssignment.of(grid, views, objects) if planned else None,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BatchTargets:
        """The same on another device."""
        return with_tensors(self, partial(Tensor.to, device=device, non_blocking=non_blocking))

    def pin_memory(self) -> BatchTargets:
        """The same in memory that a device copies from without the host; torch's loaders call it."""
        return with_tensors(self, Tensor.pin_memory)

    def record(self, image: int, grid: AnchorGrid) -> TargetRecord:
        """What one image learns from a cache, as it was stored; `grid`: the image's own."""
        assert self.answers is not None
        logits = self.answers.logits()
        values = self.region.prior_index, self.weight, logits.cls_logits, logits.box_logits
        prior, *others = (self.region.by_image(value)[image].cpu().numpy() for value in values)
        moved = grid.reindex(np.arange(grid.num_priors), self.region.grid)
        return TargetRecord(np.searchsorted(moved, prior), *others)


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def collate_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch as mmengine collates it; where the pipeline has packed `targets`, they are those of the batch."""
    batch: dict[str, Any] = pseudo_collate(samples)
    if "targets" in batch:
        batch["targets"] = BatchTargets.of(batch["targets"], [one.gt_instances for one in batch["data_samples"]])
    return batch
