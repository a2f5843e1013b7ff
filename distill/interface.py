"""What teacher and student must share for the logits of one to teach the other: their input, and what a logit means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cache.manifest import Manifest, as_stored, require_equal
from distill.adapter import HeadAdapter

# Options of the preprocessor that the manifest leaves out, and the value that all runs with a cache share.
PLAIN_PREPROCESSOR = {"pad_value": 0, "rgb_to_bgr": False, "batch_augments": None}

# What the section `preprocessing` says about pixels; the rest of it is about the data.
PREPROCESSING = ("mean", "std", "bgr_to_rgb", "pad_size_divisor")

Interface = Mapping[str, Any]


def describe_interface(
    adapter: HeadAdapter, preprocessor: Mapping[str, Any], classes: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """A detector's sections `head` and `preprocessing`, as the manifest states them.

    `preprocessor` is its config. Without the names of the classes their number stands in for them.

    Raises:
        ValueError: a preprocessor that does what no manifest states, or a head of another number of classes.
    """
    require_plain_preprocessor(preprocessor)
    if classes is None:
        named: dict[str, Any] = {"num_classes": adapter.num_classes}
    else:
        require_classes(adapter, classes)
        named = {"classes": list(classes)}
    return as_stored(
        {
            "head": {**named, **adapter.describe()},
            "preprocessing": {
                "mean": list(preprocessor.get("mean") or ()),
                "std": list(preprocessor.get("std") or ()),
                "bgr_to_rgb": bool(preprocessor.get("bgr_to_rgb", False)),
                "pad_size_divisor": int(preprocessor.get("pad_size_divisor", 1)),
            },
        }
    )


def require_same_interface(
    ours: Interface,
    theirs: Interface | Manifest,
    *,
    whose: tuple[str, str] = ("in the teacher", "in the student"),
    place: str = "",
    cure: str = "Both must see the same tensor and mean the same by a logit: make them equal",
) -> None:
    """Refuse a student, or a cache, whose head or preprocessing is not the teacher's.

    What either states about its data beside them is left alone. `whose` says in messages where `theirs` and `ours` lie.

    Raises:
        ManifestMismatch: naming the first field that differs, both values and the cure.
    """
    require_equal(_shared(ours), _shared(theirs), place=place, cure=cure, whose=whose)


def _shared(sections: Interface | Manifest) -> dict[str, Any]:
    sections = sections.to_json() if isinstance(sections, Manifest) else sections
    seen = {key: value for key, value in sections["preprocessing"].items() if key in PREPROCESSING}
    return {"head": sections["head"], "preprocessing": seen}


def require_classes(adapter: HeadAdapter, classes: Sequence[str]) -> None:
    """Refuse a head of another number of classes than its config names.

    Raises:
        ValueError: with both numbers.
    """
    if adapter.num_classes != len(classes):
        raise ValueError(
            f"bbox_head.num_classes is {adapter.num_classes} but the config names {len(classes)} classes. Make them "
            "equal"
        )


def require_plain_preprocessor(preprocessor: Mapping[str, Any]) -> None:
    """Refuse a preprocessor that does what no manifest states.

    Raises:
        ValueError: naming the option, its value and the one that is needed.
    """
    for key, needed in PLAIN_PREPROCESSOR.items():
        found = preprocessor.get(key, needed)
        if found != needed:
            raise ValueError(
                f"data_preprocessor.{key} is {found!r}; {needed!r} is needed: a cache holds the teacher's answers to "
                "images as they are"
            )
