"""Students that learn from a teacher: from the cache, or with the teacher live in the training step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmengine.structures import BaseDataElement
from mmrotate.registry import MODELS
from torch import Tensor

from cache.grid import AnchorGrid
from distill.adapter import adapter_of
from distill.interface import describe_interface, require_same_interface
from distill.region import sample_region
from distill.rows import Maps, Rows, Targets, subtract_row_max
from distill.teacher import FrozenTeacher


class _Distiller(SingleStageDetector):
    """A single-stage student whose losses gain LD and KD on gathered rows.

    Args:
        distillation: config of `RegionDistillation`.
    """

    def __init__(self, *args: Any, distillation: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.distillation = MODELS.build(distillation)
        self.adapter = adapter_of(self.bbox_head)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Any]:
        """Detection losses, and `loss_ld` and `loss_kd`."""
        maps: Maps = self.bbox_head(self.extract_feat(batch_inputs))
        losses = self.detection_losses(maps, batch_data_samples)
        return losses | self.distillation_losses(maps, batch_inputs, batch_data_samples)

    def detection_losses(self, maps: Maps, batch_data_samples: SampleList) -> dict[str, Any]:
        """The losses that the head has without a teacher."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        return self.bbox_head.loss_by_feat(*maps, instances, metas, ignored)

    def distillation_losses(
        self, maps: Maps, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> dict[str, list[Tensor]]:
        """The terms that learn from the teacher, level by level."""
        targets = self.targets(batch_inputs, batch_data_samples)
        terms = self.distillation(self.adapter.gather(maps, targets.rows), targets)
        # mmengine averages a tensor of several losses but adds up a list.
        return {name: list(values.unbind()) for name, values in terms.items()}

    @abstractmethod
    def targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Targets:
        """The teacher's answers at the region's priors of the batch."""

    def rows(self, batch_inputs: Tensor, grids: Sequence[AnchorGrid], regions: Sequence[BaseDataElement]) -> Rows:
        """The priors of every sample's region, given on the sample's own grid, on that of the batch."""
        batch = self.adapter.grid(*batch_inputs.shape[-2:])
        device = batch_inputs.device
        pairs = zip(grids, regions, strict=True)
        return Rows.of(batch, [grid.reindex(region.prior_index.to(device), batch) for grid, region in pairs])

    def own_grids(self, batch_data_samples: SampleList) -> list[AnchorGrid]:
        """The grid of every sample, padded by itself as a capture sees it."""
        return [self.adapter.grid(*sample.pad_shape[:2]) for sample in batch_data_samples]


@MODELS.register_module()
class CachedDistiller(_Distiller):
    """Reads the teacher from `data_sample.record`, put there by `LoadTeacherTargets`: no teacher in memory."""

    def detection_losses(self, maps: Maps, batch_data_samples: SampleList) -> dict[str, Any]:
        """The head's losses, from the planned assignment where the records hold one."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        records: list[BaseDataElement] = [sample.record for sample in batch_data_samples]
        planned = {"records": records} if all("assigned_prior" in record for record in records) else {}
        return self.bbox_head.loss_by_feat(*maps, instances, metas, ignored, **planned)

    def targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Targets:
        records: list[BaseDataElement] = [sample.record for sample in batch_data_samples]
        return Targets(
            rows=self.rows(batch_inputs, self.own_grids(batch_data_samples), records),
            weight=torch.cat([record.weight for record in records]),
            cls_logits=torch.cat([record.cls_logits for record in records]),
            box_logits=torch.cat([record.box_logits for record in records]),
        )


@MODELS.register_module()
class LiveDistiller(_Distiller):
    """Runs the frozen teacher in every training step: the published way, the baseline and the oracle.

    Args:
        teacher: dict(config=file, checkpoint=file) of `FrozenTeacher`.
        region: rule of `box_region`, searched in the step unless the pipeline has put `data_sample.region` there.

    Raises:
        ValueError: the teacher's head or preprocessing is not the student's.
    """

    def __init__(
        self,
        *args: Any,
        teacher: dict[str, Any],
        region: dict[str, Any],
        data_preprocessor: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, data_preprocessor=data_preprocessor, **kwargs)
        self.region = region
        # The initial weights of layers are drawn: without the fork, the student's would not be those of a plain one.
        with torch.random.fork_rng(devices=[]):
            loaded = FrozenTeacher.load(**teacher)
        # Names of classes are the data's, and compared where training starts.
        student = describe_interface(self.adapter, data_preprocessor, None)
        require_same_interface(student, loaded.interface(named_classes=False))
        # In a list, so that the teacher is no submodule: not trained, saved, or switched to training mode.
        self._teacher = [loaded]

    @property
    def teacher(self) -> FrozenTeacher:
        return self._teacher[0]

    def targets(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Targets:
        # In float32 as in a capture, whatever the precision of the student.
        with torch.autocast(batch_inputs.device.type, enabled=False):
            maps = self.teacher.to(batch_inputs.device).forward(batch_inputs)
        grids = self.own_grids(batch_data_samples)
        regions = [
            sample_region(sample, grid, **self.region) for sample, grid in zip(batch_data_samples, grids, strict=True)
        ]
        rows = self.rows(batch_inputs, grids, regions)
        logits = self.teacher.adapter.gather(maps, rows)
        return Targets(
            rows=rows,
            weight=torch.cat([region.weight for region in regions]).to(batch_inputs.device),
            cls_logits=logits.cls_logits,
            # As a cache holds them: the softmax is the same, and live and cached losses agree to the last bit.
            box_logits=subtract_row_max(logits.box_logits),
        )
