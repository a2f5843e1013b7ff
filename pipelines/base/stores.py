"""Stores as commands speak of them: found in a folder, told in one line, and paths at which there is none yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from cache.manifest import differences
from cache.storage import Folder, Place, locate
from cache.store import Store
from pipelines.base.command import say, warn
from pipelines.base.invocation import make


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


def tell_store(store: Store, checkpoint: str | Path | None = None) -> None:
    """Say which store a command works with, and of which teacher.

    checkpoint: the config's teacher. Its weights are compared with the store's, which is used all the same.
    """
    manifest = store.manifest
    sha256, plan = manifest.teacher["weights_sha256"], manifest.plan
    found = _digest_of(checkpoint) if checkpoint is not None and Path(checkpoint).is_file() else None
    say(
        f"cache {store.location} ({manifest.fingerprint[:12]}): {plan['num_patches']:,} patches, "
        f"{plan['num_views']:,} views, codec {manifest.codec['preset']}; teacher {sha256[:12]}"
        + (f" of {checkpoint}" if found == sha256 else "")
    )
    if found not in (None, sha256):
        warn(
            f"{checkpoint} has other weights ({str(found)[:12]}) than the teacher that the cache is of "
            f"({sha256[:12]}). The cache is used; one of the new teacher: "
            f"{make('cache-teacher', cache=path_beside(store.location))}"
        )


def _digest_of(checkpoint: str | Path) -> str | None:
    """The digest of a teacher's weights; None, with a warning, where the file holds none."""
    # torch, which opening a store does without.
    from distill.checkpoint import load_checkpoint, state_dict_of, weights_digest

    try:
        return weights_digest(state_dict_of(load_checkpoint(checkpoint), checkpoint))
    except ValueError as error:
        # It is not needed: the cache has its answers.
        warn(str(error))
        return None


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
