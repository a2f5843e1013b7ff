"""Regression targets of the published code: deltas to legacy 'oc' boxes, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmrotate.models.task_modules.coders import DeltaXYWHTRBBoxCoder
from mmrotate.registry import MODELS
from mmrotate.structures.bbox import RotatedBoxes

from distill.coder import LegacyDeltaXYWHTRBBoxCoder, decode_deltas
from distill.settings import read_config
from tests.conftest import REPOSITORY

PRIOR = (16, 24, 32, 16, 0)

# (box, legacy form): centre shift (8, -4) is 8/32 and -4/16 of the prior; sides are compared with 32 and 16.
TARGETS = [
    # Upright in the image, 64 wide and 8 high: stored transposed at pi/2, so w = 8 and h = 64.
    pytest.param((24, 20, 64, 8, 0.0), (0.25, -0.25, math.log(8 / 32), math.log(64 / 16), math.pi / 2), id="flat"),
    pytest.param((24, 20, 8, 64, math.pi / 2), (0.25, -0.25, math.log(0.25), math.log(4), math.pi / 2), id="upright"),
    # Tilted by 0.3 already: w along the angle. mmrotate 1.x would give sides swapped and 0.3 - pi/2.
    pytest.param((24, 20, 64, 8, 0.3), (0.25, -0.25, math.log(2), math.log(0.5), 0.3), id="tilted"),
    # -0.3 is the same rectangle as w and h swapped at pi/2 - 0.3.
    pytest.param((24, 20, 64, 8, -0.3), (0.25, -0.25, math.log(0.25), math.log(4), math.pi / 2 - 0.3), id="negative"),
    pytest.param((24, 20, 64, 8, 3.0), (0.25, -0.25, math.log(0.25), math.log(4), 3 - math.pi / 2), id="obtuse"),
]


@pytest.mark.parametrize(("box", "target"), TARGETS)
def test_targets_by_hand(box, target) -> None:
    priors, boxes = RotatedBoxes(torch.tensor([PRIOR]).float()), RotatedBoxes(torch.tensor([box]))
    before = boxes.tensor.clone()
    deltas = LegacyDeltaXYWHTRBBoxCoder(angle_version="oc").encode(priors, boxes)
    np.testing.assert_allclose(deltas, [target], rtol=1e-5, atol=1e-6)
    assert torch.equal(boxes.tensor, before)


@pytest.mark.parametrize(("box", "_"), TARGETS)
def test_decoding_gives_the_same_rectangle(box, _) -> None:
    coder = LegacyDeltaXYWHTRBBoxCoder(target_means=(0.0, 0.1, 0.0, 0.0, 0.2), target_stds=(1.0, 2.0, 1.0, 1.0, 0.5))
    priors, boxes = RotatedBoxes(torch.tensor([PRIOR]).float()), RotatedBoxes(torch.tensor([box]))
    decoded = coder.decode(priors, coder.encode(priors, boxes))
    corners = [np.sort(found.convert_to("qbox").tensor.numpy().reshape(4, 2), axis=0) for found in (decoded, boxes)]
    np.testing.assert_allclose(*corners, atol=1e-3)


@pytest.mark.parametrize("angle_version", ["oc", "le90", "le135"])
@pytest.mark.parametrize("means", [(0.0,) * 5, (0.0, 0.1, 0.0, -0.2, 0.2)], ids=["plain", "shifted"])
def test_decoding_for_the_losses_is_the_coders(angle_version, means) -> None:
    """To the bit, and with the same gradient: boxes far outside the clip on sides among them."""
    generator = torch.Generator().manual_seed(0)
    coder = DeltaXYWHTRBBoxCoder(angle_version=angle_version, target_means=means, target_stds=(1, 2, 1, 1, 0.5))
    priors = torch.rand(200, 5, generator=generator) * 100 + 1
    deltas = (torch.randn(200, 5, generator=generator) * 3).requires_grad_()
    known, found = coder.decode(RotatedBoxes(priors), deltas).tensor, decode_deltas(coder, priors, deltas)
    assert torch.equal(found, known)
    upstream = torch.randn(200, 5, generator=generator)
    assert torch.equal(*(torch.autograd.grad(boxes, deltas, upstream)[0] for boxes in (found, known)))


@pytest.mark.parametrize("options", [dict(norm_factor=0.5), dict(edge_swap=True), dict(proj_xy=True)], ids=str)
def test_options_that_no_published_row_uses_are_left_to_the_coder(options) -> None:
    coder = DeltaXYWHTRBBoxCoder(angle_version="le90", **options)
    priors, deltas = torch.tensor([[50.0, 60, 32, 16, 0.2]]), torch.tensor([[0.3, -0.2, 0.5, 0.1, 0.4]])
    assert torch.equal(decode_deltas(coder, priors, deltas), coder.decode(RotatedBoxes(priors), deltas.clone()).tensor)


def test_box_loss_of_the_l1_config_by_hand() -> None:
    """Uniform bins expect deltas (0, 0, 0, 0, -1.5); the object is 60 x 30 px, upright in the image."""
    init_default_scope("mmrotate")
    model = read_config(REPOSITORY / "configs/plain/l1_r18_1x_dota.py").model
    head = MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    maps = [[torch.zeros(1, channels, *size) for size in sizes] for channels in (135, 405)]
    instances = InstanceData(bboxes=RotatedBoxes(torch.tensor([[64.0, 64, 60, 30, 0]])), labels=torch.tensor([3]))
    losses = head.loss_by_feat(*maps, [instances], [dict(img_shape=(128, 128), pad_shape=(128, 128))])

    priors = RotatedBoxes.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
    assigned = head.assigner.assign(InstanceData(priors=priors), instances).gt_inds
    x, y, width, height, _ = priors.tensor[assigned > 0].double().unbind(dim=1)
    # The legacy form has the sides transposed: w = 30 runs vertically, h = 60, angle pi/2.
    expected = (64 - x).abs() / width + (64 - y).abs() / height
    expected += torch.log(30 / width).abs() + torch.log(60 / height).abs() + math.pi / 2 + 1.5
    assert len(expected) > 3
    assert float(sum(losses["loss_bbox"])) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"edge_swap": True}, "edge_swap is True", id="edge-swap"),
        pytest.param({"norm_factor": 2}, "norm_factor is 2", id="norm-factor"),
        pytest.param({"angle_version": "le90"}, "angle_version is 'le90'", id="le90"),
    ],
)
def test_other_conventions_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LegacyDeltaXYWHTRBBoxCoder(**options)
