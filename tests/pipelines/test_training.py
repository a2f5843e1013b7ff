"""What users of mmengine expect of a training run: resume, seeds, mixed precision, accumulation, logs, options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partialmethod
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmrotate.registry import MODELS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from distill.checkpoint import load_checkpoint, weights_digest
from distill.heads import RotatedRetinaDistributionHead
from distill.losses import DistributionDistillationLoss
from pipelines import distill, train
from pipelines.base.experiment import load_config
from tests.pipelines.conftest import Project, call

pytestmark = pytest.mark.slow
LOSSES = ("loss", "loss_cls", "loss_bbox", "loss_ld", "loss_kd")
ONE_VIEW = [f"train_dataloader.dataset.pipeline.3.{option}" for option in ("prob=0.0", "direction=horizontal")]
SHUFFLED_EPOCHS = ["train_dataloader.sampler.type=DefaultSampler", "train_dataloader.num_workers=1"]


def run(project: Project, work_dir: Path, *options: str, resume: bool = False) -> None:
    """Train the tiny student from the cache."""
    train_with(distill, project.config("distill"), work_dir, options, resume)


def run_live(project: Project, work_dir: Path, *options: str, resume: bool = False) -> None:
    """Train the tiny student with its teacher live."""
    train_with(train, project.config("live"), work_dir, (*options, *live_options(project)), resume)


def train_with(command: ModuleType, config: str, work_dir: Path, options: Sequence[str], resume: bool) -> None:
    arguments = ["--config", config, "--work-dir", work_dir, *(["--resume"] if resume else [])]
    assert call(command, *arguments, *(["--cfg-options", *options] if options else [])) == 0


def live_options(project: Project) -> list[str]:
    return [f"teacher.config={project.config('teacher')}", f"teacher.checkpoint={project.checkpoint}"]


@pytest.mark.parametrize("option", ["channels_last", "compiled"])
def test_a_network_that_computes_otherwise_trains_the_same(project: Project, tmp_path, monkeypatch, option) -> None:
    """The first losses to rounding, the later ones as far as that grows; the weights' names are a plain run's."""
    compiled: list[str] = []

    def as_it_is(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
        compiled.append(option)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=as_it_is))
    run(project, tmp_path / "plain")
    run(project, tmp_path / "other", f"{option}=True")
    assert bool(compiled) is (option == "compiled")
    plain, other = losses_of(tmp_path / "plain"), losses_of(tmp_path / "other")
    assert other[0] == pytest.approx(plain[0], rel=1e-4)
    assert [step["loss"] for step in other] == pytest.approx([step["loss"] for step in plain], rel=1e-3)
    assert weights_of(tmp_path / "other", len(plain)).keys() == weights_of(tmp_path / "plain", len(plain)).keys()
    assert initial_digest(tmp_path / "other") == initial_digest(tmp_path / "plain")


def initial_digest(work_dir: Path) -> str:
    return json.loads((work_dir / "run.json").read_text())["initial_sha256"]


def losses_of(work_dir: Path) -> list[dict[str, float]]:
    """The losses of every step that the newest run has logged."""
    log = max(work_dir.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: line[name] for name in LOSSES if name in line} for line in lines]


def weights_of(work_dir: Path, step: int) -> dict[str, Tensor]:
    return load_checkpoint(work_dir / f"iter_{step}.pth")["state_dict"]


RESUMED = [
    # InfiniteSampler is advanced without loading, so that the flips of the skipped steps are not drawn again.
    pytest.param(run, ONE_VIEW, id="cached-infinite-sampler-one-view"),
    # Other samplers load and discard in the worker: the flips come out alike. A live teacher, because this process
    # has read records and can fork no worker that reads some.
    pytest.param(run_live, SHUFFLED_EPOCHS, id="live-default-sampler-all-views"),
]


@pytest.mark.parametrize(("student", "options"), RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(project: Project, tmp_path, student, options) -> None:
    student(project, tmp_path / "whole", *options)
    student(project, tmp_path / "parts", *options, "train_cfg.max_iters=2")
    student(project, tmp_path / "parts", *options, resume=True)
    # Two runs that start within a second share mmengine's log.
    assert losses_of(tmp_path / "parts")[-2:] == losses_of(tmp_path / "whole")[2:]
    assert weights_digest(weights_of(tmp_path / "parts", 4)) == weights_digest(weights_of(tmp_path / "whole", 4))


def test_the_seed_decides_everything(project: Project, tmp_path) -> None:
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        run(project, tmp_path / name, f"randomness.seed={seed}", "randomness.deterministic=True")
    first, second, other = (losses_of(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert all(ours["loss"] != theirs["loss"] for ours, theirs in zip(first, other, strict=True))
    assert weights_digest(weights_of(tmp_path / "first", 4)) == weights_digest(weights_of(tmp_path / "second", 4))


def test_plain_live_and_cached_students_start_alike(project: Project) -> None:
    """One seed, one set of initial weights: building a live teacher draws none of the student's."""
    digests = set()
    for name, options in (("plain", []), ("distill", []), ("live", live_options(project))):
        config = load_config(project.config(name), dict(option.split("=", 1) for option in options))
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        digests.add(weights_digest(model.state_dict()))
    assert len(digests) == 1


def test_live_and_cached_runs_have_the_same_losses(project: Project, tmp_path) -> None:
    run(project, tmp_path / "cached")
    run_live(project, tmp_path / "live")
    cached, live = losses_of(tmp_path / "cached"), losses_of(tmp_path / "live")
    assert len(cached) == 4
    for ours, theirs in zip(cached, live, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("option", "precision"), [("--tf32", "tf32"), ("--no-tf32", "ieee")])
def test_a_training_rounds_as_it_is_told(project: Project, tmp_path, option: str, precision: str) -> None:
    """On a GPU; the config of the run says so, for whoever evaluates or compares it."""
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        arguments = ["--config", project.config("distill"), "--work-dir", tmp_path, option]
        assert call(distill, *arguments, "--cfg-options", "train_cfg.max_iters=1") == 0
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == precision
        assert load_config(next(tmp_path.glob("*.py"))).tf32 is (option == "--tf32")
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


AMP = ("optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.dtype=bfloat16")


@pytest.fixture
def amp_on_a_cpu(monkeypatch) -> None:
    """mmengine's wrapper asks for a GPU when it is built; its work needs none (the loss scaler switches itself off)."""
    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)


@pytest.fixture
def precision(monkeypatch) -> dict[str, set[torch.dtype]]:
    """The precision of the network's maps, and of what the losses are computed from."""
    seen: dict[str, set[torch.dtype]] = {"network": set(), "detection": set(), "distillation": set()}
    forward, losses_of = RotatedRetinaDistributionHead.forward, RotatedRetinaDistributionHead.losses_of
    distillation = DistributionDistillationLoss.forward

    def watched_forward(self, *args):
        maps = forward(self, *args)
        # Not where the parts of a new model are tried on each other.
        if self.training:
            seen["network"] |= {level.dtype for part in maps for level in part}
        return maps

    def watched_losses(self, maps, assigned):
        assert not torch.is_autocast_enabled("cpu")
        seen["detection"] |= {level.dtype for part in maps for level in part}
        return losses_of(self, maps, assigned)

    def watched_distillation(self, student, teacher, *args):
        losses = distillation(self, student, teacher, *args)
        seen["distillation"] |= {student.dtype, teacher.dtype, losses.dtype}
        return losses

    monkeypatch.setattr(RotatedRetinaDistributionHead, "forward", watched_forward)
    monkeypatch.setattr(RotatedRetinaDistributionHead, "losses_of", watched_losses)
    monkeypatch.setattr(DistributionDistillationLoss, "forward", watched_distillation)
    return seen


def test_mixed_precision_is_close_to_float32(project: Project, tmp_path, amp_on_a_cpu, precision) -> None:
    """The network runs in bfloat16, every loss in float32."""
    run(project, tmp_path / "amp", *AMP)
    assert precision == {
        "network": {torch.bfloat16},
        "detection": {torch.float32},
        "distillation": {torch.float32},
    }
    run(project, tmp_path / "float32")
    half, whole = losses_of(tmp_path / "amp"), losses_of(tmp_path / "float32")
    assert half != whole
    # bfloat16 has 8 significant bits; the updates of AdamW then magnify what is small: LD and KD are thousandths here.
    assert half[0] == pytest.approx(whole[0], rel=0.01, abs=1e-3)
    for ours, theirs in zip(half, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=0.1, abs=2e-3)


def test_a_live_teacher_answers_in_float32(project: Project, tmp_path, amp_on_a_cpu) -> None:
    """As the cache holds it: cached and live students agree under mixed precision too."""
    run(project, tmp_path / "cached", *AMP)
    run_live(project, tmp_path / "live", *AMP)
    assert losses_of(tmp_path / "cached")[0] == pytest.approx(losses_of(tmp_path / "live")[0], rel=1e-5)


SGD = ("optim_wrapper.optimizer.type=SGD", "optim_wrapper.optimizer.weight_decay=0.0")


def parameters_of(work_dir: Path, step: int) -> dict[str, Tensor]:
    """The trained weights: without the statistics of the normalisation, which every forward moves."""
    return {name: value for name, value in weights_of(work_dir, step).items() if name.endswith(("weight", "bias"))}


def test_gradients_accumulate(project: Project, tmp_path) -> None:
    """Two batches an update: the second one still sees the weights of the first."""
    run(project, tmp_path / "still", *SGD, "optim_wrapper.optimizer.lr=0.0")
    every_step = ("default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=-1")
    options = (*SGD, "optim_wrapper.optimizer.lr=0.1", "optim_wrapper.accumulative_counts=2", *every_step)
    run(project, tmp_path / "two", *options)
    initial = weights_digest(parameters_of(tmp_path / "still", 4))
    first, second, third, fourth = (weights_digest(parameters_of(tmp_path / "two", step)) for step in (1, 2, 3, 4))
    assert initial == first != second == third != fourth
    still, two = losses_of(tmp_path / "still"), losses_of(tmp_path / "two")
    assert two[:2] == still[:2]
    assert two[2] != still[2]


def test_losses_are_logged_by_name(project: Project, tmp_path) -> None:
    run(project, tmp_path)
    lines = losses_of(tmp_path)
    assert len(lines) == 4
    for line in lines:
        assert list(line) == list(LOSSES)
        assert line["loss"] == pytest.approx(sum(line[name] for name in LOSSES[1:]), rel=1e-4)
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert all(len(re.findall(rf" {name}: \d", log)) == 4 for name in LOSSES)


def test_tensorboard_gets_the_losses(project: Project, tmp_path) -> None:
    run(project, tmp_path, "vis_backends.0.type=TensorboardVisBackend")
    (events,) = tmp_path.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events)).Reload()
    for name in ("loss_ld", "loss_kd"):
        scalars = accumulator.Scalars(name)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        assert all(scalar.value > 0 for scalar in scalars)


def test_options_of_the_command_line_reach_the_run(project: Project, tmp_path) -> None:
    options = ("distillation.loss_kd=None", "distillation.loss_ld.loss_weight=20.0")
    run(project, tmp_path / "changed", *options)
    run(project, tmp_path / "published")
    changed, published = losses_of(tmp_path / "changed")[0], losses_of(tmp_path / "published")[0]
    assert "loss_kd" not in changed
    assert changed["loss_ld"] == pytest.approx(2 * published["loss_ld"], rel=1e-6)
    recorded = Config.fromfile(tmp_path / "changed/distill.py", import_custom_modules=False)
    assert recorded.model.distillation.loss_kd is None
    assert recorded.model.distillation.loss_ld.loss_weight == 20.0
