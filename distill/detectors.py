"""Students that learn from a teacher: from the cache, or with the teacher live in the training step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmrotate.registry import MODELS
from torch import Tensor

from cache.grid import AnchorGrid
from cache.quantize import subtract_row_max
from distill.adapter import adapter_of
from distill.heads import image_index_of
from distill.losses import GatheredTargets
from distill.region import sample_region
from distill.teacher import FrozenTeacher

Maps = tuple[list[Tensor], list[Tensor]]


class _Distiller(SingleStageDetector):
    """A single-stage student whose losses gain LD and KD on gathered rows.

    Args:
        distillation: config of `RegionDistillation`.
    """

    def __init__(self, *args: Any, distillation: dict, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.distillation = MODELS.build(distillation)
        self.adapter = adapter_of(self.bbox_head)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Any]:
        """Detection losses, and `loss_ld` and `loss_kd`."""
        maps: Maps = self.bbox_head(self.extract_feat(batch_inputs))
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = self.bbox_head.loss_by_feat(*maps, instances, metas, ignored)
        targets = self.teacher_targets(batch_inputs, batch_data_samples)
        level, cls_logits, box_logits = self.region_logits(maps, targets)
        terms = self.distillation(
            cls_logits, box_logits, targets, level, len(batch_data_samples), self.adapter.num_levels
        )
        # mmengine averages a tensor of several losses but adds up a list.
        return losses | {name: list(values.unbind()) for name, values in terms.items()}

    def region_logits(self, maps: Maps, targets: GatheredTargets) -> tuple[Tensor, Tensor, Tensor]:
        """The student's own level (M,), class logits (M, C) and box logits (M, D, K) at the targets' priors."""
        return self.adapter.gather(*maps, targets.image_index, targets.prior_index)

    def grids(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> tuple[list[AnchorGrid], AnchorGrid]:
        """The grid of every sample, padded by itself as a capture sees it, and that of the whole batch."""
        own = [self.adapter.grid(*sample.pad_shape[:2]) for sample in batch_data_samples]
        return own, self.adapter.grid(*batch_inputs.shape[-2:])

    @abstractmethod
    def teacher_targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> GatheredTargets:
        """The teacher's answers at the region's priors of the batch."""


@MODELS.register_module()
class CachedDistiller(_Distiller):
    """Reads the teacher from `data_sample.teacher_targets`, put there by `LoadTeacherTargets`: no teacher in memory."""

    def teacher_targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> GatheredTargets:
        targets = [sample.teacher_targets for sample in batch_data_samples]
        own, grid = self.grids(batch_inputs, batch_data_samples)
        indices = [sample.reindex(target.prior_index, grid) for sample, target in zip(own, targets, strict=True)]
        return GatheredTargets(
            image_index=image_index_of([len(index) for index in indices], batch_inputs.device),
            prior_index=torch.cat(indices),
            weight=torch.cat([target.weight for target in targets]),
            cls_logits=torch.cat([target.cls_logits for target in targets]),
            box_logits=torch.cat([target.box_logits for target in targets]),
        )


@MODELS.register_module()
class LiveDistiller(_Distiller):
    """Runs the frozen teacher in every training step: the published way, the baseline and the oracle.

    Args:
        teacher: dict(config=file, checkpoint=file) of `FrozenTeacher`.
        region: rule of `box_region`, searched in the step unless the pipeline has put `data_sample.region` there.
    """

    def __init__(self, *args: Any, teacher: dict, region: dict, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region = region
        # The initial weights of layers are drawn: without the fork, the student's would not be those of a plain one.
        with torch.random.fork_rng(devices=[]):
            loaded = FrozenTeacher.load(**teacher)
        # In a list, so that the teacher is no submodule: not trained, saved, or switched to training mode.
        self._teacher = [loaded]

    @property
    def teacher(self) -> FrozenTeacher:
        return self._teacher[0]

    def teacher_targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> GatheredTargets:
        # In float32 as in a capture, whatever the precision of the student.
        with torch.autocast(batch_inputs.device.type, enabled=False):
            cls_scores, bbox_preds = self.teacher.to(batch_inputs.device).forward(batch_inputs)
        own, grid = self.grids(batch_inputs, batch_data_samples)
        regions = [
            sample_region(sample, grid, **self.region) for sample, grid in zip(batch_data_samples, own, strict=True)
        ]
        image_index = image_index_of([len(region.prior_index) for region in regions], batch_inputs.device)
        indices = [
            sample.reindex(region.prior_index.to(batch_inputs.device), grid)
            for sample, region in zip(own, regions, strict=True)
        ]
        prior_index = torch.cat(indices)
        _, cls_logits, box_logits = self.teacher.adapter.gather(cls_scores, bbox_preds, image_index, prior_index)
        return GatheredTargets(
            image_index,
            prior_index,
            torch.cat([region.weight for region in regions]).to(batch_inputs.device),
            cls_logits,
            # As a cache holds them: the softmax is the same, and live and cached losses agree to the last bit.
            subtract_row_max(box_logits),
        )
