"""The probe: a short run of the teacher on some views that tells value ranges, bytes and seconds of a whole capture."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.quantize import LOGIT_FIELDS, FieldCodec, ValueRange, choose_codecs
from cache.view import FLIPS
from cache.writer import CacheWriter
from pipelines.base.command import available_cores
from pipelines.base.files import bytes_on_disk
from pipelines.base.progress import progress
from pipelines.capture.asking import PatchLogits, TeacherViews
from pipelines.capture.encoding import BlockEncoder
from pipelines.capture.sampling import choose_patches

PROBE_VIEWS = 32
# A stored commit: 32 bytes, with the frames of zstd and the checksum.
COMMIT_BYTES = 45


@dataclass(frozen=True)
class Probe:
    """What the probe saw, and what it makes of it.

    codecs: fixed from the ranges, for every block to come.
    bytes: predicted size of the whole cache.
    seconds: predicted time of its capture, without planning and probing.
    teacher_seconds: of a view, the teacher's forward pass alone: what a live teacher costs every training step.
    """

    views: int
    rows: int
    ranges: Mapping[str, ValueRange]
    codecs: Mapping[str, FieldCodec]
    bytes: int
    bytes_per_row: float
    seconds: float
    teacher_seconds: float

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "views": self.views,
            "rows": self.rows,
            "ranges": {field: [seen.low, seen.high] for field, seen in self.ranges.items()},
            "codecs": {field: codec.to_json() for field, codec in self.codecs.items()},
            "bytes": self.bytes,
            "bytes_per_row": self.bytes_per_row,
            "seconds": self.seconds,
            "teacher_seconds_per_view": self.teacher_seconds,
        }


@dataclass(frozen=True)
class PatchCost:
    """What one probed patch has cost: loading, asking the teacher, quantising, writing."""

    rows: int
    loading: float
    asking: float
    encoding: float
    writing: float
    bytes: int


def run_probe(asked: TeacherViews, codec: str | Mapping[str, str | float], manifest: Mapping[str, Any]) -> Probe:
    """Ask the teacher about a seeded sample of patches, and store the answers in a temporary cache.

    Args:
        asked: over the plan whose cost is wanted.
        codec: as `choose_codecs` takes it.
        manifest: head and other sections for the temporary cache.

    Raises:
        ValueError: logits that are not finite, or an unusable codec.
    """
    plan = asked.plan
    sample = choose_patches(plan, max(1, PROBE_VIEWS // len(asked.patches.flips)))
    answers, loading, asking = _ask(asked, sample)
    ranges = value_ranges(answers)
    codecs = choose_codecs(codec, ranges)
    codec_section = {"preset": "probe", **{field: codec.to_json() for field, codec in codecs.items()}}
    sections = {**manifest, "codec": codec_section}
    with tempfile.TemporaryDirectory() as folder:
        times = list(zip(loading, asking, strict=True))
        costs = _store(Path(folder) / "rows.zarr", asked, answers, times, codecs, sections)
        empty = _empty_bytes(Path(folder) / "empty.zarr", plan, sections)
    rates = [cost.bytes / cost.rows for cost in costs if cost.rows]
    # Each stratum holds the same rows, so its patch counts as much as any other.
    size = float(np.mean(rates)) * plan.num_rows + empty
    return Probe(
        views=len(sample) * len(asked.patches.flips),
        rows=sum(cost.rows for cost in costs),
        ranges=ranges,
        codecs=codecs,
        bytes=round(size),
        bytes_per_row=size / max(1, plan.num_rows),
        seconds=predicted_seconds(plan, costs, asked.teacher.device.type, asked.options.loaders),
        teacher_seconds=float(np.mean([answer.seconds for answer in answers])) / len(asked.patches.flips),
    )


def _ask(asked: TeacherViews, sample: Sequence[int]) -> tuple[list[PatchLogits], list[float], list[float]]:
    """The teacher's answers for the sample, and the seconds that each took to load and to ask.

    One after the other and in this process: loaders beside the teacher would slow each other down, and by how much
    depends on which patches meet.
    """
    batches = asked.batches(sample)
    answers: list[PatchLogits] = []
    loading: list[float] = []
    asking: list[float] = []
    threads = torch.get_num_threads()
    with progress("probe", len(sample), "patches") as advance:
        for batch in batches:
            # As in a loader process.
            torch.set_num_threads(1)
            began = time.perf_counter()
            views = [asked.patches[patch] for patch in batch]
            loaded = time.perf_counter()
            torch.set_num_threads(threads)
            if not answers:
                # Warms the device up.
                asked.ask(views)
            started = time.perf_counter()
            answers += asked.ask(views)
            asking += [(time.perf_counter() - started) / len(batch)] * len(batch)
            loading += [(loaded - began) / len(batch)] * len(batch)
            advance(len(batch))
    return answers, loading, asking


def value_ranges(answers: Sequence[PatchLogits]) -> dict[str, ValueRange]:
    """Smallest and largest logit of every field.

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
        ranges[field] = ValueRange(low, high)
    return ranges


def _store(
    path: Path,
    asked: TeacherViews,
    answers: Sequence[PatchLogits],
    times: Sequence[tuple[float, float]],
    codecs: Mapping[str, FieldCodec],
    sections: Mapping[str, Any],
) -> list[PatchCost]:
    """Write the answers into a cache of their own, a block each."""
    plan = _plan_of_patches(asked.plan, [answer.patch for answer in answers])
    manifest = Manifest(**{**sections, "plan": plan.describe()})
    by_id = {asked.plan.patch_ids[answer.patch]: position for position, answer in enumerate(answers)}
    encoder = BlockEncoder(asked.patches, asked.teacher.adapter, codecs)
    costs = []
    with CacheWriter(path, manifest, plan) as writer:
        for block in writer.missing_blocks():
            (view, *_) = plan.views_of_block(block)
            position = by_id[plan.view(int(view)).patch_id]
            started = time.perf_counter()
            targets = encoder.encode(block, [answers[position]])
            encoded = time.perf_counter()
            size = writer.write(block, targets.fields, targets.error)
            written = time.perf_counter()
            costs.append(
                PatchCost(
                    rows=len(targets.fields["prior_index"]),
                    loading=times[position][0],
                    asking=times[position][1],
                    encoding=encoded - started,
                    writing=written - encoded,
                    bytes=size,
                )
            )
    return costs


def _plan_of_patches(plan: Plan, patches: Sequence[int]) -> Plan:
    """The plan of a cache of some patches alone, a block each."""
    codes = sorted(set(plan.view_flip.tolist()))
    counts = plan.level_counts.reshape(len(plan.patch_ids), len(codes), -1)
    assigned = None
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        assigned = (plan.assigned_stop.astype(np.int64) - plan.assigned_start).reshape(len(plan.patch_ids), -1)
    planned = [
        PlannedPatch(
            patch_id=plan.patch_ids[patch],
            image_sha256=plan.image_sha256[patch].tobytes(),
            label_sha256=plan.label_sha256[patch].tobytes(),
            shape=tuple(plan.patch_shape[patch].tolist()),
            level_counts=counts[patch],
            assigned_counts=None if assigned is None else assigned[patch],
        )
        for patch in patches
    ]
    return make_plan(planned, [FLIPS[code] for code in codes], views_per_block=len(codes))


def _empty_bytes(path: Path, plan: Plan, sections: Mapping[str, Any]) -> int:
    """Size of the cache without its records: metadata, plan and commits."""
    with CacheWriter(path, Manifest(**{**sections, "plan": plan.describe()}), plan):
        return bytes_on_disk(path) + COMMIT_BYTES * plan.num_blocks


def predicted_seconds(plan: Plan, costs: Sequence[PatchCost], device: str, loaders: int) -> float:
    """Seconds of the whole capture. Each kind of work has a part that grows with the rows and one that does not.

    The fixed parts of loading and asking are paid for every patch, those of quantising and writing for every block.
    Loaders and writer work beside the teacher. A teacher on the CPU has all cores, so what they take is added; a device
    does not mind, and the slowest of the three decides. Without loaders, as on a Dask worker, nothing overlaps.
    """
    rows = np.asarray([cost.rows for cost in costs], dtype=np.float64)
    loading, asking, encoding, writing = (
        _extrapolate(rows, np.asarray([getattr(cost, kind) for cost in costs]), plan.num_rows, count)
        for kind, count in (
            ("loading", len(plan.patch_ids)),
            ("asking", len(plan.patch_ids)),
            ("encoding", plan.num_blocks),
            ("writing", plan.num_blocks),
        )
    )
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
