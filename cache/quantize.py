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

LOGIT_FIELDS = ("cls_logits", "box_logits")
CODED_FIELDS = ("weight", *LOGIT_FIELDS)
# How each field is stored: a float dtype, or the step of a uniform quantiser. The steps of `default` and `small` are
# read off the rate-distortion curve of trained teachers (docs/benchmarks.md).
PRESETS: dict[str, dict[str, str | float]] = {
    "exact": {"weight": "float32", "cls_logits": "float32", "box_logits": "float32"},
    "half": {"weight": "float16", "cls_logits": "float16", "box_logits": "float16"},
    "default": {"weight": "float16", "cls_logits": 2.0**-4, "box_logits": 2.0**-4},
    "small": {"weight": "float16", "cls_logits": 2.0**-2, "box_logits": 2.0**-2},
}
FLOATS = ("float16", "float32")
# Largest code of each integer dtype; a field takes the first that holds its range.
_LARGEST_CODE = {"uint8": 255, "uint16": 65535}
_HALF_MAX = 65504.0


def subtract_row_max(logits: Any) -> Any:
    """Shift each softmax row so that its largest logit is 0; the softmax is the same."""
    # Of a tensor's class that may be derived; torch is not imported here.
    namespace = np if isinstance(logits, np.ndarray) else sys.modules["torch"]
    return logits - namespace.amax(logits, axis=-1, keepdims=True)


@dataclass(frozen=True)
class FieldCodec:
    """How one field of logits is stored.

    dtype: "uint8" or "uint16" (value = code * scale_factor + add_offset), "float16" or "float32" (stored as it is).
    scale_factor, add_offset: CF attributes; 1 and 0 for floats.
    """

    dtype: str
    scale_factor: float = 1.0
    add_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.dtype not in (*_LARGEST_CODE, *FLOATS):
            raise ValueError(f"codec dtype is {self.dtype!r}; one of {', '.join((*_LARGEST_CODE, *FLOATS))} needed")
        if self.is_float and (self.scale_factor, self.add_offset) != (1.0, 0.0):
            raise ValueError(f"a {self.dtype} codec has no scale: scale_factor is {self.scale_factor}")
        if not (self.scale_factor > 0 and math.isfinite(self.scale_factor) and math.isfinite(self.add_offset)):
            raise ValueError(f"scale_factor {self.scale_factor} must be above 0 and both values finite")

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def largest_code(self) -> int:
        """255 or 65535; codes are integers from 0 on."""
        return _LARGEST_CODE[self.dtype]

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
        return self.add_offset + self.scale_factor * (self.largest_code + 0.5)

    def max_abs_error(self, largest: float = 1.0) -> float:
        """Bound of |decoded - value| for values of magnitude up to `largest`, rounding included."""
        if self.dtype == "float32":
            return 0.0
        if self.dtype == "float16":
            return max(abs(largest) * 2.0**-11, 2.0**-25)
        # (value - offset) / step is rounded to float32, which spaces numbers of this size so far apart.
        return self.scale_factor * (0.5 + (self.largest_code + 1) * 2.0**-22)

    def encode(self, values: Any) -> Any:
        """Codes of `values` (float32 array or tensor), still as floats: the caller casts to `dtype`.

        Call `check_range` first: a value outside [low, high] has no code.
        """
        if self.is_float:
            return values
        return ((values - self.add_offset) * (1 / self.scale_factor)).round().clip(0, self.largest_code)

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
                holds = "half" if abs(value) <= _HALF_MAX and self.dtype != "float16" else "exact"
                raise ValueError(
                    f"{where}: {field} value {value:.4g} lies outside [{self.low:.4g}, {self.high:.4g}], the range "
                    f"fixed from the probe. Capture into a new cache with codec '{holds}', which holds it"
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


def resolve_codec(codec: str | Mapping[str, str | float]) -> dict[str, Any]:
    """What a config's `codec` asks for: the preset's name, and a float dtype or a step for every field.

    Args:
        codec: a preset, or a mapping of fields to "float16", "float32" or a step; `preset` there names the preset that
            the other fields follow (default: default).

    Raises:
        ValueError: an unknown preset or field, or a value that is neither.
    """
    given: dict[str, Any] = {"preset": codec} if isinstance(codec, str) else dict(codec)
    preset = given.pop("preset", "default")
    if preset not in PRESETS:
        raise ValueError(f"codec preset {preset!r} is unknown; one of {', '.join(PRESETS)} needed")
    for field, kind in given.items():
        if field not in CODED_FIELDS:
            raise ValueError(f"codec.{field}: no such field; one of preset, {', '.join(CODED_FIELDS)} needed")
        is_step = isinstance(kind, int | float) and not isinstance(kind, bool) and 0 < kind < math.inf
        if kind not in FLOATS and not (is_step and field in LOGIT_FIELDS):
            allowed = f"{' or '.join(FLOATS)}{', or a step above 0' if field in LOGIT_FIELDS else ''}"
            raise ValueError(f"codec.{field} is {kind!r}; {allowed} needed")
    fields = {field: kind if kind in FLOATS else float(kind) for field, kind in {**PRESETS[preset], **given}.items()}
    return {"preset": "free" if fields != PRESETS[preset] else preset, **fields}


def choose_codecs(codec: str | Mapping[str, str | float], ranges: Mapping[str, ValueRange]) -> dict[str, FieldCodec]:
    """The codec of every coded field, with room for twice the probed range.

    Args:
        codec: as `resolve_codec` takes it.
        ranges: the probed values of the fields that are stored in steps.

    Raises:
        ValueError: as `resolve_codec`; a step too small for the probed range.
    """
    wanted = resolve_codec(codec)
    return {
        field: FieldCodec(wanted[field])
        if wanted[field] in FLOATS
        else _uniform_codec(field, wanted[field], ranges[field])
        for field in CODED_FIELDS
    }


def codecs_of(manifest_codec: Mapping[str, Any]) -> dict[str, FieldCodec]:
    """The codecs that a manifest states."""
    return {field: FieldCodec.from_json(manifest_codec[field]) for field in CODED_FIELDS}


def _uniform_codec(field: str, step: float, probed: ValueRange) -> FieldCodec:
    """Codes over at least twice the probed range, in the smallest dtype that holds them.

    Codes that the range does not need widen it evenly, but never past a hard end of 0: box rows have their maximum at
    exactly 0.
    """
    span = max(probed.high - probed.low, step)
    hard_top = probed.high == 0
    low = probed.low - (span if hard_top else span / 2)
    high = 0.0 if hard_top else probed.high + span / 2
    needed = math.ceil((high - low) / step)
    dtype = next((dtype for dtype, largest in _LARGEST_CODE.items() if needed <= largest), None)
    if dtype is None:
        raise ValueError(
            f"codec.{field}: 65536 codes of step {step:g} do not reach from {low:.4g} to {high:.4g}. Give a larger "
            "step, 'float16' or 'float32'"
        )
    largest = _LARGEST_CODE[dtype]
    if hard_top:
        return FieldCodec(dtype, step, -largest * step)
    # The middle of the range gets a code in the middle of 256 that share their upper byte: it compresses to nothing.
    middle_code = (largest + 1) // 2 + (0 if dtype == "uint8" else 128)
    return FieldCodec(dtype, step, (round((low + high) / 2 / step) - middle_code) * step)
