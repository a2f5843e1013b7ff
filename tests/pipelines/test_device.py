"""What a command asks of its device, and that it stops at its start where mmcv's operators were not built for it."""

from __future__ import annotations

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch.utils.data import TensorDataset

from distill.settings import read_config
from pipelines.base.device import require_operators
from pipelines.base.runner import ConciseRunner
from pipelines.training.options import RunOptions
from pipelines.training.start import load_run
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project


def test_operators_run_on_a_cpu() -> None:
    require_operators("cpu")


def test_a_device_without_operators_is_refused() -> None:
    """`meta` is a device for which mmcv has none, as a GPU is for a build without CUDA."""
    with pytest.raises(
        ValueError, match=r"not built for meta \(nms_impl: implementation for device meta.* not found"
    ) as error:
        require_operators("meta")
    assert str(error.value).endswith(
        "Build them on this machine: make setup CUDA=1; or compute on the CPU: CUDA_VISIBLE_DEVICES= in the environment"
    )


@pytest.mark.parametrize("kind", ["plain", "distill"])
def test_images_and_labels_are_copied_while_the_device_computes(project: Project, tmp_path, kind) -> None:
    """And no config says so: a teacher's would then be another one, whose caches nobody else could read."""
    config = load_run(RunOptions(project.config(kind), work_dir=str(tmp_path)))
    described = config.model.to_dict()
    runner = ConciseRunner.from_cfg(config)
    assert runner.model.data_preprocessor._non_blocking
    assert runner.cfg.model.to_dict() == described


@pytest.mark.parametrize("on_gpu", [False, True])
def test_batches_lie_in_pinned_memory_where_a_gpu_is(on_gpu, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    described = dict(dataset=TensorDataset(torch.zeros(2)), sampler=dict(type="DefaultSampler", shuffle=False))
    options = dict(batch_size=1, num_workers=0, collate_fn=pseudo_collate)
    assert ConciseRunner.build_dataloader({**described, **options}).pin_memory is on_gpu
    assert not ConciseRunner.build_dataloader({**described, **options, "pin_memory": False}).pin_memory


def test_a_deterministic_run_gives_cublas_its_workspace(project: Project, tmp_path, monkeypatch) -> None:
    """Without the variable a GPU raises at the first product of matrices, that of the Gaussian losses."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    options = {"randomness.deterministic": True}
    try:
        ConciseRunner.from_cfg(load_run(RunOptions(project.config("plain"), str(tmp_path), cfg_options=options)))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


@pytest.mark.parametrize(("cores", "processes", "loaders"), [(2, 1, 2), (6, 1, 5), (64, 1, 8), (16, 4, 3), (8, 8, 2)])
def test_loaders_follow_the_cores(monkeypatch, cores: int, processes: int, loaders: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    config = read_config(REPOSITORY / "configs/distill/gwd_r18_1x_dota.py")
    assert config.train_dataloader.num_workers == loaders


@pytest.mark.parametrize(
    ("path", "searches"),
    [
        *(("distill/gwd_r18_1x_dota", True), ("live/kld_r18_1x_dota", True), ("plain/l1_r18_1x_dota", True)),
        *(("teacher/gwd_r34_2x_dota", False), ("distill/gfl_r18_1x_coco", False)),
    ],
)
def test_students_of_one_patch_size_search_for_fast_algorithms(path: str, searches: bool) -> None:
    config: Config = read_config(REPOSITORY / f"configs/{path}.py")
    assert config.env_cfg.cudnn_benchmark is searches
