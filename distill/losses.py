"""LD and KD on gathered rows: the same functions for live and cached teachers (ld_spec 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmrotate.registry import MODELS
from torch import Tensor, nn

# Of a stored weight, the half that says main region (rules `atss_main` and `atss_main_vlr`).
MAIN_WEIGHT = 0.5
NORMALIZERS = ("per_level", "per_image_level", "global")


@dataclass(frozen=True)
class GatheredTargets:
    """The teacher's answers at the region's priors of a batch; M rows, C classes, D box parameters of K bins.

    image_index: (M,) int64, position in the batch; rows are sorted by it, then by prior.
    prior_index: (M,) int64, flat index of the prior.
    weight: (M,) float32 region weight.
    cls_logits: (M, C) float32; box_logits: (M, D, K) float32.
    """

    image_index: Tensor
    prior_index: Tensor
    weight: Tensor
    cls_logits: Tensor
    box_logits: Tensor


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor, temperature: float, avg_factor: float | Tensor
) -> Tensor:
    """Weighted KL(teacher || student) of softened rows: T^2 times the mean over K, summed, over `avg_factor`.

    Args:
        student_logits: (M, K); gradients flow here only.
        teacher_logits: (M, K).
        weight: (M,).
        temperature: T, softens both sides.
        avg_factor: divisor of the sum.

    Returns:
        Scalar. Source: ld_spec 2.1, 2.2.
    """
    return (row_divergence(student_logits, teacher_logits, temperature) * weight).sum() / avg_factor


def row_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """(...,) T^2 times the mean over the K logits of the KL terms of each (..., K) row."""
    # With the K logits on the first axis, a CPU works on many rows at once: four times as fast where K is small.
    teacher = F.log_softmax(teacher_logits.detach().movedim(-1, 0).contiguous() / temperature, dim=0)
    student = F.log_softmax(student_logits.movedim(-1, 0).contiguous() / temperature, dim=0)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True)
    return divergence.mean(dim=0) * (temperature * temperature)


def binary_row_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """(...,) T^2 times the mean over the K logits of the binary KL(teacher || student) of their sigmoids."""
    teacher, student = teacher_logits.detach() / temperature, student_logits / temperature
    # p log(p / q) + (1 - p) log((1 - p) / (1 - q)) with p and q as sigmoids: finite for logits of any size.
    divergence = F.softplus(student) - F.softplus(teacher) - teacher.sigmoid() * (student - teacher)
    return divergence.mean(dim=-1) * (temperature * temperature)


def row_normalizer(image_index: Tensor, level: Tensor, num_images: int, num_levels: int, normalizer: str) -> Tensor:
    """(M,) divisor of every row: how many region rows share its group.

    'per_level' counts a level over the batch, as published; 'per_image_level' counts a level of one image and
    averages over images (what two devices with one image each compute); 'global' counts the batch.
    """
    if normalizer == "per_level":
        group, groups, share = level, num_levels, 1
    elif normalizer == "per_image_level":
        group, groups, share = image_index * num_levels + level, num_images * num_levels, num_images
    else:
        group, groups, share = torch.zeros_like(level), 1, 1
    counts = torch.bincount(group, minlength=groups)
    return (counts[group] * share).to(torch.float32)


@MODELS.register_module()
class DistributionDistillationLoss(nn.Module):
    """One distillation term, per level: KL of softened softmax rows, weighted by the region.

    Args:
        loss_weight: factor of the term; 0 switches it off.
        temperature: T of both softmaxes.
    """

    divergence = staticmethod(row_divergence)

    def __init__(self, loss_weight: float, temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        if not loss_weight >= 0:
            raise ValueError(f"loss_weight is {loss_weight}; it must not be negative")
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, row_weight: Tensor, level: Tensor, num_levels: int
    ) -> Tensor:
        """(num_levels,) loss of each level.

        Args:
            student_logits, teacher_logits: (M, K), or (M, D, K) whose D parameters are summed.
            row_weight: (M,) region weight over the row's normaliser.
            level: (M,) level of each row.
        """
        divergence = self.divergence(student_logits, teacher_logits, self.temperature)
        if divergence.dim() == 2:
            divergence = divergence.sum(dim=1)
        rows = divergence * row_weight
        return self.loss_weight * rows.new_zeros(num_levels).index_add(0, level, rows)


@MODELS.register_module()
class BinaryDistillationLoss(DistributionDistillationLoss):
    """One distillation term on logits that are trained as sigmoids: binary KL of every class, weighted by the region.

    An option for `loss_kd`. The published KD is a softmax over the classes, which a shift of all of them leaves
    unchanged; this one also teaches how sure the teacher is that there is an object at all.
    """

    divergence = staticmethod(binary_row_divergence)


@MODELS.register_module()
class RegionDistillation(nn.Module):
    """LD on the box distributions and KD on the class logits, over the region (ld_spec 2).

    Feature imitation is left out: its weight is 0 in every published configuration.

    Args:
        loss_ld, loss_kd: configs of `DistributionDistillationLoss`, for KD or `BinaryDistillationLoss`; None leaves
            the term out.
        normalizer: one of `NORMALIZERS`.
    """

    def __init__(self, loss_ld: dict | None, loss_kd: dict | None, normalizer: str = "per_level") -> None:
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer is {normalizer!r}; one of {', '.join(NORMALIZERS)} needed")
        self.loss_ld = None if loss_ld is None else MODELS.build(loss_ld)
        self.loss_kd = None if loss_kd is None else MODELS.build(loss_kd)
        self.normalizer = normalizer

    def forward(
        self,
        cls_logits: Tensor,
        box_logits: Tensor,
        targets: GatheredTargets,
        level: Tensor,
        num_images: int,
        num_levels: int,
    ) -> dict[str, Tensor]:
        """Losses by name, each (num_levels,).

        Args:
            cls_logits: (M, C) student logits at the targets' priors; box_logits: (M, D, K).
            level: (M,) level of each row.
        """
        divisor = row_normalizer(targets.image_index, level, num_images, num_levels, self.normalizer)
        row_weight = targets.weight / divisor
        losses = {}
        if self.loss_ld is not None:
            losses["loss_ld"] = self.loss_ld(box_logits, targets.box_logits, row_weight, level, num_levels)
        if self.loss_kd is not None:
            losses["loss_kd"] = self.loss_kd(cls_logits, targets.cls_logits, row_weight, level, num_levels)
        return losses


@MODELS.register_module()
class MainRegionDistillation(nn.Module):
    """Horizontal LD on the main region, and where asked for on the VLR, and KD on the main region (ld_spec 2.6).

    Reads the weights of the region rules `atss_main` and `atss_main_vlr`. What depends on the student is computed in
    the step: a row of the main region counts as much as the student's best class score there.

    Args:
        loss_ld: config of `DistributionDistillationLoss` for the main region; the sum over rows and sides is divided
            by the number of sides, as in mmdet's `LDHead`.
        loss_ld_vlr: for the VLR, weighted by IoU, divided by four times the number of sides; None leaves it out.
        loss_kd: for the class logits of the main region, the mean of a level's rows; None leaves it out.
    """

    def __init__(self, loss_ld: dict | None, loss_ld_vlr: dict | None = None, loss_kd: dict | None = None) -> None:
        super().__init__()
        self.loss_ld = None if loss_ld is None else MODELS.build(loss_ld)
        self.loss_ld_vlr = None if loss_ld_vlr is None else MODELS.build(loss_ld_vlr)
        self.loss_kd = None if loss_kd is None else MODELS.build(loss_kd)

    def forward(
        self,
        cls_logits: Tensor,
        box_logits: Tensor,
        targets: GatheredTargets,
        level: Tensor,
        num_images: int,
        num_levels: int,
    ) -> dict[str, Tensor]:
        """Losses by name, each (num_levels,); arguments as `RegionDistillation`."""
        is_main = targets.weight >= MAIN_WEIGHT
        vlr_weight = 2 * (targets.weight - MAIN_WEIGHT * is_main)
        sides = box_logits.shape[1]
        losses = {}
        if self.loss_ld is not None:
            score = cls_logits.detach().sigmoid().amax(dim=1)
            losses["loss_ld"] = self.loss_ld(box_logits, targets.box_logits, is_main * score / sides, level, num_levels)
        if self.loss_ld_vlr is not None:
            losses["loss_ld_vlr"] = self.loss_ld_vlr(
                box_logits, targets.box_logits, vlr_weight / (4 * sides), level, num_levels
            )
        if self.loss_kd is not None:
            rows = torch.bincount(level, weights=is_main.float(), minlength=num_levels).clamp(min=1)
            losses["loss_kd"] = self.loss_kd(cls_logits, targets.cls_logits, is_main / rows[level], level, num_levels)
        return losses
