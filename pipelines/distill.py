"""Train a student from a teacher cache; the teacher itself is never built.

python -m pipelines.distill --config configs/distill/gwd_r18_1x_dota.py
"""

from __future__ import annotations

import pipelines.openmmlab  # noqa: F401  isort: skip

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from cache.manifest import ManifestMismatch, require_equal
from cache.reader import CacheReader
from pipelines.command import run_command
from pipelines.experiment import describe_student, require_keys, training_set
from pipelines.plan import label_digest
from pipelines.train import add_training_arguments, prepare, require_training_images, train

# What a student and its cache must share; the teacher, codec and numeric mode are the cache's own.
SHARED_SECTIONS = ("head", "views", "preprocessing", "region")


def main(arguments: argparse.Namespace) -> None:
    """Cache and student compared, then training."""
    config = prepare(arguments)
    require_keys(config, ("region", "classes", "cache"), arguments.config)
    config.cache = arguments.cache or config.cache
    point_to_cache(config)
    require_training_images(config)
    require_matching_cache(config, CacheReader(config.cache))
    train(config)


def point_to_cache(config: Config) -> None:
    """Let the training pipeline read the store that the config's `cache` names."""
    steps = [step for step in config.train_dataloader.dataset.pipeline if step["type"] == "LoadTeacherTargets"]
    if len(steps) != 1:
        raise ValueError(f"the training pipeline has {len(steps)} LoadTeacherTargets, one is needed (configs/distill)")
    steps[0]["cache"] = str(config.cache)


def require_matching_cache(config: Config, reader: CacheReader) -> None:
    """Refuse an incomplete or foreign cache before the first step.

    Image bytes are compared later, by the loader that reads them anyway.

    Raises:
        ValueError: naming the field, both values and the cure.
    """
    cure = f"Change the config, or capture a cache for it: make cache-teacher CACHE=<new path>, not {reader.path}."
    student = describe_student(config)
    stored_flips = reader.manifest["views"]["flips"]
    if set(student["views"]["flips"]) < set(stored_flips):
        # A student that draws fewer flips reads a part of the cache.
        student["views"]["flips"] = stored_flips
    require_equal(student, reader.manifest, place=f"cache {reader.path}", cure=cure, sections=SHARED_SECTIONS)
    reader.require_complete()
    dataset = training_set(config, [])
    labels = {info["img_id"]: info["label_path"] for info in map(dataset.get_data_info, range(len(dataset)))}
    require_same_patches(reader, labels)


def require_same_patches(reader: CacheReader, labels: dict[str, str]) -> None:
    """Every training patch is in the cache, with the labels that its region was planned from.

    Raises:
        ManifestMismatch: naming the first patch that differs.
    """
    stored = dict(zip(reader.plan.patch_ids, reader.plan.label_sha256, strict=True))
    for patch_id, path in sorted(labels.items()):
        if patch_id not in stored:
            raise ManifestMismatch(
                f"cache {reader.path}: patch {patch_id} is absent ({len(stored)} patches in the cache, {len(labels)} "
                "in the training set). Capture a new cache for this training set"
            )
        found = label_digest(path)
        if stored[patch_id].tobytes() != found:
            raise ManifestMismatch(
                f"cache {reader.path}: label_sha256 of patch {patch_id} is {stored[patch_id].tobytes().hex()[:16]}… "
                f"in the cache but {found.hex()[:16]}… in {Path(path)}. Restore the label file, or capture a new cache"
            )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.distill",
        description="Train a student with LD + KD from a teacher cache.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    add_training_arguments(parser)
    parser.add_argument("--cache", help="the teacher cache (default: the config's cache)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
