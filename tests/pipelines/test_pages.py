"""The pages on own configs and on using a student, run as they are printed: on made-up images, with narrow models."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distill.checkpoint import load_checkpoint
from distill.dota import DOTA_CLASSES
from pipelines import config, distill, evaluate, publish, train
from pipelines.base.command import run_command
from pipelines.scenes.scene import write_scenes
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call
from tests.pipelines.test_cures import argv_of

# What makes each of the page's configs small enough; everything else is as printed.
SMALL = """
patch_size = 128
patch_overlap = 32
scenes = None
model = dict(
    backbone=dict(base_channels=8, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels={channels}, out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
"""
CHANNELS = {"teacher": [8, 16, 32, 64], "plain": [32, 64, 128, 256]}


def page(name: str) -> str:
    return (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8")


def printed_configs() -> list[tuple[str, str]]:
    """Name and text of the page's files."""
    found = re.findall(r"`(my/\w+\.py)`[^\n]*:\n\n```python\n(.*?)```", page("your-own"), flags=re.DOTALL)
    assert [name for name, _ in found] == ["my/teacher.py", "my/plain.py", "my/distill.py"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder like the repository's, with the page's configs and images in DOTA's layout, all fifteen classes."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "my").mkdir()
    for name, text in printed_configs():
        (tmp_path / name).write_text(text.replace("epoch_24", "epoch_1"))
    for name, channels in CHANNELS.items():
        # A layer between the page's config and the project's.
        own = tmp_path / f"my/{name}.py"
        (base,) = re.findall(r'_base_ = \["(.*?)"\]', own.read_text())
        small = f'_base_ = ["../{base.removeprefix("../")}"]\n{SMALL.format(channels=channels)}'
        (tmp_path / f"my/small_{name}.py").write_text(small)
        text = own.read_text().replace(base, f"./small_{name}.py")
        # Its backbone stays, but for its width and the weights that would be downloaded.
        text = re.sub(r"    backbone=dict\(depth=50, .*\n    neck=.*\n", "    backbone=dict(depth=50),\n", text)
        own.write_text(text)
    for split, seed in (("train", 0), ("val", 1)):
        write_scenes(tmp_path / "DOTA" / split, 4, seed=seed, sizes=[(200, 160)], classes=DOTA_CLASSES, scale=0.5)
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("make ")]


@pytest.mark.parametrize("name", ["teacher", "plain", "distill"])
def test_the_configs_are_usable_as_printed(tmp_path: Path, monkeypatch, name: str, capfd) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "my").mkdir()
    for path, text in printed_configs():
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert call(config, "--config", f"my/{name}.py") == 0
    out, err = capfd.readouterr()
    assert "3 classes; nothing is wrong with it" in err
    assert "depth=50" in out if name != "teacher" else "depth=34" in out


@pytest.mark.slow
def test_own_data_classes_backbone_and_teacher(folder: Path, capfd) -> None:
    lines = commands(page("your-own"))
    assert [line.split()[1] for line in lines] == [
        *("config", "data", "teacher", "plan", "cache-teacher", "distill", "train", "evaluate", "distill")
    ]
    more = {"data": ["--workers", "1"], "plan": ["--loaders", "0"], "cache-teacher": ["--loaders", "0"]}
    for line in lines:
        if "renamed.zarr" in line:
            Path("caches/three.zarr").rename("caches/renamed.zarr")
            Path("data/three").rename("moved")
        line = line.replace("epoch_24", "epoch_1").replace("epoch_12", "epoch_1")
        line = line.replace("~/DOTA", f"{folder}/DOTA").replace("/data/three/", f"{folder}/moved/")
        command, argv = argv_of(line)
        module = importlib.import_module(f"pipelines.{command}")
        arguments = [*argv, *more.get(line.split()[1], [])]
        assert run_command(module.main, module.make_parser(), arguments) == 0, line
        if command == "config":
            said = capfd.readouterr().err
            assert "my/distill.py: a student with a cache, 3 classes; nothing is wrong with it" in said
    run = json.loads(Path("work_dirs/three_moved/run.json").read_text())
    assert run["kind"] == "cached"
    assert run["cache"]["path"] == "caches/renamed.zarr"
    state = load_checkpoint("work_dirs/three_distill/epoch_1.pth")["state_dict"]
    # Three classes, nine anchors a cell; and a backbone of 50 layers.
    assert state["bbox_head.retina_cls.bias"].shape == (27,)
    assert "backbone.layer1.0.conv3.weight" in state


@pytest.mark.slow
def test_a_published_student_in_mmdet_s_own_call(project: Project, tmp_path: Path, capfd) -> None:
    """Its cache is elsewhere by then."""
    work = tmp_path / "work_dirs/demo_distill"
    cache = shutil.copytree(project.cache, tmp_path / "cache.zarr")
    assert call(distill, "--config", project.config("distill"), "--cache", cache, "--work-dir", work) == 0
    shutil.rmtree(cache)
    lines = commands(page("use-a-student"))
    assert [line.split()[1] for line in lines] == ["publish", "evaluate"]
    assert call(publish, "--checkpoint", work / "iter_4.pth") == 0
    assert call(evaluate, "--checkpoint", work / "iter_4.pth") == 0
    (published,) = work.glob("demo_distill_iter_4-*.pth")
    picture = min((project.folder / "data/val/images").iterdir())
    (program,) = re.findall(r"```python\n(.*?)```", page("use-a-student"), flags=re.DOTALL)
    program = program.replace("work_dirs/demo_distill/demo_distill_iter_200-1a2b3c4d.pth", str(published))
    program = program.replace("data/demo/val/images/S0000__128__0___0.png", str(picture))
    program += "\nprint(result.bboxes.shape[1], result.scores.shape == result.labels.shape, detector.dataset_meta)\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("5 True {'classes': ('ship', 'plane', 'harbor')")


@pytest.mark.slow
def test_a_teacher_is_warmed_up_from_a_plain_checkpoint(project: Project, tmp_path: Path, capfd) -> None:
    """Layers of another shape start from scratch, as the page says; the others are the file's."""
    checkpoint = load_checkpoint(project.checkpoint)
    state = checkpoint["state_dict"]
    for name in ("weight", "bias"):
        # 9 anchors x 5 parameters, without bins.
        state[f"bbox_head.retina_reg.{name}"] = state[f"bbox_head.retina_reg.{name}"][:45].clone()
    state["backbone.conv1.weight"] += 1.0
    torch.save({"state_dict": state}, tmp_path / "plain.pth")
    options = ["--cfg-options", f"load_from={tmp_path}/plain.pth", "train_cfg.max_iters=1"]
    options.append("optim_wrapper.optimizer.lr=0.0")
    assert call(train, "--config", project.config("teacher"), "--work-dir", tmp_path / "run", *options) == 0
    trained = load_checkpoint(tmp_path / "run/iter_1.pth")["state_dict"]
    assert torch.equal(trained["backbone.conv1.weight"], state["backbone.conv1.weight"])
    assert trained["bbox_head.retina_reg.bias"].shape == (405,)
