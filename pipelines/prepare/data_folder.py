"""A data folder: its config, one run at a time, and `source.json`, which says what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.manifest import first_difference
from pipelines.base.files import exclusive

if TYPE_CHECKING:
    from mmengine.config import Config

SPLITS = ("train", "val")


def require_data_keys(config: Config, keys: Sequence[str], path: Path) -> None:
    """Refuse a config that data cannot be made from.

    Raises:
        ValueError: a key is missing, or `classes` is no tuple of names.
    """
    for key in keys:
        if key not in config:
            raise ValueError(f"{path} has no `{key}`; data preparation needs {', '.join(keys)}")
    if isinstance(config.classes, str) or not config.classes:
        raise ValueError(f"{path}: classes is {config.classes!r}; a tuple of class names is needed")


def require_scenes(counts: Mapping[str, int]) -> None:
    """Refuse splits without scenes.

    Raises:
        ValueError: naming the split.
    """
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"scenes.{split} is {count}; at least 1 scene is needed")


@contextmanager
def exclusive_folder(data_root: Path) -> Iterator[None]:
    """Hold the data folder, which is made if need be, for this run alone.

    Raises:
        ValueError: another run holds it.
    """
    data_root.mkdir(parents=True, exist_ok=True)
    with exclusive(data_root, f"another run is writing into {data_root}; wait until it ends"):
        yield


def read_description(data_root: Path, folders: Sequence[Path]) -> dict[str, Any] | None:
    """`source.json` of an earlier run; None where there was none.

    Raises:
        ValueError: there is none, but one of the `folders` that the command fills holds files; or it is damaged.
    """
    path = data_root / "source.json"
    if path.exists():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged. {_cure(data_root)}") from None
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds files but {path} does not exist, so they are not this command's. "
                "Use another data_root in the config"
            )
    return None


def is_complete(stored: Mapping[str, Any] | None) -> bool:
    return stored is not None and stored.get("complete") is True


def refuse_other_parameters(data_root: Path, stored: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> None:
    """Refuse to mix data made with other parameters.

    Raises:
        ValueError: naming the first field that differs, both values and the cure.
    """
    if stored is None:
        return
    theirs = {key: value for key, value in stored.items() if key not in ("splits", "complete")}
    refuse_difference(data_root, theirs, parameters)


def refuse_difference(data_root: Path, theirs: Any, ours: Any, field: str = "") -> None:
    """Refuse to mix data of different origin.

    Raises:
        ValueError: naming the first field that differs, both values and the cure.
    """
    difference = first_difference(theirs, ours, field)
    if difference is not None:
        field, left, right = difference
        raise ValueError(
            f"{data_root} was made from something else: {field} is {json.dumps(left)} there, {json.dumps(right)} here. "
            + _cure(data_root)
        )


def _cure(data_root: Path) -> str:
    return f"Use another data_root in the config, or delete {data_root} and run again"
