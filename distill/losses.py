"""LD and KD on gathered rows: the same functions for live and cached teachers (docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmrotate.registry import MODELS
from torch import Tensor, nn

from distill.rows import Logits, Rows, Targets

# Of a stored weight, the half that says main region (rules `atss_main` and `atss_main_vlr`).
MAIN_WEIGHT = 0.5
NORMALIZERS = ("per_level", "per_image_level", "global")

Divergence = Callable[[Tensor, Tensor, float], Tensor]
Settings = dict[str, Any]


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


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    weight: Tensor,
    temperature: float,
    avg_factor: float | Tensor,
    *,
    divergence: Divergence = row_divergence,
    rows: Rows | None = None,
) -> Tensor:
    """Weighted KL(teacher || student) of softened rows: T^2 times the mean over K, summed.

    Args:
        student_logits, teacher_logits: (M, K), or (M, D, K) whose D parameters are summed; gradients flow to the
            student's only.
        weight: (M,).
        temperature: T, softens both sides.
        avg_factor: divisor of all rows, or (M,) one for each.
        divergence: of two rows; `row_divergence` or `binary_row_divergence`.
        rows: the rows' priors; where given, the sum is one for each level.

    Returns:
        Scalar, or (L,). Source: docs/method.md.
    """
    values = divergence(student_logits, teacher_logits, temperature)
    if values.dim() == 2:
        values = values.sum(dim=1)
    values = values * (weight / avg_factor)
    return values.sum() if rows is None else rows.sum_by_level(values)


def row_normalizer(rows: Rows, normalizer: str) -> Tensor:
    """(M,) divisor of every row: how many region rows share its group.

    'per_level' counts a level over the batch, as published; 'per_image_level' counts a level of one image and
    averages over images (what two devices with one image each compute); 'global' counts the batch.
    """
    groups, share = rows.level_sizes, 1
    if normalizer == "per_image_level":
        groups, share = rows.sizes.ravel().tolist(), rows.num_images
    elif normalizer == "global":
        groups = [sum(groups)]
    # Filled where the rows are: a table of the sizes would have to be sent there.
    device = rows.place.device
    return torch.cat([torch.full((size,), size * share, dtype=torch.float32, device=device) for size in groups])


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
        self, student_logits: Tensor, teacher_logits: Tensor, weight: Tensor, avg_factor: float | Tensor, rows: Rows
    ) -> Tensor:
        """(L,) loss of each level; arguments as `distillation_loss`."""
        return self.loss_weight * distillation_loss(
            student_logits,
            teacher_logits,
            weight,
            self.temperature,
            avg_factor,
            divergence=self.divergence,
            rows=rows,
        )


@MODELS.register_module()
class BinaryDistillationLoss(DistributionDistillationLoss):
    """One distillation term on logits that are trained as sigmoids: binary KL of every class, weighted by the region.

    An option for `loss_kd`. The published KD is a softmax over the classes, which a shift of all of them leaves
    unchanged; this one also teaches how sure the teacher is that there is an object at all.
    """

    divergence = staticmethod(binary_row_divergence)


@MODELS.register_module()
class RegionDistillation(nn.Module):
    """LD on the box distributions and KD on the class logits, over the region (docs/method.md).

    Feature imitation is left out: its weight is 0 in every published configuration.

    Args:
        loss_ld, loss_kd: configs of `DistributionDistillationLoss`, for KD or `BinaryDistillationLoss`; None leaves
            the term out.
        normalizer: one of `NORMALIZERS`.
    """

    def __init__(self, loss_ld: Settings | None, loss_kd: Settings | None, normalizer: str = "per_level") -> None:
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer is {normalizer!r}; one of {', '.join(NORMALIZERS)} needed")
        self.loss_ld = None if loss_ld is None else MODELS.build(loss_ld)
        self.loss_kd = None if loss_kd is None else MODELS.build(loss_kd)
        self.normalizer = normalizer

    def forward(self, student: Logits, targets: Targets) -> dict[str, Tensor]:
        """Losses by name, each (L,); `student` are its logits at the targets' rows."""
        rows = targets.rows
        divisor = row_normalizer(rows, self.normalizer)
        losses = {}
        if self.loss_ld is not None:
            losses["loss_ld"] = self.loss_ld(student.box_logits, targets.box_logits, targets.weight, divisor, rows)
        if self.loss_kd is not None:
            losses["loss_kd"] = self.loss_kd(student.cls_logits, targets.cls_logits, targets.weight, divisor, rows)
        return losses


@MODELS.register_module()
class MainRegionDistillation(nn.Module):
    """Horizontal LD on the main region, and where asked for on the VLR, and KD on the main region (docs/method.md).

    Reads the weights of the region rules `atss_main` and `atss_main_vlr`. What depends on the student is computed in
    the step: a row of the main region counts as much as the student's best class score there.

    Args:
        loss_ld: config of `DistributionDistillationLoss` for the main region; the sum over rows and sides is divided
            by the number of sides, as in mmdet's `LDHead`.
        loss_ld_vlr: for the VLR, weighted by IoU, divided by four times the number of sides; None leaves it out.
        loss_kd: for the class logits of the main region, the mean of a level's rows; None leaves it out.
    """

    def __init__(
        self, loss_ld: Settings | None, loss_ld_vlr: Settings | None = None, loss_kd: Settings | None = None
    ) -> None:
        super().__init__()
        self.loss_ld = None if loss_ld is None else MODELS.build(loss_ld)
        self.loss_ld_vlr = None if loss_ld_vlr is None else MODELS.build(loss_ld_vlr)
        self.loss_kd = None if loss_kd is None else MODELS.build(loss_kd)

    def forward(self, student: Logits, targets: Targets) -> dict[str, Tensor]:
        """As `RegionDistillation.forward`."""
        rows = targets.rows
        is_main = targets.weight >= MAIN_WEIGHT
        sides = student.box_logits.shape[1]
        boxes = student.box_logits, targets.box_logits
        losses = {}
        if self.loss_ld is not None:
            score = student.cls_logits.detach().sigmoid().amax(dim=1)
            losses["loss_ld"] = self.loss_ld(*boxes, is_main * score, sides, rows)
        if self.loss_ld_vlr is not None:
            vlr_weight = 2 * (targets.weight - MAIN_WEIGHT * is_main)
            losses["loss_ld_vlr"] = self.loss_ld_vlr(*boxes, vlr_weight, 4 * sides, rows)
        if self.loss_kd is not None:
            count = rows.sum_by_level(is_main.float()).clamp(min=1)
            losses["loss_kd"] = self.loss_kd(
                student.cls_logits, targets.cls_logits, is_main.float(), count[rows.level], rows
            )
        return losses
