"""What a Dask worker does for a capture: a teacher of its own, and block after block into the client's store."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from distributed import get_worker
from mmengine.config import Config

from cache.codec import CodecRequest
from cache.manifest import Manifest
from cache.plan import Plan
from cache.reader import CacheReader
from cache.storage import Location
from cache.writer import CacheWriter
from distill.teacher import FrozenTeacher
from pipelines.base.experiment import register
from pipelines.capture.asking import TeacherViews
from pipelines.capture.capture import capture_blocks
from pipelines.capture.cluster import Shared
from pipelines.capture.identity import describe_capture, describe_pair, load_teacher
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.capture.probe import Probe, run_probe

# The threads of a worker take turns: one teacher has all that it may use.
_turn = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What a worker must know to do as the client would.

    threads: of the client's torch. The manifest states them, and Dask starts workers with one. is_own: whether the
    client has started this worker, on its own machine.
    """

    config: Config
    teacher: TeacherOptions
    options: CaptureOptions
    threads: int
    is_own: bool


def load(*, job: Shared[Job]) -> str:
    """Make the teacher ready; returns the type of its device."""
    with _at_work(job):
        return _teacher(job).device.type


def describe_teacher(*, job: Shared[Job]) -> dict[str, Any]:
    """As `Engine.describe_pair`."""
    with _at_work(job):
        config, options = job.value.config, job.value.options
        return describe_pair(config, _teacher(job), options.arithmetic(config))


def describe(*, job: Shared[Job], plan: Plan, probe: bool) -> tuple[dict[str, Any], Probe | None]:
    """As `Engine.describe`."""
    with _at_work(job):
        asked = _asked(job, plan)
        sections = describe_capture(job.value.config, asked)
        return sections, run_probe(asked, CodecRequest.of(job.value.config.codec), sections) if probe else None


def capture_block(block: int, *, job: Shared[Job], path: Location) -> int:
    """Capture and commit one block; returns the bytes written."""
    with _at_work(job):
        asked, writer = _opened(job, path)
        return capture_blocks(asked, writer, [block], lambda views: None)


@contextmanager
def _at_work(job: Shared[Job]) -> Iterator[None]:
    """Around every task: torch as the client has it. An error of another machine says which."""
    with _turn:
        torch.set_num_threads(job.value.threads)
        try:
            yield
        except (ValueError, OSError) as error:
            if job.value.is_own:
                raise
            raise ValueError(f"worker {get_worker().address} on {platform.node()}: {error}") from error


@lru_cache(maxsize=1)
def _teacher(job: Shared[Job]) -> FrozenTeacher:
    config, options = job.value.config, job.value.teacher
    register(config)
    # Workers of our own are named 0, 1, 2, ...; those of a running cluster see the device that is theirs.
    turn = int(get_worker().name) if job.value.is_own else 0
    return load_teacher(config, options, turn)


def _asked(job: Shared[Job], plan: Plan) -> TeacherViews:
    # Images are loaded by the worker itself: Dask's workers may have no child processes.
    return TeacherViews(job.value.config, plan, _teacher(job), replace(job.value.options, loaders=0))


@lru_cache(maxsize=1)
def _opened(job: Shared[Job], path: Location) -> tuple[TeacherViews, CacheWriter]:
    """The teacher over a store's plan, and the store, which this worker would have made no other way.

    Raises:
        ValueError: the worker does not see the store, or its bytes would differ.
    """
    try:
        reader = CacheReader(path)
    except ValueError as error:
        raise ValueError(
            f"cache {path}, which the command has locked, cannot be opened by a worker: {error}. Every worker needs "
            "the store at this path, on a disk that all machines share"
        ) from error
    plan = reader.plan
    asked = _asked(job, plan)
    sections = describe_capture(job.value.config, asked)
    manifest = Manifest(**sections, plan=plan.describe(), codec=reader.manifest.codec)
    return asked, CacheWriter(path, manifest, plan, reader.codec, locked_elsewhere=True)
