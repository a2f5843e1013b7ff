"""A patch as all its views, ready for the teacher; in a loader process where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache.plan import Plan
from cache.view import FLIPS
from pipelines.capture.views import TrainingViews


@dataclass(frozen=True)
class PatchViews:
    """All views of one patch; F flips.

    images: (F, 3, H, W) uint8. prior_index, weight: F arrays of the views' regions. assigned: F pairs of the planned
    assignment; none where it is not planned.
    """

    patch: int
    images: Tensor
    prior_index: list[np.ndarray]
    weight: list[np.ndarray]
    assigned: Sequence[tuple[np.ndarray, np.ndarray]] = ()


class PlannedPatches(Dataset[PatchViews]):
    """The patches of a plan, by their position in it."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.views = TrainingViews(config, pixels=True)
        self.plan = plan
        self.flips = [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))]

    def __len__(self) -> int:
        return len(self.plan.patch_ids)

    def __getitem__(self, patch: int) -> PatchViews:
        patch_id = self.plan.patch_ids[patch]
        planned = tuple(self.plan.patch_shape[patch].tolist())
        images, indices, weights, assigned = [], [], [], []
        for flip in self.flips:
            sample = self.views.sample(patch_id, flip)
            shape = sample.grid.height, sample.grid.width
            if shape != planned:
                raise ValueError(
                    f"image {self.views.info(patch_id)['img_path']}: decoded shape is {shape} with padding but its "
                    f"header says {planned}"
                )
            prior_index, weight = self.views.region(sample)
            images.append(sample.image)
            indices.append(prior_index)
            weights.append(weight)
            pair = self.views.assignment(sample)
            if pair is not None:
                assigned.append(pair)
        return PatchViews(patch, torch.stack(images), indices, weights, assigned)

    def load(self, patches: Sequence[int], loaders: int) -> Iterator[PatchViews]:
        """The views of some patches, in order; by `loaders` processes, or by this one where there are none."""
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=patches,
                num_workers=min(loaders, len(patches)),
                collate_fn=unchanged,
            )
        )


def unchanged[Value](value: Value) -> Value:
    """A `collate_fn` that hands on what the data set gives."""
    return value
