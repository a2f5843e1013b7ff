"""Codecs of the stored logits: uniform quantisers and plain floats, each with a stated error bound.

`encode` and `decode` use only operations that NumPy and torch share, so one function serves both: the capture
quantises on the teacher's device, readers decode with NumPy, and the two agree bit for bit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PRESETS = ("exact", "half", "default")
LOGIT_FIELDS = ("cls_logits", "box_logits")
_HALF_MAX = 65504.0
# Room for the float32 rounding of (value - offset) / step, in steps; 0 where step is a power of two.
_ROUNDING = 2.0**-14


def subtract_row_max(logits: Any) -> Any:
    """Shift each softmax row so that its largest logit is 0; the softmax is the same."""
    namespace = sys.modules[type(logits).__module__]
    return logits - namespace.amax(logits, axis=-1, keepdims=True)


@dataclass(frozen=True)
class FieldCodec:
    """How one field of logits is stored.

    dtype: "uint8" (value = code * scale_factor + add_offset), "float16" or "float32" (stored as it is).
    scale_factor, add_offset: CF attributes; 1 and 0 for floats.
    """

    dtype: str
    scale_factor: float = 1.0
    add_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "float16", "float32"):
            raise ValueError(f"codec dtype is {self.dtype!r}; uint8, float16 or float32 needed")
        if self.is_float and (self.scale_factor, self.add_offset) != (1.0, 0.0):
            raise ValueError(f"a {self.dtype} codec has no scale: scale_factor is {self.scale_factor}")
        if not (self.scale_factor > 0 and math.isfinite(self.scale_factor) and math.isfinite(self.add_offset)):
            raise ValueError(f"scale_factor {self.scale_factor} must be above 0 and both values finite")

    @property
    def is_float(self) -> bool:
        return self.dtype != "uint8"

    @property
    def low(self) -> float:
        """Smallest value that can be stored within the bound."""
        if self.is_float:
            return -math.inf if self.dtype == "float32" else -_HALF_MAX
        return self.add_offset - self.scale_factor / 2

    @property
    def high(self) -> float:
        """Largest value that can be stored within the bound."""
        if self.is_float:
            return -self.low
        return self.add_offset + self.scale_factor * 255.5

    def max_abs_error(self, largest: float = 1.0) -> float:
        """Bound of |decoded - value| for values of magnitude up to `largest`, rounding included."""
        if self.dtype == "float32":
            return 0.0
        if self.dtype == "float16":
            return max(abs(largest) * 2.0**-11, 2.0**-25)
        return self.scale_factor * (0.5 + _ROUNDING)

    def encode(self, values: Any) -> Any:
        """Codes of `values` (float32 array or tensor), still as floats: the caller casts to `dtype`.

        Call `check_range` first: a value outside [low, high] has no code.
        """
        if self.is_float:
            return values
        return ((values - self.add_offset) * (1 / self.scale_factor)).round().clip(0, 255)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 values of stored codes."""
        values = codes.astype(np.float32)
        if not self.is_float:
            values *= np.float32(self.scale_factor)
            values += np.float32(self.add_offset)
        return values

    def check_range(self, smallest: float, largest: float, field: str, where: str) -> None:
        """Refuse values that cannot be stored within the bound.

        Raises:
            ValueError: naming field, place, value, range and the preset that holds it.
        """
        for value in (smallest, largest):
            if not math.isfinite(value):
                raise ValueError(f"{where}: {field} holds {value}; the teacher's output must be finite")
            if not self.low <= value <= self.high:
                raise ValueError(
                    f"{where}: {field} value {value:.4g} lies outside [{self.low:.4g}, {self.high:.4g}], the range "
                    "fixed from the probe. Capture into a new cache with codec 'half' or 'exact', which hold any logit."
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FieldCodec:
        return cls(**value)


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest value of a field that the probe has seen."""

    low: float
    high: float


def choose_codecs(preset: str, ranges: Mapping[str, ValueRange]) -> dict[str, FieldCodec]:
    """The codec of every logit field for a preset, with room for twice the probed range.

    Steps are powers of two, so that codes, steps and offsets are exact in float32 everywhere.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"codec preset {preset!r} is unknown; one of {', '.join(PRESETS)} needed")
    if preset != "default":
        dtype = "float32" if preset == "exact" else "float16"
        return {field: FieldCodec(dtype) for field in LOGIT_FIELDS}
    return {field: _eight_bit_codec(ranges[field]) for field in LOGIT_FIELDS}


def _eight_bit_codec(probed: ValueRange) -> FieldCodec:
    """256 levels over twice the probed range, widened evenly but never past a hard end of 0.

    Box rows have their maximum at exactly 0, so all the room goes below.
    """
    span = max(probed.high - probed.low, 2.0**-6)
    hard_top = probed.high == 0
    low = probed.low - (span if hard_top else span / 2)
    high = 0.0 if hard_top else probed.high + span / 2
    step = 2.0 ** math.ceil(math.log2((high - low) / 254))
    if hard_top:
        return FieldCodec("uint8", step, -255 * step)
    return FieldCodec("uint8", step, math.floor(low / step) * step)
