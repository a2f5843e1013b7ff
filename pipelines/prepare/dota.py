"""DOTA images and labels, or built-in scenes in DOTA's layout, -> patches to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base.command import say, warn
from pipelines.base.progress import progress
from pipelines.prepare.data_config import SPLITS, Options, Scenes, read_scenes, require_data_keys
from pipelines.prepare.data_folder import DataFolder, open_data_folder
from pipelines.prepare.sources import Source, SourceImage, read_sources
from pipelines.prepare.split_folder import SplitFolder
from pipelines.prepare.splitting import split_images
from pipelines.prepare.windows import SplitRule

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass(frozen=True)
class DataConfig:
    """What the config file says about data; `scenes` is None where it describes none."""

    data_root: Path
    rule: SplitRule
    scenes: Scenes | None


def prepare_dota(config: Config, options: Options) -> tuple[dict[str, Any], str]:
    """Source images -> patches, with a record of what they were made from; counts per split, and where they are.

    Raises:
        ValueError: an unusable config or source, or a folder that was made from something else.
    """
    data = read_data_config(config, options)
    parameters = describe(data, synthetic=options.dota_root is None)
    filled = [folder for split in SPLITS for folder in SplitFolder(data.data_root / split).folders()]
    with open_data_folder(data.data_root, parameters, filled) as folder:
        source_root = options.dota_root or render_scenes(data, folder)
        sources = read_sources(source_root, SPLITS, data.rule)
        warn_of_labels_without_image(sources)
        require_same_sources(folder, sources)

        missing = missing_images(data.data_root, sources)
        if missing or not folder.is_complete:
            splits = {split: source.describe() for split, source in sources.items()}
            folder.describe(splits, complete=False)
            split_missing(data.rule, missing, sources, options.workers)
            folder.describe(splits, complete=True)
    return summarise(data.data_root, sources), f"patches in {data.data_root}"


def read_data_config(config: Config, options: Options) -> DataConfig:
    """The data part of a config, and what the command line says before it.

    Raises:
        ValueError: a key is missing or has an unusable value.
    """
    require_data_keys(config, ("patch_size", "patch_overlap"))
    try:
        rule = SplitRule(
            size=config.patch_size,
            overlap=config.patch_overlap if options.overlap is None else options.overlap,
            rates=tuple(options.rates or config.get("patch_rates", (1.0,))),
            classes=tuple(config.classes),
            ignore_classes=tuple(config.get("ignore_classes", ())),
        )
    except ValueError as error:
        raise ValueError(f"{config.filename}: {error}") from error
    return DataConfig(Path(config.data_root), rule, read_scenes(config))


def describe(config: DataConfig, *, synthetic: bool) -> dict[str, Any]:
    """What decides how the patches come out, apart from the source files; the same on every machine.

    Raises:
        ValueError: built-in scenes are asked for but the config describes none.
    """
    if synthetic and config.scenes is None:
        raise ValueError("the config has no `scenes`, so it has no built-in data; give the folder of DOTA (DOTA_ROOT)")
    rule = asdict(config.rule)
    return {
        "format": 1,
        "source": "synthetic scenes" if synthetic else "DOTA",
        "scenes": asdict(config.scenes) if synthetic and config.scenes else None,
        "patch_size": rule.pop("size"),
        "patch_overlap": rule.pop("overlap"),
        "patch_rates": rule.pop("rates"),
        **rule,
    }


def render_scenes(config: DataConfig, folder: DataFolder) -> Path:
    """Render the built-in scenes that are not there yet; their folder, laid out as DOTA's."""
    assert config.scenes is not None, "describe() has refused this"
    if folder.stored is None:
        say("DOTA_ROOT= is not given: built-in scenes are drawn, which are no real images")
        # Before the first scene, so that scenes of other parameters are never taken for these.
        folder.describe({}, complete=False)
    root = config.data_root / "scenes"
    for split in SPLITS:
        # A finished folder keeps the scenes that its patches come from, even if today's code would draw others.
        if not (folder.is_complete and (root / split).is_dir()):
            config.scenes.write(root / split, split, config.rule.classes)
    return root


def warn_of_labels_without_image(sources: Mapping[str, Source]) -> None:
    """Name label files that are left out: DOTA comes in several archives, and one is easily forgotten."""
    for split, source in sources.items():
        left_out = source.labels_without_image
        if left_out:
            names = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
            warn(f"{split}: label files without an image are left out: {names} ({len(left_out)} in all)")


def require_same_sources(folder: DataFolder, sources: Mapping[str, Source]) -> None:
    """Refuse to mix patches of other source files.

    Until a run is complete, an image that has not been split yet may still change: that is how a damaged file, which
    stopped the run, is replaced.

    Raises:
        ValueError: naming the file or field that differs, both values and the cure.
    """
    if folder.stored is None:
        return
    for split, source in sources.items():
        ours = {image.image_id: image.identity() for image in source.images}
        for image_id, record in SplitFolder(folder.root / split).records().items():
            folder.require_same(record.source, ours.get(image_id, "(absent)"), f"{split}: {image_id}")
    folder.require_same_splits({split: source.describe() for split, source in sources.items()})


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
    rule: SplitRule, missing: Sequence[tuple[SourceImage, SplitFolder]], sources: Mapping[str, Source], workers: int
) -> None:
    """Write the patches of the missing images, with progress over all images."""
    total = sum(len(source.images) for source in sources.values())
    with progress("splitting", total, "images", done=total - len(missing)) as advance:
        split_images(missing, rule, workers=workers, on_image=lambda: advance(1))


def summarise(data_root: Path, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Counts and bytes of the patches on disk, per split; where patches overlap, they share objects."""
    splits = {}
    for split, source in sources.items():
        records = SplitFolder(data_root / split).records().values()
        objects = [count for record in records for count in record.patches.values()]
        splits[split] = {
            "images": len(records),
            "objects": source.num_objects,
            "patches": len(objects),
            "empty_patches": objects.count(0),
            "objects_in_patches": sum(objects),
            "bytes": sum(record.num_bytes for record in records),
        }
    return splits
