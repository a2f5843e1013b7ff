"""What a codec does to the teacher's logits, as a store keeps it by block: largest error, KL, and how boxes move."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cache.layout import ERROR_TEMPERATURES
from distill.adapter import HeadAdapter

# Softmax rows at once: the measurement works in float64, and a block may have millions.
ROWS_AT_ONCE = 2**19


def measure_error(logits: Tensor, decoded: Tensor, name: str) -> dict[str, float]:
    """Largest absolute error, and mean KL(teacher || stored) of a softmax row in nats by temperature.

    A row of one number is no distribution: its KL is that of Gaussians of unit variance at any temperature.
    """
    rows = torch.broadcast_shapes(logits.shape, decoded.shape)[:-1].numel()
    bins = logits.shape[-1]
    sums = logits.new_zeros(1 + len(ERROR_TEMPERATURES), dtype=torch.float64)
    pairs = zip(
        logits.reshape(-1, bins).split(ROWS_AT_ONCE), decoded.reshape(-1, bins).split(ROWS_AT_ONCE), strict=True
    )
    for ours, theirs in pairs:
        error = (ours - theirs).double()
        sums[0] = torch.maximum(sums[0], error.abs().max())
        sums[1:] += _divergences(ours, theirs, error)
    largest, *divergences = sums.tolist()
    means = {
        f"{name}_mean_kl_t{int(temperature)}": max(0.0, divergence / rows)
        for temperature, divergence in zip(ERROR_TEMPERATURES, divergences, strict=True)
    }
    return {f"{name}_max_abs_error": largest, **means}


def mean_divergence(logits: Tensor, decoded: Tensor, temperature: float) -> float:
    """Mean KL(teacher || stored) of rows (M, K) at one temperature."""
    if logits.shape[-1] == 1:
        return float((logits - decoded).double().square().mean() / 2)
    ours, theirs = ((values.double() / temperature).log_softmax(dim=-1) for values in (logits, decoded))
    return float(F.kl_div(theirs, ours, reduction="sum", log_target=True)) / len(logits)


def _divergences(logits: Tensor, decoded: Tensor, error: Tensor) -> Tensor:
    """(temperatures,) sums of KL(teacher || stored) over the rows."""
    if logits.shape[-1] == 1:
        return (error.square().sum() / 2).repeat(len(ERROR_TEMPERATURES))
    # Exponentials cost more than all the rest: those of lower temperatures are powers of the first.
    teacher_top, stored_top = (values.amax(dim=-1, keepdim=True).double() for values in (logits, decoded))
    tenths = [(values.double() - top).div_(10).exp_() for values, top in ((logits, teacher_top), (decoded, stored_top))]
    shift = (stored_top - teacher_top).squeeze(-1)
    found = []
    for temperature, teacher, stored in zip(ERROR_TEMPERATURES, *map(_powers, tenths), strict=True):
        weight = teacher.sum(dim=-1)
        # log(sum of exp(stored)) - log(sum of exp(teacher)), with the maxima that were subtracted.
        log_ratio = (stored.sum(dim=-1) / weight).log() + shift / temperature
        found.append(((teacher * error).sum(dim=-1) / weight / temperature + log_ratio).sum())
    return torch.stack(found)


def _powers(tenth: Tensor) -> tuple[Tensor, ...]:
    """Exponentials at each of `ERROR_TEMPERATURES`, from those at 10."""
    fifth = tenth.square()
    half = fifth.square() * tenth
    assert ERROR_TEMPERATURES == (1, 2, 5, 10)
    return half.square(), half, fifth, tenth


def measure_box_change(adapter: HeadAdapter, before: Tensor, after: Tensor) -> dict[str, float]:
    """What the codec does to expected boxes (M, 4 or 5): pixels, degrees, and 1 - IoU of before and after."""
    pixels, degrees, iou = adapter.box_change(before, after)
    lost = (1 - iou).clamp(min=0)
    return {
        "box_max_pixels": float(pixels.max()),
        "box_max_degrees": float(degrees.max()),
        "box_mean_iou_loss": float(lost.mean()),
        "box_max_iou_loss": float(lost.max()),
    }
