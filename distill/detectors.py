"""Students that learn from a teacher: from the cache, or with the teacher live in the training step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmrotate.registry import MODELS
from torch import Tensor

from cache.codec import RowCodec
from cache.reader import CacheReader
from distill.adapter import adapter_of
from distill.interface import describe_interface, require_same_interface
from distill.rows import Logits, Maps, Targets, subtract_row_max
from distill.targets import BatchTargets, TargetDecoder
from distill.teacher import FrozenTeacher


@MODELS.register_module()
class TargetsPreprocessor(DetDataPreprocessor):
    """mmdet's preprocessor that also hands on what loaders have added, and never waits for the device.

    Pixels and targets are copied beside the device's work where they lie in pinned memory. Ground truth stays on the
    host where the assignment is planned: nothing reads it.
    """

    def __init__(self, *args: Any, bgr_to_rgb: bool = False, rgb_to_bgr: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, non_blocking=True, **kwargs)
        # Not by the parent, which sends the order of the channels to the device, image by image.
        self.flips_channels = bgr_to_rgb or rgb_to_bgr

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """`inputs` (B, 3, H, W) float32, `data_samples`, and in training `targets` where the batch has them."""
        samples, targets = data.get("data_samples"), data.get("targets")
        inputs = self.cast_data(data["inputs"])
        if self.flips_channels:
            inputs = [image.flip(0) for image in inputs]
        if targets is None or targets.assigned is None:
            seen = super().forward({"inputs": inputs, "data_samples": samples}, training)
        else:
            seen = super().forward({"inputs": inputs, "data_samples": None}, training) | {"data_samples": samples}
        return seen if targets is None else {**seen, "targets": targets.to(self.device, non_blocking=True)}


class _Distiller(SingleStageDetector):
    """A single-stage student whose losses gain LD and KD on gathered rows.

    Args:
        distillation: config of `RegionDistillation`.
        data_preprocessor: config of mmdet's `DetDataPreprocessor`; a `TargetsPreprocessor` with its options is built.

    Raises:
        ValueError: another preprocessor.
    """

    def __init__(
        self, *args: Any, distillation: dict[str, Any], data_preprocessor: dict[str, Any], **kwargs: Any
    ) -> None:
        kind = str(data_preprocessor["type"]).rpartition(".")[2]
        if kind != "DetDataPreprocessor":
            raise ValueError(f"data_preprocessor.type is {kind!r}; a student with a teacher needs DetDataPreprocessor")
        super().__init__(*args, data_preprocessor={**data_preprocessor, "type": "TargetsPreprocessor"}, **kwargs)
        self.distillation = MODELS.build(distillation)
        self.adapter = adapter_of(self.bbox_head)

    def forward(
        self,
        inputs: Tensor,
        data_samples: SampleList | None = None,
        mode: str = "tensor",
        targets: BatchTargets | None = None,
    ) -> Any:
        """As mmdet's detectors; `targets`, what loaders have added to a batch, are needed for losses.

        Raises:
            ValueError: losses without them.
        """
        if mode != "loss":
            return super().forward(inputs, data_samples, mode)
        if targets is None:
            raise ValueError(
                "the batch has no targets of its teacher. The training pipeline needs LoadTeacherTargets, or where the "
                "teacher is live FindRegion, then PackDistillInputs; train_dataloader needs "
                "collate_fn=dict(type='collate_views')"
            )
        return self.loss(inputs, data_samples, targets)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList, targets: BatchTargets) -> dict[str, Any]:
        """Detection losses, and the terms that learn from the teacher."""
        maps: Maps = self.bbox_head(self.extract_feat(batch_inputs))
        # First, where it is live: a device has work then while the host waits for an assignment.
        answers = self.answers(batch_inputs, targets)
        losses = self.detection_losses(maps, batch_data_samples, targets)
        return losses | self.distillation_losses(maps, answers)

    def detection_losses(
        self, maps: Maps, batch_data_samples: SampleList, targets: BatchTargets
    ) -> dict[str, list[Tensor]]:
        """The losses that the head has without a teacher, from the planned assignment where there is one."""
        if targets.assigned is not None:
            return self.bbox_head.planned_losses(maps, targets.assigned)
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        return self.bbox_head.loss_by_feat(*maps, instances, metas, ignored)

    def distillation_losses(self, maps: Maps, answers: Targets) -> dict[str, list[Tensor]]:
        """The terms that learn from the teacher, level by level."""
        terms = self.distillation(self.adapter.gather(maps, answers.rows), answers)
        # mmengine averages a tensor of several losses but adds up a list.
        return {name: list(values.unbind()) for name, values in terms.items()}

    @abstractmethod
    def answers(self, batch_inputs: Tensor, targets: BatchTargets) -> Targets:
        """The teacher's answers at the region's priors of the batch."""


@MODELS.register_module()
class CachedDistiller(_Distiller):
    """Reads the teacher from what `LoadTeacherTargets` has added to the batch: no teacher in memory.

    Args:
        cache: the store whose codes the loaders ship; `make distill` fills it in from the config's `cache`. Where
            floats are shipped, it is not needed.
    """

    def __init__(self, *args: Any, cache: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        codec = RowCodec("float32") if cache is None else CacheReader(cache).codec
        self.decoder = TargetDecoder(self.adapter.box_shape, codec)

    def answers(self, batch_inputs: Tensor, targets: BatchTargets) -> Targets:
        assert targets.answers is not None, "the pipeline has found the region, but read no cache"
        logits = self.decoder(targets.answers)
        return Targets(logits.cls_logits, logits.box_logits, targets.region, targets.weight)


@MODELS.register_module()
class LiveDistiller(_Distiller):
    """Runs the frozen teacher in every training step: the published way, the baseline and the oracle.

    Args:
        teacher: dict(config=file, checkpoint=file) of `FrozenTeacher`.

    Raises:
        ValueError: the teacher's head or preprocessing is not the student's.
    """

    def __init__(self, *args: Any, teacher: dict[str, Any], data_preprocessor: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, data_preprocessor=data_preprocessor, **kwargs)
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

    def answers(self, batch_inputs: Tensor, targets: BatchTargets) -> Targets:
        # In float32 as in a capture, whatever the precision of the student.
        with torch.autocast(batch_inputs.device.type, enabled=False):
            logits = self._asked(batch_inputs, targets)
        # As a cache holds them: the softmax is the same, and live and cached losses agree to the last bit.
        return Targets(logits.cls_logits, subtract_row_max(logits.box_logits), targets.region, targets.weight)

    def _asked(self, batch_inputs: Tensor, targets: BatchTargets) -> Logits:
        """The teacher's logits at the region: of each image alone, as a cache holds them, whatever pads the batch."""
        teacher = self.teacher.to(batch_inputs.device)
        if targets.by_size is None:
            return teacher.adapter.gather(teacher.forward(batch_inputs), targets.region)
        parts = []
        for one in targets.by_size.sizes:
            height, width = one.rows.grid.height, one.rows.grid.width
            inputs = torch.stack([batch_inputs[image, :, :height, :width] for image in one.images])
            parts.append(teacher.adapter.gather(teacher.forward(inputs), one.rows))
        order = targets.by_size.order
        cls_logits, box_logits = (
            torch.cat([getattr(part, name) for part in parts])[order] for name in ("cls_logits", "box_logits")
        )
        return Logits(cls_logits, box_logits)
