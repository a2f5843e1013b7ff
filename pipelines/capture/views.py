"""The views of a student's training set: what the teacher sees of them, their regions and their assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmrotate.registry import TRANSFORMS
from torch import Tensor

from cache.grid import AnchorGrid, padded_shape
from cache.view import draw_names
from distill.draws import FrozenViews, frozen_draw
from distill.region import box_region
from distill.transforms import describe_views, enumerated_draws, pixel_crc32c
from pipelines.base.experiment import build_adapter, build_assigner, entries_of, training_set, view_pipeline
from pipelines.capture.kept import PatchRegions


@dataclass(frozen=True)
class ViewSample:
    """One view as training sees it.

    image: (3, H, W) uint8 BGR, without padding.
    crc32c: CRC-32C of its pixels as (H, W, 3).
    image_sha256: of the patch's file.
    objects: ground truth; ignored objects are left out.
    grid: the head's priors on the padded image.
    """

    image: Tensor
    crc32c: int
    image_sha256: bytes
    objects: InstanceData
    grid: AnchorGrid

    @property
    def outcome(self) -> tuple[object, ...]:
        """What two draws must share to be one view."""
        objects = (self.objects.bboxes.tensor, self.objects.labels)
        return (tuple(self.image.shape), self.crc32c, *(values.numpy().tobytes() for values in objects))


class TrainingViews:
    """Patches of the training set by id, and each of their views.

    Args:
        config: a student's.

    Raises:
        ValueError: a training set without patches, or a pipeline whose views can be neither enumerated nor frozen.
    """

    def __init__(self, config: Config) -> None:
        load, *steps = view_pipeline(config)
        views = config.train_dataloader.dataset.get("views")
        if load["type"] != "LoadPatch":
            raise ValueError(f"the training pipeline begins with {load['type']}; LoadPatch needed")
        pack = {"type": "mmdet.PackDetInputs", "meta_keys": ("img_id", "img_shape", "img_sha256")}
        self.dataset = training_set(config, [*steps, pack])
        # Apart from the other steps: the views of a patch share what it has read.
        self._load = TRANSFORMS.build(load)
        self.frozen = None if views is None else FrozenViews(**views)
        self.draws = draw_names(describe_views([load, *steps], views))
        drawn = [step for step in self.dataset.pipeline.transforms if hasattr(step, "outcomes")]
        self._outcomes = {} if self.frozen else dict(enumerated_draws(drawn))
        self.adapter = build_adapter(config)
        self.region_rule = dict(config.region)
        self.assigner = build_assigner(config)
        self.pad_size_divisor = int(config.model.data_preprocessor.pad_size_divisor)
        self._infos = entries_of(self.dataset)
        # Views share a few sizes; a grid's anchors are built once.
        self._grids: dict[tuple[int, int], AnchorGrid] = {}
        if not self._infos:
            raise ValueError(f"the training set {self.dataset.data_prefix['img_path']} holds no patch with objects")

    @property
    def patch_ids(self) -> list[str]:
        """In the order of the training set."""
        return list(self._infos)

    def __contains__(self, patch_id: str) -> bool:
        return patch_id in self._infos

    def info(self, patch_id: str) -> dict[str, Any]:
        """The training set's entry of a patch: `img_path`, `label_path` and others."""
        return self._infos[patch_id]

    def label_digest(self, patch_id: str) -> bytes:
        """SHA-256 of a patch's labels."""
        return self.dataset.label_digest(self._infos[patch_id])

    def samples(self, patch_id: str) -> tuple[list[ViewSample], np.ndarray]:
        """All views of a patch, in the order of their first draws, and (K,) the view of each draw.

        Its image is read and decoded once. Frozen draws that come out the same, pixels and objects, share a view.
        """
        loaded = self._load.transform(dict(self._infos[patch_id]))
        samples: list[ViewSample] = []
        found: dict[object, int] = {}
        draw_view = []
        for draw in self.draws:
            sample = self._view(loaded, draw)
            view = found.setdefault(sample.outcome if self.frozen else draw, len(samples))
            if view == len(samples):
                samples.append(sample)
            draw_view.append(view)
        return samples, np.asarray(draw_view)

    def sample(self, patch_id: str, draw: str) -> ViewSample:
        """One view of a patch, by the name of a draw."""
        return self._view(self._load.transform(dict(self._infos[patch_id])), draw)

    def _view(self, loaded: dict[str, Any], draw: str) -> ViewSample:
        # A transform may write into the image that it is given.
        results = {**loaded, "img": loaded["img"].copy()}
        if self.frozen is None:
            packed = self.dataset.pipeline({**results, "forced": self._outcomes[draw]})
        else:
            packed = frozen_draw(self.dataset.pipeline, results, self.frozen.seed, int(draw))
        image, sample = packed["inputs"], packed["data_samples"]
        crc32c = pixel_crc32c(image.permute(1, 2, 0).numpy())
        return ViewSample(image, crc32c, sample.img_sha256, sample.gt_instances, self.grid(*sample.img_shape))

    def grid(self, height: int, width: int) -> AnchorGrid:
        """The priors of an image of this size, once it is padded."""
        shape = padded_shape((height, width), self.pad_size_divisor)
        return self._grids.setdefault(shape, self.adapter.grid(*shape))

    def regions(self, samples: Sequence[ViewSample]) -> PatchRegions:
        """Regions and planned assignments of a patch's views."""
        found = [self.region(sample) for sample in samples]
        assigned = [pair for pair in map(self.assignment, samples) if pair is not None]
        return PatchRegions([prior_index for prior_index, _ in found], [weight for _, weight in found], assigned)

    def region(self, sample: ViewSample) -> tuple[np.ndarray, np.ndarray]:
        """(n,) sorted prior indices and (n,) weights of a view's region."""
        return box_region(sample.objects.bboxes.tensor.numpy(), sample.grid, **self.region_rule)

    def assignment(self, sample: ViewSample) -> tuple[np.ndarray, np.ndarray] | None:
        """(m,) priors that are not negative and (m,) their objects; None where the config does not plan them."""
        if self.assigner is None:
            return None
        return self.adapter.plan_assignment(self.assigner, sample.objects, sample.grid)
