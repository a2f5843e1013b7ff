"""Several GPUs: which of them each process would use. None is needed: those of these tests are made up."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import mmengine.runner.log_processor
import pytest
import torch

from distill.detectors import CachedDistiller
from pipelines import cache_teacher, distill
from pipelines.base.device import choose_device
from pipelines.base.experiment import load_config
from pipelines.capture import engine, worker
from pipelines.capture.cluster import Shared
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.studies.processes import environment_of
from pipelines.training import watch
from pipelines.training.options import RunOptions
from pipelines.training.run_record import memory_caption, peak_bytes, read_run_record
from pipelines.training.start import load_run
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call


@pytest.fixture
def make_gpus(monkeypatch) -> Callable[[int], None]:
    """A machine with so many GPUs, as far as it can be asked about them."""

    def make(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(
    ("count", "name", "turn", "device"),
    [
        (0, None, 3, "cpu"),
        (2, None, 0, "cuda:0"),
        (2, None, 3, "cuda:1"),
        (2, "cuda", 1, "cuda:1"),
        (2, "cuda:1", 0, "cuda:1"),
        (2, "cpu", 1, "cpu"),
    ],
)
def test_a_device_is_chosen(make_gpus, count: int, name: str | None, turn: int, device: str) -> None:
    make_gpus(count)
    assert choose_device(name, turn) == torch.device(device)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_device_that_is_not_there_is_refused(make_gpus, count: int, name: str) -> None:
    make_gpus(count)
    with pytest.raises(ValueError, match=rf"device {name} is not there: {count} GPUs are visible"):
        choose_device(name)


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "mps"])
def test_a_device_of_another_kind_is_no_argument(project: Project, text: str, capfd) -> None:
    with pytest.raises(SystemExit) as ended:
        call(cache_teacher, "--config", project.config("distill"), "--device", text)
    assert ended.value.code == 2
    assert f"cpu, cuda or a GPU like cuda:1 is needed, not '{text}'" in capfd.readouterr().err


@pytest.fixture
def loaded(monkeypatch) -> list[int]:
    """The turns of the teachers that were about to be loaded."""
    turns: list[int] = []

    def load_teacher(config: Any, options: TeacherOptions, turn: int = 0) -> None:
        turns.append(turn)
        raise ValueError("no teacher is loaded here")

    for module in (engine, worker):
        monkeypatch.setattr(module, "load_teacher", load_teacher)
    return turns


def test_parts_take_gpus_in_turn(project: Project, loaded: list[int]) -> None:
    for part in ("1/3", "3/3"):
        assert call(cache_teacher, "--config", project.config("distill"), "--part", part) == 1
    assert loaded == [0, 2]


@pytest.mark.parametrize(("is_own", "turn"), [(True, 3), (False, 0)])
def test_workers_take_gpus_in_turn(project: Project, loaded: list[int], monkeypatch, is_own: bool, turn: int) -> None:
    """Those of a running cluster see the device that is theirs, and have names of any kind."""
    names = {True: 3, False: "tcp://10.0.0.1:4711"}
    monkeypatch.setattr(worker, "get_worker", lambda: SimpleNamespace(name=names[is_own]))
    job = worker.Job(load_config(project.config("distill")), TeacherOptions(), CaptureOptions(), 1, is_own=is_own)
    with pytest.raises(ValueError, match="no teacher is loaded here"):
        worker._teacher(Shared(job))
    assert loaded == [turn]


@pytest.mark.parametrize(
    ("visible", "count", "jobs", "devices"),
    [
        (None, 2, 3, ["0", "1", "0"]),
        ("2,3", 2, 2, ["2", "3"]),
        ("GPU-8f3a, MIG-11", 2, 2, ["GPU-8f3a", "MIG-11"]),
        pytest.param("0,7,1", 1, 2, ["0", "0"], id="from the first that is not there CUDA sees none"),
    ],
)
def test_runs_of_a_study_take_gpus_in_turn(
    make_gpus, monkeypatch, visible: str | None, count: int, jobs: int, devices: list[str]
) -> None:
    make_gpus(count)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("pipelines.studies.processes.available_cores", lambda: 6)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = [environment_of(slot, jobs) for slot in range(jobs)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == devices
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {str(6 // jobs)}


def test_runs_of_a_study_without_gpus_see_what_the_command_sees(make_gpus) -> None:
    make_gpus(0)
    assert "CUDA_VISIBLE_DEVICES" not in environment_of(1, 2)


def test_more_processes_than_gpus_are_refused(make_gpus, monkeypatch, project: Project) -> None:
    make_gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"GPUS=4 processes, one a GPU, but 2 GPUs are visible .* Give GPUS=2"):
        load_run(RunOptions(project.config("distill")))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert load_run(RunOptions(project.config("distill"))).launcher == "pytorch"


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        (
            "cache-teacher",
            "A teacher on each of two GPUs: ARGS='--workers 2'; on the second alone: ARGS='--device cuda:1'",
        ),
        ("compare", "Two students at a time, each on a GPU of its own: ARGS='--jobs 2'"),
    ],
)
def test_make_says_how_other_commands_use_gpus(target: str, cure: str) -> None:
    made = subprocess.run(["make", "-n", target, "GPUS=2"], cwd=REPOSITORY, capture_output=True, text=True)
    assert made.returncode == 2
    assert re.search(rf"make {target} has no GPUS=\. It takes .*ARGS=.*{re.escape(cure)}", made.stderr)


@pytest.mark.parametrize("target", ["teacher", "train", "distill"])
def test_make_starts_a_process_a_gpu(target: str) -> None:
    made = subprocess.run(["make", "-n", target, "GPUS=3"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"torchrun --standalone --nproc-per-node 3 -m pipelines.{target} " in made.stdout


class MadeUpMemory:
    """The memory of a GPU: every training step fills it to another height."""

    def __init__(self, heights: Sequence[int]) -> None:
        self.heights = iter(heights)
        self.peak = 0
        self.forgotten: list[int] = []

    def is_available(self) -> bool:
        return True

    def max_memory_allocated(self, device: object = None) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.forgotten.append(self.peak)
        self.peak = 0

    def fill(self) -> None:
        self.peak = max(self.peak, next(self.heights))


def test_the_peak_outlives_the_logger(project: Project, tmp_path, monkeypatch) -> None:
    """mmengine's logger has torch forget its peak with every line, here after each step."""
    memory = MadeUpMemory([100, 700, 300, 200])
    for name in ("max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, getattr(memory, name))
    monkeypatch.setattr(watch, "torch", SimpleNamespace(cuda=memory))
    monkeypatch.setattr(mmengine.runner.log_processor, "is_cuda_available", memory.is_available)
    train_step = CachedDistiller.train_step

    def fill_and_step(*given: Any, **named: Any) -> Any:
        memory.fill()
        return train_step(*given, **named)

    monkeypatch.setattr(CachedDistiller, "train_step", fill_and_step)

    assert call(distill, "--config", project.config("distill"), "--work-dir", tmp_path) == 0
    assert memory.forgotten == [0, 100, 700, 300, 200]
    run_record = read_run_record(tmp_path)
    assert run_record["peak_memory"]["cuda_bytes"] == peak_bytes(run_record) == 700


@pytest.mark.parametrize(
    ("cuda_bytes", "peak", "caption"),
    [
        ([5, 6], 5, "Memory of the GPU's tensors."),
        ([None], 9, "Memory of the training process without its loaders, imports included."),
        (
            [5, None],
            5,
            "Memory of the GPU's tensors; without a GPU of the training process without its loaders, imports",
        ),
    ],
)
def test_tables_show_the_memory_that_decides(cuda_bytes: list[int | None], peak: int, caption: str) -> None:
    run_record = {"peak_memory": {"process_bytes": 9, "loader_bytes": 3, "cuda_bytes": cuda_bytes[0]}}
    assert peak_bytes(run_record) == peak
    assert memory_caption(cuda_bytes).startswith(caption)
