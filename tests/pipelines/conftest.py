"""The whole path once, tiny: three classes, 96 px patches, two levels, on one CPU thread."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mmengine.runner.runner
import pytest
from yapf.yapflib import yapf_api

from pipelines import cache_teacher, data, teacher
from pipelines.base.command import run_command
from tests.conftest import REPOSITORY

CONFIG = """
_base_ = ["{base}"]

data_root = "{folder}/data/"
classes = ("ship", "plane", "harbor")
patch_size = 96
patch_overlap = 32
scenes = dict(train=6, val=3, image_size=(160, 96), scale=0.45, seed=3)
model = dict(
    backbone=dict(depth=18, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, start_level=2, num_outs=2),
    bbox_head=dict(
        in_channels=16, feat_channels=16, anchor_generator=dict(octave_base_scale=1, strides=[16, 32])
    ),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0)
train_cfg = dict(max_iters=4)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
work_dir = "{folder}/{name}"
"""
STUDENT = """
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher/iter_4.pth")
cache = "{folder}/cache.zarr"
codec = "exact"
"""


@dataclass(frozen=True)
class Project:
    """A tiny project with data, a trained teacher and its cache."""

    folder: Path

    def config(self, name: str) -> str:
        return str(self.folder / f"{name}.py")

    @property
    def cache(self) -> Path:
        return self.folder / "cache.zarr"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "teacher/iter_4.pth"


def write_config(folder: Path, name: str) -> None:
    base = REPOSITORY / f"configs/demo/{name}.py"
    text = CONFIG.format(base=base, folder=folder, name=name)
    if name == "distill":
        text += STUDENT.format(folder=folder)
    (folder / f"{name}.py").write_text(text)


def call(command: ModuleType, *argv: Any) -> int:
    """Run a command in this process as the shell would."""
    return run_command(command.main, command.make_parser(), [str(argument) for argument in argv])


@pytest.fixture(scope="session", autouse=True)
def quick_starts() -> Iterator[None]:
    """Spare tiny runs most of their time: mmengine formats a run's config five times over, and makes collections walk
    through all that OpenMMLab has imported.

    Several runs then start in one second, after which mmengine names them: each gets a second of its own.
    """
    format_code, formatted = yapf_api.FormatCode, {}
    last = 0

    def format_once(text: str, **options: Any) -> Any:
        key = text, str(options)
        if key not in formatted:
            formatted[key] = format_code(text, **options)
        return formatted[key]

    def own_second() -> float:
        nonlocal last
        last = max(last + 1, int(time.time()))
        return float(last)

    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, "FormatCode", format_once)
        clock = SimpleNamespace(time=own_second, localtime=time.localtime, strftime=time.strftime)
        patch.setattr(mmengine.runner.runner, "time", clock)
        yield


@pytest.fixture(scope="session")
def make_project(tmp_path_factory) -> Callable[[], Project]:
    """Make a project with data and configs, nothing trained."""

    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        for name in ("teacher", "plain", "distill", "live"):
            write_config(folder, name)
        return Project(folder)

    return make


@pytest.fixture(scope="session")
def project(make_project) -> Project:
    """The project, captured. Tests must not change it."""
    made = make_project()
    assert call(data, "--config", made.config("teacher"), "--workers", 1) == 0
    assert call(teacher, "--config", made.config("teacher")) == 0
    assert call(cache_teacher, "--config", made.config("distill"), "--loaders", 0) == 0
    return made


@pytest.fixture
def copy(project: Project, tmp_path) -> Project:
    """A copy of the project that a test may damage."""
    folder = tmp_path / "copy"
    shutil.copytree(project.folder, folder)
    for config in folder.glob("*.py"):
        config.write_text(config.read_text().replace(str(project.folder), str(folder)))
    return Project(folder)
