"""The step benchmark: its rows train what they say, its clock and its interval are right, and it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.timing import project as timed_project
from pipelines.timing.project import made_up_project, make_loader, project_of_config, project_of_patches
from pipelines.timing.ratios import paired_ratio, rank_coverage
from pipelines.timing.rows import ROWS, Student
from pipelines.timing.stages import STAGES, StageClock
from pipelines.timing.steps import peak_memory
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project


def test_rows_differ_in_the_teacher_alone(project: Project, monkeypatch) -> None:
    """One batch, one seed: the same detection losses in all rows, the same distillation losses in the distilled."""
    config = project_of_config(project.config("distill"), None, None).config
    batch = next(iter(make_loader(config, (), 2, 0, seed=0)))
    losses = {}
    for row in ROWS:
        student = Student(row, config, torch.device("cpu"), seed=0)
        seen = student.see(batch)
        assert ("targets" in seen) == (not row.name.startswith("plain"))
        if "targets" in seen:
            assert (seen["targets"].answers is None) == (row.name == "live")
            assert (seen["targets"].assigned is not None) == (row.name == "cached_planned")
        losses[row.name] = {
            name: float(value) for name, value in student.model.train_step(seen, student.optim_wrapper).items()
        }
    assert set(losses["plain"]) == {"loss", "loss_cls", "loss_bbox"}
    for name in ("cached", "cached_planned", "live"):
        assert losses[name]["loss_ld"] > 0
        assert losses[name] == pytest.approx(losses["cached"], rel=1e-5)
    for name in losses:
        assert losses[name]["loss_cls"] == losses["plain"]["loss_cls"]
        assert losses[name]["loss_bbox"] == pytest.approx(losses["plain"]["loss_bbox"], rel=1e-6)


class FakeDevice:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waits = 0

    def work(self, seconds: float) -> None:
        self.time += seconds

    def synchronize(self) -> None:
        self.waits += 1


def test_an_inner_stage_is_taken_off_the_outer_one() -> None:
    device = FakeDevice()
    clock = StageClock(device.synchronize, lambda: device.time)
    with clock.stage("outer"):
        device.work(1)
        with clock.stage("inner"):
            device.work(10)
            with clock.stage("innermost"):
                device.work(100)
        with clock.stage("inner"):
            device.work(20)
        device.work(2)
    assert clock.take() == {"outer": 3, "inner": 30, "innermost": 100}
    assert clock.take() == {}
    assert device.waits == 8


def test_a_stage_of_another_thread_is_inside_none() -> None:
    """As a capture encodes beside its teacher: what overlaps counts twice, and is taken off nothing."""
    now = [0.0]
    clock = StageClock(lambda: None, lambda: now[0])
    began, done = threading.Event(), threading.Event()

    def encode() -> None:
        with clock.stage("encoding"):
            began.set()
            done.wait()

    beside = threading.Thread(target=encode)
    with clock.stage("teacher"):
        beside.start()
        began.wait()
        now[0] = 10.0
        done.set()
        beside.join()
        now[0] = 13.0
    assert clock.take() == {"encoding": 10, "teacher": 13}


def test_a_watched_function_is_put_back() -> None:
    device = FakeDevice()
    clock = StageClock(device.synchronize, lambda: device.time)
    clock.watch(device, "work", "work")
    device.work(5)
    assert clock.take() == {"work": 5}
    clock.enabled = False
    device.work(5)
    assert clock.take() == {}
    clock.close()
    assert "work" not in vars(device)


@pytest.mark.parametrize(
    ("pairs", "outside", "coverage"), [(3, 0, 0.75), (5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609), (20, 5, 0.9586)]
)
def test_the_interval_is_that_of_the_sign_test(pairs: int, outside: int, coverage: float) -> None:
    """The ranks that tables of the median's confidence interval give for 95 %."""
    baseline = np.random.default_rng(0).uniform(1, 2, pairs)
    ratios = 1 + np.random.default_rng(1).permutation(pairs) / 10
    found = paired_ratio(ratios * baseline, baseline)
    assert found["low"] == pytest.approx(1 + outside / 10)
    assert found["high"] == pytest.approx(1 + (pairs - 1 - outside) / 10)
    assert found["median"] == pytest.approx(np.median(ratios))
    assert found["coverage"] == rank_coverage(pairs, outside) == pytest.approx(coverage, abs=1e-4)


@pytest.mark.slow
def test_the_benchmark_runs_on_a_configs_cache(project: Project, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.step", "--config", project.config("distill"), "--json", "--no-memory"]
    options = ["--pairs", "2", "--warmup", "1", "--loader-steps", "2", "--out", str(tmp_path / "steps.png")]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["run"]["image_shape"] == [96, 96]
    assert set(figures["rows"]) == {row.name for row in ROWS}
    for name, row in figures["rows"].items():
        assert len(row["seconds"]) == 2
        assert set(row["stages"]) == set(STAGES)
        used = {stage for stage, seconds in row["stages"].items() if seconds}
        assert ("teacher" in used) is name.startswith("live")
        assert ("distillation" in used) is not name.startswith("plain")
        assert used >= {"data", "preprocessing", "forward", "assignment", "detection losses", "backward", "optimizer"}
        assert ("loader" in row) is (name in ("plain", "cached", "cached_planned"))
    assert Image.open(tmp_path / "steps.png").width > 500


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(project: Project) -> None:
    """Which does not see the two gigabytes that this one takes up beside."""
    config = project_of_config(project.config("distill"), None, None).config
    batch = next(iter(make_loader(config, (), 2, 0, seed=0)))
    ballast = np.ones(2**31, dtype=np.uint8)
    cached = next(row for row in ROWS if row.name == "cached")
    found = peak_memory(cached, config, torch.device("cpu"), [batch])
    assert 2**27 < found["before_first_step"] <= found["peak"] < ballast.nbytes


@pytest.mark.parametrize("source", ["scenes", "patches"])
def test_a_project_is_made_up(source: str, project: Project, tmp_path, monkeypatch) -> None:
    """A complete cache that the student's pipeline reads."""
    if source == "scenes":
        made = made_up_project(tmp_path, "narrow", 128, 1, 0, None)
    else:
        monkeypatch.setitem(timed_project.MODEL_CONFIGS, "narrow", project.config("distill"))
        made = project_of_patches(tmp_path, "narrow", project.folder / "data", 3, 0, None)
    loader = make_loader(made.config, (), 1, 0, seed=0)
    assert len(loader.dataset) == (1 if source == "scenes" else 3)
    assert next(iter(loader))["targets"].region.sizes.sum() > 0
    assert Path(made.config.cache).parent == tmp_path
