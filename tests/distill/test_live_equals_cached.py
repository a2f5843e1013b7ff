"""The cached distiller against its oracle, the live one: through a real store, for all four views and over 30 steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmrotate.registry import MODELS
from torch import Tensor, nn

from cache.reader import CacheReader
from cache.view import FLIPS
from distill.dota import DOTA_CLASSES, Labels, format_labels
from distill.polygons import rbox_to_polygon
from distill.targets import collate_views
from pipelines import cache_teacher
from pipelines.base.experiment import load_config, training_set
from tests.conftest import REPOSITORY
from tests.distill.draw_tools import flipped
from tests.distill.golden_tools import STUDENT_SEED, TEACHER_SEED, fill_seeded_weights, loaded_crop

SIZE = 128
# Crops of real patches: left, top, side; between them small and large, tilted and upright objects.
CROPS = (
    "P0003@0,832,128",
    "P0032__1__0___0@512,640,128",
    "P0706@576,384,128",
    "P0770@256,512,128",
    "P1234__0.5__976___976@768,448,128",
    "P2709__0.5__471___183@512,0,128",
)
NUM_STEPS = 30
# Norm of a logit's weights, whose input has unit variance.
LOGIT_SPREAD = 2.0

# The demo's narrow detector on DOTA's classes. `exact` stores float32.
CONFIG = """
_base_ = ["{base}"]

data_root = "{folder}/data/"
classes = {classes}
"""
LIVE = """
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher.pth")
"""
CACHED = """
cache = "{folder}/cache.zarr"
codec = "exact"
"""
# Name of the file, the config of the demo it changes, and what it adds.
FILES = [("teacher", "teacher", ""), ("live", "live", LIVE), ("cached", "distill", LIVE + CACHED)]


@dataclass
class Twins:
    """A live and a cached student of one teacher, and the views of its cache."""

    config: Config
    build: Callable[[str], nn.Module]
    load: Callable[[list[tuple[str, str]]], dict]
    patch_ids: tuple[str, ...]


def random_patches(folder: Path, count: int = 4) -> None:
    """Noise with rotated objects of any class, some of them exactly upright."""
    random = np.random.default_rng(7)
    for index in range(count):
        image = cv2.GaussianBlur(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), (0, 0), 2)
        boxes = random.uniform((16, 16, 6, 6, -1.5), (112, 112, 70, 40, 1.5), (4, 5))
        boxes[0, 4] = 0
        names = tuple(random.choice(DOTA_CLASSES, len(boxes)).tolist())
        labels = Labels(rbox_to_polygon(boxes), names, np.zeros(len(boxes), dtype=np.int64))
        write_patch(folder, f"random{index}", image, labels)


def real_patches(folder: Path, sample: Path) -> None:
    """Crops of DOTA patches with the objects whose centres they hold."""
    for case in CROPS:
        crop = loaded_crop(sample, case)
        names = tuple(DOTA_CLASSES[label] for label in crop["gt_bboxes_labels"])
        polygons = crop["gt_bboxes"].tensor.double().numpy()
        assert names, f"no object in {case}"
        labels = Labels(polygons, names, np.zeros(len(names), dtype=np.int64))
        write_patch(folder, case.replace("@", "_").replace(",", "_"), crop["img"], labels)


def write_patch(folder: Path, name: str, image: np.ndarray, labels: Labels) -> None:
    for part in ("images", "annfiles"):
        (folder / "data/train" / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"data/train/images/{name}.png"), image)
    (folder / f"data/train/annfiles/{name}.txt").write_text(format_labels(labels))


@pytest.fixture(scope="module", params=["random", "real"])
def twins(request, tmp_path_factory) -> Twins:
    """Patches, a seeded teacher, and its cache as the capture command makes it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "random":
        random_patches(folder)
    else:
        real_patches(folder, request.getfixturevalue("dota_sample"))
    for name, base, addition in FILES:
        values = {"base": REPOSITORY / f"configs/demo/{base}.py", "folder": folder, "classes": DOTA_CLASSES}
        (folder / f"{name}.py").write_text((CONFIG + addition).format(**values))
    teacher = seeded(load_config(folder / "teacher.py"), TEACHER_SEED)
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    capture = cache_teacher.make_parser().parse_args(["--config", str(folder / "cached.py"), "--loaders", "0"])
    cache_teacher.main(capture)
    return make_twins(folder)


def seeded(config: Config, seed: int) -> nn.Module:
    """The detector of a config with seeded weights and logits as far apart as a trained one's."""
    model = MODELS.build(config.model)
    fill_seeded_weights(model, seed)
    with torch.no_grad():
        for layer in (model.bbox_head.retina_cls, model.bbox_head.retina_reg):
            layer.weight *= LOGIT_SPREAD / layer.weight.flatten(1).norm(dim=1).mean()
    return model


def make_twins(folder: Path) -> Twins:
    configs = {name: load_config(folder / f"{name}.py") for name in ("live", "cached")}
    pipeline = configs["cached"].train_dataloader.dataset.pipeline
    targets = next(step for step in pipeline if step.type == "LoadTeacherTargets")
    targets.cache, targets.assignment = str(folder / "cache.zarr"), True
    dataset = training_set(configs["cached"], pipeline)
    infos = {info["img_id"]: info for info in map(dataset.get_data_info, range(len(dataset)))}

    def build(name: str) -> nn.Module:
        return seeded(configs[name], STUDENT_SEED).train()

    def load(views: list[tuple[str, str]]) -> dict:
        return collate_views([dataset.pipeline(flipped(infos[patch], flip)) for patch, flip in views])

    return Twins(configs["cached"], build, load, tuple(infos))


def without_assignment(batch: dict) -> dict:
    """The batch as a student sees it that assigns by itself."""
    return {**batch, "targets": replace(batch["targets"], assigned=None)}


def losses_of(model: nn.Module, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
    """The total and every single loss."""
    data = model.data_preprocessor(batch, training=True)
    total, parts = model.parse_losses(model(**data, mode="loss"))
    return total, parts


def gradient_of(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_the_store_is_exact(twins) -> None:
    reader = CacheReader(twins.config.cache)
    assert reader.manifest.codec["preset"] == "exact"
    assert reader.plan.num_views == 4 * len(twins.patch_ids)
    assert (reader.plan.priors_per_view > 0).all()


BATCHES = [
    *(pytest.param((flip, flip), id=flip) for flip in FLIPS),
    pytest.param(("vertical", "none"), id="mixed"),
]


@pytest.mark.parametrize("flips", BATCHES)
def test_losses_and_gradients(twins, flips) -> None:
    batch = twins.load(list(zip(twins.patch_ids[:2], flips, strict=True)))
    assert batch["targets"].answers is not None
    assert batch["targets"].assigned is not None
    results = {}
    for name in ("live", "cached"):
        model = twins.build(name)
        # The live student computes the assignment that the cached one reads.
        total, parts = losses_of(model, without_assignment(batch) if name == "live" else batch)
        results[name] = parts, gradient_of(model, total)
    (live, live_gradient), (cached, cached_gradient) = results["live"], results["cached"]
    assert set(live) == set(cached) == {"loss", "loss_cls", "loss_bbox", "loss_ld", "loss_kd"}
    for name, value in live.items():
        assert value > 0
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-6), name
    assert live_gradient.keys() == cached_gradient.keys()
    for name, value in live_gradient.items():
        difference = (cached_gradient[name] - value).norm() / value.norm()
        assert difference < 1e-5, f"{name}: {difference:.1e}"


def test_the_box_loss_of_positives_is_that_of_all_priors(twins) -> None:
    """mmrotate's own step computes it everywhere: the same losses and gradients, with and without a plan."""
    batch = twins.load([(patch, "diagonal") for patch in twins.patch_ids])
    model = twins.build("cached")
    model.bbox_head.box_loss_rows = "all"
    total, known = losses_of(model, without_assignment(batch))
    known_gradient = gradient_of(model, total)
    model.bbox_head.box_loss_rows = "positive"
    for seen in (batch, without_assignment(batch)):
        total, parts = losses_of(model, seen)
        for name, value in known.items():
            assert parts[name].item() == pytest.approx(value.item(), rel=1e-6), name
        for name, gradient in gradient_of(model, total).items():
            assert (gradient - known_gradient[name]).norm() <= 1e-5 * known_gradient[name].norm(), name


@pytest.mark.parametrize("name", ["live", "cached"])
def test_every_level_has_its_losses(twins, name) -> None:
    model = twins.build(name)
    batch = model.data_preprocessor(twins.load([(patch, "none") for patch in twins.patch_ids]), training=True)
    losses = model(**batch, mode="loss")
    num_levels = model.bbox_head.prior_generator.num_levels
    assert {key: len(values) for key, values in losses.items()} == dict.fromkeys(losses, num_levels)
    assert all(value > 0 for key in ("loss_ld", "loss_kd") for value in losses[key])


def test_the_record_of_another_view_is_noticed(twins) -> None:
    views = [(patch, "none") for patch in twins.patch_ids[:2]]
    turned = [(patch, "diagonal") for patch, _ in views]
    # The student assigns by itself, so that the region's rows alone are another view's.
    batch, other = (without_assignment(twins.load(chosen)) for chosen in (views, turned))
    model = twins.build("cached")
    _, right = losses_of(model, batch)
    _, wrong = losses_of(model, {**batch, "targets": other["targets"]})
    assert wrong["loss_cls"] == right["loss_cls"]
    for name in ("loss_ld", "loss_kd"):
        assert abs(wrong[name] / right[name] - 1) > 1e-3


@pytest.mark.slow
def test_thirty_steps_stay_together(twins) -> None:
    random = np.random.default_rng(11)
    models = {name: twins.build(name) for name in ("live", "cached")}
    wrappers = {name: build_optim_wrapper(model, twins.config.optim_wrapper) for name, model in models.items()}
    histories: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(NUM_STEPS):
        patches = random.choice(twins.patch_ids, 2, replace=False)
        views = [(str(patch), str(random.choice(FLIPS))) for patch in patches]
        for name, model in models.items():
            total, _ = losses_of(model, twins.load(views))
            wrappers[name].update_params(total)
            histories[name].append(total.item())
    live, cached = np.array(histories["live"]), np.array(histories["cached"])
    assert live[-5:].mean() < live[:5].mean()
    np.testing.assert_allclose(cached, live, rtol=1e-4)
    states = models["live"].state_dict(), models["cached"].state_dict()
    for name, value in states[0].items():
        if value.is_floating_point():
            difference = (states[1][name] - value).norm() / value.norm().clamp(min=1e-6)
            assert difference < 1e-4, f"{name}: {difference:.1e}"
