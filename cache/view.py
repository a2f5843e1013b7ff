"""A view: one patch and what a draw of the augmentation makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The flips that a pipeline can draw, in the order of their draws in a store.
FLIPS = ("none", "horizontal", "vertical", "diagonal")


def draw_names(views: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a patch's draws, in the order of their numbers, by a manifest's section `views`."""
    return tuple(views["flips"])


@dataclass(frozen=True, order=True)
class View:
    """One patch and one draw, by its name: a flip's where views are flips."""

    patch_id: str
    draw: str

    def __str__(self) -> str:
        return f"{self.patch_id}/{self.draw}"
