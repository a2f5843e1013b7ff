"""A data folder: held by one run at a time, with a `source.json` that says what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.manifest import as_stored, first_difference
from pipelines.base.files import exclusive, write_json


@dataclass(frozen=True)
class DataFolder:
    """A data folder that this run alone works on.

    parameters: what decides how the data come out, apart from the source files. stored: `source.json` of an earlier
    run, None where there was none.
    """

    root: Path
    parameters: Mapping[str, Any]
    stored: Mapping[str, Any] | None

    @property
    def is_complete(self) -> bool:
        """Whether an earlier run has finished."""
        return self.stored is not None and self.stored.get("complete") is True

    def describe(self, splits: Mapping[str, Any], *, complete: bool) -> None:
        """Write `source.json`: first incomplete, so that what a killed run leaves is never taken for other data."""
        write_json(self.root / "source.json", {**self.parameters, "splits": splits, "complete": complete})

    def require_same_splits(self, splits: Mapping[str, Any]) -> None:
        """Refuse a finished folder whose files, or whose source, have changed since.

        Raises:
            ValueError: naming the first field that differs, both values and the cure.
        """
        if self.stored is not None and self.is_complete:
            self.require_same(self.stored.get("splits"), splits, "splits")

    def require_same(self, theirs: Any, ours: Any, field: str = "") -> None:
        """Refuse to mix data of different origin.

        Raises:
            ValueError: naming the first field that differs, both values and the cure.
        """
        difference = first_difference(theirs, ours, field)
        if difference is not None:
            field, left, right = difference
            raise ValueError(
                f"{self.root} was made from something else: {field} is {json.dumps(left)} there, {json.dumps(right)} "
                f"here. {_cure(self.root)}"
            )


@contextmanager
def open_data_folder(root: Path, parameters: Mapping[str, Any], filled: Sequence[Path]) -> Iterator[DataFolder]:
    """Hold a data folder, which is made if need be, for this run alone.

    filled: the folders in it that the command fills.

    Raises:
        ValueError: another run holds it, it was made with other parameters, or it holds files of something else.
    """
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root, f"another run is writing into {root}; wait until it ends"):
        folder = DataFolder(root, as_stored(parameters), _read_description(root, filled))
        if folder.stored is not None:
            theirs = {key: value for key, value in folder.stored.items() if key not in ("splits", "complete")}
            folder.require_same(theirs, folder.parameters)
        yield folder


def _read_description(root: Path, filled: Sequence[Path]) -> dict[str, Any] | None:
    """`source.json` of an earlier run; None where there was none and nothing is in the way of the first."""
    path = root / "source.json"
    if path.exists():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged. {_cure(root)}") from None
    for folder in filled:
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds files but {path} does not exist, so they are not this command's. "
                "Use another data_root in the config"
            )
    return None


def _cure(root: Path) -> str:
    return f"Use another data_root in the config, or delete {root} and run again"
