"""Check a cache: every byte of the store, every image and label file, and a sample of views against the live teacher.

    python -m pipelines.verify_cache --config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth

Without `--config` the store alone is checked.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, DictAction

from cache.manifest import first_difference
from cache.quantize import LOGIT_FIELDS, FieldCodec
from cache.reader import CacheReader, TargetRecord
from cache.storage import locate
from cache.verify import Finding, captured_blocks, verify_block, verify_documents, verify_metadata
from cache.writer import require_idle
from distill.audit import compare_record, repeat_tolerance
from pipelines.base.command import available_cores, plain_console, positive_int, printable, run_command
from pipelines.base.experiment import (
    describe_assignment,
    describe_student,
    entries_of,
    load_config,
    require_keys,
    training_set,
)
from pipelines.base.parallel import map_and_add
from pipelines.base.progress import progress
from pipelines.capture.capture import Capture, PatchLogits, add_teacher_arguments, describe_numeric, load_teacher


@dataclass
class Report:
    """What was checked, what was not, and what is wrong."""

    cache: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    store: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)


def main(arguments: argparse.Namespace) -> int:
    """Store, then files, then the teacher; 1 where anything is wrong."""
    if not arguments.config and not arguments.cache:
        make_parser().error("--cache or --config is needed")
    config = None
    if arguments.config:
        config = load_config(arguments.config, arguments.cfg_options)
        require_keys(config, ("region", "classes", "cache"), arguments.config)
    report = Report(str(arguments.cache or config.cache))
    require_idle(report.cache)
    readable = check_store(report, arguments.workers)
    if not readable:
        report.skipped.append("blocks, files and teacher: the metadata must be whole first")
    elif config is None:
        report.skipped.append("image and label files, and the teacher: give CONFIG=")
    else:
        reader = CacheReader(report.cache)
        same = check_config(report, config, reader)
        check_files(report, config, reader, arguments.workers)
        if arguments.no_teacher:
            report.skipped.append("the teacher: --no-teacher")
        elif not same:
            report.skipped.append("the teacher: the config is not that of the cache")
        else:
            check_teacher(report, config, reader, arguments)
    show(report, as_json=arguments.json)
    return 1 if report.findings else 0


def check_store(report: Report, workers: int) -> bool:
    """Every checksum and count of the store; False where the metadata is too damaged to look at blocks."""
    path = locate(report.cache)
    damage = verify_documents(path)
    if damage:
        report.findings += damage
        return False
    report.findings += verify_metadata(path)
    reader = CacheReader(path)
    blocks = captured_blocks(path, reader.plan.num_blocks)
    report.findings += map_and_add(
        lambda block: verify_block(path, block, reader.plan),
        blocks,
        [],
        workers=workers,
        description="verify blocks",
        unit="blocks",
    )
    sizes = path.sizes()
    report.store = {
        "blocks": reader.plan.num_blocks,
        "blocks_captured": len(blocks),
        "objects": len(sizes),
        "bytes": sum(sizes.values()),
    }
    return True


def check_config(report: Report, config: Config, reader: CacheReader) -> bool:
    """Is this the config that the cache was captured for?"""
    student = describe_student(config)
    # A student that draws fewer flips reads a part of the cache.
    student["views"]["flips"] = reader.manifest.views["flips"]
    wanted = describe_assignment(config)
    if wanted is not None:
        student["assignment"] = wanted
    for section in student:
        difference = first_difference(student[section], getattr(reader.manifest, section), section)
        if difference is not None:
            name, ours, theirs = difference
            problem = f"{name} is {theirs} in the cache but {ours} in the config"
            report.findings.append(Finding("zarr.json", problem, "Give the config that the cache is for (CONFIG=)"))
            return False
    return True


def check_files(report: Report, config: Config, reader: CacheReader, workers: int) -> None:
    """Image and label files against the digests of the plan, all of them."""
    dataset = training_set(config, [])
    infos = entries_of(dataset)
    plan = reader.plan
    capture = f"Capture a new cache for this training set: make cache-teacher CACHE=<not {reader.path}>"
    for patch_id in sorted(set(infos) - set(plan.patch_ids)):
        report.findings.append(Finding(f"patch {patch_id}", "in the training set but not in the cache", capture))
    for patch_id in sorted(set(plan.patch_ids) - set(infos)):
        cure = f"Restore its image and labels, or: {capture}"
        report.findings.append(Finding(f"patch {patch_id}", "in the cache but not in the training set", cure))

    def compare(patch: int) -> list[Finding]:
        info = infos[plan.patch_ids[patch]]
        found = []
        for kind, path, digest, stored in (
            ("image", info["img_path"], _file_digest(info["img_path"]), plan.image_sha256[patch]),
            ("label", info["label_path"], dataset.label_digest(info), plan.label_sha256[patch]),
        ):
            if digest != stored.tobytes():
                problem = (
                    f"{kind}_sha256 is {stored.tobytes().hex()[:16]}… in the cache but {digest.hex()[:16]}… in {path}"
                )
                found.append(Finding(f"patch {plan.patch_ids[patch]}", problem, f"Restore the file. {capture}"))
        return found

    known = [patch for patch, patch_id in enumerate(plan.patch_ids) if patch_id in infos]
    report.findings += map_and_add(
        compare, known, [], workers=workers, description="verify image and label files", unit="patches"
    )
    report.files = {"patches": len(known)}


def _file_digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def check_teacher(report: Report, config: Config, reader: CacheReader, arguments: argparse.Namespace) -> None:
    """Run the teacher again on a random sample of views and compare with what is stored."""
    teacher = load_teacher(config, arguments)
    cure = "Give the teacher of the cache (TEACHER=, CHECKPOINT=)"
    difference = first_difference(teacher.describe(), reader.manifest.teacher, "teacher")
    if difference is not None:
        name, ours, theirs = difference
        report.findings.append(Finding("zarr.json", f"{name} is {theirs} in the cache but {ours} here", cure))
        report.skipped.append("the teacher's answers: it is another teacher")
        return
    plan, stored = reader.plan, reader.manifest.numeric
    # No loader processes: a handful of patches does not repay them.
    capture = Capture(
        config,
        plan,
        teacher,
        loaders=0,
        patches_per_batch=stored["views_per_batch"] // len(reader.manifest.views["flips"]),
        dtype=stored["dtype"],
    )
    difference = first_difference(describe_numeric(capture), stored, "numeric")
    if difference is not None:
        name, ours, theirs = difference
        report.notes.append(f"{name} is {theirs} in the cache but {ours} here: logits may differ in their last bits")

    usable = np.flatnonzero(np.isin(plan.block, captured_blocks(reader.path, plan.num_blocks)))
    random = np.random.default_rng(arguments.seed)
    chosen = random.choice(usable, min(arguments.sample, len(usable)), replace=False).tolist()
    patches = sorted({int(plan.view_patch[view]) for view in chosen})
    codecs = {name: FieldCodec.from_json(reader.manifest.codec[name]) for name in LOGIT_FIELDS}
    tally = TeacherTally(codecs)
    answers = capture.logits(capture.batches(patches))
    with progress("verify against the teacher", len(patches), "patches") as advance:
        for patch in patches:
            report.findings += compare_patch(reader, patch, next(answers), tally)
            advance(1)
    report.teacher = tally.figures() | {"seed": arguments.seed, "views_chosen": len(chosen)}


class TeacherTally:
    """Largest errors over the compared views."""

    def __init__(self, codecs: dict[str, FieldCodec]) -> None:
        self.codecs = codecs
        self.views = self.rows = 0
        self.error = dict.fromkeys(codecs, 0.0)
        self.largest = dict.fromkeys(codecs, 0.0)

    def add(self, field: str, error: float, largest: float) -> None:
        self.error[field] = max(self.error[field], error)
        self.largest[field] = max(self.largest[field], largest)

    def figures(self) -> dict[str, Any]:
        """Errors beside their bounds."""
        fields = {
            name: {
                "max_abs_error": self.error[name],
                "codec_bound": codec.max_abs_error(self.largest[name]),
                "repeat_tolerance": repeat_tolerance(self.largest[name]),
            }
            for name, codec in self.codecs.items()
        }
        return {"views": self.views, "rows": self.rows, **fields}


def compare_patch(reader: CacheReader, patch: int, answer: PatchLogits, tally: TeacherTally) -> list[Finding]:
    """All views of a patch, since the teacher has answered them in one batch."""
    plan = reader.plan
    findings = []
    start = 0
    for place, view_index in enumerate(np.flatnonzero(plan.view_patch == patch).tolist()):
        view = plan.view(view_index)
        rows = slice(start, start + int(plan.rows_per_view[view_index]))
        start = rows.stop
        try:
            record = reader.read(view.patch_id, view.flip)
        except ValueError as error:
            findings.append(Finding(f"view {view}", f"cannot be read: {error}", "See the findings of its block"))
            continue
        tally.views += 1
        tally.rows += len(record)
        problem = compare_view(record, answer, rows, tally)
        if not problem and answer.assigned and record.assigned_prior is not None:
            stored = record.assigned_prior, record.assigned_object
            if not all(map(np.array_equal, stored, answer.assigned[place])):
                problem = "its planned assignment is not the one that labels and assigner give"
        if problem:
            cure = f"Capture a new cache: make cache-teacher CACHE=<not {reader.path}>"
            findings.append(Finding(f"view {view}", problem, cure))
    return findings


def compare_view(record: TargetRecord, answer: PatchLogits, rows: slice, tally: TeacherTally) -> str | None:
    """What is wrong with a stored record; None where it is the teacher's answer within the bound."""
    logits = {name: getattr(answer, name)[rows].cpu().numpy() for name in tally.codecs}
    teacher = TargetRecord(answer.prior_index[rows], answer.weight[rows], **logits)
    compared = compare_record(record, teacher, tally.codecs)
    for name, error in compared.error.items():
        tally.add(name, error, compared.largest[name])
    return compared.problem


def show(report: Report, *, as_json: bool) -> None:
    """The report for people or for programs."""
    if as_json:
        print(json.dumps({"ok": not report.findings, **asdict(report)}, indent=2))
        return
    console = plain_console(soft_wrap=True, highlight=False)
    if report.store:
        store = report.store
        console.print(
            f"store: {store['objects']:,} objects, {store['bytes'] / 1e6:,.1f} MB, "
            f"{store['blocks_captured']} of {store['blocks']} blocks captured"
        )
    if report.files:
        console.print(f"files: {report.files['patches']:,} images and label files hashed")
    if report.teacher:
        teacher = report.teacher
        errors = ", ".join(
            f"{name} {teacher[name]['max_abs_error']:.4g} (bound {teacher[name]['codec_bound']:.4g} + "
            f"{teacher[name]['repeat_tolerance']:.2g} for a repeated forward)"
            for name in LOGIT_FIELDS
        )
        console.print(f"teacher: {teacher['views']} views, {teacher['rows']:,} rows; largest error: {errors}")
    for note in report.notes:
        console.print(f"note: {printable(note)}")
    for skipped in report.skipped:
        console.print(f"not checked: {printable(skipped)}")
    for finding in report.findings:
        console.print(f"wrong: {printable(finding)}")
    count = len(report.findings)
    console.print(f"{report.cache}: {f'{count} finding{"s" if count > 1 else ""}' if count else 'nothing is wrong'}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.verify_cache",
        description="Check every byte of a cache, its images and labels, and a sample of views against the teacher.",
        epilog="Exit status: 0 nothing is wrong, 1 something is (one line each) or it could not be checked, 2 unusable "
        "arguments.",
    )
    parser.add_argument("--config", help="the student's config; without it the store alone is checked")
    parser.add_argument("--cache", help="the store to check (default: the config's cache)")
    add_teacher_arguments(parser)
    parser.add_argument("--no-teacher", action="store_true", help="do not run the teacher")
    parser.add_argument("--sample", type=positive_int, default=8, help="views to choose for the teacher (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default: 0)")
    parser.add_argument(
        "--workers", type=positive_int, default=available_cores(), help="threads that read (default: all cores)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override config values: key=value")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
