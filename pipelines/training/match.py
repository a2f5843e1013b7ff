"""Whether a student may train from a cache: what both must share, and the part of the cache that the student reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmengine.config import Config

from cache.manifest import Manifest, ManifestMismatch, is_allowed, require_equal
from cache.reader import CacheReader
from distill.region import is_inside
from distill.transforms import part_of_views
from pipelines.base.command import warn
from pipelines.base.experiment import describe_assignment, describe_student, entries_of, training_set
from pipelines.base.invocation import make
from pipelines.base.ready import require_keys, require_training_images
from pipelines.base.stores import path_beside, tell_store
from pipelines.training.kind import point_to_cache, targets_step
from pipelines.training.options import ALLOWABLE


def use_cache(config: Config, cache: str | None = None, allow: Sequence[str] = ()) -> None:
    """Let a student train from a cache that fits it; `cache` and `allow` go before and beside the config's.

    Raises:
        ValueError: the config, its data or the cache cannot be used; see `require_matching_cache`.
    """
    require_keys(config, ("region", "classes", "cache"), config.filename)
    config.cache = cache or config.cache
    config.allow = [*config.get("allow", ()), *allow]
    point_to_cache(config)
    require_training_images(config)
    reader = CacheReader(config.cache)
    tell_store(reader.store, (config.get("teacher") or {}).get("checkpoint"))
    require_matching_cache(config, reader)


def require_matching_cache(config: Config, reader: CacheReader) -> None:
    """Refuse an incomplete or foreign cache before the first step.

    A student may read a part of its cache: fewer draws, fewer patches, or a region inside the stored one, which the
    loader then picks. Fields of `config.allow` may differ; what does is put into `config.overrides`. Image bytes are
    compared later, by the loader that reads them anyway.

    Raises:
        ValueError: naming the field, both values and the cure.
    """
    loader, overrides = _match(config, reader)
    targets_step(config).update(loader)
    config.overrides = overrides
    for override in overrides:
        warn(f"{override}; allowed by --allow")


def _match(config: Config, reader: CacheReader) -> tuple[dict[str, Any], list[str]]:
    """Options of LoadTeacherTargets for a cache that fits, and what differs by permission."""
    allowed = _allowed_fields(config)
    place = f"cache {reader.path}"
    student, loader = _part_of_cache(config, reader.manifest, allowed)
    wants_assignment = describe_assignment(config)
    if wants_assignment is not None:
        require_equal(
            {"assignment": wants_assignment},
            reader.manifest,
            place=place,
            cure="Let the student assign by itself (plan_assignment = False), or capture a cache with this assigner: "
            f"{_capture_anew(reader)}",
        )
        loader["assignment"] = True
    cure = f"Change the config, or capture a cache for it: {_capture_anew(reader)}"
    overrides = require_equal(student, reader.manifest, place=place, cure=cure, allowed=allowed)
    reader.require_complete()
    overrides += _require_same_patches(reader, training_set(config, []), allowed)
    if "image_sha256" in allowed:
        loader["check_image"] = False
        overrides.append(f"{place}: image_sha256 is not compared")
    return loader, overrides


def _capture_anew(reader: CacheReader) -> str:
    """The command that captures another cache, for this run's student."""
    return make("cache-teacher", cache=path_beside(reader.path))


def _part_of_cache(config: Config, stored: Manifest, allowed: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the student must find in the manifest, and how its loader picks its part of what is stored.

    Fewer draws than the stored ones, and a region inside the stored one, stand as they are stored.
    """
    student, loader = describe_student(config), {}
    student["views"] = part_of_views(student["views"], stored.views)
    if is_inside(student["region"], stored.region) and "region" not in allowed:
        loader["region"] = dict(config.region)
        student["region"] = stored.region
    return student, loader


def _allowed_fields(config: Config) -> list[str]:
    """The fields that a user allows to differ, all of which may be allowed."""
    allowed = list(config.get("allow", ()))
    for field in allowed:
        if not is_allowed(field, ALLOWABLE):
            raise ValueError(f"--allow {field}: only {', '.join(ALLOWABLE)}, or a field inside them, may differ")
    return allowed


def _require_same_patches(reader: CacheReader, dataset: BaseDetDataset, allowed: Sequence[str]) -> list[str]:
    """Every training patch is in the cache, with the labels that its region was planned from.

    Returns what differs all the same where `label_sha256` is allowed.
    """
    tolerated = []
    stored = dict(zip(reader.plan.patch_ids, reader.plan.label_sha256, strict=True))
    infos = entries_of(dataset)
    for patch_id, info in sorted(infos.items()):
        if patch_id not in stored:
            raise ManifestMismatch(
                f"cache {reader.path}: patch {patch_id} is absent ({len(stored)} patches in the cache, {len(infos)} "
                f"in the training set). Capture one for this training set: {_capture_anew(reader)}"
            )
        found = dataset.label_digest(info)
        if stored[patch_id].tobytes() != found:
            text = (
                f"cache {reader.path}: label_sha256 of patch {patch_id} is {stored[patch_id].tobytes().hex()[:16]}… "
                f"in the cache but {found.hex()[:16]}… in {info['label_path']}"
            )
            if "label_sha256" not in allowed:
                raise ManifestMismatch(f"{text}. Restore the label file, or capture anew: {_capture_anew(reader)}")
            tolerated.append(text)
    return tolerated
