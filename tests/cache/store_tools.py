"""Small stores with known content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.layout import ASSIGNED_FIELDS, ERROR_COLUMNS
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.quantize import CODED_FIELDS, ValueRange, choose_codecs, resolve_codec
from cache.reader import CacheReader
from cache.view import FLIPS
from cache.writer import CacheWriter

NUM_CLASSES, BOX_SHAPE, NUM_PRIORS = 3, (5, 9), 3024
NO_ERROR = np.zeros(len(ERROR_COLUMNS))
RANGES = {"cls_logits": ValueRange(-9.0, 2.0), "box_logits": ValueRange(-14.0, 0.0)}


def small_plan(
    num_patches: int = 6,
    flips: Sequence[str] = FLIPS,
    seed: int = 0,
    views_per_block: int = 8,
    assigned: bool = False,
) -> Plan:
    """Patches with random row counts; the first one has no object."""
    random = np.random.default_rng(seed)
    patches = []
    for number in range(num_patches):
        counts = random.integers(0, 60, (len(flips), 3)) * (number > 0)
        digest = bytes([number]) * 32
        planned = random.integers(0, 9, len(flips)) * (number > 0) if assigned else None
        patches.append(PlannedPatch(f"P{number:04d}__a__128__0___0", digest, digest, (128, 128), counts, planned))
    return make_plan(patches, flips, views_per_block=views_per_block)


def small_manifest(plan: Plan, preset: str = "default", **sections: Any) -> Manifest:
    codecs = choose_codecs(preset, RANGES)
    head = {"classes": list("abc"), "box_parameters": ["x", "y", "w", "h", "angle"], "num_bins": 9}
    given = {
        "teacher": {"weights_sha256": "0" * 64},
        "head": head,
        "views": {"flips": [FLIPS[code] for code in sorted(set(plan.view_flip.tolist()))], "flip_offset": 1.0},
        "preprocessing": {},
        "numeric": {"threads": 1},
        "region": {"factor": 0.25, "topk": 9},
        "plan": plan.describe(),
        "assignment": None if plan.assigned_start is None else {"arrays": list(ASSIGNED_FIELDS), "assigner": {}},
        "codec": {
            "preset": preset,
            "requested": resolve_codec(preset),
            **{name: codec.to_json() for name, codec in codecs.items()},
        },
    }
    return Manifest(**(given | sections))


def block_logits(plan: Plan, block: int) -> dict[str, np.ndarray]:
    """Made-up rows of a block, the same in every process: logits as a teacher would give them."""
    random = np.random.default_rng([7, block])
    rows = [int(plan.priors_per_view[view]) for view in plan.views_of_block(block)]
    index = [np.sort(random.choice(NUM_PRIORS, count, replace=False)) for count in rows]
    total = sum(rows)
    box = random.uniform(-14, 0, (total, *BOX_SHAPE)).astype(np.float32)
    assigned = {}
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        members = plan.views_of_block(block)
        counts = (plan.assigned_stop.astype(int) - plan.assigned_start)[members]
        priors = [np.sort(random.choice(NUM_PRIORS, count, replace=False)) for count in counts]
        assigned = {
            "assigned_prior": np.concatenate(priors).astype(np.uint32),
            "assigned_object": random.integers(-1, 5, counts.sum()).astype(np.int32),
        }
    return assigned | {
        "prior_index": np.concatenate(index).astype(np.uint32),
        "weight": random.uniform(0.01, 1, total).astype(np.float32),
        "cls_logits": random.uniform(-9, 2, (total, NUM_CLASSES)).astype(np.float32),
        "box_logits": box - box.max(axis=-1, keepdims=True),
    }


def block_fields(plan: Plan, block: int, preset: str = "default") -> dict[str, np.ndarray]:
    """The rows of a block as the writer takes them."""
    fields = block_logits(plan, block)
    codecs = choose_codecs(preset, RANGES)
    return fields | {name: codecs[name].encode(fields[name]).astype(codecs[name].dtype) for name in CODED_FIELDS}


def write_blocks(writer: CacheWriter, preset: str = "default") -> None:
    for block in writer.missing_blocks():
        writer.write(block, block_fields(writer.plan, block, preset), NO_ERROR)


def write_store(path: Path | str, plan: Plan | None = None, preset: str = "default") -> Plan:
    """A complete store at `path`."""
    plan = plan or small_plan()
    with CacheWriter(path, small_manifest(plan, preset), plan) as writer:
        write_blocks(writer, preset)
    return plan


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store by its path: what 'the same bytes' compares."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def read_in_child(path: str, patch_id: str) -> int:
    """Rows of a record: what a worker process of a test does."""
    return len(CacheReader(path).read(patch_id, "none"))
