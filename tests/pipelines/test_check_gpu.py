"""The parts of `make check-gpu`, on a CPU with narrow models; and without a GPU its one line."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch.utils.data import DataLoader, Dataset

from cache.reader import CacheReader
from distill.arithmetic import uses_tf32
from pipelines import check_gpu
from pipelines.base import device
from pipelines.gpu import agreement, check
from pipelines.gpu.agreement import Agreement, different_file
from pipelines.gpu.check import Check, Checked
from pipelines.gpu.machine import operator_differences
from pipelines.gpu.page import as_markdown
from pipelines.gpu.sizes import CAPTURE_ARITHMETICS, FLOAT32, STEP_ARITHMETICS, TF32, Sizes, process_in, title
from tests.pipelines.conftest import call

CPU = torch.device("cpu")
SMALL = Sizes(
    model="narrow",
    size=128,
    patches=2,
    batch=2,
    steps=3,
    pairs=2,
    warmup=1,
    loader_steps=2,
    capture_patches=3,
    workers=1,
)


# Of all, the first and the one that has all.
STEPS, CAPTURES = (STEP_ARITHMETICS[0], STEP_ARITHMETICS[-1]), CAPTURE_ARITHMETICS[-1:]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Checked, list[tuple[bool, bool, bool]]]:
    """Every part once, in a process that has read no records, as the command's: one that has could fork no loaders."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        return executor.submit(check_all, tmp_path_factory.mktemp("check")).result()


def check_all(folder: Path) -> tuple[Checked, list[tuple[bool, bool, bool]]]:
    """What is found, and how the process computed while each student took its steps."""
    # A spawned process would spawn its loaders as well.
    multiprocessing.set_start_method("fork", force=True)
    ways, step_on = [], agreement._totals

    def noted(*given: Any) -> list[torch.Tensor]:
        cudnn = torch.backends.cudnn
        ways.append((uses_tf32(), torch.are_deterministic_algorithms_enabled(), cudnn.deterministic))
        return step_on(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "STEP_ARITHMETICS", STEPS)
        patch.setattr(check, "CAPTURE_ARITHMETICS", CAPTURES)
        # mmengine's wrapper asks for a GPU when it is built; its work needs none.
        patch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
        patch.setattr(agreement, "_totals", noted)
        return Check(CPU, SMALL, folder, seconds=600).run(), ways


@pytest.fixture(scope="module")
def checked(done) -> Checked:
    return done[0]


@pytest.mark.slow
def test_all_parts_are_done_and_nothing_is_wrong(checked: Checked) -> None:
    assert checked.problems == checked.left_out == []
    assert set(checked.steps) == {title(one) for one in STEPS}
    assert set(checked.captures) == {title(one) for one in CAPTURES}
    assert checked.different == dict.fromkeys(("float32", "TF32"))
    # The CPU beside itself.
    assert set(checked.operators.values()) == {0.0}
    assert checked.answers == 0.0


@pytest.mark.slow
def test_a_cached_student_is_the_live_one(checked: Checked) -> None:
    """As the tests of the losses have it: 1e-6 on a CPU, where TF32 changes nothing."""
    assert set(checked.agreements) == {(name, way) for name in ("float32", "TF32") for way in (False, True)}
    for found in checked.agreements.values():
        assert found.num_steps == 3
        assert max(found.measured) < 1e-5
        assert found.noise == 0.0
        assert found.holds


@pytest.mark.slow
def test_students_are_compared_in_every_way(done) -> None:
    """Two live students and a cached one: by any algorithms and by deterministic ones, without TF32 and with it."""
    assert done[1] == [(tf32, way, way) for tf32 in (False, True) for way in (False, True) for _ in range(3)]


@pytest.mark.slow
def test_the_page_has_every_figure(checked: Checked) -> None:
    page = as_markdown(checked, SMALL)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 4 + 1 + 3 * len(STEPS) + 1 + len(CAPTURES)
    assert page.startswith("### ")
    assert "narrow models, 128 px, batch 2" in page
    assert re.search(r"^\| bfloat16, channels last \| live \| [\d.]+ \| [\d.]+ \| 1\.000 \|", page, flags=re.MULTILINE)


def test_a_part_that_fails_is_told_and_others_go_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.gpu.machine.nms_rotated", lambda *_: 1 / torch.zeros(1, 0).max())
    small = Check(CPU, SMALL, tmp_path, seconds=600)
    monkeypatch.setattr(small, "_answers", lambda: setattr(small.found, "answers", 0.0))
    for name in ("_repeat", "_agree", "_steps", "_capture"):
        monkeypatch.setattr(small, name, lambda *_: None)
    found = small.run()
    (problem,) = found.problems
    assert problem.startswith("operators: ")
    assert found.answers == 0.0


def test_a_loaders_reason_is_told(tmp_path: Path) -> None:
    """Torch sends it as the last line of a traceback."""

    def fail() -> None:
        next(iter(DataLoader(Unreadable(), num_workers=1)))

    small = Check(CPU, SMALL, tmp_path, seconds=600)
    small._part("steps", fail)
    assert small.found.problems == ["steps: image a.png cannot be decoded"]


class Unreadable(Dataset[None]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise ValueError("image a.png cannot be decoded")


def test_nothing_begins_when_time_is_up(tmp_path: Path) -> None:
    found = Check(CPU, SMALL, tmp_path, seconds=-1).run()
    assert len(found.left_out) == 2 + 2 * 3 + len(STEP_ARITHMETICS) + len(CAPTURE_ARITHMETICS)
    assert f"No time was left for: operators; the CPU's answers; {found.left_out[2]}" in as_markdown(found, SMALL)


def test_an_operator_that_differs_is_a_problem(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.gpu.check.operator_differences", lambda _: {"nms": 0.0, "nms_rotated": float("inf")})
    small = Check(CPU, SMALL, tmp_path, seconds=600)
    small._operators()
    assert small.found.problems == ["nms_rotated differs by inf from the CPU's"]


def test_an_agreement_holds_within_what_is_allowed() -> None:
    found = Agreement(1e-4, 1e-3, 1e-3, noise=0.0, num_steps=30, tolerance=1e-4)
    assert found.holds
    assert not replace(found, losses=2e-4).holds
    assert not replace(found, gradients=2e-3).holds
    assert not replace(found, steps=2e-3).holds
    # By other algorithms, steps differ as those of two live students do.
    assert replace(found, steps=2e-3, noise=1e-3).holds
    assert not replace(found, losses=float("nan")).holds


@pytest.mark.parametrize("deterministic", [False, True])
def test_live_students_that_differ_are_a_problem_where_none_should(tmp_path, monkeypatch, deterministic: bool) -> None:
    found = Agreement(0.0, 0.0, 0.0, noise=1e-7, num_steps=30, tolerance=1e-4)
    monkeypatch.setattr(check, "compare_students", lambda *_, **__: found)
    for name in ("ready", "load_batches"):
        monkeypatch.setattr(check, name, lambda *_, **__: None)
    small = Check(CPU, SMALL, tmp_path, seconds=600)
    monkeypatch.setattr(small, "_exact", lambda *_: None)
    small._agree(FLOAT32, deterministic)
    problem = "two live students in float32 differ by 1e-07 with deterministic algorithms"
    assert small.found.problems == [problem] * deterministic


def test_stores_that_differ_are_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for store in (one, other):
        (store / "c").mkdir(parents=True)
        (store / "c/0").write_bytes(b"abc")
        (store / "zarr.json").write_bytes(b"{}")
    assert different_file(one, other) is None
    (other / "c/0").write_bytes(b"xyz")
    assert different_file(one, other) == "c/0"
    (one / "b").touch()
    assert different_file(one, other) == "b"


def test_a_process_computes_so_and_then_as_before() -> None:
    before = torch.backends.cudnn.conv.fp32_precision, torch.are_deterministic_algorithms_enabled()
    with process_in(TF32, deterministic=True):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
    with process_in(FLOAT32):
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert not torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before[1]


def test_without_a_gpu_it_says_so(capfd) -> None:
    assert call(check_gpu) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == "error: no GPU is visible to torch. Look at CUDA_VISIBLE_DEVICES and the driver (nvidia-smi)\n"


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["nms_rotated differs by 1 from the CPU's"], 1)])
def test_the_status_says_whether_all_is_well(monkeypatch, capfd, problems: list[str], status: int) -> None:
    """The page goes to standard output, with what should be otherwise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "choose_device", lambda name: CPU)
    monkeypatch.setattr(check, "describe_machine", lambda _: {"GPU": "Model, 9 GiB"})
    monkeypatch.setattr(Check, "run", lambda self: replace(self.found, problems=problems))
    assert call(check_gpu) == status
    page = capfd.readouterr().out
    assert page.startswith("### Model\n\n`make check-gpu`: full models, 1024 px, batch 2, built-in scenes")
    assert all(f"**{problem}**" in page for problem in problems)


@pytest.mark.gpu
def test_operators_give_what_they_give_on_the_cpu() -> None:
    assert max(operator_differences(torch.device("cuda")).values()) < 1e-3


@pytest.mark.gpu
def test_a_check_of_this_gpu_finds_nothing_wrong(tmp_path: Path) -> None:
    """The parts of `make check-gpu` with narrow models."""
    found = Check(torch.device("cuda"), SMALL, tmp_path, seconds=600).run()
    assert found.problems == []
    numeric = CacheReader(tmp_path / "TF32 1.zarr").manifest.numeric
    assert (numeric["device"], numeric["tf32"], numeric["deterministic"]) == ("cuda", True, True)
    assert numeric["gpu"] == torch.cuda.get_device_name()
    assert "threads" not in numeric
    assert all(one.memory for steps in found.steps.values() for one in steps)
