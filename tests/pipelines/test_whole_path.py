"""From scenes to an evaluated student, with classes, patch size and strides from the config alone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from cache.reader import CacheReader
from distill.teacher import FrozenTeacher
from pipelines import cache_teacher, distill, evaluate, plan
from pipelines.experiment import load_config
from tests.cache.store_tools import contents
from tests.pipelines.conftest import Project, call


def last_losses(folder) -> list[dict]:
    """The training log's lines of the newest run."""
    log = max(folder.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_cache_holds_every_view(project: Project) -> None:
    reader = CacheReader(project.cache)
    reader.require_complete()
    assert reader.manifest["head"]["classes"] == ["ship", "plane", "harbor"]
    assert reader.manifest["head"]["grid"]["strides"] == [16, 32]
    assert reader.plan.patch_shape.tolist() == [[96, 96]] * len(reader.plan.patch_ids)
    assert reader.plan.num_views == 4 * len(reader.plan.patch_ids)
    record = reader.read(reader.plan.patch_ids[0], "diagonal")
    assert len(record) > 0
    assert record.cls_logits.shape == (len(record), 3)
    np.testing.assert_array_equal(record.box_logits.max(axis=-1), 0)


def test_plan_prints_what_the_capture_stored(project: Project, capfd) -> None:
    assert call(plan, "--config", project.config("distill"), "--json", "--workers", 0) == 0
    figures = json.loads(capfd.readouterr().out)
    stored = CacheReader(project.cache).manifest["plan"]
    assert (figures["views"], figures["rows"]) == (stored["num_views"], stored["num_rows"])


def test_the_student_trains_without_the_teacher(project: Project, tmp_path, monkeypatch) -> None:
    """Config and checkpoint of the teacher are gone, and building one would fail."""
    monkeypatch.setattr(FrozenTeacher, "load", None)
    absent = ["teacher.config=absent.py", "teacher.checkpoint=absent.pth"]
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path, "--cfg-options", *absent]
    assert call(distill, *arguments) == 0
    losses = last_losses(tmp_path)
    assert len(losses) == 4
    assert all(np.isfinite(line["loss_ld"]) and line["loss_ld"] > 0 for line in losses)
    assert all(np.isfinite(line["loss_kd"]) and line["loss_kd"] > 0 for line in losses)

    config = load_config(project.config("distill"))
    config.work_dir = str(tmp_path / "evaluation")
    figures = evaluate.evaluate(config, tmp_path / "iter_4.pth", tmp_path / "detections")
    assert 0 <= figures["AP50"] <= 1
    assert (tmp_path / "detections/Task1_harbor.txt").is_file()


def test_a_second_student_reads_the_same_cache(project: Project, tmp_path) -> None:
    before = contents(project.cache)
    options = [
        "model.distillation.loss_ld.temperature=2.0",
        "model.distillation.loss_ld.loss_weight=1.0",
        "model.distillation.loss_kd.temperature=10.0",
    ]
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path, "--cfg-options", *options]
    assert call(distill, *arguments) == 0
    assert len(last_losses(tmp_path)) == 4
    assert contents(project.cache) == before


def test_a_second_capture_changes_nothing(project: Project) -> None:
    before = contents(project.cache)
    assert call(cache_teacher, "--config", project.config("distill"), "--workers", 0) == 0
    assert contents(project.cache) == before


def patch_files(project: Project) -> tuple:
    """Image and label file of the first patch of the training set."""
    patch_id = CacheReader(project.cache).plan.patch_ids[0]
    train = project.folder / "data/train"
    return train / f"images/{patch_id}.png", train / f"annfiles/{patch_id}.txt"


def test_an_interrupted_capture_goes_on(copy: Project) -> None:
    whole = contents(copy.cache)
    committed = copy.cache / "committed/c/0/0"
    committed.unlink()
    assert call(cache_teacher, "--config", copy.config("distill"), "--workers", 0) == 0
    assert contents(copy.cache) == whole


DISTILL_REFUSALS = [
    pytest.param(["cache=absent.zarr"], "absent.zarr does not exist.*make cache-teacher", id="no-cache"),
    pytest.param(["region.factor=0.5"], "region.factor is 0.25 in the cache but 0.5 here", id="region"),
    pytest.param(["model.bbox_head.reg_max=16"], "head.num_bins is 9 in the cache but 17 here", id="bins"),
    pytest.param(
        ["model.bbox_head.angle_range=[-3.0,3.0]"],
        r"head.bin_ranges\[4\]\[0\] is -5.0 in the cache but -3.0",
        id="angle-bins",
    ),
    pytest.param(
        ["model.data_preprocessor.mean=[0.0,0.0,0.0]"],
        r"preprocessing.mean\[0\] is 123.675 in the cache but 0.0",
        id="mean",
    ),
    pytest.param(
        ["classes=['plane','ship','harbor']"],
        r"head.classes\[0\] is \"ship\" in the cache but \"plane\"",
        id="class-order",
    ),
    pytest.param(
        ["model.bbox_head.anchor_generator.strides=[32,64]"],
        r"head.grid.strides\[0\] is 16 in the cache but 32",
        id="grid",
    ),
    pytest.param(
        ["train_dataloader.dataset.pipeline.3.flip_offset=0.0"],
        "views.flip_offset is 1.0 in the cache but 0.0",
        id="flip-offset",
    ),
    pytest.param(
        ["train_dataloader.dataset.pipeline.3.type=mmdet.PhotoMetricDistortion"],
        "transform mmdet.PhotoMetricDistortion has outcomes that cannot be enumerated",
        id="random-transform",
    ),
]


@pytest.mark.parametrize(("options", "message"), DISTILL_REFUSALS)
def test_a_foreign_cache_is_refused_before_training(project: Project, tmp_path, capfd, options, message) -> None:
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path / "run"]
    if options[0].startswith("cache="):
        arguments += ["--cache", options[0].removeprefix("cache=")]
    else:
        arguments += ["--cfg-options", *options]
    assert call(distill, *arguments) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def expect_refusal(capfd, status: int, message: str) -> None:
    assert status == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_changed_label_is_refused(copy: Project, capfd) -> None:
    _, label = patch_files(copy)
    label.write_text(label.read_text() + "10 10 30 10 30 30 10 30 ship 0\n")
    expect_refusal(capfd, call(distill, "--config", copy.config("distill")), f"label_sha256 of patch {label.stem} is")


def test_a_changed_image_is_refused_when_it_is_read(copy: Project, capfd) -> None:
    image, _ = patch_files(copy)
    for file in image.parent.glob("*.png"):
        file.write_bytes(file.read_bytes() + b"\0")
    expect_refusal(capfd, call(distill, "--config", copy.config("distill")), "image_sha256 is")


def test_a_new_patch_is_refused(copy: Project, capfd) -> None:
    image, label = patch_files(copy)
    shutil.copy(image, image.with_name("new__96__0___0.png"))
    shutil.copy(label, label.with_name("new__96__0___0.txt"))
    expect_refusal(capfd, call(distill, "--config", copy.config("distill")), "patch new__96__0___0 is absent")


def test_an_unfinished_cache_is_refused(copy: Project, capfd) -> None:
    (copy.cache / "committed/c/0/0").unlink()
    expect_refusal(capfd, call(distill, "--config", copy.config("distill")), "is incomplete: 1 of 1 blocks")


def test_a_retrained_teacher_is_refused(copy: Project, capfd) -> None:
    import torch

    from distill.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(copy.checkpoint)
    checkpoint["state_dict"]["bbox_head.retina_reg.bias"][0] += 1e-3
    torch.save({"state_dict": checkpoint["state_dict"]}, copy.checkpoint)
    before = contents(copy.cache)
    status = call(cache_teacher, "--config", copy.config("distill"), "--workers", 0)
    expect_refusal(capfd, status, "teacher.weights_sha256 is")
    assert contents(copy.cache) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param("undecodable", "cannot be decoded", id="undecodable-image"),
        pytest.param("few-fields", "line 1: 3 fields, at least 9 needed", id="too-few-fields"),
        pytest.param("unknown-class", "unknown class 'zeppelin'", id="unknown-class"),
        pytest.param("no-label", "does not exist; every image needs one", id="missing-label"),
        pytest.param("no-images", "images does not exist", id="missing-folder"),
    ],
)
def test_unusable_patches_are_refused(copy: Project, capfd, damage: str, message: str) -> None:
    image, label = patch_files(copy)
    if damage == "undecodable":
        image.write_bytes(b"not an image")
    elif damage == "few-fields":
        label.write_text("1 2 3\n")
    elif damage == "unknown-class":
        label.write_text("10 10 30 10 30 30 10 30 zeppelin 0\n")
    elif damage == "no-label":
        label.unlink()
    else:
        shutil.rmtree(image.parent)
    status = call(
        cache_teacher, "--config", copy.config("distill"), "--cache", copy.folder / "new.zarr", "--workers", 0
    )
    expect_refusal(capfd, status, message)
    assert not (copy.folder / "new.zarr").exists()


def test_a_patch_without_objects_is_legal(copy: Project) -> None:
    """With the filter off it is a view of zero rows, and a student trains on it."""
    _, label = patch_files(copy)
    label.write_text("")
    options = ["--cfg-options", "train_dataloader.dataset.filter_cfg.filter_empty_gt=False"]
    cache = copy.folder / "new.zarr"
    assert call(cache_teacher, "--config", copy.config("distill"), "--cache", cache, "--workers", 0, *options) == 0
    assert len(CacheReader(cache).read(label.stem, "vertical")) == 0
    assert call(distill, "--config", copy.config("distill"), "--cache", cache, *options) == 0


def test_a_checkpoint_without_a_distribution_head_is_refused(copy: Project, capfd) -> None:
    import torch

    from distill.checkpoint import load_checkpoint

    state = load_checkpoint(copy.checkpoint)["state_dict"]
    state["bbox_head.retina_reg.weight"] = state["bbox_head.retina_reg.weight"][:45]
    torch.save({"state_dict": state}, copy.checkpoint)
    status = call(cache_teacher, "--config", copy.config("distill"), "--workers", 0)
    expect_refusal(capfd, status, "405 box channels expected, 45 found")


def test_a_cache_path_that_is_something_else_is_left_alone(project: Project, tmp_path, capfd) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text.txt").write_text("mine")
    status = call(cache_teacher, "--config", project.config("distill"), "--cache", tmp_path / "notes", "--workers", 0)
    expect_refusal(capfd, status, "is not a teacher cache")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["text.txt"]


@pytest.mark.parametrize("command", [plan, cache_teacher, distill, evaluate], ids=lambda module: module.__name__)
def test_a_missing_config_is_named(command, capfd) -> None:
    needed = ["--checkpoint", "c.pth"] if command is evaluate else []
    expect_refusal(capfd, call(command, "--config", "absent.py", *needed), "config absent.py does not exist")
