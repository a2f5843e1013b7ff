"""What the command line says about teacher and capture, and what the machine adds: values that never change."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from cache.plan import VIEWS_PER_BLOCK
from pipelines.base.command import positive_int

# What the teacher may compute in: float32, or autocast to one of the others.
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TeacherOptions:
    """Which teacher, and where it runs; None leaves files to the student's config and the device to the machine."""

    teacher: str | None = None
    checkpoint: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class CaptureOptions:
    """How a capture asks its teacher.

    patches_per_batch: patches, each with all its views, in one forward pass. dtype: one of `DTYPES`. loaders: processes
    that load images; 0 where the asking one does.
    """

    patches_per_batch: int = 1
    dtype: str = "float32"
    loaders: int = 0


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """Which teacher, and where it runs."""
    parser.add_argument("--teacher", help="the teacher's config (default: the student config's teacher.config)")
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the student config's teacher.checkpoint)")
    parser.add_argument("--device", help="where the teacher runs (default: cuda where there is one, else cpu)")


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    """How the teacher runs; the manifest states it, for the bytes depend on it."""
    parser.add_argument(
        "--patches-per-batch", type=positive_int, default=1, help="patches, with all their views, at once (default: 1)"
    )
    parser.add_argument(
        "--views-per-block",
        type=positive_int,
        default=VIEWS_PER_BLOCK,
        help=f"views that are written and committed together (default: {VIEWS_PER_BLOCK})",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the teacher computes in")
