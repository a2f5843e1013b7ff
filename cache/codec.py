"""How a store holds logits: floats of the stored priors, a row each, or cells in steps along a basis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.cells import CellCodec

LOGIT_FIELDS = ("cls_logits", "box_logits")
FLOATS = ("float32", "float16")
# A float dtype, or the most that mean KL(teacher || stored) may be at `BOUND_TEMPERATURE`, in nats: the larger of the
# means over softmax rows of classes and of bins.
PRESETS: dict[str, str | float] = {"exact": "float32", "half": "float16", "default": 6e-6, "small": 1e-4}
BOUND_TEMPERATURE = 5.0
# A block may exceed the bound by so much: blocks differ, and the step was found on some views.
BLOCK_ALLOWANCE = 1.1
# Largest number that float16 holds.
_HALF_MAX = 65504.0


@dataclass(frozen=True)
class RowCodec:
    """Logits of stored priors as floats, one row each; `dtype` is one of `FLOATS`, of their weights as well."""

    dtype: str

    def max_abs_error(self, largest: float = 1.0) -> float:
        """Bound of |stored - value| for values of magnitude up to `largest`."""
        return 0.0 if self.dtype == "float32" else max(abs(largest) * 2.0**-11, 2.0**-25)

    def require_range(self, smallest: float, largest: float, field: str, where: str) -> None:
        """Refuse values that are no numbers or that the dtype does not hold.

        Raises:
            ValueError: naming field, place, value and range.
        """
        for value in (smallest, largest):
            if not math.isfinite(value):
                raise ValueError(f"{where}: {field} holds {value}; the teacher's output must be finite")
            if self.dtype == "float16" and abs(value) > _HALF_MAX:
                raise ValueError(
                    f"{where}: {field} value {value:.4g} lies outside ±{_HALF_MAX:g}, the range of float16. Capture "
                    "into a new cache with codec 'exact', which holds it"
                )

    def describe(self) -> dict[str, Any]:
        """The codec's part of the manifest."""
        return {"dtype": self.dtype}


Codec = RowCodec | CellCodec


@dataclass(frozen=True)
class CodecRequest:
    """What a config's `codec` asks for.

    preset: one of `PRESETS`, or "free". dtype: of floats, or None. kl: the bound of cells, or None.
    """

    preset: str
    dtype: str | None = None
    kl: float | None = None

    @classmethod
    def of(cls, codec: str | Mapping[str, Any]) -> CodecRequest:
        """The request that a config states: a preset's name, or `dict(kl=...)`.

        Raises:
            ValueError: neither.
        """
        if isinstance(codec, str):
            if codec not in PRESETS:
                raise ValueError(
                    f"codec preset {codec!r} is unknown; one of {', '.join(PRESETS)} needed, or dict(kl=<bound>)"
                )
            value = PRESETS[codec]
            return cls(codec, dtype=value) if isinstance(value, str) else cls(codec, kl=value)
        if set(codec) != {"kl"}:
            raise ValueError(
                f"codec is {dict(codec)}; one of {', '.join(PRESETS)} needed, or dict(kl=<bound>) with the most that "
                f"mean KL(teacher || stored) may be at T = {BOUND_TEMPERATURE:g}"
            )
        bound = codec["kl"]
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 1e-9 <= bound <= 1:
            raise ValueError(f"codec.kl is {bound!r}; a number of nats from 1e-9 to 1 needed")
        return cls("free", kl=float(bound))

    @property
    def is_cells(self) -> bool:
        return self.kl is not None

    def describe(self) -> dict[str, Any]:
        """As the manifest states it."""
        return {"preset": self.preset, "kl": self.kl, "stored": "cells" if self.is_cells else "rows"}


def describe_codec(request: CodecRequest, codec: Codec) -> dict[str, Any]:
    """The manifest's section `codec`."""
    return {**request.describe(), **codec.describe()}


def stores_cells(section: Mapping[str, Any]) -> bool:
    """Whether a manifest's section `codec` says cells, rather than rows of floats."""
    return bool(section["stored"] == "cells")


def subtract_row_max(logits: np.ndarray) -> np.ndarray:
    """Shift each softmax row so that its largest logit is 0; the softmax is the same."""
    shifted: np.ndarray = logits - logits.max(axis=-1, keepdims=True)
    return shifted
