"""A view: one patch and what a draw of the augmentation makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What flips and quarter turns do to a patch. A draw is named by what is done, in that order: "horizontal+turn".
FLIPS = ("none", "horizontal", "vertical", "diagonal")
OUTCOMES = (*FLIPS, "turn")


def draw_names(views: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a patch's draws, in the order of their numbers, by a manifest's section `views`.

    Of frozen draws, of which it states the number, these are the numbers themselves.
    """
    draws = views["draws"]
    return tuple(map(str, range(draws))) if isinstance(draws, int) else tuple(draws)


def is_frozen(views: Mapping[str, Any]) -> bool:
    """Whether the draws are numbered outcomes of random transforms; without, they are all that can be drawn."""
    return isinstance(views["draws"], int)


@dataclass(frozen=True, order=True)
class View:
    """One patch and one draw, by its name."""

    patch_id: str
    draw: str

    def __str__(self) -> str:
        return f"{self.patch_id}/{self.draw}"
