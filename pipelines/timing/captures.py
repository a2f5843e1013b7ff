"""A capture timed: its rate, that of the bare teacher, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from cache.plan import Plan
from cache.storage import locate
from cache.writer import CacheWriter
from pipelines.capture.asking import TeacherViews
from pipelines.capture.encoding import BlockEncoder
from pipelines.capture.engine import InProcess
from pipelines.capture.filling import fill_cache
from pipelines.capture.kept import KeptRegions
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.capture.probe import Probe
from pipelines.timing.stages import StageClock
from pipelines.timing.steps import synchronizer

# Forwards of the bare teacher that are timed.
BARE_FORWARDS = 10


@dataclass(frozen=True)
class TimedCapture:
    """Seconds of a capture after planning and probing.

    asking, encoding: of the process that asks the teacher; the rest of its time it waits for loaders or the writer.
    writing: of the thread that writes. bare_rate: views a second of the teacher's forward alone, on one patch again and
    again.
    """

    views: int
    seconds: float
    asking: float
    encoding: float
    writing: float
    bare_rate: float

    @property
    def rate(self) -> float:
        """Views a second."""
        return self.views / self.seconds

    @property
    def waiting(self) -> float:
        return max(0.0, self.seconds - self.asking - self.encoding)


def time_capture(
    config: Config, plan: Plan, kept: KeptRegions, cache: Path, options: CaptureOptions, device: torch.device
) -> TimedCapture:
    """Fill a new store, and ask the bare teacher about one patch."""
    engine = InProcess(config, TeacherOptions(device=str(device)), options)
    wait = synchronizer(device)
    main, writer = StageClock(wait), StageClock(lambda: None)
    main.watch(TeacherViews, "ask", "asking")
    main.watch(BlockEncoder, "encode", "encoding")
    writer.watch(CacheWriter, "write", "writing")

    def forget(_: Probe) -> None:
        main.take()
        writer.take()

    try:
        filled = fill_cache(locate(str(cache)), plan, config, engine, kept, tell=forget)
        stages = main.take() | writer.take()
    finally:
        main.close()
        writer.close()
    return TimedCapture(
        views=plan.num_views,
        seconds=filled.seconds,
        **{name: stages.get(name, 0.0) for name in ("asking", "encoding", "writing")},
        bare_rate=_bare_rate(engine.asked, device),
    )


def _bare_rate(asked: TeacherViews, device: torch.device) -> float:
    """Views a second of images in memory -> maps, batches as in the capture."""
    wait = synchronizer(device)
    images = torch.stack([*asked.patches[0].images] * asked.options.patches_per_batch)
    asked.teacher.forward(asked.teacher.preprocess(images))
    wait()
    began = time.perf_counter()
    for _ in range(BARE_FORWARDS):
        asked.teacher.forward(asked.teacher.preprocess(images))
    wait()
    return BARE_FORWARDS * len(images) / (time.perf_counter() - began)
