"""Which draw of a patch an epoch takes, and the random numbers that make it.

They depend on seed, patch and epoch (or draw) alone: neither loaders nor GPUs nor a resume change what a student sees.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

# How often a patch is drawn anew where the augmentation drops it.
ATTEMPTS = 16

Pipeline = Callable[[dict[str, Any]], dict[str, Any] | None]


class Visit(int):
    """The index of a patch, with the epoch that visits it and the seed of the training."""

    seed: int
    epoch: int

    def __new__(cls, index: int, seed: int, epoch: int) -> Visit:
        visit = super().__new__(cls, index)
        visit.seed, visit.epoch = seed, epoch
        return visit

    def __reduce__(self) -> tuple[type[Visit], tuple[int, int, int]]:
        return Visit, (int(self), self.seed, self.epoch)


@DATA_SAMPLERS.register_module()
class VisitSampler(Sampler[Visit]):
    """Another sampler, whose indices also say which epoch visits the patch.

    Args:
        dataset: the training set.
        sampler: config of mmengine's `DefaultSampler`, `InfiniteSampler`, or one that is told the epoch as the first.
        seed: of the training.
    """

    def __init__(self, dataset: BaseDataset, sampler: Mapping[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset
        self.sampler = DATA_SAMPLERS.build(dict(sampler), default_args={"dataset": dataset, "seed": seed})
        self.seed = int(self.sampler.seed)
        self.epoch = 0

    def __iter__(self) -> Iterator[Visit]:
        if not isinstance(self.sampler, InfiniteSampler):
            return (Visit(index, self.seed, self.epoch) for index in self.sampler)
        # It goes through permutations of the patches, every process taking its share of them.
        first, step, size = self.sampler.rank, self.sampler.world_size, len(self.dataset)
        return (Visit(index, self.seed, (first + place * step) // size) for place, index in enumerate(self.sampler))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)


@dataclass(frozen=True)
class FrozenViews:
    """A config's `views`: so many outcomes of the augmentation of every patch, with random numbers of a seed."""

    draws: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("draws", self.draws, 1), ("seed", self.seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"views.{name} is {value!r}; a whole number from {least} on is needed")


class DrawnPatches(BaseDataset):
    """Of a training set: the augmentation of a patch follows from seed, patch and epoch.

    Args:
        views: of `FrozenViews`: the augmentation has so many frozen outcomes a patch, of which each is seen once
            before any is seen again; None where it is drawn anew every epoch.
    """

    def __init__(self, *args: Any, views: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        self.views = None if views is None else FrozenViews(**views)
        super().__init__(*args, **kwargs)

    def prepare_data(self, idx: int) -> dict[str, Any] | None:
        """The sample of a patch; of a `Visit`, as its epoch draws it, which `drawn` of its metainfo tells."""
        if not isinstance(idx, Visit):
            prepared: dict[str, Any] | None = super().prepare_data(idx)
            return prepared
        results = self.get_data_info(idx)
        patch_id = str(results["img_id"])
        if self.views is None:
            made, drawn = _draw(self.pipeline, results, idx.seed, patch_id, idx.epoch), f"epoch {idx.epoch}"
        else:
            draw = order_of_draws(idx.seed, patch_id, self.views.draws)[idx.epoch % self.views.draws]
            made, drawn = frozen_draw(self.pipeline, results, self.views.seed, draw), str(draw)
        if made is not None and "data_samples" in made:
            made["data_samples"].set_metainfo({"drawn": drawn})
        return made


def frozen_draw(pipeline: Pipeline, results: Mapping[str, Any], seed: int, draw: int) -> dict[str, Any]:
    """What a pipeline makes of a patch in one frozen draw.

    Raises:
        ValueError: its transforms drop the patch, however often it is drawn.
    """
    patch_id = str(results["img_id"])
    made = _draw(pipeline, {**results, "draw": str(draw)}, "views", seed, patch_id, draw)
    if made is None:
        raise ValueError(
            f"patch {patch_id}: the training pipeline has dropped draw {draw} {ATTEMPTS} times, most likely because it "
            "keeps no object. Let its transforms keep some (allow_negative_crop=True of RandomCrop, for example)"
        )
    return made


def order_of_draws(seed: int, patch_id: str, draws: int) -> list[int]:
    """In which order a student of this seed sees the draws of a patch."""
    return sorted(range(draws), key=lambda draw: _digest("order", seed, patch_id, draw))


@contextmanager
def random_numbers(*key: object) -> Iterator[None]:
    """While it lasts, the random numbers of Python, NumPy and torch follow from a key; then they go on as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int.from_bytes(_digest(*key)[:8], "big")
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
    # Not torch.manual_seed, which seeds devices as well.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _draw(pipeline: Pipeline, results: Mapping[str, Any], *key: object) -> dict[str, Any] | None:
    """Drawn again where the pipeline drops the patch; None where it always does."""
    for attempt in range(ATTEMPTS):
        with random_numbers(*key, attempt):
            made = pipeline(dict(results))
        if made is not None:
            return made
    return None


def _digest(*key: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, key)).encode()).digest()
