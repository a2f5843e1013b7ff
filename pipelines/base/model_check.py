"""Whether a config's model can be built, and whether its parts fit together: tried on a small image, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmrotate.registry import MODELS
from torch import nn

# What classes of OpenMMLab and torch raise at options that they cannot use.
UNUSABLE = (TypeError, KeyError, AttributeError, AssertionError, IndexError, NotImplementedError, RuntimeError)
# Pixels of the image that is tried: the coarsest map of five levels has one cell.
SIDE = 128


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config's `model`, whose parts fit together.

    Raises:
        ValueError: it cannot be built, or a part does not take what the one before it gives.
    """
    with in_one_line("model"):
        model: nn.Module = MODELS.build(config)
    require_fitting_parts(model)
    return model


def require_fitting_parts(model: nn.Module) -> None:
    """Refuse a detector of which a part does not take the maps of the one before it.

    Raises:
        ValueError: naming both parts, and what each gives and takes.
    """
    was_training = model.training
    model.eval()
    maps: Any = torch.zeros(1, 3, SIDE, SIDE)
    before = ""
    try:
        for name in ("backbone", "neck", "bbox_head"):
            part = getattr(model, name, None)
            if part is None:
                continue
            takes = f" takes {part.in_channels} channels and" if hasattr(part, "in_channels") else ""
            given = f" {before}, whose maps have {[level.shape[1] for level in maps]}" if before else ""
            with torch.no_grad(), in_one_line(f"model.{name}{takes} does not fit{given}"):
                maps = part(maps)
            before = f"model.{name}"
    finally:
        model.train(was_training)


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn what building raises at a config that cannot be used into an error for users; `what` is its subject.

    Raises:
        ValueError: `what`, then the error.
    """
    try:
        yield
    except UNUSABLE as error:
        reason = " ".join(str(error.args[0] if error.args else "").split())
        raise ValueError(f"{what}: {type(error).__name__}{f': {reason}' if reason else ''}") from error
