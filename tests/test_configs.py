"""Every config file is built as it stands and takes one training step; every one tells its story."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmrotate.registry import MODELS, TRANSFORMS
from torch import nn

from cache.reader import CodedRecord
from distill.detectors import CachedDistiller, LiveDistiller
from distill.region import box_region
from distill.targets import ViewTargets, collate_views
from pipelines.base.experiment import build_assigner, describe_student, load_config, training_set
from pipelines.studies.sweep import load_sweep, run_configs
from pipelines.training.kind import point_to_head
from tests.conftest import REPOSITORY

CONFIGS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (REPOSITORY / "configs").rglob("*.py")
    if path.parent.name not in ("_base_", "sweep")
)
PUBLISHED = [path for path in CONFIGS if not path.startswith(("configs/demo/", "configs/smoke/"))]
COCO = [path for path in CONFIGS if load_config(REPOSITORY / path).get("data_format") == "coco"]
DOTA = [path for path in CONFIGS if path not in COCO]
SWEEPS = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs/sweep").glob("*.py"))
SIZE = 128
# Classes of DOTA and of the demo alike: upright, tilted, and cut by the border.
LABELS = (
    "20 24 84 24 84 56 20 56 ship 0\n60 70 96 88 84 112 48 94 plane 0\n100 90 140 90 140 120 100 120 storage-tank 2\n"
)
# The same for COCO-format data, as (class of the demo, class of COCO, box).
OBJECTS = (
    ("ship", "boat", (20, 24, 64, 32)),
    ("plane", "airplane", (48, 70, 48, 42)),
    ("storage-tank", "umbrella", (100, 90, 28, 30)),
)
DISTILLED = {"loss_ld", "loss_ld_vlr", "loss_kd"}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> str:
    """Two patches with three objects each."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for part in ("images", "annfiles"):
        (root / "train" / part).mkdir(parents=True)
    for name in ("a", "b"):
        image = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"train/images/{name}.png"), image)
        (root / f"train/annfiles/{name}.txt").write_text(LABELS)
    (root / "coco.json").write_text(json.dumps(coco_annotations()))
    return f"{root}/"


def coco_annotations() -> dict[str, Any]:
    """The two patches with `OBJECTS`, each under both of its classes; a config takes those that it knows."""
    classes = {name for path in COCO for name in load_config(path).classes}
    id_of = {name: number for number, name in enumerate(sorted(classes), start=1)}
    annotations = [
        {"image_id": image, "category_id": id_of[name], "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
        for image in (1, 2)
        for *names, box in OBJECTS
        for name in names
    ]
    return {
        "images": [
            {"id": image, "file_name": f"{name}.png", "width": SIZE, "height": SIZE}
            for image, name in enumerate(("a", "b"), start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in id_of.items()],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """A checkpoint of every teacher's shape, by config; teachers of one shape share it."""
    folder = tmp_path_factory.mktemp("teachers")
    made: dict[tuple, Path] = {}
    by_config = {}
    for path in (path for path in CONFIGS if "teacher" in path):
        state = build(load_config(path)).state_dict()
        shape = tuple((name, tuple(value.shape)) for name, value in state.items())
        if shape not in made:
            made[shape] = folder / f"{len(made)}.pth"
            torch.save({"state_dict": state}, made[shape])
        by_config[path] = made[shape]
    yield by_config
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(autouse=True)
def in_repository(monkeypatch) -> None:
    """Configs name each other from the repository's root."""
    monkeypatch.chdir(REPOSITORY)


def build(config: Config) -> nn.Module:
    """The model of a config with its initial weights; pretrained ones are left out."""
    torch.manual_seed(0)
    pretrained = config.model.backbone.get("init_cfg")
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    model.init_weights()
    config.model.backbone.init_cfg = pretrained
    return model


def one_batch(config: Config, data_root: str, model: nn.Module) -> dict[str, Any]:
    """Two samples of the config's own training pipeline; a cached student gets made-up targets of its region."""
    if isinstance(model, LiveDistiller):
        point_to_head(config)
    dataset_config = config.train_dataloader.dataset
    dataset_config.data_root = data_root
    if config.get("data_format") == "coco":
        dataset_config.update(ann_file="coco.json", data_prefix=dict(img_path="train/images/"))
    steps = [step for step in dataset_config.pipeline if step.type != "LoadTeacherTargets"]
    for step in steps:
        if step.type == "mmdet.Resize":
            step.scale = (SIZE, SIZE)  # what fits a test; 800 px take a CPU half a minute
    samples = [training_set(config, steps)[index] for index in range(2)]
    if isinstance(model, CachedDistiller):
        generator = torch.Generator().manual_seed(0)
        for sample in samples:
            grid, objects = model.adapter.grid(SIZE, SIZE), sample["data_samples"].gt_instances
            prior_index, weight = box_region(objects.bboxes.tensor.numpy(), grid, **config.region)
            logits = (
                torch.randn(len(prior_index), *shape, generator=generator).numpy()
                for shape in ((len(config.classes),), model.adapter.box_shape)
            )
            assigner = build_assigner(config)
            assigned = None if assigner is None else model.adapter.plan_assignment(assigner, objects, grid)
            cls_logits, box_logits = logits
            record = CodedRecord(prior_index, weight, cls_logits, box_logits.reshape(len(prior_index), -1))
            sample["targets"] = ViewTargets(grid, prior_index, weight, record, assigned)
    return collate_views(samples)


def region_found_by(config: Config) -> dict[str, Any]:
    """The rule by which the loaders of a student with a live teacher find its region."""
    (step,) = (step for step in config.train_dataloader.dataset.pipeline if step.type == "FindRegion")
    return step.region


def own_losses(config: Config) -> set[str]:
    """The terms of the head alone."""
    return {name for name in config.model.bbox_head if name.startswith("loss_")}


def story(path: str) -> str:
    """The docstring of a config file."""
    return ast.get_docstring(ast.parse((REPOSITORY / path).read_text())) or ""


@pytest.mark.parametrize("path", CONFIGS)
def test_config_takes_a_training_step(path, data_root, checkpoints) -> None:
    config = load_config(path)
    if "teacher" in config.model:
        config.model.teacher.checkpoint = checkpoints[config.model.teacher.config]
    model = build(config)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    for scheduler in config.param_scheduler:
        PARAM_SCHEDULERS.build({**scheduler, "optimizer": optim_wrapper})
    model.train()
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    losses = model.train_step(one_batch(config, data_root, model), optim_wrapper)

    distilled = {name for name in DISTILLED if config.model.get("distillation", {}).get(name)}
    assert {name for name in losses if name != "loss"} == own_losses(config) | distilled
    assert all(torch.isfinite(value) and value > 0 for value in losses.values()), losses
    assert bool(distilled) == isinstance(model, CachedDistiller | LiveDistiller)
    after = dict(model.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    unmoved = [name for name, value in before.items() if torch.equal(value, after[name])]
    # Weights, not biases: GFL's warm-up starts with a step that is lost beside a bias of -4.6.
    outputs = [name for name in before if name.startswith(("bbox_head.retina", "bbox_head.gfl"))]
    assert not [name for name in unmoved if name in outputs and name.endswith(".weight")], unmoved


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS)
def test_every_student_of_a_sweep_takes_a_training_step(path, data_root) -> None:
    sweep = load_sweep(path)
    for name, config in run_configs(sweep).items():
        model = build(config)
        model.train()
        losses = model.train_step(one_batch(config, data_root, model), build_optim_wrapper(model, config.optim_wrapper))
        wanted = {term for term in DISTILLED if config.model.get("distillation", {}).get(term)}
        assert {term for term in losses if term != "loss"} == own_losses(config) | wanted, name
        assert all(torch.isfinite(value) for value in losses.values()), name


@pytest.mark.parametrize("path", SWEEPS)
def test_a_sweep_tells_its_story_and_its_students_differ(path) -> None:
    header = story(path)
    assert f"make sweep SWEEP={path}" in header
    sweep = load_sweep(path)
    configs = [config.to_dict() for config in run_configs(sweep).values()]
    assert len(configs) >= 6
    assert all(one != other for place, one in enumerate(configs) for other in configs[:place])


@pytest.mark.parametrize("path", CONFIGS)
def test_header_tells_the_story(path) -> None:
    header = story(path)
    assert "Command" in header
    assert "make " in header
    # The command names this very file unless it is the target's default.
    if path != "configs/distill/gwd_r18_1x_dota.py":
        assert path in header
    if path in PUBLISHED:
        figures = ("AP50", "AP75") if path in COCO else ("AP50", "AP70", "AP90")
        for word in ("Hardware:", "Published", *figures):
            assert word in header, word


@pytest.mark.parametrize("path", [path for path in PUBLISHED if path in DOTA and "teacher" not in path])
def test_published_figures_come_with_corrected_ones(path) -> None:
    header = story(path)
    assert (
        ("Corrected for the published evaluator's carry-over" in header) or "corrected)" in header or "none;" in header
    )


def test_no_two_configs_write_to_one_place() -> None:
    folders = [load_config(path).work_dir for path in CONFIGS]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("loss", ["gwd", "l1", "kld"])
def test_plain_live_and_cached_students_differ_in_the_teacher_alone(loss) -> None:
    plain, live, cached = (
        load_config(f"configs/{kind}/{loss}_r18_1x_dota.py") for kind in ("plain", "live", "distill")
    )
    for config in (live, cached):
        for key in ("backbone", "neck", "bbox_head", "train_cfg", "test_cfg", "data_preprocessor"):
            assert config.model[key] == plain.model[key]
        assert config.optim_wrapper == plain.optim_wrapper
        assert config.param_scheduler == plain.param_scheduler
        assert config.train_cfg == plain.train_cfg
    assert live.model.distillation == cached.model.distillation
    assert live.model.teacher == live.teacher == cached.teacher
    assert region_found_by(live) == live.region == cached.region
    # The teacher is the same detector, deeper and trained twice as long.
    teacher = load_config(live.teacher.config)
    assert teacher.model.backbone.depth == 34
    assert teacher.train_cfg.max_epochs == 2 * plain.train_cfg.max_epochs
    assert live.teacher.checkpoint == f"{teacher.work_dir}/epoch_{teacher.train_cfg.max_epochs}.pth"
    for key in ("bbox_head", "neck", "train_cfg", "data_preprocessor"):
        assert teacher.model[key] == plain.model[key]
    assert {**teacher.model.backbone, "depth": 18, "init_cfg": None} == {**plain.model.backbone, "init_cfg": None}


def test_gfl_students_differ_in_the_teacher_alone() -> None:
    """And in the head's divisor, which is that of mmdet's LDHead (distill/gfl.py)."""
    plain = load_config("configs/plain/gfl_r18_1x_coco.py")
    live, cached, vlr = (
        load_config(f"configs/{path}_r18_1x_coco.py") for path in ("live/gfl", "distill/gfl", "distill/gfl_vlr")
    )
    for config in (live, cached, vlr):
        for key in ("backbone", "neck", "train_cfg", "test_cfg", "data_preprocessor"):
            assert config.model[key] == plain.model[key], key
        assert config.model.bbox_head == {**plain.model.bbox_head, "type": "GFLStudentHead"}
        for key in ("optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr"):
            assert config[key] == plain[key], key
    assert live.model.distillation == cached.model.distillation
    assert region_found_by(live) == live.region == cached.region
    assert live.model.teacher == live.teacher == cached.teacher == vlr.teacher
    teacher = load_config(live.teacher.config)
    assert live.teacher.checkpoint == f"{teacher.work_dir}/epoch_{teacher.train_cfg.max_epochs}.pth"
    assert cached.cache != vlr.cache
    # mmdet's configs/ld.
    assert cached.model.distillation == dict(
        type="MainRegionDistillation",
        loss_ld=dict(type="DistributionDistillationLoss", loss_weight=0.25, temperature=10.0),
    )


def without_scope(config: Any) -> Any:
    """A part of a config with the types as mmdet's own configs name them."""
    if isinstance(config, dict):
        return {key: without_scope(value) for key, value in config.items()}
    return config.removeprefix("mmdet.") if isinstance(config, str) else config


def test_gfl_on_coco_is_mmdet_s() -> None:
    configs = Path(mmdet.__file__).parent / ".mim/configs"
    theirs = Config.fromfile(configs / "gfl/gfl_r101_fpn_ms-2x_coco.py")
    ours = load_config("configs/teacher/gfl_r101_2x_coco.py")
    model = without_scope(ours.model.to_dict())
    # What the scope of this project's configs needs said; they are the defaults.
    assert model["bbox_head"].pop("bbox_coder") == dict(type="DistancePointBBoxCoder")
    assert model["train_cfg"]["assigner"].pop("iou_calculator") == dict(type="BboxOverlaps2D")
    assert model == {**theirs.model.to_dict(), "type": "SingleStageDetector"}
    for key in ("optim_wrapper", "param_scheduler"):
        assert ours[key] == theirs[key]
    assert ours.auto_scale_lr.base_batch_size == theirs.auto_scale_lr.base_batch_size
    assert ours.classes == CocoDataset.METAINFO["classes"]

    student = load_config("configs/plain/gfl_r18_1x_coco.py")
    published = Config.fromfile(configs / "ld/ld_r18-gflv1-r101_fpn_1x_coco.py").model
    model = without_scope(student.model.to_dict())
    for key in ("data_preprocessor", "backbone", "neck", "test_cfg"):
        assert model[key] == published[key], key
    for key in ("bbox_head", "train_cfg", "data_preprocessor", "test_cfg"):
        assert student.model[key] == ours.model[key], key


@pytest.mark.parametrize("path", COCO)
def test_coco_views_are_two(path) -> None:
    config = load_config(path)
    flips = [step for step in config.train_dataloader.dataset.pipeline if step.type == "RandomViewFlip"]
    assert [TRANSFORMS.build(flip).outcomes for flip in flips] == [("none", "horizontal")]
    assert [flip.flip_offset for flip in flips] == [0.0]


@pytest.mark.parametrize(
    ("loss", "weights"), [pytest.param("gwd", (10, 20)), pytest.param("kld", (15, 15)), pytest.param("l1", (10, 20))]
)
def test_weights_of_the_terms(loss, weights) -> None:
    terms = load_config(f"configs/distill/{loss}_r18_1x_dota.py").model.distillation
    assert (terms.loss_ld.loss_weight, terms.loss_kd.loss_weight) == weights
    assert terms.loss_ld.temperature == terms.loss_kd.temperature == 5
    assert terms.normalizer == "per_level"


def test_views_of_the_published_students() -> None:
    for path in (path for path in PUBLISHED if path in DOTA and path.startswith("configs/distill/")):
        student = describe_student(load_config(path))
        if path.endswith("_ms_rr.py"):
            assert student["views"]["draws"] == load_config(path).train_cfg.max_epochs
            assert [step["type"] for step in student["views"]["transforms"]] == [
                "RandomViewFlip",
                "mmrotate.RandomRotate",
            ]
        else:
            assert student["views"] == {"draws": ["none", "horizontal", "vertical", "diagonal"], "flip_offset": 1.0}
        assert student["head"]["coder_angle"] == ("legacy_oc" if "l1_" in path else "oc")


def test_kld_averages_each_level_over_its_own_positives() -> None:
    # GDLoss_v1 keeps one value a positive and ignores avg_factor; the step's sum takes the mean of each level.
    config = load_config("configs/plain/kld_r18_1x_dota.py")
    loss = MODELS.build(config.model.bbox_head.loss_bbox)
    boxes = torch.tensor([[50.0, 50, 40, 20, 0.0], [50, 50, 40, 20, 0.0], [0, 0, 9, 9, 0]])
    targets = torch.tensor([[50.0, 50, 40, 20, 0.0], [60, 50, 40, 20, 0.0], [5, 0, 9, 9, 0]])
    weight = torch.tensor([1.0, 1, 0])[:, None].expand(-1, 5)
    values = loss(boxes, targets, weight, avg_factor=1000)
    # Moved by half a side: delta^2 / (w / 2)^2 = 100 / 400, so 1 - 1 / (1 + log(1.25)); the first is at the floor 1e-6.
    assert values.flatten().tolist() == pytest.approx([0, 1 - 1 / (1 + np.log(1.25))], abs=2e-6)
    assert loss(boxes, targets, weight * 0, avg_factor=1000).item() == 0
