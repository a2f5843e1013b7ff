"""How to go on after an error: the commands that the packages below, which know none, leave to be said."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from cache.storage import Folder, locate
from cache.store import CaptureNeeded
from distill.errors import DataNeeded, TeacherNeeded, ViewsUnknown
from pipelines.base.config_files import sibling
from pipelines.base.invocation import ITS_CONFIG, again, given, make
from pipelines.base.stores import path_beside, stores_that_fit


def cure_of(error: BaseException | None) -> str | None:
    """What to do about an error, or about the one that it comes from; None where its own text says so."""
    match error:
        case CaptureNeeded():
            return _capture(error)
        case DataNeeded():
            return f"Make or check the data: {make('data')}"
        case TeacherNeeded():
            return _teacher(error)
        case ViewsUnknown():
            live = sibling(given("config") or "", "live")
            return f"With one: {make('train', config=live if live.is_file() else '<its config>')}"
        case OSError(errno=errno.ENOSPC):
            return f"Make room there, then run it again: {again()}"
        case None:
            return None
    return cure_of(error.__cause__)


def _capture(error: CaptureNeeded) -> str:
    place = error.place or given("cache")
    config = given("config") or ITS_CONFIG
    if place is None:
        return f"Capture it: {make('cache-teacher', config=config)}"
    if error.is_damaged:
        return f"A new one: {make('cache-teacher', config=config, cache=path_beside(place))}"
    return f"{_moved(locate(place))}Capture it: {make('cache-teacher', config=config, cache=place)}"


def _moved(location: Any) -> str:
    """The stores beside a missing one that this run's config fits."""
    config = given("config")
    if not isinstance(location, Folder) or location.exists() or config is None:
        return ""
    folder = location.path.parent
    # Nobody waits for OpenMMLab where there is nothing to compare.
    if not any(stores_that_fit(folder, {})):
        return ""
    from pipelines.base.experiment import describe_student, load_config

    try:
        wanted = describe_student(load_config(config))
    except (ValueError, OSError):
        return ""
    fitting = stores_that_fit(folder, {name: wanted[name] for name in ("head", "preprocessing", "region")})
    return (
        f"Moved? This config fits another: {', or '.join(again(cache=path) for path in fitting)}. " if fitting else ""
    )


def _teacher(error: TeacherNeeded) -> str:
    train = make("teacher", teacher=error.config) if error.config and Path(error.config).is_file() else None
    return f"{f'Train one: {train}; or name' if train else 'Name'} another by TEACHER= (its config) and CHECKPOINT="
