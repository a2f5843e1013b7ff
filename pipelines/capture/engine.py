"""Where the teacher runs: in this process, or on the workers of a Dask cluster. Both make the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.config import Config

from cache.codec import CodecRequest
from cache.plan import Plan
from cache.writer import CacheWriter
from pipelines.base.command import available_cores, warn
from pipelines.base.progress import progress
from pipelines.capture import worker
from pipelines.capture.asking import TeacherViews
from pipelines.capture.capture import capture_blocks
from pipelines.capture.cluster import Cluster, Shared
from pipelines.capture.identity import describe_capture, describe_pair, load_teacher
from pipelines.capture.kept import KeptRegions
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.capture.probe import Probe, run_probe


class Engine(Protocol):
    """Runs the teacher over the views of a plan."""

    def describe_pair(self) -> dict[str, Any]:
        """What the manifest says about teacher and student, before anything is planned."""

    def describe(self, plan: Plan, kept: KeptRegions | None, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        """The manifest but for its plan and codec; and what a probe says, where one is asked for.

        `kept` are the regions that planning has found in this process.
        """

    def fill(self, writer: CacheWriter) -> int:
        """Capture every missing block of the writer's part. Returns the bytes written."""


def make_engine(
    config: Config, teacher: TeacherOptions, options: CaptureOptions, cluster: Cluster | None, turn: int = 0
) -> Engine:
    """The engine that the command line asks for; a teacher that is missing or does not fit is told now.

    turn: that of `choose_device`, for a teacher in this process.
    """
    if cluster is None:
        return InProcess(config, teacher, options, turn)
    return OnCluster(config, teacher, options, cluster)


class InProcess:
    """The teacher in this process, with loader processes before it and threads that encode and write after it."""

    def __init__(self, config: Config, teacher: TeacherOptions, options: CaptureOptions, turn: int = 0) -> None:
        self.config = config
        self.options = options
        self.teacher = load_teacher(config, teacher, turn)

    def describe_pair(self) -> dict[str, Any]:
        return describe_pair(self.config, self.teacher, self.options.arithmetic(self.config))

    def describe(self, plan: Plan, kept: KeptRegions | None, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        self.asked = TeacherViews(self.config, plan, self.teacher, self.options, kept)
        sections = describe_capture(self.config, self.asked)
        return sections, run_probe(self.asked, CodecRequest.of(self.config.codec), sections) if probe else None

    def fill(self, writer: CacheWriter) -> int:
        with _progress(writer) as advance:
            return capture_blocks(self.asked, writer, writer.missing_blocks(), advance)


class OnCluster:
    """A teacher in every worker of a cluster; blocks are the tasks.

    This process holds the store's lock. It neither loads images nor asks a teacher, so it may run where no GPU is.
    """

    def __init__(self, config: Config, teacher: TeacherOptions, options: CaptureOptions, cluster: Cluster) -> None:
        self.cluster = cluster
        threads = teacher.threads or torch.get_num_threads()
        self.job = Shared(worker.Job(config, teacher, options, threads, is_own=cluster.is_own))
        device = cluster.run(worker.load, job=self.job)
        cores = available_cores()
        if cluster.is_own and device == "cpu" and cluster.num_workers * threads > cores:
            warn(
                f"{cluster.num_workers} workers of {threads} threads share {cores} cores; --threads "
                f"{max(1, cores // cluster.num_workers)} gives each its own. The cache records it"
            )

    def describe_pair(self) -> dict[str, Any]:
        return self.cluster.run(worker.describe_teacher, job=self.job)

    def describe(self, plan: Plan, kept: KeptRegions | None, *, probe: bool) -> tuple[dict[str, Any], Probe | None]:
        sections, found = self.cluster.run(worker.describe, job=self.job, plan=plan, probe=probe)
        return sections, replace(found, seconds=found.seconds / self.cluster.num_workers) if found else None

    def fill(self, writer: CacheWriter) -> int:
        written = 0
        with _progress(writer) as advance:
            blocks, path = writer.missing_blocks(), writer.location
            for block, size in self.cluster.run_all(worker.capture_block, blocks, job=self.job, path=path):
                written += size
                advance(len(writer.plan.views_of_block(block)))
        unseen = writer.missing_blocks()
        if unseen:
            raise ValueError(
                f"cache {writer.location}: block {unseen[0]} was written by a worker but is not to be seen here. Every "
                "worker needs the same store at this path, on a disk that all machines share"
            )
        return written


def _progress(writer: CacheWriter) -> AbstractContextManager[Callable[[int], None]]:
    """Progress in views over the writer's part."""
    plan = writer.plan
    views = int(np.isin(plan.block, writer.part.blocks(plan.num_blocks)).sum())
    left = int(np.isin(plan.block, writer.missing_blocks()).sum())
    return progress("capture", views, "views", done=views - left)
