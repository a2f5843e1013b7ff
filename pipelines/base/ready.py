"""What must be there before a command starts, looked at before torch is imported."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import DataNeeded, TeacherNeeded
from pipelines.base.invocation import again

if TYPE_CHECKING:
    from mmengine.config import Config


def require_file(path: str | Path, variable: str) -> Path:
    """The path of a file that is there.

    Raises:
        ValueError: it is not; `variable` is what a user has named it by.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{variable} {path} does not exist")
    return path


def require_folder(path: str | Path, variable: str) -> Path:
    """The path of a folder that is there.

    Raises:
        ValueError: it is not; `variable` is what a user has named it by.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{variable} {path} is no folder that exists")
    return path


def require_writable(folder: str | Path, variable: str) -> None:
    """Refuse a folder, which may be yet to make, in which nothing can be written.

    Raises:
        ValueError: naming `variable`, the folder and the reason.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"{variable} {folder} cannot be written: {error.strerror} ({place})") from None


def require_keys(config: Config, keys: tuple[str, ...], path: str | Path) -> None:
    """Refuse a config that cannot drive this command.

    Raises:
        ValueError: naming the missing key.
    """
    for key in keys:
        if key not in config:
            raise ValueError(f"config {path} has no `{key}`; give a config of configs/distill, or one that inherits it")


def require_training_images(config: Config) -> None:
    """Refuse a run whose images have not been made.

    Raises:
        DataNeeded: naming the folder.
    """
    _require_images(config.train_dataloader.dataset, "training")


def require_validation_images(config: Config) -> None:
    """Refuse a run that validates on images that have not been made.

    Raises:
        DataNeeded: naming the folder.
    """
    _require_images(config.val_dataloader.dataset, "validation")


def require_test_images(config: Config) -> None:
    """Refuse an evaluation whose images have not been made.

    Raises:
        DataNeeded: naming the folder.
    """
    _require_images(config.test_dataloader.dataset, "validation")


def _require_images(dataset: Mapping[str, Any], what: str) -> None:
    folder = Path(dataset.get("data_root", "")) / dataset["data_prefix"]["img_path"]
    if not folder.is_dir():
        moved = again(data_root="<its folder>")
        # Not every command takes the folder.
        where = f". Moved? {moved}" if "DATA_ROOT=" in moved else ""
        raise DataNeeded(f"no {what} images at {folder}{where}")


def require_teacher(config: str, checkpoint: str | Path) -> None:
    """Refuse a teacher whose config or weights are not there.

    Raises:
        TeacherNeeded: naming the file.
    """
    if not Path(config).is_file():
        raise TeacherNeeded(f"teacher config {config} does not exist")
    if not Path(checkpoint).is_file():
        raise TeacherNeeded(f"the teacher's checkpoint {checkpoint} does not exist", config)
