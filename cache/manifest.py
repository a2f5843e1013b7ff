"""What a cache was made from, and comparison that names the first field that differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from cache import __version__

FORMAT = 2


class ManifestMismatch(ValueError):
    """The cache was made from something else than what is asked for: what differs, and the cure."""

    def __init__(self, problem: str, cure: str = "") -> None:
        super().__init__(problem, cure)
        self.problem = problem
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.problem}. {self.cure}" if self.cure else self.problem


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a cache was made from: the attributes of its root group, a field a section (cache/FORMAT.md, "Manifest").

    Its size does not grow with the data. Sections are plain JSON values: tuples become lists, so that the manifest of
    a capture equals the one read back from its store. `assignment` is None where no assignment is planned.

    Raises:
        ValueError: a section holds what JSON cannot, such as NaN.
    """

    format: int = FORMAT
    code_version: str = __version__
    teacher: Mapping[str, Any]
    head: Mapping[str, Any]
    views: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    numeric: Mapping[str, Any]
    region: Mapping[str, Any]
    plan: Mapping[str, Any]
    codec: Mapping[str, Any]
    assignment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, section in as_stored(self.to_json()).items():
            object.__setattr__(self, name, section)

    def to_json(self) -> dict[str, Any]:
        """The attributes of the root group, in the order in which they are stored."""
        return {section.name: getattr(self, section.name) for section in fields(self)}

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any]) -> Manifest:
        """The manifest of a root group that has every section; attributes that the format does not know are ignored."""
        return cls(**{section.name: attributes[section.name] for section in fields(cls)})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the JSON with sorted keys: stores that share it were made from the same things."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def as_stored(sections: Mapping[str, Any]) -> dict[str, Any]:
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
    wanted: Mapping[str, Any],
    stored: Manifest | Mapping[str, Any],
    *,
    place: str = "",
    cure: str,
    allowed: Sequence[str] = (),
    whose: tuple[str, str] = ("in the cache", "here"),
) -> list[str]:
    """Refuse a cache that differs from what is wanted.

    Args:
        wanted: sections of a manifest; the others are not compared.
        stored: the manifest of the cache, or some of its sections.
        place: what the message begins with; may be empty.
        whose: where the stored and the wanted value lie, for the message.
        allowed: fields that may differ, with all below them.

    Returns:
        What differs all the same, one text each.

    Raises:
        ManifestMismatch: naming field, both values and the cure.
    """
    tolerated = []
    sections = stored.to_json() if isinstance(stored, Manifest) else stored
    for section, ours in wanted.items():
        for field, here, there in differences(ours, sections[section], section):
            text = f"{field} is {shown(there)} {whose[0]} but {shown(here)} {whose[1]}"
            text = f"{place}: {text}" if place else text
            if not is_allowed(field, allowed):
                raise ManifestMismatch(text, cure)
            tolerated.append(text)
    return tolerated


def is_allowed(field: str, allowed: Sequence[str]) -> bool:
    """Whether a field, or one that it is part of, is among those allowed to differ."""
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in allowed)


def array_digest(array: np.ndarray) -> str:
    """SHA-256 over the shape and the bytes of an array, as hexadecimal text."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def shown(value: Any, limit: int = 160) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}…"
