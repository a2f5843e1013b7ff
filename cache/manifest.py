"""What a cache was made from, and comparison that names the first field that differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
) -> dict[str, Any]:
    """The manifest as it is stored: plain JSON values, of a size that does not grow with the data."""
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
    }
    # Through JSON and back, so that a fresh manifest and a stored one compare equal (tuples become lists).
    return dict(json.loads(json.dumps(manifest, allow_nan=False)))


def first_difference(wanted: Any, stored: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """(field, wanted value, stored value) of the first difference in key order; None where they are equal."""
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        for key in sorted({*wanted, *stored}):
            inner = f"{field}.{key}" if field else str(key)
            if key not in wanted or key not in stored:
                return inner, wanted.get(key, "(absent)"), stored.get(key, "(absent)")
            difference = first_difference(wanted[key], stored[key], inner)
            if difference is not None:
                return difference
        return None
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        for index, (left, right) in enumerate(zip(wanted, stored, strict=True)):
            difference = first_difference(left, right, f"{field}[{index}]")
            if difference is not None:
                return difference
        return None
    return None if wanted == stored else (field, wanted, stored)


def require_equal(wanted: Manifest, stored: Manifest, *, place: str, cure: str, sections: Sequence[str]) -> None:
    """Refuse a cache that differs from what is wanted in one of the named sections.

    Raises:
        ManifestMismatch: naming field, both values and the cure.
    """
    for section in sections:
        difference = first_difference(wanted.get(section), stored.get(section), section)
        if difference is not None:
            field, ours, theirs = difference
            raise ManifestMismatch(f"{place}: {field} is {_short(theirs)} in the cache but {_short(ours)} here. {cure}")


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


def _short(value: Any, limit: int = 160) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}…"
