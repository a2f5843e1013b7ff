"""Plain, live and cached students of the same seeds: figures, refusals, and the statistics by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.reader import CacheReader
from pipelines import compare, report
from pipelines.base.config_files import sibling
from pipelines.studies.comparison_results import unpaired
from pipelines.studies.statistics import paired, spread, verdict
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call
from tests.pipelines.study_tools import trainings


def arguments(project: Project, work: object, *more: object) -> list[object]:
    teacher = ["--teacher", project.config("teacher"), "--checkpoint", project.checkpoint]
    return ["--config", project.config("distill"), *teacher, "--seeds", 0, 1, "--work-dir", work, *more]


@pytest.mark.slow
def test_three_kinds_with_two_seeds(project: Project, tmp_path, capfd) -> None:
    assert call(compare, *arguments(project, tmp_path, "--jobs", 2, "--json")) == 0
    figures = json.loads(capfd.readouterr().out)
    assert json.loads((tmp_path / "compare.json").read_text()) == figures
    # Same weights, same views, and an exact cache: the live student's losses, to the last digit of the log.
    assert figures["unpaired"] == []
    assert figures["cache"]["rows"] == CacheReader(project.cache).plan.num_priors
    logs = {}
    for kind in ("plain", "live", "cached"):
        assert len(figures["students"][kind]["AP50"]["values"]) == 2
        assert figures["students"][kind]["step_seconds"]["mean"] > 0
        (log,) = trainings(tmp_path / f"{kind}_seed1")
        lines = [json.loads(line) for line in (log / "scalars.json").read_text().splitlines()]
        logs[kind] = [line["loss_cls"] for line in lines]
    assert logs["live"] == pytest.approx(logs["cached"], rel=1e-4)
    assert logs["plain"][0] == pytest.approx(logs["cached"][0], rel=1e-5)
    assert logs["plain"][1:] != pytest.approx(logs["cached"][1:], rel=1e-5)
    assert "no GPU" not in (tmp_path / "compare.md").read_text()
    assert "saw the same views in the same order: yes." in (tmp_path / "compare.md").read_text()

    # A finished run is skipped; an unfinished one starts anew.
    lost = tmp_path / "cached_seed0"
    kept = (tmp_path / "live_seed0/run.json").read_bytes()
    (lost / "run.json").unlink()
    assert call(compare, *arguments(project, tmp_path)) == 0
    assert (tmp_path / "live_seed0/run.json").read_bytes() == kept
    assert len(trainings(lost)) == 1
    again = json.loads((tmp_path / "compare.json").read_text())
    assert again["differences"] == figures["differences"]

    assert call(report, "--work-dir", tmp_path, "--no-pictures") == 0
    page = (tmp_path / "report.html").read_text()
    assert "Paired differences of AP" in page
    assert "cached step / plain step" in page


REFUSALS = [
    pytest.param(["--seeds", 1], "at least two different ones", id="one-seed"),
    pytest.param(["--seeds", 1, 1], "at least two different ones", id="same-seeds"),
    pytest.param(["--live", "{plain}"], "a live student is needed there", id="kind"),
    pytest.param(["--plain", "absent.py"], "config absent.py does not exist", id="no-config"),
    pytest.param(["--checkpoint", "absent.pth"], "absent.pth does not exist", id="no-teacher"),
    pytest.param(["--cache", "absent.zarr"], "absent.zarr does not exist", id="no-cache"),
    pytest.param(["--live", "{other}"], "optim_wrapper.optimizer.lr is 0.5 in", id="recipe"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_an_unfair_comparison_is_refused(project: Project, tmp_path, capfd, options, message) -> None:
    other = tmp_path / "other.py"
    other.write_text(f"_base_ = [{project.config('live')!r}]\noptim_wrapper = dict(optimizer=dict(lr=0.5))\n")
    places = {"{plain}": project.config("plain"), "{other}": other}
    filled = [places.get(option, option) for option in options]
    assert call(compare, *arguments(project, tmp_path / "runs", *filled)) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_cache_of_another_teacher_is_refused(copy: Project, tmp_path, capfd) -> None:
    import torch

    from distill.checkpoint import load_checkpoint

    state = load_checkpoint(copy.checkpoint)["state_dict"]
    state["bbox_head.retina_reg.bias"][0] += 1e-3
    torch.save({"state_dict": state}, copy.checkpoint)
    assert call(compare, *arguments(copy, tmp_path / "runs")) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "teacher.weights_sha256 is" in error
    assert "Compare with the teacher that the cache was captured from" in error


def test_the_configs_beside() -> None:
    assert sibling("configs/demo/distill.py", "live") == Path("configs/demo/live.py")
    assert sibling("configs/distill/gwd_r18_1x_dota.py", "plain") == Path("configs/plain/gwd_r18_1x_dota.py")


def test_a_config_that_lies_elsewhere_is_asked_for(capfd) -> None:
    alone = str(REPOSITORY / "configs/distill/gwd_ld_only_r18_1x_dota.py")
    assert call(compare, "--config", alone) == 1
    error = capfd.readouterr().err
    assert "no plain config beside" in error
    assert f"Give it: make compare CONFIG={alone} ARGS=" in error
    assert "--plain" in error


def test_spread_and_interval_by_hand() -> None:
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    # Differences 1, 2, 3: mean 2, sd 1; t(0.975, 2 degrees of freedom) = 4.302653.
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found["values"] == [1.0, 2.0, 3.0]
    assert (found["low"], found["high"]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.03, "above 0"), (-0.03, -0.01, "below 0"), (-0.01, 0.03, "not distinguishable from 0")],
)
def test_a_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    difference = {"name": "cached - plain", "AP50": {"mean": (low + high) / 2, "low": low, "high": high}}
    assert verdict(difference, "AP50").endswith(f"points, {words}")


def test_students_that_saw_something_else_are_named() -> None:
    def run(name: str, initial: str, order: str) -> dict:
        return {"name": name, "initial_sha256": initial, "order_sha256": order}

    of = {"plain": [run("plain_seed0", "a", "b")], "live": [run("live_seed0", "a", "c")]}
    of["cached"] = [run("cached_seed0", "a", "b")]
    assert unpaired(of) == ["live_seed0 and plain_seed0 differ in views or their order (c… and b…)"]
