"""Several students from one cache: killed and resumed, refused before the first starts, and what comes out."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines import distill, report, sweep
from pipelines.studies.sweep import describe_settings, flatten
from pipelines.studies.sweep_chart import numeric_curves
from pipelines.training.run_record import read_run_record
from tests.pipelines.conftest import Project, call
from tests.pipelines.study_tools import start, trainings, wait_until

LD_ONLY = {"distillation.loss_kd": None}
COOLER = dict(distillation=dict(loss_ld=dict(temperature=2.0)))


def write_sweep(project: Project, folder: Path, runs: dict, **values: object) -> Path:
    file = folder / "tiny.py"
    settings = {"base": project.config("distill"), "runs": runs, "work_dir": str(folder / "runs"), **values}
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return file


@pytest.mark.slow
def test_a_killed_sweep_goes_on(project: Project, tmp_path, capfd) -> None:
    runs = {"both": {}, "ld_only": LD_ONLY, "cooler": COOLER}
    file = write_sweep(project, tmp_path, runs)
    work = tmp_path / "runs"
    process = start("sweep", "--sweep", file)
    wait_until(lambda: trainings(work / "ld_only"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = (work / "both/run.json").read_bytes()
    assert not (work / "ld_only/run.json").exists()
    assert not (work / "cooler").exists()

    assert call(sweep, "--sweep", file, "--json") == 0
    results = json.loads(capfd.readouterr().out)
    assert results["failed"] == {}
    assert [row["name"] for row in results["runs"]] == ["both", "ld_only", "cooler"]
    assert (work / "both/run.json").read_bytes() == before
    assert len(trainings(work / "ld_only")) == 1
    assert {row["cache_fingerprint"] for row in results["runs"]} == {
        read_run_record(work / "both")["cache"]["fingerprint"]
    }

    # What the sweep has trained is what the command by hand trains.
    options = ["--cfg-options", "distillation.loss_kd=None"]
    assert call(distill, "--config", project.config("distill"), "--work-dir", tmp_path / "alone", *options) == 0
    assert read_run_record(tmp_path / "alone")["weights_sha256"] == read_run_record(work / "ld_only")["weights_sha256"]

    with (work / "sweep.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["distillation.loss_ld.temperature"] for row in rows] == ["", "", "2.0"]
    assert [row["distillation.loss_kd"] for row in rows] == ["", "off", ""]
    assert "| ld_only | distillation.loss_kd = off |" in (work / "sweep.md").read_text()
    assert "3 of 3 runs finished" in (work / "sweep.md").read_text()
    assert "<svg" in (work / "sweep.svg").read_text()

    assert call(report, "--work-dir", work, "--no-pictures") == 0
    page = (work / "report.html").read_text()
    assert "distillation.loss_kd = off" in page
    assert "3 of 3" in page


@pytest.mark.slow
def test_a_run_that_outlives_its_sweep_is_waited_for(project: Project, tmp_path) -> None:
    file = write_sweep(project, tmp_path, {"both": {}})
    process = start("sweep", "--sweep", file)
    wait_until(lambda: workers_of(tmp_path), process)
    (worker,) = workers_of(tmp_path)
    # Stands still until the second sweep has noticed it.
    os.kill(worker, signal.SIGSTOP)
    process.kill()
    process.wait()
    said = tmp_path / "said.txt"
    with said.open("w") as errors:
        second = start("sweep", "--sweep", file, stderr=errors)
        wait_until(lambda: "both is being worked on by another process; waiting for it" in said.read_text(), second)
    os.kill(worker, signal.SIGCONT)
    assert second.wait() == 0
    assert len(trainings(tmp_path / "runs/both")) == 1


def workers_of(folder: Path) -> list[int]:
    """Processes that train or evaluate something in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if b"pipelines.studies.worker" in line and str(folder).encode() in line:
                found.append(int(process.name))
    return found


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other(project: Project, tmp_path, capfd) -> None:
    broken = {"optim_wrapper.optimizer.lr": -1.0}
    file = write_sweep(project, tmp_path, {"broken": broken}, baseline=project.config("plain"))
    assert call(sweep, "--sweep", file, "--jobs", 2) == 1
    error = capfd.readouterr().err
    assert "\nsweep failed: broken: " in error
    assert "Invalid learning rate: -1.0" in error
    assert "1 of 2 runs finished" in (tmp_path / "runs/sweep.md").read_text()
    # Mended under its old name, it is another run.
    write_sweep(project, tmp_path, {"broken": {}}, baseline=project.config("plain"))
    assert call(sweep, "--sweep", file) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "optim_wrapper.optimizer.lr is -1.0 in that run but 0.001 here. Give another WORK_DIR=" in error


REFUSALS = [
    pytest.param({"runs": {}}, r"`runs` is \{\}; a dict is needed", id="no-runs"),
    pytest.param(
        {"run": {}}, "unknown key 'run'; known are base, baseline, runs, work_dir. Begin a name of", id="unknown-key"
    ),
    pytest.param({"runs": {"a/b": {}}}, "'a/b' is no usable name", id="path-as-name"),
    pytest.param({"runs": {"..": {}}}, "'..' is no usable name", id="parent-as-name"),
    pytest.param({"runs": {"configs": {}}}, "'configs' is no usable name", id="taken-name"),
    pytest.param({"runs": {"a": 1}}, "run a is 1; a dict of config options is needed", id="no-options"),
    pytest.param({"base": "absent.py"}, "config absent.py does not exist", id="no-base"),
    pytest.param(
        {"runs": {"good": {}, "bad": {"distillation.loss_ld.temper": 2.0}}},
        "model.distillation.loss_ld has no option 'temper'. Did you mean temperature",
        id="unknown-option",
    ),
    pytest.param({"runs": {"a": {"cache": "b.zarr"}}}, "run a sets cache = 'b.zarr'; a sweep reads one", id="cache"),
    pytest.param({"runs": {"a": {"model.type": "LiveDistiller"}}}, "a CachedDistiller is needed", id="no-student"),
    pytest.param(
        {"runs": {"a": {"model.bbox_head.reg_max": 16}}}, "a: .*head.num_bins is 9 in the cache but 17", id="bins"
    ),
    pytest.param({"runs": {"a": {"model.backbone.depth": 19}}}, "a: .*19", id="no-such-backbone"),
]


@pytest.mark.parametrize(("values", "message"), REFUSALS)
def test_a_bad_sweep_is_refused_before_the_first_run(project: Project, tmp_path, capfd, values, message) -> None:
    file = write_sweep(project, tmp_path, **{"runs": {"a": {}}, **values})
    assert call(sweep, "--sweep", file) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists()


def test_a_sweep_without_its_cache_is_refused(project: Project, tmp_path, capfd) -> None:
    file = write_sweep(project, tmp_path, {"a": {}})
    assert call(sweep, "--sweep", file, "--cache", tmp_path / "absent.zarr") == 1
    assert "absent.zarr does not exist" in capfd.readouterr().err.splitlines()[-1]


def test_a_folder_of_something_else_is_left_alone(project: Project, tmp_path, capfd) -> None:
    notes = tmp_path / "runs/a/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    assert call(sweep, "--sweep", write_sweep(project, tmp_path, {"a": {}})) == 1
    assert "runs/a exists and is no run of this command" in capfd.readouterr().err.splitlines()[-1]
    assert notes.read_text() == "mine"


def test_options_are_flat() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e.f": (1, 2), "g": {}}) == {
        "a.b": 1,
        "a.c.d": None,
        "e.f": (1, 2),
        "g": {},
    }
    # What deletes its place has no counterpart below it.
    assert flatten({"a": {"_delete_": True, "type": "X"}}) == {"a": {"_delete_": True, "type": "X"}}


def test_a_setting_with_three_values_is_a_curve() -> None:
    def row(**settings: object) -> dict:
        return {"kind": "cached", "settings": settings}

    rows = [row(), row(t=2.0), row(t=10.0), row(t=3.0, w=1), row(w=4), {"kind": "plain", "settings": {}}]
    (curve,) = numeric_curves(rows, {"t": 5.0, "w": 2})
    assert curve == ("t", [(2.0, rows[1]), (5.0, rows[0]), (10.0, rows[2])])
    # A report may be made where the base config is gone.
    assert list(numeric_curves(rows, {})) == []


def test_settings_are_short() -> None:
    settings = {"distillation.loss_ld.temperature": 2.0, "distillation.loss_kd": None}
    assert describe_settings(settings) == "loss_ld.temperature = 2.0, distillation.loss_kd = off"
