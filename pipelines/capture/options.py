"""What the command line says about teacher, capture and workers, and what the machine adds; it never changes."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cache.plan import VIEWS_PER_BLOCK
from pipelines.base.arguments import add_tf32, config_file
from pipelines.base.command import available_cores, positive_int
from pipelines.base.ready import require_teacher

if TYPE_CHECKING:
    from mmengine.config import Config

if TYPE_CHECKING:
    from mmengine.config import Config

    from distill.arithmetic import Arithmetic

# What the teacher may compute in: float32, or autocast to one of the others.
DTYPES = ("float32", "bfloat16", "float16")
# Where Dask's dashboard listens.
DASHBOARD = "127.0.0.1:8787"


@dataclass(frozen=True)
class TeacherOptions:
    """Which teacher, and where it runs; None leaves files to the student's config, the rest to the machine.

    threads: of torch, for a teacher on the CPU.
    """

    teacher: str | None = None
    checkpoint: str | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class CaptureOptions:
    """How a capture asks its teacher.

    patches_per_batch: patches, each with all its views, in one forward pass. dtype: one of `DTYPES`. tf32: None for the
    student config's. channels_last, compile: as in `Arithmetic`. loaders: processes that load images; 0 where the
    asking one does.
    """

    patches_per_batch: int = 1
    dtype: str = "float32"
    tf32: bool | None = None
    channels_last: bool = False
    compile: bool = False
    loaders: int = 0

    def arithmetic(self, config: Config) -> Arithmetic:
        """The teacher's, for a student of this config.

        Raises:
            ValueError: a dtype that no teacher computes in.
        """
        from distill.arithmetic import Arithmetic

        if self.dtype not in DTYPES:
            raise ValueError(f"capture dtype is {self.dtype!r}; one of {', '.join(DTYPES)} needed")
        tf32 = bool(config.get("tf32", False)) if self.tf32 is None else self.tf32
        return Arithmetic(self.dtype, tf32, self.channels_last, self.compile)


@dataclass(frozen=True)
class ClusterOptions:
    """Whose workers do the work: so many of our own, those of a scheduler, or none."""

    workers: int | None = None
    scheduler: str | None = None
    dashboard: bool = False


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """Which teacher, and where it runs."""
    parser.add_argument(
        "--teacher", type=config_file, help="the teacher's config (default: the student config's teacher.config)"
    )
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the student config's teacher.checkpoint)")
    parser.add_argument(
        "--device",
        type=device_name,
        help="where the teacher runs: cuda:1, cpu (default: a GPU where there is one)",
    )
    parser.add_argument(
        "--threads", type=positive_int, help="threads of a teacher on the CPU (default: torch's, one a core)"
    )


def require_teacher_of(config: Config, arguments: argparse.Namespace) -> None:
    """Refuse a teacher, the command line's or the config's, whose config or weights are not there.

    Raises:
        ValueError: naming the file, or the key that the config lacks.
    """
    teacher = config.get("teacher") or {}
    path, checkpoint = arguments.teacher or teacher.get("config"), arguments.checkpoint or teacher.get("checkpoint")
    if path is None or checkpoint is None:
        raise ValueError(f"config {config.filename} names no `teacher`; give TEACHER= (its config) and CHECKPOINT=")
    require_teacher(path, checkpoint)


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
    add_tf32(parser)
    on_or_off = argparse.BooleanOptionalAction
    parser.add_argument(
        "--channels-last", action=on_or_off, default=False, help="its maps lie in memory pixel by pixel (default: no)"
    )
    parser.add_argument(
        "--compile", action=on_or_off, default=False, help="compile its backbone and neck: minutes a size (default: no)"
    )


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the work is done: in this process and its loaders, or by Dask workers, which load for themselves."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--loaders",
        type=_count,
        # A text, so that argparse can tell it from the same number on the command line.
        default=str(available_cores()),
        help="work in this process, with so many loader processes (the default, with one a core)",
    )
    where.add_argument("--workers", type=positive_int, help="work in so many Dask worker processes on this machine")
    where.add_argument(
        "--scheduler", type=_address, help="work on a running Dask cluster: tls://host:port or tcp://host:port"
    )
    parser.add_argument(
        "--dashboard",
        action="store_true",
        help=f"with --workers: Dask's dashboard on {DASHBOARD}",
    )


def device_name(text: str) -> str:
    """An argparse type: a CPU, or one GPU."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"cpu, cuda or a GPU like cuda:1 is needed, not {text!r}")
    return text


def _count(text: str) -> int:
    """An argparse type: a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, not {text!r}")
    return int(text)


def _address(text: str) -> str:
    """An argparse type: the address of a scheduler."""
    parts = urlsplit(text)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not text.rpartition(":")[2].isdecimal():
        raise argparse.ArgumentTypeError(f"an address like tls://host:8786 is needed, not {text!r}")
    return text
