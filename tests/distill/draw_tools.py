"""Samples whose draw is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flipped(info: Mapping[str, Any], flip: str) -> dict[str, Any]:
    """What a pipeline takes of a patch, to flip it so."""
    return {**info, "forced": {"RandomViewFlip": flip}}
