"""Stores in a folder, found by their root documents; and paths at which there is none yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from cache.manifest import differences
from cache.storage import Folder, Place, locate
from cache.store import Store


def find_stores(folder: Path) -> Iterator[Path]:
    """Every Zarr group at or below a folder, in the order of their names; what is inside one is not looked at."""
    for place, children, files in os.walk(folder):
        if "zarr.json" in files:
            yield Path(place)
            children.clear()
        children[:] = sorted(name for name in children if not name.startswith("."))


def stores_that_fit(folder: Path, sections: Mapping[str, Any]) -> list[Path]:
    """The stores of a folder whose manifests say the same as these sections of one."""
    fitting = []
    for path in find_stores(folder):
        try:
            manifest = Store(path).manifest.to_json()
        except (ValueError, OSError):
            continue
        if next(differences(sections, {name: manifest[name] for name in sections}), None) is None:
            fitting.append(path)
    return fitting


def path_beside(place: Place) -> str:
    """A path for another store: `caches/name-2.zarr` beside `caches/name.zarr`."""
    location = locate(place)
    path = PurePosixPath(str(location))
    for number in count(2):
        # The slashes of s3:// are none of a path.
        other = str(location).removesuffix(path.name) + f"{path.stem}-{number}{path.suffix}"
        if not isinstance(location, Folder) or not Path(other).exists():
            return other
    raise AssertionError
