"""Quarter turns: pixels and boxes go together, and with flips they make eight views, exact like the four."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes
from mmengine.config import Config
from mmrotate.structures.bbox import QuadriBoxes, RotatedBoxes

from cache.reader import CacheReader
from distill.boxes import legacy_oc
from distill.dota import DOTA_CLASSES
from distill.targets import collate_views
from distill.transforms import RandomQuarterTurn, RandomViewFlip, describe_views, draw_of, enumerated_draws, turned
from pipelines.base.experiment import load_config, training_set
from pipelines.training.kind import point_to_head, targets_step
from tests.conftest import REPOSITORY
from tests.distill.golden_tools import STUDENT_SEED, TEACHER_SEED
from tests.distill.test_frozen_views import capture
from tests.distill.test_live_equals_cached import (
    CONFIG,
    FILES,
    SIZE,
    gradient_of,
    losses_of,
    random_patches,
    seeded,
)

FLIP = RandomViewFlip(prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"], flip_offset=1.0)
EIGHT = ("none", "horizontal", "vertical", "diagonal", "turn", "horizontal+turn", "vertical+turn", "diagonal+turn")
WITH_TURNS = """
load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
]
flip = dict(
    type="RandomViewFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"], flip_offset=1.0
)
train_dataloader = dict(
    dataset=dict(pipeline=[*load, flip, dict(type="RandomQuarterTurn", prob=0.5, flip_offset=1.0), *{targets}])
)
"""
TARGETS = {
    "live": '[dict(type="FindRegion"), dict(type="PackDistillInputs")]',
    "cached": '[dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]',
}


def turn(image: np.ndarray, boxes: BaseBoxes) -> tuple[np.ndarray, BaseBoxes]:
    results = {"img": image, "gt_bboxes": boxes, "forced": {"RandomQuarterTurn": "turn"}}
    results = RandomQuarterTurn(flip_offset=1.0)(results)
    assert results["img_shape"] == results["img"].shape[:2] == image.shape[1::-1]
    return results["img"], results["gt_bboxes"]


@settings(deadline=None)
@given(x=st.integers(0, 39), y=st.integers(0, 22), angle=st.floats(-math.pi / 2, math.pi / 2 - 1e-6))
def test_a_box_goes_where_its_pixel_goes(x, y, angle) -> None:
    image = np.zeros((23, 40, 3), np.uint8)
    image[y, x] = 255
    for boxes in (
        RotatedBoxes(torch.tensor([[x, y, 9.0, 4.0, angle]])),
        HorizontalBoxes(torch.tensor([[x - 3.0, y - 2.0, x + 3.0, y + 2.0]])),
    ):
        turned_image, turned_boxes = turn(image, boxes)
        row, column = np.argwhere(turned_image[..., 0])[0].tolist()
        assert turned_boxes.centers.tolist() == [[column, row]]


@given(box=st.tuples(*[st.floats(1, 60)] * 4, st.floats(-math.pi / 2, math.pi / 2 - 1e-3)))
def test_corners_turn_with_the_box(box) -> None:
    """A rotated box and the polygon of its corners are the same object after the turn."""
    boxes = RotatedBoxes(torch.tensor([box], dtype=torch.float64))
    corners = boxes.convert_to("qbox").tensor.view(-1, 2)
    moved = torch.stack([50 - corners[:, 1], corners[:, 0]], dim=1)
    found = turned(boxes, 50).convert_to("qbox").tensor.view(-1, 2)
    distance = torch.cdist(moved, found)
    assert distance.min(dim=1).values.max() < 1e-3
    # A hair below 0 turns into pi / 2 itself.
    assert -math.pi / 2 - 1e-6 <= turned(boxes, 50).tensor[0, 4] < math.pi / 2 + 1e-6


def test_four_turns_are_none() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    boxes = RotatedBoxes(torch.tensor([[7.0, 5.0, 6.0, 2.0, 0.4], [3.0, 8.0, 4.0, 4.0, -1.2]]))
    seen, moved = image, boxes
    for _ in range(4):
        seen, moved = turn(seen, moved)
    np.testing.assert_array_equal(seen, image)
    np.testing.assert_allclose(legacy_oc(moved.tensor.numpy()), legacy_oc(boxes.tensor.numpy()), atol=1e-5)


def test_boxes_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes are QuadriBoxes; RandomQuarterTurn turns rotated and horizontal ones"):
        turned(QuadriBoxes(torch.zeros(1, 8)), 10)


def test_flips_and_turns_make_eight_views() -> None:
    draws = enumerated_draws([FLIP, RandomQuarterTurn()])
    assert tuple(name for name, _ in draws) == EIGHT
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    seen = set()
    for name, forced in draws:
        results = {"img": image.copy(), "img_shape": (16, 16), "forced": forced}
        for transform in (FLIP, RandomQuarterTurn()):
            results = transform(results)
        assert draw_of(results) == name
        seen.add(results["img"].tobytes())
    assert len(seen) == 8


def test_training_draws_them_as_often_as_it_says() -> None:
    np.random.seed(0)
    drawn = Counter()
    for _ in range(2000):
        results = {"img": np.zeros((4, 4, 3), np.uint8), "img_shape": (4, 4)}
        for transform in (FLIP, RandomQuarterTurn(prob=0.25)):
            results = transform(results)
        drawn[draw_of(results)] += 1
    # Four flips, 25 % each, and a turn in one of four: 62.5 and 187.5 expected of 1,000.
    for name in EIGHT:
        expected = 2000 * 0.25 * (0.25 if "turn" in name else 0.75)
        assert abs(drawn[name] - expected) < 5 * expected**0.5, name


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "RandomQuarterTurn"}] * 2, "RandomQuarterTurn, RandomQuarterTurn; one of each"),
        (
            [{"type": "RandomViewFlip", "prob": 0.5, "flip_offset": 0.0}, {"type": "RandomQuarterTurn"}],
            "flip_offset is 0.0 and 1.0 in one pipeline",
        ),
        ([{"type": "RandomQuarterTurn", "prob": 1.0}], "prob of RandomQuarterTurn is 1.0"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(steps, message) -> None:
    with pytest.raises(ValueError, match=message):
        describe_views([{"type": "LoadPatch"}, *steps])


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> tuple[dict[str, Config], Path]:
    """A live and a cached student of one teacher with eight views a patch, and their cache."""
    folder = tmp_path_factory.mktemp("eight")
    random_patches(folder, 2)
    for name, base, addition in FILES:
        text = CONFIG + addition + (WITH_TURNS if name != "teacher" else "")
        values = {"base": REPOSITORY / f"configs/demo/{base}.py", "folder": folder, "classes": DOTA_CLASSES}
        (folder / f"{name}.py").write_text(text.format(**values, targets=TARGETS.get(name)))
    teacher = seeded(load_config(folder / "teacher.py"), TEACHER_SEED)
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    capture(folder)
    configs = {name: load_config(folder / f"{name}.py") for name in ("live", "cached")}
    targets_step(configs["cached"]).cache = str(folder / "cache.zarr")
    point_to_head(configs["live"])
    return configs, folder / "cache.zarr"


def test_eight_views_are_stored(eight) -> None:
    reader = CacheReader(eight[1])
    assert reader.plan.draws == EIGHT
    assert reader.plan.num_views == 16
    assert reader.manifest.views == {"draws": list(EIGHT), "flip_offset": 1.0}
    assert (reader.plan.view_shape == SIZE).all()


@pytest.mark.parametrize("draws", [("turn", "diagonal+turn"), ("horizontal+turn", "none")])
def test_losses_and_gradients_are_those_of_the_live_teacher(eight, draws) -> None:
    configs, _ = eight
    forced = dict(enumerated_draws([FLIP, RandomQuarterTurn()]))
    results = {}
    for name, config in configs.items():
        dataset = training_set(config, config.train_dataloader.dataset.pipeline)
        pairs = zip(range(2), draws, strict=True)
        batch = collate_views(
            [dataset.pipeline({**dataset.get_data_info(patch), "forced": forced[draw]}) for patch, draw in pairs]
        )
        model = seeded(config, STUDENT_SEED).train()
        total, parts = losses_of(model, batch)
        results[name] = parts, gradient_of(model, total)
    (live, live_gradient), (cached, cached_gradient) = results["live"], results["cached"]
    for name, value in live.items():
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-6), name
    for name, value in live_gradient.items():
        assert (cached_gradient[name] - value).norm() <= 1e-5 * value.norm(), name
