"""Losses of a network that runs in lower precision are computed in float32."""

from __future__ import annotations

import pytest
import torch

from tests.distill.golden_tools import detection_terms, distillation_terms, seeded_maps

SIZE = 512
# cx, cy, w, h, angle: the square of the long side overflows float16, whose largest number is 65,504.
BOXES = [[250.0, 250.0, 420.0, 40.0, 0.3], [128.0, 400.0, 24.0, 24.0, -0.7]]


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16], ids=str)
def test_losses_of_rounded_maps(gwd_head, gwd_distillation, precision) -> None:
    """Inside autocast as outside it: the maps are rounded once, by the network, and never again."""
    boxes, labels = [torch.tensor(BOXES).numpy()], [torch.tensor([1, 4]).numpy()]
    cls_maps, box_maps, *teacher = seeded_maps(0, SIZE, 1)
    student = [[level.to(precision) for level in maps] for maps in (cls_maps, box_maps)]
    with torch.autocast("cpu", dtype=precision):
        found = detection_terms(gwd_head, student, boxes, labels, SIZE)
        found |= distillation_terms(gwd_head, gwd_distillation, student, teacher, boxes)
    rounded = [[level.float() for level in maps] for maps in student]
    expected = detection_terms(gwd_head, rounded, boxes, labels, SIZE)
    expected |= distillation_terms(gwd_head, gwd_distillation, rounded, teacher, boxes)
    assert set(expected) == {"loss_cls", "loss_bbox", "loss_ld", "loss_kd"}
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        assert values.isfinite().all()
        assert values.sum() > 0
        assert torch.equal(found[name], values), name
