"""What a config file says about data, read without torch: the keys that both data formats share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.scenes.scene import write_scenes

if TYPE_CHECKING:
    from mmengine.config import Config

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Options:
    """What the command line says about data."""

    dota_root: Path | None
    """Holds train/ and val/ in DOTA's layout; None takes the built-in scenes."""
    workers: int
    """Processes that split images."""
    rates: tuple[float, ...] | None = None
    """Of a split at several scales, before the config's; None for that."""
    overlap: int | None = None
    """Pixels that patches share, before the config's; None for that."""


@dataclass(frozen=True)
class Scenes:
    """The built-in scenes: how many per split, image_sizes (width, height) taken in turn, object scale, seed."""

    train: int
    val: int
    image_sizes: tuple[tuple[int, int], ...]
    scale: float
    seed: int

    def __post_init__(self) -> None:
        for name in (*SPLITS, "seed"):
            if not _is_whole(getattr(self, name)):
                raise ValueError(f"scenes.{name} is {getattr(self, name)!r}; a whole number is needed")
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ValueError(f"scenes.{split} is {getattr(self, split)}; at least 1 scene is needed")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or self.scale <= 0:
            raise ValueError(f"scenes.scale is {self.scale!r}; a number above 0 is needed")
        sizes = self.image_sizes
        if not isinstance(sizes, list | tuple) or not sizes or not all(map(_is_size, sizes)):
            raise ValueError(
                f"scenes.image_size is {sizes!r}; (width, height) in whole pixels is needed, or a list of them"
            )

    def write(self, folder: Path, split: str, classes: Sequence[str]) -> None:
        """Render the scenes of a split that are not in `folder` yet.

        Raises:
            ValueError: a size, scale or class that no scene can have.
        """
        write_scenes(
            folder,
            getattr(self, split),
            seed=self.seed * len(SPLITS) + SPLITS.index(split),  # no scene of one split in the other
            sizes=self.image_sizes,
            classes=classes,
            scale=self.scale,
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value))


def require_data_keys(config: Config, keys: Sequence[str]) -> None:
    """Refuse a config that data cannot be made from.

    Raises:
        ValueError: a key is missing, or there is no class.
    """
    keys = ("data_root", "classes", *keys)
    for key in keys:
        if key not in config:
            raise ValueError(f"{config.filename} has no `{key}`; data preparation needs {', '.join(keys)}")
    if not config.classes:
        raise ValueError(f"{config.filename}: classes is {config.classes!r}; at least one name is needed")


def read_scenes(config: Config) -> Scenes | None:
    """The built-in scenes that a config asks for, all of one `image_size` or of several `image_sizes`.

    Raises:
        ValueError: a key is missing or unknown, or has an unusable value.
    """
    if config.get("scenes") is None:
        return None
    values = dict(config.scenes)
    if "image_size" in values:
        values["image_sizes"] = [values.pop("image_size")]
    if set(values) != {field.name for field in fields(Scenes)}:
        raise ValueError(
            f"{config.filename}: scenes has {', '.join(config.scenes)}; it needs train, val, image_size (or "
            "image_sizes, taken in turn), scale and seed"
        )
    try:
        return Scenes(**values)
    except ValueError as error:
        raise ValueError(f"{config.filename}: {error}") from error
