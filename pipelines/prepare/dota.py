"""DOTA images and labels, or built-in synthetic scenes in DOTA's layout, -> patches to train on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.manifest import as_stored
from pipelines.base.command import warn
from pipelines.base.files import write_json
from pipelines.base.progress import progress
from pipelines.prepare.data_folder import (
    SPLITS,
    exclusive_folder,
    is_complete,
    read_description,
    refuse_difference,
    refuse_other_parameters,
    require_data_keys,
    require_scenes,
)
from pipelines.prepare.patches import Source, SourceImage, SplitFolder, SplitRule, read_source, split_images
from pipelines.scenes.scene import write_scenes

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass(frozen=True)
class SceneConfig:
    """The built-in synthetic scenes: how many per split, image_size (width, height) in pixels, object scale, seed."""

    train: int
    val: int
    image_size: tuple[int, int]
    scale: float
    seed: int

    def __post_init__(self) -> None:
        require_scenes({split: getattr(self, split) for split in SPLITS})


@dataclass(frozen=True)
class DataConfig:
    """What the config file says about data; `scenes` is None where it describes none."""

    data_root: Path
    classes: tuple[str, ...]
    rule: SplitRule
    scenes: SceneConfig | None


def prepare_dota(config: Config, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Source images -> patches, with a record of what they were made from; counts per split, and where they are.

    Raises:
        ValueError: an unusable config or source, or a folder that was made from something else.
    """
    data = read_data_config(config, arguments.config)
    with exclusive_folder(data.data_root):
        parameters = describe(data, synthetic=arguments.dota_root is None)
        folders = [folder for split in SPLITS for folder in SplitFolder(data.data_root / split).folders()]
        stored = read_description(data.data_root, folders)
        refuse_other_parameters(data.data_root, stored, parameters)

        source_root = arguments.dota_root or render_scenes(data, stored, parameters)
        sources = {split: read_source(source_root, split, data.classes) for split in SPLITS}
        report_labels_without_image(sources)
        refuse_other_source(data.data_root, stored, sources)

        missing = missing_images(data.data_root, sources)
        if missing or not is_complete(stored):
            write_description(data.data_root, parameters, sources, complete=False)
            split_missing(data, missing, sources, arguments.workers)
            write_description(data.data_root, parameters, sources, complete=True)
    return summarise(data.data_root), f"patches in {data.data_root}"


def read_data_config(config: Config, path: Path) -> DataConfig:
    """The data part of a config; `path` is named in errors.

    Raises:
        ValueError: a key is missing or has an unusable value.
    """
    require_data_keys(config, ("data_root", "classes", "patch_size", "patch_overlap"), path)
    try:
        rule = SplitRule(size=config.patch_size, overlap=config.patch_overlap)
        scenes = config.get("scenes")
        scenes = scenes and SceneConfig(**{**scenes, "image_size": tuple(scenes["image_size"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: patch_size, patch_overlap or scenes is unusable: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return DataConfig(Path(config.data_root), tuple(config.classes), rule, scenes)


def describe(config: DataConfig, *, synthetic: bool) -> dict[str, Any]:
    """What decides how the patches come out, apart from the source files; the same on every machine.

    Raises:
        ValueError: synthetic scenes are asked for but the config describes none.
    """
    if synthetic and config.scenes is None:
        raise ValueError("the config has no `scenes`, so it has no built-in data; give the folder of DOTA (DOTA_ROOT)")
    parameters = {
        "format": 1,
        "source": "synthetic scenes" if synthetic else "DOTA",
        "scenes": asdict(config.scenes) if synthetic and config.scenes else None,
        "classes": config.classes,
        "patch_size": config.rule.size,
        "patch_overlap": config.rule.overlap,
        "keep_ratio": config.rule.keep_ratio,
        "image_rate_threshold": config.rule.image_rate_threshold,
        "padding_bgr": config.rule.padding_bgr,
    }
    return as_stored(parameters)


def describe_source(source: Source) -> dict[str, Any]:
    return {
        "images": len(source.images),
        "objects": sum(image.num_objects for image in source.images),
        "sha256": source.digest(),
    }


def refuse_other_source(data_root: Path, stored: Mapping[str, Any] | None, sources: Mapping[str, Source]) -> None:
    """Refuse to mix patches of other source files.

    Until a run is complete, an image that has not been split yet may still change: that is how a damaged file, which
    stopped the run, is replaced.

    Raises:
        ValueError: naming the file or field that differs, both values and the cure.
    """
    if stored is None:
        return
    for split, source in sources.items():
        ours = {image.image_id: image.identity() for image in source.images}
        for image_id, record in SplitFolder(data_root / split).records().items():
            refuse_difference(data_root, record.source, ours.get(image_id, "(absent)"), f"{split}: {image_id}")
    if is_complete(stored):
        ours = {split: describe_source(source) for split, source in sources.items()}
        refuse_difference(data_root, stored.get("splits"), ours, "splits")


def render_scenes(config: DataConfig, stored: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> Path:
    """Render the synthetic scenes that are not there yet; their folder, laid out as DOTA's."""
    assert config.scenes is not None, "describe() has refused this"
    if stored is None:
        # Before the first scene, so that scenes of other parameters are never taken for these.
        write_description(config.data_root, parameters, {}, complete=False)
    scenes, root = config.scenes, config.data_root / "scenes"
    for index, split in enumerate(SPLITS):
        if is_complete(stored) and (root / split).is_dir():
            continue  # the patches' own scenes, even if today's code would draw others
        write_scenes(
            root / split,
            getattr(scenes, split),
            seed=scenes.seed * len(SPLITS) + index,  # no scene of one split in the other
            sizes=[scenes.image_size],
            classes=config.classes,
            scale=scenes.scale,
        )
    return root


def report_labels_without_image(sources: Mapping[str, Source]) -> None:
    """Warn of label files that are left out: DOTA comes in several archives, and one is easily forgotten."""
    for split, source in sources.items():
        left_out = source.labels_without_image
        if left_out:
            names = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
            warn(f"{split}: label files without an image are left out: {names} ({len(left_out)} in all)")


def write_description(
    data_root: Path, parameters: Mapping[str, Any], sources: Mapping[str, Source], *, complete: bool
) -> None:
    splits = {split: describe_source(source) for split, source in sources.items()}
    write_json(data_root / "source.json", {**parameters, "splits": splits, "complete": complete})


def missing_images(data_root: Path, sources: Mapping[str, Source]) -> list[tuple[SourceImage, SplitFolder]]:
    """The images that are not finished, each with where its patches go; what is left of a killed run is deleted."""
    missing = []
    for split, source in sources.items():
        folder = SplitFolder(data_root / split)
        folder.make()
        folder.remove_unfinished()
        finished = folder.records()
        missing += [(image, folder) for image in source.images if image.image_id not in finished]
    return missing


def split_missing(
    config: DataConfig,
    missing: Sequence[tuple[SourceImage, SplitFolder]],
    sources: Mapping[str, Source],
    workers: int,
) -> None:
    """Write the patches of the missing images, with progress over all images."""
    total = sum(len(source.images) for source in sources.values())
    with progress("splitting", total, "images", done=total - len(missing)) as advance:
        split_images(missing, config.rule, config.classes, workers=workers, on_image=lambda: advance(1))


def summarise(data_root: Path) -> dict[str, Any]:
    """Counts and bytes of the patches on disk, per split."""
    splits = {}
    for split in SPLITS:
        records = SplitFolder(data_root / split).records().values()
        objects = [count for record in records for count in record.patches.values()]
        splits[split] = {
            "images": len(records),
            "patches": len(objects),
            "empty_patches": objects.count(0),
            "objects": sum(objects),
            "bytes": sum(record.num_bytes for record in records),
        }
    return splits
