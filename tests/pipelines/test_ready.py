"""What commands look at before they begin: paths before torch, configs that are found, and one line about the cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cache.reader import CacheReader
from distill.checkpoint import load_checkpoint
from pipelines import cache_teacher, data, distill, evaluate, inspect_cache, publish, teacher, train
from pipelines.base.config_files import config_of_run
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call

PROGRAM = """
import importlib, json, sys
from pipelines.base.command import run_command
for name, *argv in json.loads(sys.argv[1]):
    module = importlib.import_module(f"pipelines.{name}")
    assert run_command(module.main, module.make_parser(), argv) == 1, (name, argv)
print(*sorted({"torch", "mmdet", "mmrotate"} & {*sys.modules}))
"""


def last_error(capfd) -> str:
    return capfd.readouterr().err.splitlines()[-1]


def test_what_is_not_there_is_said_before_torch_is_imported(make_project) -> None:
    """Configs, images, teachers, checkpoints, stores, folders that cannot be written."""
    project = make_project()
    config = project.config
    cached, live = config("distill"), config("live")
    cases = [
        (["teacher", "--config", cached], "is the config of a student with a cache. TEACHER= is needed: make teacher"),
        (["train", "--config", cached], f"It is trained by: make distill CONFIG={cached}"),
        (["distill", "--config", live], f"It is trained by: make train CONFIG={live}"),
        (
            ["distill", "--config", cached],
            f"no training images at {project.folder}/data/train/images. Moved? make distill CONFIG=",
        ),
        (["train", "--config", config("plain"), "--work-dir", "/proc/x"], "WORK_DIR /proc/x cannot be written"),
        (["plan", "--config", cached], f"make data CONFIG={cached}"),
        (["cache_teacher", "--config", cached], f"make data CONFIG={cached}"),
        (["plan", "--config", config("plain")], "has no `region`; give a config of configs/distill"),
        (["evaluate", "--checkpoint", "absent.pth"], "CHECKPOINT absent.pth does not exist"),
        (["evaluate", "--checkpoint", cached, "--config", cached], "no validation images at"),
        (["distill", "--config", str(Path(cached).with_name("distil.py"))], f"Did you mean {cached}?"),
        (["evaluate", "--checkpoint", cached], "holds 4 configs (distill.py, live.py, plain.py, teacher.py)"),
        (["publish", "--checkpoint", "absent.pth"], "CHECKPOINT absent.pth does not exist"),
        (["publish", "--checkpoint", cached, "--out", "/proc/x/a.pth"], "--out /proc/x cannot be written"),
        (["inspect_cache", "--cache", "absent.zarr"], "cache absent.zarr does not exist"),
        (["verify_cache", "--cache", "absent.zarr"], "CONFIG='<the config of its students>' CACHE=absent.zarr"),
        (["inspect_cache", "--cache", str(project.folder)], "is not a teacher cache (no zarr.json)"),
        (["compare", "--config", cached, "--checkpoint", "absent.pth"], "CHECKPOINT absent.pth does not exist"),
        (["compare", "--config", "absent.py"], "config absent.py does not exist"),
        (["sweep", "--sweep", "absent.py"], "config absent.py does not exist"),
        (["sweep", "--sweep", cached, "--cache", "absent.zarr"], "cache absent.zarr does not exist"),
        (["report", "--work-dir", "absent"], "WORK_DIR absent is no folder that exists"),
        (["fetch_cache", "--cache", "caches/x.zarr", "--to", "y"], "is a folder of this machine"),
    ]
    lines = json.dumps([argv for argv, _ in cases])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, lines], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    errors = ran.stderr.splitlines()
    assert len(errors) == len(cases)
    for error, (argv, said) in zip(errors, cases, strict=True):
        assert error.startswith("error: "), argv
        assert said in error, argv
    assert ran.stdout.strip() == ""


def test_images_to_validate_on_are_asked_for_before_a_training_begins(make_project, capfd) -> None:
    project = make_project()
    (project.folder / "data/train/images").mkdir(parents=True)
    assert call(distill, "--config", project.config("distill")) == 1
    assert f"no validation images at {project.folder}/data/val/images. Moved? make distill " in last_error(capfd)


@pytest.fixture(scope="module")
def run(project: Project, tmp_path_factory) -> Path:
    """A finished training, with its evaluation."""
    folder = tmp_path_factory.mktemp("run") / "student"
    assert call(distill, "--config", project.config("distill"), "--work-dir", folder) == 0
    return folder


def test_a_checkpoint_brings_its_config(project: Project, run: Path, capfd) -> None:
    assert call(evaluate, "--checkpoint", run / "iter_4.pth", "--json") == 0
    alone = json.loads(capfd.readouterr().out)
    config = ["--config", project.config("distill")]
    assert call(evaluate, *config, "--checkpoint", run / "iter_4.pth", "--json") == 0
    assert alone == json.loads(capfd.readouterr().out)
    assert call(inspect_cache, "--checkpoint", run / "iter_4.pth", "--out", run / "inspect", "--json") == 0
    assert json.loads(capfd.readouterr().out)["student"]["checkpoint"] == str(run / "iter_4.pth")
    assert call(publish, "--checkpoint", run / "iter_4.pth") == 0
    (published,) = run.glob("student_iter_4-*.pth")
    assert capfd.readouterr().out.startswith(f"{published}: weights, classes and config, ")
    assert call(evaluate, "--checkpoint", published, "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == alone
    assert "next: make publish" not in err


def test_weights_of_another_config_are_one_line(project: Project, run: Path, tmp_path, capfd) -> None:
    wide = tmp_path / "wide.py"
    text = (run / "distill.py").read_text()
    wide.write_text(
        text.replace("base_channels=8", "base_channels=16").replace("in_channels=[", "in_channels=[2 * 0 + ")
    )
    wide.write_text(f"_base_ = [{project.config('distill')!r}]\nmodel = dict(bbox_head=dict(reg_max=6))\n")
    assert call(evaluate, "--config", wide, "--checkpoint", run / "iter_4.pth") == 1
    error = last_error(capfd)
    assert "does not fit its config: bbox_head." in error
    assert "Give the config that it was trained with (CONFIG=)" in error


def test_a_config_that_is_found_holds_values_alone(run: Path, tmp_path, capfd) -> None:
    """The folder of a checkpoint may come from anywhere: what lies there is read, and never run."""
    for number, (name, text) in enumerate(
        {
            "call": "import os\nos.system('false')\n",
            "expression": "data_root = open('/etc/hostname').read()\n",
            "base": "_base_ = ['./evil.py']\n",
            "comprehension": "classes = [name for name in 'ab']\n",
            "broken": "model = dict(\n",
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(run / "iter_4.pth", folder)
        (folder / f"{name}.py").write_text(text)
        assert call(evaluate, "--checkpoint", folder / "iter_4.pth") == 1
        assert "it would be run, not read. Give it: make evaluate CONFIG='<its config>'" in last_error(capfd)
    assert config_of_run(run) == str(run / "distill.py")


@pytest.mark.slow
def test_a_training_goes_on_from_its_folder(project: Project, tmp_path, capfd) -> None:
    folder = tmp_path / "student"
    options = ["--cfg-options", "train_cfg.max_iters=2", "default_hooks.checkpoint.interval=1"]
    assert call(distill, "--config", project.config("distill"), "--work-dir", folder, *options) == 0
    # The config of the run, its options included, lies in its folder.
    assert call(distill, "--work-dir", folder, "--resume", "--cfg-options", "train_cfg.max_iters=4") == 0
    found = json.loads((folder / "run.json").read_text())
    assert (found["steps"], found["resumed_at"]) == (4, 2)


@pytest.mark.slow
def test_a_finished_training_is_neither_overwritten_nor_recorded_anew(project: Project, run: Path, capfd) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    student = ["--config", project.config("distill"), "--work-dir", run]
    assert call(distill, *student) == 1
    assert last_error(capfd) == (
        f"error: WORK_DIR {run} holds a training already (up to iter_4.pth), which a new one would overwrite. "
        f"Go on with it: make distill CONFIG={student[1]} WORK_DIR={run} RESUME=1; or train elsewhere: "
        f"make distill CONFIG={student[1]} WORK_DIR={run}-2"
    )
    assert call(distill, "--work-dir", run, "--resume") == 0
    said = capfd.readouterr().err.splitlines()
    assert f"{run} holds this training, finished: nothing is left to do" in said
    assert said[-1].startswith(f"next: make evaluate CHECKPOINT={run}/iter_4.pth ")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before


def test_a_resumed_training_without_a_checkpoint_begins(project: Project, tmp_path, capfd) -> None:
    folder = tmp_path / "student"
    assert call(distill, "--config", project.config("distill"), "--work-dir", folder, "--resume") == 0
    assert f"warning: {folder} holds no checkpoint yet: the training starts at its beginning" in capfd.readouterr().err
    assert json.loads((folder / "run.json").read_text())["resumed_at"] == 0


@pytest.mark.slow
def test_a_run_says_which_cache_and_which_teacher(copy: Project, tmp_path, capfd) -> None:
    manifest = CacheReader(copy.cache).manifest
    student = ["--config", copy.config("distill"), "--cfg-options", "train_cfg.max_iters=1"]
    assert call(distill, *student, "--work-dir", tmp_path / "one") == 0
    digest = manifest.teacher["weights_sha256"][:12]
    line = (
        f"cache {copy.cache} ({manifest.fingerprint[:12]}): {manifest.plan['num_patches']} patches, "
        f"{manifest.plan['num_views']} views, codec exact; teacher {digest} of {copy.checkpoint}"
    )
    said = capfd.readouterr().err
    assert line in said.splitlines()
    assert "other weights" not in said
    # Trained anew at the same path.
    checkpoint = load_checkpoint(copy.checkpoint)
    checkpoint["state_dict"]["bbox_head.retina_reg.bias"][0] += 1
    torch.save(checkpoint, copy.checkpoint)
    assert call(distill, *student, "--work-dir", tmp_path / "two") == 0
    said = capfd.readouterr().err
    assert f"warning: {copy.checkpoint} has other weights (" in said
    assert f"make cache-teacher CONFIG={copy.config('distill')} CACHE={copy.folder}/cache-2.zarr" in said
    # No more is it the cache's teacher.
    assert f"codec exact; teacher {digest}\n" in said
    # Not there: the cache is all that is needed.
    copy.checkpoint.unlink()
    assert call(distill, *student, "--work-dir", tmp_path / "three") == 0
    assert f"teacher {digest}\n" in capfd.readouterr().err


def test_a_renamed_cache_is_found(copy: Project, tmp_path, capfd) -> None:
    renamed = copy.folder / "renamed.zarr"
    copy.cache.rename(renamed)
    student = ["--config", copy.config("distill"), "--work-dir", tmp_path]
    assert call(distill, *student) == 1
    error = last_error(capfd)
    assert f"cache {copy.cache} does not exist. Moved? This config fits another: make distill CONFIG=" in error
    assert f" CACHE={renamed} WORK_DIR={tmp_path}. Capture it: make cache-teacher " in error
    # One of other classes does not fit.
    three = tmp_path / "two.py"
    three.write_text(f"_base_ = [{copy.config('distill')!r}]\nclasses = ('ship', 'plane')\n")
    assert call(distill, "--config", three, "--work-dir", tmp_path) == 1
    error = last_error(capfd)
    assert "Moved?" not in error
    assert f"Capture it: make cache-teacher CONFIG={three} CACHE={copy.cache}" in error


@pytest.mark.slow
def test_a_missing_teacher_is_trained_by_its_own_command(copy: Project, capfd) -> None:
    copy.checkpoint.unlink()
    shutil.rmtree(copy.cache)
    for command in (cache_teacher, train):
        config = copy.config("distill" if command is cache_teacher else "live")
        teacher_of_live = ["--cfg-options", f"teacher.config={copy.config('teacher')}"]
        teacher_of_live += [f"teacher.checkpoint={copy.checkpoint}"]
        options = teacher_of_live if command is train else []
        assert call(command, "--config", config, *options) == 1
        error = last_error(capfd)
        assert f"the teacher's checkpoint {copy.checkpoint} does not exist. Train one: " in error
        assert f"make teacher TEACHER={copy.config('teacher')}; or name another by TEACHER= (its config)" in error
    assert call(teacher, "--config", copy.config("teacher"), "--work-dir", copy.folder / "teacher") == 0
    assert call(cache_teacher, "--config", copy.config("distill"), "--loaders", 0) == 0


def test_a_damaged_patch_is_made_again(copy: Project, tmp_path, capfd) -> None:
    """By what the message says: the patch deleted, then the command in it."""
    patch = min((copy.folder / "data/train/images").iterdir())
    whole = patch.read_bytes()
    patch.write_bytes(whole[: len(whole) // 2])
    student = ["--config", copy.config("distill"), "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_iters=40"]
    assert call(distill, *student) == 1
    error = last_error(capfd)
    assert f"image {patch} cannot be decoded. Delete it, so that it is made again. Make or check the data: " in error
    assert f"make data CONFIG={copy.config('distill')}" in error
    patch.unlink()
    assert call(data, "--config", copy.config("distill"), "--workers", 1) == 0
    assert patch.read_bytes() == whole
