"""A view: one patch under one flip, the unit of everything the teacher answers."""

from __future__ import annotations

from dataclasses import dataclass

# The order is the on-disk code of a flip (plan/view_flip).
FLIPS = ("none", "horizontal", "vertical", "diagonal")


def flip_code(flip: str) -> int:
    """The stored code of a flip.

    Raises:
        ValueError: the name is none of `FLIPS`.
    """
    if flip not in FLIPS:
        raise ValueError(f"flip {flip!r} is unknown; a view is one of {', '.join(FLIPS)}")
    return FLIPS.index(flip)


@dataclass(frozen=True, order=True)
class View:
    """One patch under one flip."""

    patch_id: str
    flip: str

    def __post_init__(self) -> None:
        flip_code(self.flip)

    def __str__(self) -> str:
        return f"{self.patch_id}/{self.flip}"
