"""How much a check does, and in which arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from distill.arithmetic import Arithmetic, use_tf32, uses_tf32


@dataclass(frozen=True)
class Sizes:
    """What is trained and captured, and for how long.

    model: a key of `MODEL_CONFIGS`. size: pixels of a patch's side. patches: of the students' training set. batch:
    images a step. steps: of live and cached students that are compared. pairs, warmup: timed steps of every student,
    and those before. loader_steps: steps that wait for a loader. capture_patches: of a timed capture. workers: loaders.
    """

    model: str
    size: int
    patches: int
    batch: int
    steps: int
    pairs: int
    warmup: int
    loader_steps: int
    capture_patches: int
    workers: int


def full_sizes(workers: int) -> Sizes:
    """Full models on patches as DOTA's, a few minutes on a GPU."""
    return Sizes(
        model="full",
        size=1024,
        patches=8,
        batch=2,
        steps=30,
        pairs=20,
        warmup=4,
        loader_steps=10,
        capture_patches=96,
        workers=workers,
    )


FLOAT32 = Arithmetic()
TF32 = Arithmetic(tf32=True)
# What steps are timed in; captures in those that pay.
STEP_ARITHMETICS = tuple(
    Arithmetic(dtype, tf32=tf32, channels_last=channels_last)
    for dtype, tf32 in (("float32", False), ("float32", True), ("bfloat16", False))
    for channels_last in (False, True)
)
CAPTURE_ARITHMETICS = (FLOAT32, TF32, Arithmetic("bfloat16", channels_last=True))


def title(arithmetic: Arithmetic) -> str:
    """An arithmetic in a table."""
    name = "TF32" if arithmetic.tf32 else arithmetic.dtype
    return f"{name}, channels last" if arithmetic.channels_last else name


@contextmanager
def process_in(arithmetic: Arithmetic, *, deterministic: bool = False, search: bool = False) -> Iterator[None]:
    """All that this process computes, students included; an arithmetic's dtype and layout are left to them.

    search: cuDNN tries its algorithms and keeps the fastest.
    """
    cudnn = torch.backends.cudnn
    before = uses_tf32(), torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    try:
        use_tf32(arithmetic.tf32)
        torch.use_deterministic_algorithms(deterministic)
        cudnn.deterministic, cudnn.benchmark = deterministic, search
        yield
    finally:
        use_tf32(before[0])
        torch.use_deterministic_algorithms(before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
