"""The live audit in training runs: silent on the right teacher, and a stop with both values on another one."""

from __future__ import annotations

import re

import pytest
import torch

from distill import teacher as teacher_module
from distill.audit import TeacherAudit
from distill.checkpoint import load_checkpoint
from pipelines import cache_teacher, distill, train, verify_cache
from tests.pipelines.conftest import Project, call
from tests.pipelines.test_training import losses_of

pytestmark = pytest.mark.slow
AUDIT = "default_hooks.audit.type=TeacherAudit"
EVERY_STEP = "default_hooks.audit.interval=1"


def test_an_audited_run_passes_and_has_the_losses_of_one_without(project: Project, tmp_path, monkeypatch) -> None:
    loaded = TeacherAudit.before_train

    def draws_nothing(self, runner):
        state = torch.get_rng_state()
        loaded(self, runner)
        assert torch.equal(torch.get_rng_state(), state)

    monkeypatch.setattr(TeacherAudit, "before_train", draws_nothing)
    arguments = ["--config", project.config("distill"), "--work-dir"]
    assert call(distill, *arguments, tmp_path / "plain") == 0
    assert call(distill, *arguments, tmp_path / "audited", "--cfg-options", AUDIT, EVERY_STEP) == 0
    assert losses_of(tmp_path / "audited") == losses_of(tmp_path / "plain")
    log = next((tmp_path / "audited").glob("*/*.log")).read_text()
    # The codec is exact, but a capture asks for four views at a time: the last bits may differ.
    audits = re.findall(
        r"teacher audit at step (\d): view .* is the teacher's; error: cls_logits (\S+), box_logits (\S+)", log
    )
    assert [step for step, *_ in audits] == ["1", "2", "3", "4"]
    assert all(float(error) < 1e-4 for _, *errors in audits for error in errors)


def test_the_interval_counts_steps(project: Project, tmp_path) -> None:
    options = ["--cfg-options", AUDIT, "default_hooks.audit.interval=3"]
    assert call(distill, "--config", project.config("distill"), "--work-dir", tmp_path, *options) == 0
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert re.findall(r"teacher audit at step (\d)", log) == ["1", "4"]


def nudge(project: Project, by: float) -> None:
    """Another teacher: one class is `by` more likely."""
    checkpoint = load_checkpoint(project.checkpoint)
    checkpoint["state_dict"]["bbox_head.retina_cls.bias"][0] += by
    torch.save({"state_dict": checkpoint["state_dict"]}, project.checkpoint)


def last_error(capfd) -> str:
    return capfd.readouterr().err.splitlines()[-1]


def test_a_nudged_teacher_is_refused_at_the_start(copy: Project, capfd) -> None:
    nudge(copy, 1e-3)
    assert call(distill, "--config", copy.config("distill"), "--cfg-options", AUDIT) == 1
    error = last_error(capfd)
    assert re.search(r'teacher\.weights_sha256 is "\w{64}" in the cache but "\w{64}" here', error), error


@pytest.mark.parametrize(("codec", "field"), [("exact", "cls_logits"), ("default", "coefficients")])
def test_drift_beyond_the_bound_stops_training_with_both_values(
    copy: Project, capfd, monkeypatch, codec, field
) -> None:
    """The weights' digest is made blind, so that nothing but the recomputed view can notice."""
    monkeypatch.setattr(teacher_module, "weights_digest", lambda state: "same")
    arguments = ["--config", copy.config("distill"), "--cache", copy.folder / "new.zarr"]
    assert call(cache_teacher, *arguments, "--loaders", 0, "--cfg-options", f"codec={codec}") == 0
    assert call(distill, *arguments, "--cfg-options", AUDIT, EVERY_STEP) == 0
    change = 0.5
    nudge(copy, change)
    capfd.readouterr()
    assert call(verify_cache, *arguments) == 1
    assert f"{field} differ by" in capfd.readouterr().out
    elsewhere = ["--work-dir", copy.folder / "again"]
    assert call(distill, *arguments, *elsewhere, "--cfg-options", AUDIT) == 1
    error = last_error(capfd)
    found = re.search(
        rf"teacher audit at step 1: view \S+: {field} differ by (\S+) from the teacher's, bound (\S+): .* "
        r"(\S+) is in the cache but (\S+) is the teacher's",
        error,
    )
    assert found, error
    difference, bound, stored, teacher = map(float, found.groups())
    assert difference == pytest.approx(abs(teacher - stored), abs=1e-3)
    assert bound < difference
    if codec == "exact":
        assert teacher - stored == pytest.approx(change, abs=1e-3)


def test_an_audit_without_a_cache_is_refused(project: Project, tmp_path, capfd) -> None:
    arguments = ["--config", project.config("plain"), "--work-dir", tmp_path]
    assert call(train, *arguments, "--cfg-options", AUDIT) == 1
    assert "the training pipeline reads none" in last_error(capfd)


def test_an_audit_without_a_teacher_is_refused(project: Project, tmp_path, capfd) -> None:
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path]
    assert call(distill, *arguments, "--cfg-options", AUDIT, "teacher=None") == 1
    assert "TeacherAudit has no teacher" in last_error(capfd)
