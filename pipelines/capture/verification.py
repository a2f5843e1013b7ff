"""A cache checked against what it was made from: its own bytes, the config, and every image and label file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache.documents import Finding, verify_documents
from cache.manifest import ManifestMismatch, require_equal
from cache.reader import CacheReader
from cache.storage import locate
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from distill.transforms import part_of_views
from pipelines.base.experiment import describe_assignment, describe_student, entries_of, training_set
from pipelines.base.parallel import map_and_add


@dataclass
class Verification:
    """What was checked, what was not, and what is wrong."""

    cache: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    store: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)


def check_store(found: Verification, workers: int) -> bool:
    """Every checksum and count of the store; False where the metadata is too damaged to look at blocks."""
    path = locate(found.cache)
    damage = verify_documents(path)
    if damage:
        found.findings += damage
        return False
    found.findings += verify_metadata(path)
    store = Store(path)
    blocks = store.captured_blocks()
    found.findings += map_and_add(
        lambda block: verify_block(store, block),
        blocks,
        [],
        workers=workers,
        description="verify blocks",
        unit="blocks",
    )
    sizes = path.sizes()
    found.store = {
        "blocks": store.num_blocks,
        "blocks_captured": len(blocks),
        "objects": len(sizes),
        "bytes": sum(sizes.values()),
    }
    return True


def check_config(found: Verification, config: Config, reader: CacheReader) -> bool:
    """Is this the config that the cache was captured for?"""
    student = describe_student(config)
    student["views"] = part_of_views(student["views"], reader.manifest.views)
    assignment = describe_assignment(config)
    wanted = student if assignment is None else {**student, "assignment": assignment}
    cure = "Give the config that the cache is for (CONFIG=)"
    try:
        require_equal(wanted, reader.manifest, cure=cure, whose=("in the cache", "in the config"))
    except ManifestMismatch as error:
        found.findings.append(Finding("zarr.json", error.problem, error.cure))
        return False
    return True


def check_files(found: Verification, config: Config, reader: CacheReader, workers: int) -> None:
    """Image and label files against the digests of the plan, all of them."""
    dataset = training_set(config, [])
    infos = entries_of(dataset)
    plan = reader.plan
    capture = f"Capture a new cache for this training set, not at {reader.path}"
    for patch_id in sorted(set(infos) - set(plan.patch_ids)):
        found.findings.append(Finding(f"patch {patch_id}", "in the training set but not in the cache", capture))
    for patch_id in sorted(set(plan.patch_ids) - set(infos)):
        cure = f"Restore its image and labels. {capture}"
        found.findings.append(Finding(f"patch {patch_id}", "in the cache but not in the training set", cure))

    def compare(patch: int) -> list[Finding]:
        info = infos[plan.patch_ids[patch]]
        wrong = []
        for kind, path, digest, stored in (
            ("image", info["img_path"], _file_digest(info["img_path"]), plan.image_sha256[patch]),
            ("label", info["label_path"], dataset.label_digest(info), plan.label_sha256[patch]),
        ):
            if digest != stored.tobytes():
                problem = (
                    f"{kind}_sha256 is {stored.tobytes().hex()[:16]}… in the cache but {digest.hex()[:16]}… in {path}"
                )
                wrong.append(Finding(f"patch {plan.patch_ids[patch]}", problem, f"Restore the file. {capture}"))
        return wrong

    known = [patch for patch, patch_id in enumerate(plan.patch_ids) if patch_id in infos]
    found.findings += map_and_add(
        compare, known, [], workers=workers, description="verify image and label files", unit="patches"
    )
    found.files = {"patches": len(known)}


def _file_digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
