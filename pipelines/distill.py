"""Train a student from a teacher cache; the teacher itself is never built.

python -m pipelines.distill --config configs/distill/gwd_r18_1x_dota.py
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmengine.config import Config

from cache.manifest import ManifestMismatch, is_allowed, require_equal
from cache.reader import CacheReader
from cache.storage import locate
from distill.region import is_inside
from pipelines.base.command import run_command, warn
from pipelines.base.experiment import describe_assignment, describe_student, entries_of, require_keys, training_set
from pipelines.train import add_training_arguments, prepare, require_training_images, train

# What a student and its cache must share; the teacher, codec and numeric mode are the cache's own.
# What a user may allow to differ all the same: the run's record says so. Another head could not read the targets.
ALLOWABLE = ("views.flip_offset", "preprocessing", "region", "label_sha256", "image_sha256")


def main(arguments: argparse.Namespace) -> None:
    """Cache and student compared, then training."""
    config = prepare(arguments)
    require_keys(config, ("region", "classes", "cache"), arguments.config)
    config.cache = arguments.cache or config.cache
    config.allow = [*config.get("allow", ()), *arguments.allow]
    point_to_cache(config)
    require_training_images(config)
    require_matching_cache(config, CacheReader(config.cache))
    train(config)


def point_to_cache(config: Config) -> None:
    """Let the training pipeline read the store that the config's `cache` names."""
    targets_step(config)["cache"] = str(config.cache)
    loader = config.train_dataloader
    if locate(config.cache).is_remote and loader.num_workers:
        # This process has asked S3 by then, and one forked from it could not.
        loader.multiprocessing_context = "forkserver"


def targets_step(config: Config) -> dict[str, Any]:
    """The transform of the training pipeline that loads the teacher's targets."""
    steps = [step for step in config.train_dataloader.dataset.pipeline if step["type"] == "LoadTeacherTargets"]
    if len(steps) != 1:
        raise ValueError(f"the training pipeline has {len(steps)} LoadTeacherTargets, one is needed (configs/distill)")
    return steps[0]


def require_matching_cache(config: Config, reader: CacheReader) -> None:
    """Refuse an incomplete or foreign cache before the first step.

    A student may read a part of its cache: fewer flips, fewer patches, or a region inside the stored one, which the
    loader then picks. Fields of `config.allow` may differ; what does is put into `config.overrides`. Image bytes are
    compared later, by the loader that reads them anyway.

    Raises:
        ValueError: naming the field, both values and the cure.
    """
    allowed = require_allowable(config.get("allow", ()))
    cure = f"Change the config, or capture a cache for it: make cache-teacher CACHE=<new path>, not {reader.path}."
    student = describe_student(config)
    stored = reader.manifest
    if set(student["views"]["flips"]) < set(stored.views["flips"]):
        student["views"]["flips"] = stored.views["flips"]
    if is_inside(student["region"], stored.region) and "region" not in allowed:
        targets_step(config)["region"] = dict(config.region)
        student["region"] = stored.region
    wants_assignment = describe_assignment(config)
    if wants_assignment is not None:
        require_equal(
            {"assignment": wants_assignment},
            reader.manifest,
            place=f"cache {reader.path}",
            cure="Capture a cache with this assigner, or let the student assign by itself: plan_assignment = False.",
        )
        targets_step(config)["assignment"] = True
    place = f"cache {reader.path}"
    overrides = require_equal(student, stored, place=place, cure=cure, allowed=allowed)
    reader.require_complete()
    dataset = training_set(config, [])
    overrides += require_same_patches(reader, dataset, allowed)
    if "image_sha256" in allowed:
        targets_step(config)["check_image"] = False
        overrides.append(f"{place}: image_sha256 is not compared")
    for override in overrides:
        warn(f"{override}; allowed by --allow")
    config.overrides = overrides


def require_allowable(allowed: Sequence[str]) -> list[str]:
    """The fields that a user allows to differ.

    Raises:
        ValueError: a field that cannot be allowed.
    """
    for field in allowed:
        if not is_allowed(field, ALLOWABLE):
            raise ValueError(f"--allow {field}: only {', '.join(ALLOWABLE)}, or a field inside them, may differ")
    return list(allowed)


def require_same_patches(reader: CacheReader, dataset: BaseDetDataset, allowed: Sequence[str] = ()) -> list[str]:
    """Every training patch is in the cache, with the labels that its region was planned from.

    Returns what differs all the same where `label_sha256` is allowed.

    Raises:
        ManifestMismatch: naming the first patch that differs.
    """
    tolerated = []
    stored = dict(zip(reader.plan.patch_ids, reader.plan.label_sha256, strict=True))
    infos = entries_of(dataset)
    for patch_id, info in sorted(infos.items()):
        if patch_id not in stored:
            raise ManifestMismatch(
                f"cache {reader.path}: patch {patch_id} is absent ({len(stored)} patches in the cache, {len(infos)} "
                "in the training set). Capture a new cache for this training set"
            )
        found = dataset.label_digest(info)
        if stored[patch_id].tobytes() != found:
            text = (
                f"cache {reader.path}: label_sha256 of patch {patch_id} is {stored[patch_id].tobytes().hex()[:16]}… "
                f"in the cache but {found.hex()[:16]}… in {info['label_path']}"
            )
            if "label_sha256" not in allowed:
                raise ManifestMismatch(f"{text}. Restore the label file, or capture a new cache")
            tolerated.append(text)
    return tolerated


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.distill",
        description="Train a student with LD + KD from a teacher cache.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    add_training_arguments(parser)
    parser.add_argument("--cache", help="the teacher cache (default: the config's cache)")
    parser.add_argument(
        "--allow", nargs="+", default=(), metavar="FIELD", help=f"train although these differ: {', '.join(ALLOWABLE)}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
