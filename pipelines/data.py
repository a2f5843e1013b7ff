"""Prepare the data: DOTA images and labels, or built-in synthetic scenes, -> patches to train on.

    python -m pipelines.data --config configs/demo/teacher.py
    python -m pipelines.data --config configs/teacher/gwd_r34_2x_dota.py --dota-root DOTA

A run that was stopped goes on where it was; finished images are not touched again. `<data_root>/source.json` says
what the patches were made from, and a run from anything else into the same folder is refused.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cache.manifest import first_difference
from pipelines.command import available_cores, existing_file, positive_int, progress, run_command, warn
from pipelines.patches import Source, SourceImage, SplitFolder, SplitRule, read_source, split_images, write_json

SPLITS = ("train", "val")


@dataclass(frozen=True)
class SceneConfig:
    """The built-in synthetic scenes: how many per split, image_size (width, height) in pixels, object scale, seed."""

    train: int
    val: int
    image_size: tuple[int, int]
    scale: float
    seed: int

    def __post_init__(self) -> None:
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ValueError(f"scenes.{split} is {getattr(self, split)}; at least 1 scene is needed")


@dataclass(frozen=True)
class DataConfig:
    """What the config file says about data; `scenes` is None where it describes none."""

    data_root: Path
    classes: tuple[str, ...]
    rule: SplitRule
    scenes: SceneConfig | None


def main(arguments: argparse.Namespace) -> None:
    """Source images -> patches, with a record of what they were made from."""
    started = time.perf_counter()
    config = read_config(arguments.config)
    with exclusive(config.data_root):
        parameters = describe(config, synthetic=arguments.dota_root is None)
        stored = read_description(config.data_root)
        refuse_other_parameters(config.data_root, stored, parameters)

        source_root = arguments.dota_root or render_scenes(config, stored, parameters)
        sources = {split: read_source(source_root, split, config.classes) for split in SPLITS}
        report_labels_without_image(sources)
        refuse_other_source(config.data_root, stored, sources)

        missing = missing_images(config.data_root, sources)
        if missing or not is_complete(stored):
            write_description(config.data_root, parameters, sources, complete=False)
            split_missing(config, missing, sources, arguments.workers)
            write_description(config.data_root, parameters, sources, complete=True)
    summary = summarise(config.data_root, seconds=time.perf_counter() - started)
    print_summary(summary, as_json=arguments.json)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.data",
        description="Cut DOTA images and labels into patches; without --dota-root, the built-in synthetic scenes.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped run.",
    )
    parser.add_argument(
        "--config",
        type=existing_file,
        required=True,
        help="a config with data_root, classes, patch_size, patch_overlap and, for built-in data, scenes",
    )
    parser.add_argument(
        "--dota-root",
        type=Path,
        help="holds train/ and val/, each with images/ and labelTxt/ or labelTxt-v1.0/labelTxt/",
    )
    parser.add_argument(
        "--workers", type=positive_int, default=available_cores(), help="processes (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def read_config(path: Path) -> DataConfig:
    """The data part of a config file.

    Raises:
        ValueError: the file is no config, or a key is missing or has an unusable value.
    """
    # Here and not at the top, because every worker process imports this module again; and without the config's
    # custom imports, because data preparation needs no torch.
    from mmengine.config import Config

    try:
        config = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    for key in ("data_root", "classes", "patch_size", "patch_overlap"):
        if key not in config:
            raise ValueError(
                f"{path} has no `{key}`; data preparation needs data_root, classes, patch_size, patch_overlap"
            )
    if isinstance(config.classes, str) or not config.classes:
        raise ValueError(f"{path}: classes is {config.classes!r}; a tuple of class names is needed")
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
    # Through JSON and back, so that a fresh description and a stored one compare equal (tuples become lists).
    return dict(json.loads(json.dumps(parameters)))


def describe_source(source: Source) -> dict[str, Any]:
    return {
        "images": len(source.images),
        "objects": sum(image.num_objects for image in source.images),
        "sha256": source.digest(),
    }


def read_description(data_root: Path) -> dict[str, Any] | None:
    """`source.json` of an earlier run; None where there was none.

    Raises:
        ValueError: there is none, but the folder holds files; or it is damaged.
    """
    path = data_root / "source.json"
    if path.exists():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged. {_cure(data_root)}") from None
    for split in SPLITS:
        if not SplitFolder(data_root / split).is_empty():
            raise ValueError(
                f"{data_root / split} holds files but {path} does not exist, so they are not this command's. "
                "Use another data_root in the config"
            )
    return None


def refuse_other_parameters(data_root: Path, stored: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> None:
    """Refuse to mix patches made with other parameters.

    Raises:
        ValueError: naming the first field that differs, both values and the cure.
    """
    if stored is None:
        return
    theirs = {key: value for key, value in stored.items() if key not in ("splits", "complete")}
    _refuse_difference(data_root, theirs, parameters)


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
            _refuse_difference(data_root, record.source, ours.get(image_id, "(absent)"), f"{split}: {image_id}")
    if is_complete(stored):
        ours = {split: describe_source(source) for split, source in sources.items()}
        _refuse_difference(data_root, stored.get("splits"), ours, "splits")


def is_complete(stored: Mapping[str, Any] | None) -> bool:
    return stored is not None and stored.get("complete") is True


def render_scenes(config: DataConfig, stored: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> Path:
    """Render the synthetic scenes that are not there yet; their folder, laid out as DOTA's."""
    from pipelines.scenes import write_scenes

    assert config.scenes is not None, "describe() has refused this"
    if stored is None:
        # Before the first scene, so that scenes of other parameters are never taken for these.
        write_description(config.data_root, parameters, {}, complete=False)
    scenes, root = config.scenes, config.data_root / "scenes"
    for index, split in enumerate(SPLITS):
        if is_complete(stored) and (root / split).is_dir():
            continue  # the patches' own scenes, even if today's code would draw others
        with redirect_stdout(sys.stderr):  # standard output is for the summary alone
            write_scenes(
                root / split,
                getattr(scenes, split),
                seed=scenes.seed * len(SPLITS) + index,  # no scene of one split in the other
                size=scenes.image_size,
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


def summarise(data_root: Path, *, seconds: float) -> dict[str, Any]:
    """Counts and bytes of what is on disk, per split, and the seconds that this run took."""
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
    return {"data_root": str(data_root), "splits": splits, "seconds": round(seconds, 3)}


def print_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    table = Table("split")
    for heading in ("images", "patches", "empty patches", "objects", "bytes"):
        table.add_column(heading, justify="right")
    for split, figures in summary["splits"].items():
        table.add_row(split, *(f"{value:,}" for value in figures.values()))
    Console().print(table)
    print(f"patches in {summary['data_root']}, {summary['seconds']:.1f} s")


@contextmanager
def exclusive(data_root: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be, for this run alone; the lock ends with the process.

    Raises:
        ValueError: another run holds it.
    """
    data_root.mkdir(parents=True, exist_ok=True)
    folder = os.open(data_root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing into {data_root}; wait until it ends") from None
        except OSError:
            warn(f"{data_root} lies on a file system without locks; do not start a second run into it")
        yield
    finally:
        os.close(folder)


def _refuse_difference(data_root: Path, theirs: Any, ours: Any, field: str = "") -> None:
    difference = first_difference(theirs, ours, field)
    if difference is not None:
        field, left, right = difference
        raise ValueError(
            f"{data_root} was made from something else: {field} is {json.dumps(left)} there, {json.dumps(right)} here. "
            + _cure(data_root)
        )


def _cure(data_root: Path) -> str:
    return f"Use another data_root in the config, or delete {data_root} and run again"


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
