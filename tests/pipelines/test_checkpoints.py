"""Checkpoints: resumed, published, and never unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from mmrotate.registry import MODELS

from distill.checkpoint import load_checkpoint, state_dict_of, use_safe_loading, weights_digest
from pipelines import cache_teacher, distill, evaluate, publish, teacher, train
from pipelines.base.experiment import load_config
from pipelines.publish import publish as publish_checkpoint
from pipelines.training.kind import detector_config
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def malicious(tmp_path: Path) -> Path:
    """A checkpoint whose unpickling would run code; `tmp_path / 'executed'` shows that it has."""
    path = tmp_path / "malicious.pth"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "meta": Payload(tmp_path / "executed")}, path)
    return path


def test_the_payload_would_run(malicious: Path) -> None:
    """The test's own bait works: plain unpickling runs it."""
    torch.load(malicious, weights_only=False)
    assert (malicious.parent / "executed").is_dir()


def refused(capfd, status: int, malicious: Path) -> None:
    error = capfd.readouterr().err.splitlines()[-1]
    assert status == 1
    assert f"checkpoint {malicious} is refused" in error
    assert not (malicious.parent / "executed").exists()


def test_capture_refuses_it(project: Project, malicious: Path, capfd) -> None:
    arguments = ["--config", project.config("distill"), "--checkpoint", malicious, "--loaders", 0]
    refused(capfd, call(cache_teacher, *arguments), malicious)


def test_evaluate_refuses_it(project: Project, malicious: Path, capfd) -> None:
    refused(capfd, call(evaluate, "--config", project.config("plain"), "--checkpoint", malicious), malicious)


def test_publish_refuses_it(malicious: Path, capfd) -> None:
    refused(capfd, call(publish, "--checkpoint", malicious, "--out", malicious.parent / "out.pth"), malicious)


@pytest.mark.parametrize("command", [train, teacher], ids=["train", "teacher"])
@pytest.mark.parametrize("way", ["load_from", "pretrained", "resume"])
def test_training_refuses_it(project: Project, malicious: Path, tmp_path: Path, capfd, command, way: str) -> None:
    work = tmp_path / "run"
    arguments = ["--config", project.config("plain"), "--work-dir", work]
    if way == "load_from":
        arguments += ["--cfg-options", f"load_from={malicious}"]
    elif way == "pretrained":
        init = f"model.backbone.init_cfg.checkpoint={malicious}"
        arguments += ["--cfg-options", "model.backbone.init_cfg.type=Pretrained", init]
    else:
        work.mkdir()
        (work / "last_checkpoint").write_text(str(malicious))
        arguments += ["--resume"]
    refused(capfd, call(command, *arguments), malicious)


def test_distill_refuses_it(project: Project, malicious: Path, tmp_path: Path, capfd) -> None:
    arguments = ["--config", project.config("distill"), "--work-dir", tmp_path / "run"]
    refused(capfd, call(distill, *arguments, "--cfg-options", f"load_from={malicious}"), malicious)


def test_raw_pickles_and_other_schemes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(ValueError, match=r"raw\.pth"):
        load_checkpoint(tmp_path / "raw.pth")
    assert not (tmp_path / "executed").exists()
    use_safe_loading()
    with pytest.raises(ValueError, match="only files"):
        CheckpointLoader.load_checkpoint("openmmlab://resnet50")


@pytest.mark.slow
def test_training_resumes(project: Project, tmp_path: Path) -> None:
    """Optimiser state, message hub and schedules come back through the allow-list."""
    arguments = ["--config", project.config("plain"), "--work-dir", tmp_path]
    assert call(train, *arguments) == 0
    assert call(train, *arguments, "--resume", "--cfg-options", "train_cfg.max_iters=6") == 0
    checkpoint = load_checkpoint(tmp_path / "iter_6.pth")
    assert checkpoint["meta"]["iter"] == 6
    assert checkpoint["optimizer"]["state"][0]["step"] == 6


def test_published_weights_are_the_checkpoints(project: Project, tmp_path: Path) -> None:
    figures = publish_checkpoint(project.checkpoint, tmp_path / "teacher.pth")
    published = load_checkpoint(figures["file"])
    assert set(published) == {"meta", "state_dict"}
    assert published["meta"]["dataset_meta"]["classes"] == ("ship", "plane", "harbor")
    trained = load_checkpoint(project.checkpoint)["state_dict"]
    assert weights_digest(published["state_dict"]) == weights_digest(trained) == figures["weights_sha256"]
    assert Path(figures["file"]).name == f"teacher-{figures['file_sha256'][:8]}.pth"
    assert Path(figures["file"]).stat().st_size < project.checkpoint.stat().st_size
    # Publishing again finds the same file.
    assert publish_checkpoint(project.checkpoint, tmp_path / "teacher.pth") == figures


@pytest.mark.parametrize(("config", "entries"), [("plain/gwd_r18", 158), ("teacher/gwd_r34", 254)])
def test_published_checkpoints_load_by_name(tmp_path: Path, config: str, entries: int) -> None:
    """The published student has 158 entries and the teacher 254, under the names of mmrotate 0.x."""
    suffix = "1x" if config.startswith("plain") else "2x"
    model = MODELS.build(detector_config(load_config(REPOSITORY / f"configs/{config}_{suffix}_dota.py")).model)
    state = model.state_dict()
    assert len(state) == entries
    assert {
        "backbone.layer4.1.conv2.weight",
        "neck.fpn_convs.4.conv.bias",
        "bbox_head.cls_convs.3.conv.weight",
        "bbox_head.reg_convs.0.conv.bias",
        "bbox_head.retina_cls.bias",
        "bbox_head.retina_reg.weight",
        "bbox_head.integral.project",
        "bbox_head.integral_angle.project",
    } <= state.keys()
    published = {name: torch.full_like(tensor, 0.25) for name, tensor in state.items()}
    torch.save({"meta": {"mmdet_version": "2.25.3", "epoch": 12}, "state_dict": published}, tmp_path / "published.pth")
    loaded = state_dict_of(load_checkpoint(tmp_path / "published.pth"), "published.pth")
    assert model.load_state_dict(loaded, strict=True).missing_keys == []
    assert float(model.bbox_head.retina_reg.weight.mean()) == 0.25
