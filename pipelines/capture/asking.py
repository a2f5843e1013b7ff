"""The teacher asked about the views of patches: batches of whole patches, logits at the region's priors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, groupby, islice

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from cache.plan import Plan
from distill.rows import Rows, subtract_row_max, with_tensors
from distill.teacher import FrozenTeacher
from pipelines.capture.kept import KeptRegions
from pipelines.capture.loading import PatchDataset, PatchViews
from pipelines.capture.options import CaptureOptions

# Sizes of views for which a teacher may be compiled.
MAX_COMPILED_SHAPES = 8
# Views of a patch in one forward pass; more are asked about in turn, so that many draws take no more memory.
VIEWS_AT_ONCE = 8


@dataclass(frozen=True)
class PatchLogits:
    """The teacher's logits at the region of a patch's F views, on the teacher's device; M rows.

    seconds: the teacher's forward pass and the gathering, this patch's share of its batch, where it was timed.
    """

    patch: int
    seconds: float
    priors: np.ndarray  # (F,) rows of each view
    prior_index: np.ndarray  # (M,) uint32
    weight: np.ndarray  # (M,) float32
    cls_logits: Tensor  # (M, C) float32
    box_logits: Tensor  # (M, D, K) float32, maximum of each row of bins at 0
    assigned: Sequence[tuple[np.ndarray, np.ndarray]]  # F pairs (m,) priors and objects, or none


class TeacherViews:
    """Asks a teacher about the views of a plan.

    Batches are whole patches whose views have the same sizes, so that an answer does not depend on who else is asked
    about.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        teacher: FrozenTeacher,
        options: CaptureOptions,
        kept: KeptRegions | None = None,
    ) -> None:
        self.plan = plan
        self.arithmetic = options.arithmetic(config)
        sizes = len(np.unique(plan.view_shape, axis=0))
        if self.arithmetic.compile and sizes > MAX_COMPILED_SHAPES:
            raise ValueError(
                f"--compile: the views have {sizes} sizes, and the teacher would be compiled for each, minutes every "
                f"time; at most {MAX_COMPILED_SHAPES} are allowed. Leave it out"
            )
        self.teacher = teacher.compute_in(self.arithmetic)
        self.options = options
        self.patches = PatchDataset(config, plan, kept)

    def batches(self, patches: Sequence[int]) -> list[list[int]]:
        """Consecutive patches whose views have the same sizes, at most `patches_per_batch` together."""
        runs = groupby(patches, key=lambda patch: self.plan.view_shape[self.plan.views_of_patch(patch)].tobytes())
        return [list(batch) for _, run in runs for batch in batched(run, self.options.patches_per_batch)]

    def logits(self, batches: Sequence[Sequence[int]]) -> Iterator[PatchLogits]:
        """The teacher's answers for the patches of every batch, in order; the next images load meanwhile."""
        loaded = self.patches.load([patch for batch in batches for patch in batch], self.options.loaders)
        for batch in batches:
            yield from self.ask([next(loaded) for _ in batch])

    def ask(self, patches: Sequence[PatchViews], *, timed: bool = False) -> list[PatchLogits]:
        """Teacher forward on the views of a batch, rows gathered; a device is waited for if `timed`."""
        images = [image for views in patches for image in views.images]
        regions = [index for views in patches for index in views.regions.prior_index]
        passes = list(self._passes(images))
        inputs = [self.teacher.preprocess(torch.stack([images[place] for place in places])) for places in passes]
        started = time.perf_counter()
        answers: dict[int, tuple[Tensor, Tensor]] = {}
        for places, seen in zip(passes, inputs, strict=True):
            answers |= dict(zip(places, self._answer(seen, [regions[place] for place in places]), strict=True))
        if timed and self.teacher.device.type == "cuda":
            torch.cuda.synchronize(self.teacher.device)
        seconds = time.perf_counter() - started
        in_order = (answers[place] for place in range(len(images)))
        parts = [map(torch.cat, zip(*islice(in_order, len(views.images)), strict=True)) for views in patches]
        return [
            PatchLogits(
                patch=views.patch,
                seconds=seconds / len(patches),
                priors=np.asarray([len(index) for index in views.regions.prior_index]),
                prior_index=np.concatenate(views.regions.prior_index).astype(np.uint32),
                weight=np.concatenate(views.regions.weight),
                cls_logits=cls_logits,
                box_logits=subtract_row_max(box_logits),
                assigned=views.regions.assigned,
            )
            for views, (cls_logits, box_logits) in zip(patches, parts, strict=True)
        ]

    def _passes(self, images: Sequence[Tensor]) -> Iterator[list[int]]:
        """Which views go through the teacher at once: those of one size, at most so many."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            by_size.setdefault(tuple(image.shape), []).append(place)
        most = VIEWS_AT_ONCE * self.options.patches_per_batch
        return (list(some) for places in by_size.values() for some in batched(places, most))

    def _answer(self, inputs: Tensor, regions: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Class and box logits at the regions of views of one size."""
        device, adapter = self.teacher.device, self.teacher.adapter
        maps = self.teacher.forward(inputs)
        rows = Rows.of(adapter.grid_of_maps(maps[0]), regions)
        if device.type == "cuda":
            # Copied while the teacher is at work.
            rows = with_tensors(rows, Tensor.pin_memory).to(device, non_blocking=True)
        logits = adapter.gather(maps, rows)
        return zip(*(rows.by_image(values) for values in (logits.cls_logits, logits.box_logits)), strict=True)
