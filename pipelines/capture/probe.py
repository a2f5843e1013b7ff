"""The probe: a short run of the teacher that finds the codec, and tells bytes and seconds of a whole capture."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.cells import HeadShape
from cache.codec import LOGIT_FIELDS, Codec, CodecRequest, describe_codec
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.writer import CacheWriter
from pipelines.base.command import available_cores
from pipelines.base.files import bytes_on_disk
from pipelines.base.progress import progress
from pipelines.capture.asking import PatchLogits, TeacherViews
from pipelines.capture.codec_choice import choose_codec
from pipelines.capture.encoding import BlockEncoder, BlockRows, BlockTargets
from pipelines.capture.sampling import probe_patches

# A stored commit: 32 bytes, with the frames of zstd and the checksum.
COMMIT_BYTES = 45


@dataclass(frozen=True)
class Probe:
    """What the probe saw, and what it makes of it.

    views, rows: that were measured; a row is a stored prior.
    ranges: smallest and largest logit of both kinds.
    codec: fixed for every block to come.
    error: of the measured views, by column of `capture_error`.
    bytes: predicted size of the whole cache.
    seconds: predicted time of its capture, without planning and probing.
    teacher_seconds: of a view, the teacher's forward pass alone: what a live teacher costs every training step.
    """

    views: int
    rows: int
    ranges: Mapping[str, tuple[float, float]]
    codec: Codec
    error: Mapping[str, float]
    bytes: int
    bytes_per_row: float
    seconds: float
    teacher_seconds: float

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "views": self.views,
            "rows": self.rows,
            "ranges": {field: list(ends) for field, ends in self.ranges.items()},
            "codec": self.codec.describe(),
            "error": dict(self.error),
            "bytes": self.bytes,
            "bytes_per_row": self.bytes_per_row,
            "seconds": self.seconds,
            "teacher_seconds_per_view": self.teacher_seconds,
        }


@dataclass(frozen=True)
class ProbeCost:
    """What the probed patches have cost.

    rows: (p,) of every patch. loading, asking: (p,) seconds. encoding, writing: seconds of all of them.
    """

    rows: np.ndarray
    loading: np.ndarray
    asking: np.ndarray
    encoding: float
    writing: float


def run_probe(asked: TeacherViews, request: CodecRequest, sections: Mapping[str, Any]) -> Probe:
    """Ask the teacher about a seeded sample of patches, find the codec, and store the answers in a temporary cache.

    Args:
        asked: over the plan whose cost is wanted.
        request: the codec that the config asks for.
        sections: of the manifest, without plan and codec, for the temporary cache.

    Raises:
        ValueError: logits that are not finite, or a bound that no codec keeps.
    """
    plan, head = asked.plan, HeadShape.of(sections["head"])
    sample, others = probe_patches(plan, request, head)
    # The views that a basis is fitted on tell nothing about its errors: they are asked about first, and left out then.
    fitting = _ask(asked, others, "probe, for the codec")[0] if others else []
    answers, loading, asking = _ask(asked, sample, "probe, for size and time")
    ranges = value_ranges([*fitting, *answers])
    measured = [BlockRows.of([answer]) for answer in answers]
    codec = choose_codec(request, head, [BlockRows.of([answer]) for answer in fitting] or measured, measured)
    sections = {**sections, "codec": describe_codec(request, codec)}
    with tempfile.TemporaryDirectory() as folder:
        targets, size, encoding, writing = _store(Path(folder) / "rows.zarr", asked, answers, codec, sections)
        empty = _empty_bytes(Path(folder) / "empty.zarr", plan, codec, sections)
    rows = np.asarray([len(answer.weight) for answer in answers], dtype=np.float64)
    size = size / max(1.0, rows.sum()) * plan.num_priors + empty
    views = sum(len(answer.priors) for answer in answers)
    cost = ProbeCost(rows, np.asarray(loading), np.asarray(asking), encoding, writing)
    return Probe(
        views=views,
        rows=int(rows.sum()),
        ranges=ranges,
        codec=codec,
        error=targets.error,
        bytes=round(size),
        bytes_per_row=size / max(1, plan.num_priors),
        seconds=predicted_seconds(plan, cost, asked.teacher.device.type, asked.options.loaders),
        teacher_seconds=float(sum(answer.seconds for answer in answers)) / views,
    )


def _ask(
    asked: TeacherViews, sample: Sequence[int], purpose: str
) -> tuple[list[PatchLogits], list[float], list[float]]:
    """The teacher's answers for the sample, and the seconds that each took to load and to ask.

    One after the other and in this process: loaders beside the teacher would slow each other down, and by how much
    depends on which patches meet.
    """
    batches = asked.batches(sample)
    answers: list[PatchLogits] = []
    loading: list[float] = []
    asking: list[float] = []
    threads = torch.get_num_threads()
    with progress(purpose, len(sample), "patches") as advance:
        for batch in batches:
            # As in a loader process.
            torch.set_num_threads(1)
            began = time.perf_counter()
            views = [asked.patches[patch] for patch in batch]
            loaded = time.perf_counter()
            torch.set_num_threads(threads)
            if not answers:
                # Warms the device up.
                asked.ask(views, timed=True)
            started = time.perf_counter()
            answers += asked.ask(views, timed=True)
            asking += [(time.perf_counter() - started) / len(batch)] * len(batch)
            loading += [(loaded - began) / len(batch)] * len(batch)
            advance(len(batch))
    return answers, loading, asking


def value_ranges(answers: Sequence[PatchLogits]) -> dict[str, tuple[float, float]]:
    """Smallest and largest logit of both kinds.

    Raises:
        ValueError: no row at all, or a value that is not finite.
    """
    ranges = {}
    for field in LOGIT_FIELDS:
        values = [getattr(answer, field) for answer in answers if len(answer.prior_index)]
        low = min((float(value.min()) for value in values), default=np.inf)
        high = max((float(value.max()) for value in values), default=-np.inf)
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"the teacher's {field} are not finite in the probe (from {low} to {high}). Check its checkpoint"
            )
        ranges[field] = low, high
    return ranges


def _store(
    path: Path, asked: TeacherViews, answers: Sequence[PatchLogits], codec: Codec, sections: Mapping[str, Any]
) -> tuple[BlockTargets, float, float, float]:
    """Write the answers into a cache of one block: its targets, its bytes, and the seconds of encoding and writing."""
    answers = sorted(answers, key=lambda answer: answer.patch)
    plan = plan_of_patches(
        asked.plan, [answer.patch for answer in answers], as_cells=sections["codec"]["stored"] == "cells"
    )
    manifest = Manifest(**{**sections, "plan": plan.describe()})
    # The probe itself finds the bound.
    encoder = BlockEncoder(plan, asked.teacher.adapter, codec, None)
    with CacheWriter(path, manifest, plan, codec) as writer:
        started = time.perf_counter()
        targets = encoder.encode(0, BlockRows.of(answers))
        encoded = time.perf_counter()
        size = writer.write(0, targets.fields, targets.error)
        return targets, size, encoded - started, time.perf_counter() - encoded


def plan_of_patches(plan: Plan, patches: Sequence[int], *, as_cells: bool) -> Plan:
    """The plan of a cache of some patches alone, in one block."""
    planned = []
    for patch in patches:
        views = plan.views_of_patch(patch)
        rows = plan.row_stop[views].astype(np.int64) - plan.row_start[views]
        assigned = None
        if plan.assigned_start is not None and plan.assigned_stop is not None:
            assigned = plan.assigned_stop[views].astype(np.int64) - plan.assigned_start[views]
        planned.append(
            PlannedPatch(
                patch_id=plan.patch_ids[patch],
                image_sha256=plan.image_sha256[patch].tobytes(),
                label_sha256=plan.label_sha256[patch].tobytes(),
                draw_view=plan.draw_view[patch] - views[0],
                view_shape=plan.view_shape[views],
                view_crc32c=plan.view_crc32c[views],
                level_counts=plan.level_counts[views],
                # Where rows are stored priors, nobody asks for the cells.
                cell_counts=rows,
                assigned_counts=assigned,
            )
        )
    return make_plan(planned, plan.draws, views_per_block=plan.num_views, as_cells=as_cells)


def _empty_bytes(path: Path, plan: Plan, codec: Codec, sections: Mapping[str, Any]) -> int:
    """Size of the cache without its records: metadata, plan, basis and commits."""
    with CacheWriter(path, Manifest(**{**sections, "plan": plan.describe()}), plan, codec):
        return bytes_on_disk(path) + COMMIT_BYTES * plan.num_blocks


def predicted_seconds(plan: Plan, cost: ProbeCost, device: str, loaders: int) -> float:
    """Seconds of the whole capture.

    Loading and asking have a part that grows with the rows and one that is paid for every patch; encoding and writing
    grow with the rows. Loaders and writer work beside the teacher. A teacher on the CPU has all cores, so what they
    take is added; a device does not mind, and the slowest of the three decides. Without loaders, as on a Dask worker,
    nothing overlaps.
    """
    loading, asking = (
        _extrapolate(cost.rows, seconds, plan.num_priors, len(plan.patch_ids))
        for seconds in (cost.loading, cost.asking)
    )
    share = plan.num_priors / max(1.0, cost.rows.sum())
    encoding, writing = share * cost.encoding, share * cost.writing
    if device != "cpu":
        if not loaders:
            return asking + encoding + loading + writing
        return max(asking + encoding, loading / loaders, writing)
    if not loaders:
        # This process loads, alone.
        return asking + encoding + loading + writing / available_cores()
    return asking + encoding + (loading + writing) / available_cores()


def _extrapolate(rows: np.ndarray, seconds: np.ndarray, all_rows: int, count: int) -> float:
    """Seconds of `count` pieces of work with `all_rows` in all, by the line through the probed ones.

    Neither part of the line is negative.
    """
    if np.ptp(rows) > 0:
        slope, fixed = np.polyfit(rows, seconds, 1)
        if slope < 0:
            slope, fixed = 0.0, seconds.mean()
        elif fixed < 0:
            slope, fixed = seconds.sum() / rows.sum(), 0.0
    else:
        slope, fixed = seconds.sum() / max(1.0, rows.sum()), 0.0
    return float(fixed * count + slope * all_rows)
