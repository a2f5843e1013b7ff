"""A patch as all its views, ready for the teacher; in a loader process where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache.plan import Plan
from pipelines.capture.kept import KeptRegions, PatchRegions
from pipelines.capture.views import TrainingViews


@dataclass(frozen=True)
class PatchViews:
    """All F views of one patch by its position in the plan: images (3, H, W) uint8, and their regions."""

    patch: int
    images: Sequence[Tensor]
    regions: PatchRegions


class PatchDataset(Dataset[PatchViews]):
    """The patches of a plan, by their position in it; `kept` are regions that planning has found."""

    def __init__(self, config: Config, plan: Plan, kept: KeptRegions | None = None) -> None:
        self.views = TrainingViews(config)
        self.plan = plan
        self.kept = kept

    def __len__(self) -> int:
        return len(self.plan.patch_ids)

    def __getitem__(self, patch: int) -> PatchViews:
        patch_id = self.plan.patch_ids[patch]
        samples, _ = self.views.samples(patch_id)
        for index, sample in zip(self.plan.views_of_patch(patch).tolist(), samples, strict=True):
            planned = tuple(self.plan.view_shape[index].tolist())
            shape, crc32c = (sample.grid.height, sample.grid.width), sample.crc32c
            if shape != planned or crc32c != self.plan.view_crc32c[index]:
                raise ValueError(
                    f"view {self.plan.view(index)}: {shape} pixels with padding of CRC-32C {crc32c:08x}, planned were "
                    f"{planned} of {self.plan.view_crc32c[index]:08x}. The image "
                    f"{self.views.info(patch_id)['img_path']} or the libraries that decode it have changed since the "
                    "plan: start a new cache"
                )
        regions = None if self.kept is None else self.kept.find(patch_id)
        return PatchViews(patch, [sample.image for sample in samples], regions or self.views.regions(samples))

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
