"""What a codec does to the teacher's logits, as a store keeps it by block: largest error, KL, and how boxes move."""

from __future__ import annotations

from torch import Tensor

from cache.layout import ERROR_TEMPERATURES
from cache.quantize import subtract_row_max
from distill.adapter import HeadAdapter


def measure_error(logits: Tensor, decoded: Tensor, name: str) -> dict[str, float]:
    """Largest absolute error, and mean KL(teacher || stored) of a softmax row in nats by temperature."""
    error = (logits - decoded).double()
    measured = {f"{name}_max_abs_error": float(error.abs().max())}
    # Exponentials cost more than all the rest: those of lower temperatures are powers of the first.
    tenth = {}
    for whose, values in (("teacher", logits), ("stored", decoded)):
        tenth[whose] = subtract_row_max(values).double().div_(10).exp_()
    shift = decoded.amax(dim=-1).double() - logits.amax(dim=-1).double()
    for temperature in ERROR_TEMPERATURES:
        teacher, stored = (values ** (10 / temperature) for values in tenth.values())
        weight = teacher.sum(dim=-1)
        # log(sum of exp(stored)) - log(sum of exp(teacher)), with the maxima that were subtracted.
        log_ratio = (stored.sum(dim=-1) / weight).log() + shift / temperature
        divergence = (teacher * error).sum(dim=-1) / weight / temperature + log_ratio
        measured[f"{name}_mean_kl_t{int(temperature)}"] = max(0.0, float(divergence.mean()))
    return measured


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
