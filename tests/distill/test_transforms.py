"""What may stand in a training pipeline with a cache: one table, read by plan, capture, manifest and training."""

from __future__ import annotations

import pytest

from distill import transforms
from distill.transforms import ROLES, Role, describe_views, fixed_steps, view_steps

TARGETS, PACK = {"type": "LoadTeacherTargets"}, {"type": "PackDistillInputs"}
FLIP = {"type": "RandomViewFlip", "prob": 0.5, "direction": "horizontal"}


@pytest.mark.parametrize("role", [Role.FIXED, Role.DRAWN])
def test_a_transform_that_makes_views_is_captured_as_trained(monkeypatch, role: Role) -> None:
    """One entry is enough: none can be known to training and dropped from the capture."""
    monkeypatch.setattr(transforms, "ROLES", {**ROLES, "Sharpen": role})
    sharpen = {"type": "Sharpen", "radius": 2}
    pipeline = [{"type": "LoadPatch"}, sharpen, TARGETS, PACK]
    assert view_steps(pipeline) == pipeline[:2]
    assert (sharpen in fixed_steps(pipeline)) == (role is Role.FIXED)


@pytest.mark.parametrize("name", ROLES)
def test_every_known_transform_makes_a_view_or_follows_it(name: str) -> None:
    step = {"type": name}
    makes_view = ROLES[name] in (Role.FIXED, Role.DRAWN)
    assert view_steps([step, PACK]) == ([step] if makes_view else [])


@pytest.mark.parametrize("late", [FLIP, {"type": "mmdet.Resize", "scale": (64, 64)}], ids=["flip", "resize"])
def test_a_view_that_changes_after_its_targets_is_refused(late: dict) -> None:
    """The targets would be those of the view before: another one."""
    pipeline = [{"type": "LoadPatch"}, TARGETS, late, PACK]
    with pytest.raises(ValueError, match=f"{late['type']} comes after LoadTeacherTargets"):
        describe_views(pipeline)


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="PhotoMetricDistortion has outcomes that cannot be enumerated"):
        describe_views([{"type": "LoadPatch"}, {"type": "mmdet.PhotoMetricDistortion"}])
