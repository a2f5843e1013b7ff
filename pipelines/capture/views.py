"""The views of a student's training set: what the teacher sees of them, their regions and their assignment."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor

from cache.grid import AnchorGrid, padded_shape
from distill.errors import DataNeeded
from distill.region import box_region
from distill.transforms import describe_views
from pipelines.base.experiment import build_adapter, build_assigner, entries_of, training_set, view_pipeline
from pipelines.capture.kept import PatchRegions


@dataclass(frozen=True)
class ViewSample:
    """One view as training sees it.

    image: (3, H, W) uint8 BGR, or (1, H, W) of zeros where pixels are not wanted; without padding.
    objects: ground truth; ignored objects are left out.
    grid: the head's priors on the padded image.
    """

    image: Tensor
    objects: InstanceData
    grid: AnchorGrid


class TrainingViews:
    """Patches of the training set by id, and each of their views.

    Args:
        config: a student's.
        pixels: decode the images; without, their headers' sizes are enough.

    Raises:
        ValueError: a training set without patches, or a pipeline whose views cannot be enumerated.
    """

    def __init__(self, config: Config, *, pixels: bool) -> None:
        steps = [step for step in view_pipeline(config) if pixels or step["type"] != "LoadPatch"]
        pack = {"type": "mmdet.PackDetInputs", "meta_keys": ("img_id", "img_shape")}
        self.dataset = training_set(config, [*steps, pack])
        self.pixels = pixels
        self.flips: list[str] = describe_views(config.train_dataloader.dataset.pipeline)["flips"]
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

    def sample(self, patch_id: str, flip: str, content: bytes | None = None) -> ViewSample:
        """One view of a patch; without pixels, `content` are the bytes of its file."""
        results: dict[str, Any] = {**self._infos[patch_id], "forced_flip": flip}
        if not self.pixels:
            assert content is not None
            results |= _blank_image(content, results["img_path"])
        packed = self.dataset.pipeline(results)
        sample = packed["data_samples"]
        return ViewSample(packed["inputs"], sample.gt_instances, self.grid(*sample.img_shape))

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


def _blank_image(content: bytes, path: str) -> Mapping[str, Any]:
    """What a transform needs to know of an image that is not decoded: its size, from the file's header."""
    try:
        width, height = Image.open(io.BytesIO(content)).size
    except OSError:
        raise DataNeeded(f"image {path} cannot be decoded. Delete it, so that it is made again") from None
    # One zero in memory, as many as pixels to look at; the capture decodes the image and compares.
    blank = np.broadcast_to(np.zeros(1, dtype=np.uint8), (height, width, 1))
    return {"img": blank, "img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
