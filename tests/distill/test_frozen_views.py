"""Frozen draws of any augmentation: what a cache holds of them is what the live pipeline makes, to the last bit."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from cache.reader import CacheReader
from distill.dota import DOTA_CLASSES
from distill.draws import DrawnPatches, FrozenViews, Visit, VisitSampler, frozen_draw, order_of_draws, random_numbers
from distill.rows import Maps
from distill.targets import collate_views
from distill.transforms import describe_views, part_of_views
from pipelines import cache_teacher
from pipelines.base.experiment import load_config, training_set
from pipelines.capture import asking
from pipelines.capture.views import TrainingViews
from pipelines.training.kind import point_to_head, targets_step
from tests.conftest import REPOSITORY
from tests.distill.golden_tools import STUDENT_SEED, TEACHER_SEED
from tests.distill.test_live_equals_cached import (
    CONFIG,
    FILES,
    NUM_STEPS,
    gradient_of,
    losses_of,
    random_patches,
    real_patches,
    seeded,
)

DRAWS = 5


@dataclass(frozen=True)
class Frozen:
    """A live and a cached student of one teacher, each with its own training set."""

    configs: dict[str, Config]
    datasets: dict[str, DrawnPatches]

    @property
    def reader(self) -> CacheReader:
        return CacheReader(self.configs["cached"].cache)

    def build(self, name: str) -> nn.Module:
        return seeded(self.configs[name], STUDENT_SEED).train()

    def load(self, name: str, views: list[tuple[str, int]]) -> dict:
        dataset = self.datasets[name]
        infos = {info["img_id"]: info for info in map(dataset.get_data_info, range(len(dataset)))}
        return collate_views([frozen_draw(dataset.pipeline, infos[patch], 3, draw) for patch, draw in views])


# Any angle with boxes that are moved and dropped, other sizes, other colours; and a flip that nothing can force.
AUGMENTED = """
views = dict(draws={draws}, seed=3)
augment = [
    dict(type="mmdet.RandomFlip", prob=0.5),
    dict(type="mmrotate.RandomRotate", prob=0.8, angle_range=180, rect_obj_labels=[9, 11]),
    dict(type="mmdet.RandomChoiceResize", scales=[(128, 128), (160, 160)], resize_type="mmdet.Resize", keep_ratio=True),
    dict(type="mmdet.RandomCrop", crop_type="absolute_range", crop_size=(96, 128), allow_negative_crop=True),
    dict(type="mmdet.PhotoMetricDistortion"),
]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadPatch"),
            dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
            dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
            *augment,
            *{targets},
        ]
    )
)
"""
TARGETS = {
    "live": '[dict(type="FindRegion"), dict(type="PackDistillInputs")]',
    "cached": '[dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]',
}


@pytest.fixture(scope="module", params=["random", "real"])
def frozen(request, tmp_path_factory) -> Frozen:
    """Patches, a seeded teacher, and its cache of frozen draws as the capture command makes it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "random":
        random_patches(folder)
    else:
        real_patches(folder, request.getfixturevalue("dota_sample"))
    for name, base, addition in FILES:
        text = CONFIG + addition + (AUGMENTED if name != "teacher" else "")
        values = {"base": REPOSITORY / f"configs/demo/{base}.py", "folder": folder, "classes": DOTA_CLASSES}
        (folder / f"{name}.py").write_text(text.format(**values, draws=DRAWS, targets=TARGETS.get(name)))
    teacher = seeded(load_config(folder / "teacher.py"), TEACHER_SEED)
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    capture(folder)
    return frozen_twins(folder, "cache.zarr")


def capture(folder: Path, *more: str) -> None:
    cache_teacher.main(
        cache_teacher.make_parser().parse_args(["--config", str(folder / "cached.py"), "--loaders", "0", *more])
    )


def frozen_twins(folder: Path, cache: str, *, assignment: bool = True) -> Frozen:
    configs = {name: load_config(folder / f"{name}.py") for name in ("live", "cached")}
    targets_step(configs["cached"]).update(cache=str(folder / cache), assignment=assignment)
    point_to_head(configs["live"])
    return Frozen(
        configs,
        {name: training_set(config, config.train_dataloader.dataset.pipeline) for name, config in configs.items()},
    )


def test_views_are_stored_once_and_as_they_are(frozen) -> None:
    reader, views = frozen.reader, TrainingViews(frozen.configs["cached"])
    plan = reader.plan
    assert reader.manifest.views["draws"] == DRAWS
    assert reader.manifest.views["seed"] == 3
    assert [step["type"] for step in reader.manifest.views["transforms"]][1] == "mmrotate.RandomRotate"
    assert plan.draws == tuple("01234")
    assert len(np.unique(plan.view_shape, axis=0)) > 1
    for patch, patch_id in enumerate(plan.patch_ids):
        for draw in range(DRAWS):
            sample, view = views.sample(patch_id, str(draw)), int(plan.draw_view[patch, draw])
            assert sample.crc32c == plan.view_crc32c[view]
            assert (sample.grid.height, sample.grid.width) == tuple(plan.view_shape[view])
            index, weight = views.region(sample)
            record = reader.read(patch_id, draw)
            np.testing.assert_array_equal(record.prior_index, index)
            np.testing.assert_array_equal(record.weight, weight)


@pytest.mark.parametrize("draws", [(0, 1), (4, 2)])
def test_losses_and_gradients_are_those_of_the_live_teacher(frozen, draws) -> None:
    views = list(zip(frozen.reader.plan.patch_ids[:2], draws, strict=True))
    results = {}
    for name in ("live", "cached"):
        model = frozen.build(name)
        total, parts = losses_of(model, frozen.load(name, views))
        results[name] = parts, gradient_of(model, total)
    (live, live_gradient), (cached, cached_gradient) = results["live"], results["cached"]
    for name, value in live.items():
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-6), name
    for name, value in live_gradient.items():
        assert (cached_gradient[name] - value).norm() <= 1e-5 * value.norm(), name


def test_batches_mix_sizes(frozen) -> None:
    """Else the law above would not be about padding."""
    batch = frozen.load("live", [(patch, draw) for patch in frozen.reader.plan.patch_ids for draw in range(DRAWS)])
    assert len(batch["targets"].by_size.sizes) > 1
    assert frozen.load("cached", [(frozen.reader.plan.patch_ids[0], 0)])["targets"].by_size is None


@pytest.mark.slow
def test_thirty_steps_are_the_same_to_the_last_bit(frozen, monkeypatch) -> None:
    """Where both teachers are asked image by image: else answers differ in last bits, and steps make much of them."""
    folder = Path(frozen.configs["cached"].filename).parent
    monkeypatch.setattr(asking, "VIEWS_AT_ONCE", 1)
    capture(folder, "--cache", str(folder / "alone.zarr"))
    alone = frozen_twins(folder, "alone.zarr", assignment=False)
    chance = np.random.default_rng(11)
    models = {name: alone.build(name) for name in ("live", "cached")}
    ask = models["live"].teacher.forward

    def one_by_one(inputs: Tensor) -> Maps:
        maps = [ask(image[None]) for image in inputs]
        return tuple([torch.cat(levels) for levels in zip(*kind, strict=True)] for kind in zip(*maps, strict=True))

    monkeypatch.setattr(models["live"].teacher, "forward", one_by_one)
    wrappers = {name: build_optim_wrapper(model, alone.configs[name].optim_wrapper) for name, model in models.items()}
    histories: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(NUM_STEPS):
        patches = chance.choice(alone.reader.plan.patch_ids, 2, replace=False)
        views = [(str(patch), int(chance.integers(DRAWS))) for patch in patches]
        for name, model in models.items():
            total, _ = losses_of(model, alone.load(name, views))
            wrappers[name].update_params(total)
            histories[name].append(total.item())
    assert np.mean(histories["live"][-5:]) < np.mean(histories["live"][:5])
    assert histories["cached"] == histories["live"]
    for name, value in models["live"].state_dict().items():
        assert torch.equal(value, models["cached"].state_dict()[name]), name


def test_a_visit_draws_by_seed_patch_and_epoch_alone(frozen) -> None:
    dataset = frozen.datasets["cached"]
    first = [drawn(dataset[Visit(1, seed=5, epoch=epoch)]) for epoch in range(2 * DRAWS)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert [
        drawn(dataset[pickle.loads(pickle.dumps(Visit(1, seed=5, epoch=epoch)))]) for epoch in range(DRAWS)
    ] == first[:DRAWS]
    assert Counter(draw for _, draw in first[:DRAWS]) == dict.fromkeys(map(str, range(DRAWS)), 1)
    assert first[DRAWS:] == first[:DRAWS]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def drawn(sample: dict) -> tuple[int, str]:
    return sample["inputs"].sum().item(), sample["data_samples"].metainfo["drawn"]


def test_pixels_of_other_libraries_are_refused(frozen, monkeypatch) -> None:
    """As OpenCV might be built otherwise: one pixel of one view is another."""
    dataset = frozen.datasets["cached"]
    convert = cv2.cvtColor

    def otherwise(*args, **kwargs):
        image = convert(*args, **kwargs)
        image[0, 0] += 1
        return image

    monkeypatch.setattr(cv2, "cvtColor", otherwise)
    message = r"view .*: CRC-32C of its pixels is [0-9a-f]{8} in the cache but [0-9a-f]{8} here: .*uv.lock"
    with pytest.raises(ValueError, match=message):
        [dataset[Visit(0, seed=5, epoch=epoch)] for epoch in range(DRAWS)]


# The laws of draws.


@given(seed=st.integers(0, 2**31), draws=st.integers(1, 40), patch=st.text(min_size=1))
def test_the_order_of_draws_is_a_permutation(seed, draws, patch) -> None:
    order = order_of_draws(seed, patch, draws)
    assert sorted(order) == list(range(draws))
    assert order_of_draws(seed, patch, draws) == order


def test_orders_differ_by_seed_and_patch() -> None:
    orders = {tuple(order_of_draws(seed, patch, 12)) for seed in range(3) for patch in "ABC"}
    assert len(orders) == 9


def test_random_numbers_follow_from_the_key_and_leave_no_trace() -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_all(1)
    undisturbed = numbers(), numbers()
    seed_all(1)
    first = numbers()
    with random_numbers(0, "P0001", 3):
        inside = numbers()
    assert (first, numbers()) == undisturbed
    with random_numbers(0, "P0001", 3):
        assert numbers() == inside
    with random_numbers(0, "P0001", 4):
        assert numbers() != inside


@pytest.mark.parametrize("world", [1, 3])
def test_every_pass_of_a_sampler_is_an_epoch(world, monkeypatch) -> None:
    """Of mmengine's two, over several processes: each patch is visited once by every epoch."""
    dataset = list(range(7))
    for kind in (DefaultSampler, InfiniteSampler):
        visits: Counter[tuple[int, int]] = Counter()
        for rank in range(world):
            monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, world))
            sampler = VisitSampler(dataset, {"type": kind.__name__, "shuffle": True}, seed=4)
            if kind is InfiniteSampler:
                # 21 places of all processes are three epochs.
                visits.update((int(visit), visit.epoch) for visit in islice(sampler, 21 // world))
            else:
                for epoch in range(3):
                    sampler.set_epoch(epoch)
                    visits.update((int(visit), visit.epoch) for visit in sampler)
        assert set(visits) == {(patch, epoch) for patch in dataset for epoch in range(3)}
        # DefaultSampler repeats patches until all processes have as many.
        assert set(visits.values()) == {1} if kind is InfiniteSampler or world == 1 else set(visits.values()) <= {1, 2}


# Refusals.


@pytest.mark.parametrize(
    ("step", "views", "message"),
    [
        ("mmdet.Mosaic", {"draws": 4}, "Mosaic puts other images of the training set into a view"),
        ("mmdet.MixUp", None, "MixUp puts other images"),
        ("mmrotate.RandomRotate", None, r"outcomes that cannot be enumerated.*views = dict\(draws=12, seed=0\)"),
        ("mmdet.RandomFlip", None, r"Use RandomViewFlip.*or freeze.*views = dict\(draws=12, seed=0\)"),
    ],
)
def test_what_no_cache_can_hold_is_refused_by_name(step, views, message) -> None:
    with pytest.raises(ValueError, match=message):
        describe_views([{"type": "LoadPatch"}, {"type": step}], views)


@pytest.mark.parametrize(
    ("views", "message"), [({"draws": 0}, "views.draws is 0"), ({"draws": 4, "seed": -1}, "views.seed is -1")]
)
def test_impossible_numbers_of_draws(views, message) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenViews(**views)


def test_a_pipeline_that_always_drops_a_patch_is_named() -> None:
    with pytest.raises(ValueError, match="patch P1: the training pipeline has dropped draw 2 16 times"):
        frozen_draw(lambda results: None, {"img_id": "P1"}, 0, 2)


def test_a_dropped_draw_is_drawn_again() -> None:
    def some(results: dict) -> dict | None:
        return {"number": random.random()} if random.random() < 0.3 else None

    drawn = [frozen_draw(some, {"img_id": "P1"}, 0, draw)["number"] for draw in range(20)]
    assert drawn == [frozen_draw(some, {"img_id": "P1"}, 0, draw)["number"] for draw in range(20)]
    assert len(set(drawn)) == 20


def test_a_student_may_have_fewer_draws_and_other_libraries() -> None:
    stored = {"draws": 12, "seed": 0, "transforms": [], "libraries": {"cv2": "4"}}
    assert part_of_views({**stored, "draws": 4, "libraries": {"cv2": "5"}}, stored) == stored
    assert part_of_views({**stored, "draws": 13}, stored)["draws"] == 13
    assert part_of_views({**stored, "seed": 1}, stored) != stored
    flips = {"draws": ["none", "horizontal"], "flip_offset": 1.0}
    assert part_of_views({**flips, "draws": ["none"]}, flips) == flips
    assert part_of_views(flips, stored) == flips
