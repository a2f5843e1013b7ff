"""`make smoke` as a user runs it, and what its comparison calls a difference."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest

from pipelines.base.command import run_command
from pipelines.smoke import AP_TOLERANCE, GOLDEN, LOSS_TOLERANCE, compare, main, make_parser
from tests.conftest import REPOSITORY


@pytest.fixture
def recorded() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


@pytest.fixture
def elsewhere(recorded) -> dict[str, Any]:
    """The same figures, found on another kind of machine."""
    found = deepcopy(recorded)
    found["machine"]["torch"] = "another build"
    return found


def fields(recorded: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [difference.field for difference in compare(recorded, found)]


@pytest.mark.slow
def test_the_figures_are_the_recorded_ones() -> None:
    done = subprocess.run([sys.executable, "-m", "pipelines.smoke"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"All figures as in {GOLDEN}" in done.stdout


def test_on_the_same_machine_the_last_bit_counts(recorded) -> None:
    found = deepcopy(recorded)
    losses = found["horizontal"]["losses"]["distill"]["loss_ld"]
    losses[3] *= 1 + 1e-7
    found["rotated"]["rows"]["captured"] += 1
    found["rotated"]["manifest"]["plan"]["image_digest"] = "0"
    found["rotated"]["store"]["box_logits"] = "0"
    found["horizontal"]["ap"]["teacher"]["AP75"] += 1e-9
    differences = compare(recorded, found)
    assert [difference.field for difference in differences] == [
        "rotated.rows.captured",
        "rotated.manifest.plan.image_digest",
        "rotated.store.box_logits",
        "horizontal.losses.distill.loss_ld[3]",
        "horizontal.ap.teacher.AP75",
    ]
    assert differences[3].recorded == recorded["horizontal"]["losses"]["distill"]["loss_ld"][3]
    assert differences[3].found == losses[3]


def test_on_another_machine_figures_may_differ_as_far_as_stated(recorded, elsewhere) -> None:
    assert fields(recorded, elsewhere) == []
    elsewhere["rotated"]["losses"]["teacher"]["loss_cls"][0] *= 1 + 0.9 * LOSS_TOLERANCE
    elsewhere["rotated"]["ap"]["plain"]["AP50"] += 0.9 * AP_TOLERANCE
    elsewhere["rotated"]["manifest"]["teacher"]["weights_sha256"] = "0"
    elsewhere["rotated"]["manifest"]["codec"]["digest"] = "0"
    elsewhere["rotated"]["manifest"]["codec"]["step"] *= 2 ** (1 / 16)
    elsewhere["rotated"]["store"]["fingerprint"] = "0"
    assert fields(recorded, elsewhere) == []


def test_on_another_machine_all_else_is_a_difference(recorded, elsewhere) -> None:
    elsewhere["rotated"]["losses"]["teacher"]["loss_cls"][1] *= 1 - 1.1 * LOSS_TOLERANCE
    elsewhere["rotated"]["rows"]["planned"] += 1
    elsewhere["rotated"]["manifest"]["plan"]["placement_digest"] = "0"
    elsewhere["rotated"]["manifest"]["region"]["factor"] = 0.26
    elsewhere["rotated"]["ap"]["plain"]["AP50"] += 1.1 * AP_TOLERANCE
    assert fields(recorded, elsewhere) == [
        "rotated.losses.teacher.loss_cls[1]",
        "rotated.rows.planned",
        "rotated.manifest.plan.placement_digest",
        "rotated.manifest.region.factor",
        "rotated.ap.plain.AP50",
    ]


@pytest.mark.parametrize("machine", ["the same", "another"])
def test_a_term_or_a_step_that_is_gone_is_a_difference(recorded, machine) -> None:
    found = deepcopy(recorded)
    found["machine"]["torch"] = machine if machine == "another" else found["machine"]["torch"]
    del found["rotated"]["losses"]["distill"]["loss_kd"]
    found["rotated"]["losses"]["plain"]["loss_cls"].pop()
    gone, shorter = compare(recorded, found)
    assert (gone.field, gone.found) == ("rotated.losses.distill.loss_kd", "(absent)")
    assert shorter.field == "rotated.losses.plain.loss_cls"
    assert len(shorter.found) == len(shorter.recorded) - 1


def test_a_folder_that_holds_files_is_left_alone(tmp_path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run_command(main, make_parser(), ["--work-dir", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_golden_file_that_is_gone_is_told_before_any_work(tmp_path, capsys) -> None:
    assert run_command(main, make_parser(), ["--golden", str(tmp_path / "none.json"), "--work-dir", str(tmp_path)]) == 1
    assert "--record" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
