"""A sample of a cache's views against the teacher, which answers again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from mmengine.config import Config

from cache.codec import LOGIT_FIELDS
from cache.documents import Finding
from cache.manifest import ManifestMismatch, differences
from cache.reader import CacheReader, CodedRecord, TargetRecord
from distill.arithmetic import Arithmetic
from distill.audit import Difference, compare_record, is_recoded, require_teacher_of
from pipelines.base.progress import progress
from pipelines.capture.asking import PatchLogits, TeacherViews
from pipelines.capture.identity import describe_numeric, load_teacher
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.capture.verification import Verification


def check_teacher(
    found: Verification,
    config: Config,
    reader: CacheReader,
    options: TeacherOptions,
    *,
    sample: int,
    seed: int,
    tolerance: float | None,
) -> None:
    """Run the teacher again on a random sample of views and compare with what is stored.

    tolerance: as `compare_record` takes it; None for that of the precision in which the cache was captured.
    """
    try:
        teacher = load_teacher(config, options)
        require_teacher_of(reader.manifest, teacher)
    except ManifestMismatch as error:
        found.findings.append(Finding("zarr.json", error.problem, error.cure))
        found.skipped.append("the teacher's answers: it is another teacher")
        return
    plan, stored = reader.plan, reader.manifest.numeric
    # A handful of patches repays neither loader processes nor compilation.
    arithmetic = replace(Arithmetic.of(stored), compile=False)
    # What is absent is among the differences below.
    as_captured = CaptureOptions(stored.get("patches_per_batch", 1), **asdict(arithmetic))
    asked = TeacherViews(config, plan, teacher, as_captured)
    for name, ours, theirs in differences(describe_numeric(asked), stored, "numeric"):
        found.notes.append(f"{name} is {theirs} in the cache but {ours} here: logits may differ in their last bits")

    usable = np.flatnonzero(np.isin(plan.block, reader.store.captured_blocks()))
    random = np.random.default_rng(seed)
    chosen = random.choice(usable, min(sample, len(usable)), replace=False).tolist()
    patches = sorted({int(plan.view_patch[view]) for view in chosen})
    tally = TeacherTally(reader, arithmetic.repeat_tolerance if tolerance is None else tolerance)
    with progress("verify against the teacher", len(patches), "patches") as advance:
        for answer in asked.logits(asked.batches(patches)):
            found.findings += compare_patch(reader, answer, tally)
            advance(1)
    found.teacher = tally.figures() | {"seed": seed, "views_chosen": len(chosen)}


class TeacherTally:
    """Largest differences over the compared views."""

    def __init__(self, reader: CacheReader, tolerance: float) -> None:
        self.codec, self.head = reader.codec, reader.head
        self.own_codes = not is_recoded(reader.manifest)
        self.tolerance = tolerance
        self.views = self.rows = 0
        self.found: dict[str, Difference] = {}

    def add(self, record: CodedRecord, teacher: TargetRecord) -> str | None:
        """What is wrong with a stored record; None where it is the teacher's answer within the bound."""
        self.views += 1
        self.rows += len(record)
        compared = compare_record(record, teacher, self.codec, self.head, self.tolerance, self.own_codes)
        for name, difference in compared.found.items():
            self.found[name] = difference.largest(self.found.get(name, difference))
        return compared.problem

    def figures(self) -> dict[str, Any]:
        """Errors beside their bounds."""
        return {"views": self.views, "rows": self.rows} | {name: asdict(one) for name, one in self.found.items()}


def compare_patch(reader: CacheReader, answer: PatchLogits, tally: TeacherTally) -> list[Finding]:
    """All views of a patch, since the teacher has answered them in one batch."""
    plan = reader.plan
    findings = []
    start = 0
    for place, view_index in enumerate(np.flatnonzero(plan.view_patch == answer.patch).tolist()):
        view = plan.view(view_index)
        rows = slice(start, start + int(plan.priors_per_view[view_index]))
        start = rows.stop
        try:
            record = reader.read_found(reader.find(view.patch_id, view.draw))
        except ValueError as error:
            findings.append(Finding(f"view {view}", f"cannot be read: {error}", "See the findings of its block"))
            continue
        logits = {name: getattr(answer, name)[rows].cpu().numpy() for name in LOGIT_FIELDS}
        problem = tally.add(record, TargetRecord(answer.prior_index[rows], answer.weight[rows], **logits))
        if not problem and answer.assigned and record.assigned_prior is not None and record.assigned_object is not None:
            stored = np.stack([record.assigned_prior, record.assigned_object])
            if not np.array_equal(stored, np.stack(answer.assigned[place])):
                problem = "its planned assignment is not the one that labels and assigner give"
        if problem:
            findings.append(Finding(f"view {view}", problem, f"Capture a new cache, not at {reader.path}"))
    return findings
