"""The arithmetic of a teacher's answers: all beside its weights and inputs that changes their last bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

# Their settings are made at run time, unknown to a type checker.
cudnn: Any = torch.backends.cudnn
matmul: Any = torch.backends.cuda.matmul
# By precision, the share of the largest logit by which two forwards of one teacher may differ: another batch, memory
# format, number of threads or device adds up in another order (measured: docs/exactness.md).
REPEAT_TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Arithmetic:
    """How a teacher computes; for a cache a GPU always takes deterministic algorithms.

    dtype: float32, or autocast to float16 or bfloat16. tf32: a GPU rounds the factors of float32 products to 10 bits.
    channels_last: its maps lie in memory pixel by pixel. compile: backbone and neck by torch.compile.
    """

    dtype: str = "float32"
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def of(cls, numeric: Mapping[str, Any]) -> Arithmetic:
        """That of the section `numeric` of a manifest."""
        return cls(**{field.name: numeric[field.name] for field in fields(cls) if field.name in numeric})

    @property
    def repeat_tolerance(self) -> float:
        """The share of the largest logit by which a repeated answer may differ."""
        return REPEAT_TOLERANCE["tf32" if self.tf32 and self.dtype == "float32" else self.dtype]

    def describe(self, device: torch.device) -> dict[str, Any]:
        """What the last bits of an answer depend on, as the manifest states it in `numeric`."""
        described = {
            "torch": torch.__version__,
            "device": device.type,
            "dtype": self.dtype,
            "channels_last": self.channels_last,
            "compile": self.compile,
        }
        if device.type == "cpu":
            return described | {"threads": torch.get_num_threads()}
        gpu = torch.cuda.get_device_name(device)
        return described | {"gpu": gpu, "cudnn": cudnn.version(), "deterministic": True, "tf32": self.tf32}

    @contextmanager
    def applied(self, device: torch.device, *, deterministic: bool = True) -> Iterator[None]:
        """Compute so, whatever the process around it has set; the layout is left to whoever holds the tensors.

        deterministic: by algorithms that repeat themselves; otherwise by those that the process takes.
        """
        precision, flags = _precision(), (cudnn.deterministic, cudnn.benchmark)
        try:
            use_tf32(self.tf32)
            if deterministic:
                cudnn.deterministic, cudnn.benchmark = True, False
            with torch.autocast(device.type, getattr(torch, self.dtype), enabled=self.dtype != "float32"):
                yield
        finally:
            _set_precision(*precision)
            cudnn.deterministic, cudnn.benchmark = flags


def use_tf32(on: bool) -> None:
    """Whether GPUs round the factors of float32 products to 10 bits. By itself torch does so in convolutions."""
    _set_precision(*3 * ("tf32" if on else "ieee",))


def uses_tf32() -> bool:
    """Whether they do, in convolutions or in products of matrices."""
    convolutions, _, products = _precision()
    return "tf32" in (convolutions, products)


def _precision() -> tuple[str, str, str]:
    """torch's setting for convolutions, recurrent networks and products of matrices."""
    # By their newer names: torch raises where `allow_tf32` is read after one of these was set.
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision


def _set_precision(convolutions: str, recurrent: str, products: str) -> None:
    # Under both names, for whoever reads the older ones.
    cudnn.allow_tf32, matmul.allow_tf32 = convolutions == "tf32", products == "tf32"
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = convolutions, recurrent
    matmul.fp32_precision = products
