"""What a cache was made from, and comparison that names the first field that differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cache import __version__

FORMAT = 1

Manifest = Mapping[str, Any]


class ManifestMismatch(ValueError):
    """The cache was made from something else than what is asked for."""


def make_manifest(
    *,
    teacher: Mapping[str, Any],
    head: Mapping[str, Any],
    views: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    numeric: Mapping[str, Any],
    region: Mapping[str, Any],
    plan: Mapping[str, Any],
    codec: Mapping[str, Any],
    assignment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest as it is stored: plain JSON values, of a size that does not grow with the data.

    `assignment` names the optional arrays of the planned assignment and the assigner; None where there are none.
    """
    manifest = {
        "format": FORMAT,
        "code_version": __version__,
        "teacher": teacher,
        "head": head,
        "views": views,
        "preprocessing": preprocessing,
        "numeric": numeric,
        "region": region,
        "plan": plan,
        "codec": codec,
        "assignment": assignment,
    }
    return as_stored(manifest)


def as_stored(sections: Manifest) -> dict[str, Any]:
    """Sections as a store gives them back, so that fresh and stored ones compare equal: tuples become lists."""
    return dict(json.loads(json.dumps(sections, allow_nan=False)))


def differences(wanted: Any, stored: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted value, stored value) of every difference, in key order."""
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        for key in sorted({*wanted, *stored}):
            inner = f"{field}.{key}" if field else str(key)
            if key in wanted and key in stored:
                yield from differences(wanted[key], stored[key], inner)
            else:
                yield inner, wanted.get(key, "(absent)"), stored.get(key, "(absent)")
    elif isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        for index, (left, right) in enumerate(zip(wanted, stored, strict=True)):
            yield from differences(left, right, f"{field}[{index}]")
    elif wanted != stored:
        yield field, wanted, stored


def first_difference(wanted: Any, stored: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """The first of `differences`; None where the two are equal."""
    return next(differences(wanted, stored, field), None)


def require_equal(
    wanted: Manifest,
    stored: Manifest,
    *,
    place: str,
    cure: str,
    sections: Sequence[str],
    allowed: Sequence[str] = (),
) -> list[str]:
    """Refuse a cache that differs from what is wanted in one of the named sections.

    Args:
        allowed: fields that may differ, with all below them.

    Returns:
        What differs all the same, one text each.

    Raises:
        ManifestMismatch: naming field, both values and the cure.
    """
    tolerated = []
    for section in sections:
        for field, ours, theirs in differences(wanted.get(section), stored.get(section), section):
            text = f"{place}: {field} is {shown(theirs)} in the cache but {shown(ours)} here"
            if not is_allowed(field, allowed):
                raise ManifestMismatch(f"{text}. {cure}")
            tolerated.append(text)
    return tolerated


def is_allowed(field: str, allowed: Sequence[str]) -> bool:
    """Whether a field, or one that it is part of, is among those allowed to differ."""
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in allowed)


def fingerprint(manifest: Manifest) -> str:
    """SHA-256 over the manifest's JSON with sorted keys: two stores that share it were made from the same things."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 over the shape and the bytes of an array, as hexadecimal text."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def shown(value: Any, limit: int = 160) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}…"
