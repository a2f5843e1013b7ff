"""From scenes to an evaluated student, with classes, patch size and strides from the config alone."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache.reader import CacheReader
from cache.writer import CacheWriter
from distill.teacher import FrozenTeacher
from pipelines import cache_teacher, distill, evaluate, plan
from pipelines.base.experiment import load_config
from pipelines.capture import capture, engine
from pipelines.training import evaluation
from tests.cache.store_tools import contents
from tests.pipelines.conftest import Project, call


def last_losses(folder) -> list[dict]:
    """The training log's lines of the newest run."""
    log = max(folder.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_cache_holds_every_view(project: Project) -> None:
    reader = CacheReader(project.cache)
    reader.require_complete()
    assert reader.manifest.head["classes"] == ["ship", "plane", "harbor"]
    assert reader.manifest.head["grid"]["strides"] == [16, 32]
    assert reader.plan.view_shape.tolist() == [[96, 96]] * reader.plan.num_views
    assert reader.plan.num_views == 4 * len(reader.plan.patch_ids)
    record = reader.read(reader.plan.patch_ids[0], "diagonal")
    assert len(record) > 0
    assert record.cls_logits.shape == (len(record), 3)
    np.testing.assert_array_equal(record.box_logits.max(axis=-1), 0)


def test_plan_prints_what_the_capture_stored(project: Project, capfd) -> None:
    assert call(plan, "--config", project.config("distill"), "--json", "--loaders", 0) == 0
    figures = json.loads(capfd.readouterr().out)
    stored = CacheReader(project.cache).manifest.plan
    assert (figures["views"], figures["rows"]) == (stored["num_views"], stored["num_priors"])


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
    figures = evaluation.evaluate(config, tmp_path / "iter_4.pth", tmp_path / "detections")
    assert 0 <= figures["AP50"] <= 1
    assert (tmp_path / "detections/Task1_harbor.txt").is_file()


def test_a_second_student_reads_the_same_cache(project: Project, tmp_path) -> None:
    before = contents(project.cache)
    options = [
        "distillation.loss_ld.temperature=2.0",
        "distillation.loss_ld.loss_weight=1.0",
        "distillation.loss_kd.temperature=10.0",
    ]
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path, "--cfg-options", *options]
    assert call(distill, *arguments) == 0
    assert len(last_losses(tmp_path)) == 4
    assert contents(project.cache) == before


def test_a_second_capture_changes_nothing(project: Project) -> None:
    before = contents(project.cache)
    assert call(cache_teacher, "--config", project.config("distill"), "--loaders", 0) == 0
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
    assert call(cache_teacher, "--config", copy.config("distill"), "--loaders", 0) == 0
    assert contents(copy.cache) == whole


DISTILL_REFUSALS = [
    pytest.param(["cache=absent.zarr"], "absent.zarr does not exist.*make cache-teacher", id="no-cache"),
    pytest.param(["region.factor=0.2"], "region.factor is 0.25 in the cache but 0.2 here", id="larger-region"),
    pytest.param(["region.topk=5", "region.factor=0.5"], "region.factor is 0.25 in the", id="region-rule"),
    pytest.param(["region.box_form=hbb"], 'region.box_form is "legacy_oc" in the cache but "hbb"', id="region-boxes"),
    pytest.param(
        ["model.bbox_head.bbox_coder.angle_version=le90"],
        'head.coder_angle is "oc" in the cache but "le90" here',
        id="angle-convention",
    ),
    pytest.param(
        ["model.bbox_head.anchor_generator.angle_version=le135"],
        'head.anchor_angle is null in the cache but "le135" here',
        id="anchor-angle",
    ),
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
        ["model.data_preprocessor.pad_value=114"], "data_preprocessor.pad_value is 114; 0 is needed", id="padding"
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


def test_a_random_transform_is_refused_before_training(project: Project, tmp_path, capfd) -> None:
    config = load_config(project.config("distill"))
    config.train_dataloader.dataset.pipeline.insert(3, {"type": "mmdet.PhotoMetricDistortion"})
    config.dump(tmp_path / "distorted.py")
    assert call(distill, "--config", tmp_path / "distorted.py", "--work-dir", tmp_path / "run") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "transform mmdet.PhotoMetricDistortion has outcomes that cannot be enumerated" in error
    assert not (tmp_path / "run").exists()


def refusal(capfd, status: int) -> str:
    assert status == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def expect_refusal(capfd, status: int, message: str) -> None:
    assert message in refusal(capfd, status)


@pytest.mark.slow
def test_more_flips_than_were_captured_are_refused(copy: Project, capfd) -> None:
    cache = copy.folder / "two.zarr"
    flip = "train_dataloader.dataset.pipeline.3"
    two = ["--cfg-options", f"{flip}.direction=['horizontal']", f"{flip}.prob=[0.5]"]
    assert call(cache_teacher, "--config", copy.config("distill"), "--cache", cache, "--loaders", 0, *two) == 0
    assert CacheReader(cache).manifest.views["draws"] == ["none", "horizontal"]
    status = call(distill, "--config", copy.config("distill"), "--cache", cache)
    expect_refusal(capfd, status, 'views.draws is ["none", "horizontal"] in the cache but ["none", "horizontal", "ver')
    assert call(distill, "--config", copy.config("distill"), "--cache", cache, *two) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--dtype", "bfloat16"], 'numeric.dtype is "float32" in the cache but "bfloat16"', id="dtype"),
        pytest.param(["--channels-last"], "--channels-last --no-channels-last'; or capture", id="channels last"),
        pytest.param(["--cfg-options", "codec=half"], "codec.preset is 'exact' in the cache but 'half'", id="codec"),
        pytest.param(["--cfg-options", "region.topk=5"], "region.topk is 9 in the cache but 5", id="region"),
    ],
)
def test_another_capture_is_not_mixed_in(project: Project, capfd, options, message: str) -> None:
    before = contents(project.cache)
    expect_refusal(capfd, call(cache_teacher, "--config", project.config("distill"), "--loaders", 0, *options), message)
    assert contents(project.cache) == before


@pytest.mark.parametrize(
    ("option", "others", "stored", "problem"),
    [
        pytest.param("--threads", 2, 1, "numeric.threads is 1 in the cache but 2 here", id="threads"),
        pytest.param("--patches-per-batch", 3, 1, "numeric.patches_per_batch is 1 in the cache but 3 here", id="batch"),
    ],
)
def test_another_machine_is_told_how_to_continue(project: Project, capfd, option, others, stored, problem) -> None:
    threads = torch.get_num_threads()
    capture = ("--config", project.config("distill"), "--loaders", 0, option)
    try:
        refused = call(cache_teacher, *capture, others)
        said = refusal(capfd, refused)
        assert f"{problem}. Continue it: make cache-teacher CONFIG={project.config('distill')} ARGS=" in said
        assert f"{option} {others} {option} {stored}'; or capture into another path: make cache-teacher" in said
        assert call(cache_teacher, *capture, stored) == 0
    finally:
        torch.set_num_threads(threads)


def test_a_format_of_another_number_is_refused(copy: Project, capfd) -> None:
    document = copy.cache / "zarr.json"
    stored = json.loads(document.read_text())
    stored["attributes"]["format"] = 1
    document.write_text(json.dumps(stored))
    for command in (distill, cache_teacher):
        expect_refusal(
            capfd, call(command, "--config", copy.config("distill")), "format is 1 but this code reads format"
        )


@pytest.mark.slow
def test_what_a_user_allows_is_written_down(copy: Project, tmp_path, capfd) -> None:
    """Allowed differences train, are said, and stand in the run's record; nothing else becomes allowed."""
    image, label = patch_files(copy)
    image.write_bytes(image.read_bytes() + b"\0")
    label.write_text(label.read_text() + "10 10 30 10 30 30 10 30 ship 0\n")
    arguments = ["--config", copy.config("distill"), "--work-dir", tmp_path, "--cfg-options", "region.factor=0.2"]
    allow = ["--allow", "label_sha256", "image_sha256"]
    expect_refusal(capfd, call(distill, *arguments, *allow), "region.factor is 0.25")
    assert call(distill, *arguments, *allow, "region.factor") == 0
    said = capfd.readouterr().err
    overrides = json.loads((tmp_path / "run.json").read_text())["overrides"]
    assert len(overrides) == 3
    for override, field in zip(
        overrides, ("region.factor is 0.25", "label_sha256 of patch", "image_sha256 is not"), strict=True
    ):
        assert field in override
        assert f"warning: {override}; allowed by --allow" in said
    arguments += ["--work-dir", tmp_path / "other"]
    expect_refusal(capfd, call(distill, *arguments, "--allow", "head.classes"), "--allow head.classes: only")


@pytest.mark.slow
def test_a_student_may_read_a_part_of_the_region(project: Project, tmp_path) -> None:
    """A higher threshold picks rows of the store: those, and the weights, of a cache with that region."""
    own = tmp_path / "own.zarr"
    options = ["--cfg-options", "region.factor=1.0"]
    assert call(cache_teacher, "--config", project.config("distill"), "--cache", own, "--loaders", 0, *options) == 0
    losses = {}
    for name, cache in (("part", project.cache), ("own", own)):
        arguments = ["--config", project.config("distill"), "--cache", cache, "--work-dir", tmp_path / name, *options]
        assert call(distill, *arguments) == 0
        losses[name] = [(line["loss_ld"], line["loss_kd"]) for line in last_losses(tmp_path / name)]
    assert CacheReader(own).plan.num_priors < CacheReader(project.cache).plan.num_priors
    np.testing.assert_allclose(losses["part"], losses["own"], rtol=1e-6)


@pytest.mark.slow
def test_a_planned_assignment_trains_as_a_computed_one(project: Project, tmp_path) -> None:
    losses = {}
    for planned in (True, False):
        arguments = ["--config", project.config("distill"), "--work-dir", tmp_path / str(planned)]
        assert call(distill, *arguments, "--cfg-options", f"plan_assignment={planned}") == 0
        lines = last_losses(tmp_path / str(planned))
        losses[planned] = [[line[f"loss_{name}"] for name in ("cls", "bbox", "ld", "kd")] for line in lines]
    assert losses[True] == losses[False]


@pytest.mark.slow
def test_an_assignment_that_is_not_stored_is_refused(project: Project, tmp_path, capfd) -> None:
    arguments = ["--config", project.config("distill"), "--cfg-options", "model.train_cfg.assigner.pos_iou_thr=0.6"]
    expect_refusal(capfd, call(distill, *arguments), "assignment.assigner.pos_iou_thr is 0.5 in the cache but 0.6 here")
    border = ["--config", project.config("distill"), "--cfg-options", "model.train_cfg.allowed_border=0"]
    status = call(cache_teacher, *border, "--cache", tmp_path / "new.zarr", "--loaders", 0)
    expect_refusal(capfd, status, "train_cfg.allowed_border is 0; a planned assignment needs -1")
    without = ["--config", project.config("distill"), "--cache", tmp_path / "without.zarr"]
    off = ["--cfg-options", "plan_assignment=False"]
    assert call(cache_teacher, *without, "--loaders", 0, *off) == 0
    assert CacheReader(tmp_path / "without.zarr").manifest.assignment is None
    expect_refusal(capfd, call(distill, *without), "assignment is null in the cache but")
    assert call(distill, *without, *off, "work_dir=" + str(tmp_path / "run")) == 0


@pytest.mark.slow
def test_parts_make_the_cache_of_one_capture(project: Project, tmp_path) -> None:
    """Blocks of two patches, three parts; then the closing figures beside what the probe predicted."""
    parts, whole = tmp_path / "parts.zarr", tmp_path / "whole.zarr"
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--views-per-block", 8, "--cache"]
    for number in (2, 3, 1):
        assert call(cache_teacher, *arguments, parts, "--part", f"{number}/3") == 0
        assert (number == 1) == (not CacheReader(parts).missing_blocks())
    assert call(cache_teacher, *arguments, whole) == 0
    assert CacheReader(whole).plan.num_blocks == 6
    assert contents(parts) == contents(whole)


@pytest.mark.slow
def test_the_probe_predicts_the_size(project: Project, tmp_path, capfd) -> None:
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--json"]
    assert call(plan, *arguments, "--probe", "--students", 100) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["probe"]["views"] == 32
    assert figures["break_even"]["recommendation"] == "cache"
    assert call(plan, *arguments, "--probe", "--cfg-options", "train_cfg.max_iters=1") == 0
    assert json.loads(capfd.readouterr().out)["break_even"]["recommendation"] == "do not cache"
    assert call(cache_teacher, *arguments, "--cache", tmp_path / "new.zarr") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["predicted"]["bytes"] == pytest.approx(figures["probe"]["bytes"], rel=1e-9)
    assert found["bytes"] == pytest.approx(found["predicted"]["bytes"], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param({"step": 1e-6, "wide": 0}, "block 0: coefficient 0 is ", id="range"),
        pytest.param({"step": 0.5}, "at T = 5 but the codec promises 6e-06", id="bound"),
    ],
)
def test_a_block_that_the_codec_does_not_hold_stops_the_capture(
    project: Project, tmp_path, capfd, monkeypatch, changes: dict, refusal: str
) -> None:
    """As if the probe had seen other views than the rest: too fine a step for one byte, or too coarse a one."""
    run_probe = engine.run_probe

    def misled_probe(*arguments):
        found = run_probe(*arguments)
        codec, wide = found.codec, changes.get("wide", found.codec.wide)
        narrow = {"basis": codec.basis[codec.wide - wide :], "variance": codec.variance[codec.wide - wide :]}
        return replace(found, codec=replace(codec, **narrow, **changes))

    monkeypatch.setattr(engine, "run_probe", misled_probe)
    cache = tmp_path / "new.zarr"
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--cache", cache, "--cfg-options"]
    expect_refusal(capfd, call(cache_teacher, *arguments, "codec=default"), refusal)
    assert CacheReader(cache).missing_blocks() == [0]
    expect_refusal(capfd, call(cache_teacher, *arguments, "codec=half"), "codec.preset is 'default' in the cache but")


def test_a_disk_without_room_is_refused_beforehand(project: Project, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    cache = tmp_path / "new.zarr"
    status = call(cache_teacher, "--config", project.config("distill"), "--loaders", 0, "--cache", cache)
    expect_refusal(capfd, status, "by the probe's prediction, cache")
    assert not cache.exists()


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
    status = call(cache_teacher, "--config", copy.config("distill"), "--loaders", 0)
    expect_refusal(capfd, status, "teacher.weights_sha256 is")
    assert contents(copy.cache) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param("undecodable", "cannot be decoded", id="undecodable-image"),
        pytest.param("few-fields", "line 1: 3 fields, at least 9 needed", id="too-few-fields"),
        pytest.param("unknown-class", "unknown class 'zeppelin'", id="unknown-class"),
        pytest.param("no-label", "does not exist; every image needs one", id="missing-label"),
        pytest.param("no-images", "no training images at", id="missing-folder"),
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
        cache_teacher, "--config", copy.config("distill"), "--cache", copy.folder / "new.zarr", "--loaders", 0
    )
    expect_refusal(capfd, status, message)
    assert not (copy.folder / "new.zarr").exists()


@pytest.mark.slow
def test_a_patch_without_objects_is_legal(copy: Project) -> None:
    """With the filter off it is a view of zero rows, and a student trains on it."""
    _, label = patch_files(copy)
    label.write_text("")
    options = ["--cfg-options", "train_dataloader.dataset.filter_cfg.filter_empty_gt=False"]
    cache = copy.folder / "new.zarr"
    assert call(cache_teacher, "--config", copy.config("distill"), "--cache", cache, "--loaders", 0, *options) == 0
    assert len(CacheReader(cache).read(label.stem, "vertical")) == 0
    assert call(distill, "--config", copy.config("distill"), "--cache", cache, *options) == 0


def test_a_checkpoint_without_a_distribution_head_is_refused(copy: Project, capfd) -> None:
    import torch

    from distill.checkpoint import load_checkpoint

    state = load_checkpoint(copy.checkpoint)["state_dict"]
    state["bbox_head.retina_reg.weight"] = state["bbox_head.retina_reg.weight"][:45]
    torch.save({"state_dict": state}, copy.checkpoint)
    status = call(cache_teacher, "--config", copy.config("distill"), "--loaders", 0)
    expect_refusal(capfd, status, "405 box channels expected, 45 found")


def test_a_cache_path_that_is_something_else_is_left_alone(project: Project, tmp_path, capfd) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text.txt").write_text("mine")
    status = call(cache_teacher, "--config", project.config("distill"), "--cache", tmp_path / "notes", "--loaders", 0)
    expect_refusal(capfd, status, "is not a teacher cache")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["text.txt"]


@pytest.mark.parametrize("command", [plan, cache_teacher, distill, evaluate], ids=lambda module: module.__name__)
def test_a_missing_config_is_named(command, capfd) -> None:
    needed = ["--checkpoint", "c.pth"] if command is evaluate else []
    expect_refusal(capfd, call(command, "--config", "absent.py", *needed), "config absent.py does not exist")


def test_blocks_that_end_in_another_order_are_the_same_bytes(project: Project, tmp_path, monkeypatch) -> None:
    """The teacher goes on while blocks are encoded and written: here each block but the last waits for the next."""
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--views-per-block", 8, "--cfg-options"]
    in_turn, overtaken = tmp_path / "in_turn.zarr", tmp_path / "overtaken.zarr"
    monkeypatch.setattr(capture, "BLOCKS_AT_ONCE", 1)
    assert call(cache_teacher, *arguments, "codec=small", "--cache", in_turn) == 0
    monkeypatch.setattr(capture, "BLOCKS_AT_ONCE", 2)
    write, written, order = CacheWriter.write, defaultdict(Event), []

    def after_the_next(writer, block, fields, error):
        if str(writer.location) != str(overtaken):  # the probe's store
            return write(writer, block, fields, error)
        if block % 2 == 0:
            assert written[block + 1].wait(timeout=60)
        size = write(writer, block, fields, error)
        order.append(block)
        written[block].set()
        return size

    monkeypatch.setattr(CacheWriter, "write", after_the_next)
    assert call(cache_teacher, *arguments, "codec=small", "--cache", overtaken) == 0
    assert order == [1, 0, 3, 2, 5, 4]
    assert contents(overtaken) == contents(in_turn)
