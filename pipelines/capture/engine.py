"""Where the teacher runs: in this process, or on the workers of a Dask cluster. Both make the same bytes."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import platform
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from distributed import get_worker
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from cache.manifest import Manifest
from cache.plan import Plan
from cache.quantize import FieldCodec, codecs_of
from cache.reader import CacheReader
from cache.storage import Location
from cache.writer import CacheWriter
from distill.teacher import FrozenTeacher
from pipelines.base.command import available_cores, warn
from pipelines.base.progress import progress
from pipelines.capture.capture import Capture, describe_capture, load_teacher, make_capture
from pipelines.capture.cluster import Cluster, Shared
from pipelines.capture.probe import Probe, run_probe


class Engine(Protocol):
    """Runs the teacher over the views of a plan."""

    def describe(self, plan: Plan, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        """The manifest but for its plan and codec; and what a probe says, where one is asked for."""

    def fill(self, writer: CacheWriter) -> int:
        """Capture every missing block of the writer's part. Returns the bytes written."""


def make_engine(config: Config, arguments: argparse.Namespace, cluster: Cluster | None) -> Engine:
    """The engine that the command line asks for, its teacher loaded: a missing one is told before any work."""
    return InProcess(config, arguments) if cluster is None else OnCluster(config, arguments, cluster)


class InProcess:
    """The teacher in this process, with loader processes before it and a writing thread after it."""

    def __init__(self, config: Config, arguments: argparse.Namespace) -> None:
        self.config = config
        self.arguments = arguments
        self.teacher = load_teacher(config, arguments)

    def describe(self, plan: Plan, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        self.capture = make_capture(self.config, plan, self.teacher, self.arguments)
        sections = describe_capture(self.config, self.capture)
        return sections, run_probe(self.capture, self.config.codec, sections) if probe else None

    def fill(self, writer: CacheWriter) -> int:
        codecs = _codecs(writer)
        written = 0
        with ThreadPoolExecutor(max_workers=1) as executor, _progress(writer) as advance:
            pending = None
            for targets in self.capture.blocks(writer.missing_blocks(), codecs):
                if pending is not None:
                    written += pending.result()
                pending = executor.submit(writer.write, targets.block, targets.fields, targets.error)
                advance(len(writer.plan.views_of_block(targets.block)))
            if pending is not None:
                written += pending.result()
        return written


class OnCluster:
    """A teacher in every worker of a cluster; blocks are the tasks.

    This process holds the store's lock. It neither loads images nor asks a teacher, so it may run where no GPU is.
    """

    def __init__(self, config: Config, arguments: argparse.Namespace, cluster: Cluster) -> None:
        self.cluster = cluster
        threads = torch.get_num_threads()
        self.job = Shared(Job(config, arguments, threads, is_own=cluster.is_own))
        device = cluster.run(load, job=self.job)
        cores = available_cores()
        if cluster.is_own and device == "cpu" and cluster.num_workers * threads > cores:
            warn(
                f"{cluster.num_workers} workers of {threads} threads share {cores} cores; OMP_NUM_THREADS="
                f"{max(1, cores // cluster.num_workers)} in the environment gives each its own. The cache records it"
            )

    def describe(self, plan: Plan, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        sections, found = self.cluster.run(describe, job=self.job, plan=plan, probe=probe)
        return sections, replace(found, seconds=found.seconds / self.cluster.num_workers) if found else None

    def fill(self, writer: CacheWriter) -> int:
        written = 0
        with _progress(writer) as advance:
            tasks = self.cluster.run_all(capture_block, writer.missing_blocks(), job=self.job, path=writer.location)
            for block, size in tasks:
                written += size
                advance(len(writer.plan.views_of_block(block)))
        unseen = writer.missing_blocks()
        if unseen:
            raise ValueError(
                f"cache {writer.location}: block {unseen[0]} was written by a worker but is not to be seen here. Every "
                "worker needs the same store at this path, on a disk that all machines share"
            )
        return written


def _progress(writer: CacheWriter) -> Any:
    """Progress in views over the writer's part."""
    plan = writer.plan
    views = int(np.isin(plan.block, writer.part.blocks(plan.num_blocks)).sum())
    left = int(np.isin(plan.block, writer.missing_blocks()).sum())
    return progress("capture", views, "views", done=views - left)


def _codecs(store: CacheWriter | CacheReader) -> dict[str, FieldCodec]:
    """Fixed before the first block."""
    return codecs_of(store.root.attrs.asdict()["codec"])


# What follows runs in a worker.

# The threads of a worker take turns: one teacher has all that it may use.
_turn = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What a worker must know to do as the client would.

    threads: of the client's torch. The manifest states them, and Dask starts workers with one.
    """

    config: Config
    arguments: argparse.Namespace
    threads: int
    is_own: bool


@contextmanager
def at_work(job: Shared[Job]) -> Iterator[None]:
    """Around every task: torch as the client has it. An error of another machine says which."""
    with _turn:
        torch.set_num_threads(job.value.threads)
        try:
            yield
        except (ValueError, OSError) as error:
            if job.value.is_own:
                raise
            raise ValueError(f"worker {get_worker().address} on {platform.node()}: {error}") from error


def register(config: Config) -> None:
    """What `load_config` does for a config beside reading it."""
    import_modules_from_strings(**config.get("custom_imports", {"imports": []}))
    init_default_scope(config.get("default_scope", "mmrotate"))


def load(*, job: Shared[Job]) -> str:
    """Make the teacher ready; returns the type of its device."""
    with at_work(job):
        return _teacher(job).device.type


def describe(*, job: Shared[Job], plan: Plan, probe: bool) -> tuple[dict[str, Any], Probe | None]:
    """As `Engine.describe`."""
    with at_work(job):
        capture = _capture(job, plan)
        sections = describe_capture(job.value.config, capture)
        return sections, run_probe(capture, job.value.config.codec, sections) if probe else None


def capture_block(block: int, *, job: Shared[Job], path: Location) -> int:
    """Capture and commit one block; returns the bytes written."""
    with at_work(job):
        capture, writer = _opened(job, path)
        (targets,) = capture.blocks([block], _codecs(writer))
        return writer.write(block, targets.fields, targets.error)


@lru_cache(maxsize=1)
def _teacher(job: Shared[Job]) -> FrozenTeacher:
    register(job.value.config)
    arguments = argparse.Namespace(**vars(job.value.arguments))
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if job.value.is_own and arguments.device == "cuda":
        # Workers of our own are named 0, 1, 2, ...; those of a running cluster see the device that is theirs.
        arguments.device = f"cuda:{int(get_worker().name) % torch.cuda.device_count()}"
        torch.cuda.set_device(arguments.device)
    return load_teacher(job.value.config, arguments)


def _capture(job: Shared[Job], plan: Plan) -> Capture:
    # Images are loaded by the worker itself: Dask's workers may have no child processes.
    arguments = argparse.Namespace(**{**vars(job.value.arguments), "loaders": 0})
    return make_capture(job.value.config, plan, _teacher(job), arguments)


@lru_cache(maxsize=1)
def _opened(job: Shared[Job], path: Location) -> tuple[Capture, CacheWriter]:
    """The capture over a store's plan, and the store, which this worker would have made no other way.

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
    capture = _capture(job, plan)
    sections = describe_capture(job.value.config, capture)
    manifest = Manifest(**sections, plan=plan.describe(), codec=reader.manifest.codec)
    return capture, CacheWriter(path, manifest, plan, locked_elsewhere=True)
