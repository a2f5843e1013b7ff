"""From image to losses with seeded weights: the live configuration against what the published code printed."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import Tensor

from distill.boxes import legacy_oc
from distill.settings import read_config
from distill.targets import collate_views
from pipelines.base.experiment import load_config
from pipelines.training.kind import point_to_head
from tests.conftest import REPOSITORY
from tests.distill.draw_tools import flipped
from tests.distill.golden_tools import (
    CASES_AND_FLIPS,
    STUDENT_SEED,
    TEACHER_SEED,
    GoldenAssigner,
    fill_seeded_weights,
    loaded_crop,
)

pytestmark = pytest.mark.slow
LEVELS = 5


class Run(NamedTuple):
    """One case: what our code gave, and the published figures."""

    losses: dict[str, list[float]]
    student: tuple[list[Tensor], list[Tensor]]
    teacher: tuple[list[Tensor], list[Tensor]]
    boxes: np.ndarray
    expected: dict[str, Any]


@pytest.fixture(scope="module")
def live_model(tmp_path_factory) -> Any:
    """The live GWD student, its teacher loaded from a checkpoint, both with seeded weights."""
    from mmrotate.registry import MODELS

    init_default_scope("mmrotate")
    model = read_config(REPOSITORY / "configs/live/gwd_r18_1x_dota.py").model
    teacher_config = read_config(REPOSITORY / "configs/teacher/gwd_r34_2x_dota.py")
    teacher_config.model.backbone.init_cfg = model.backbone.init_cfg = None
    teacher = MODELS.build(teacher_config.model)
    fill_seeded_weights(teacher, TEACHER_SEED)
    checkpoint = tmp_path_factory.mktemp("seeded") / "teacher.pth"
    torch.save({"state_dict": teacher.state_dict()}, checkpoint)
    model.teacher = dict(config=teacher_config, checkpoint=checkpoint)
    student = MODELS.build(model)
    checkpoint.unlink()
    fill_seeded_weights(student, STUDENT_SEED)
    # Training mode, as in a run: the config itself keeps batch norm in evaluation mode.
    return student.train()


@pytest.fixture(scope="module", params=CASES_AND_FLIPS)
def run(request, golden, dota_sample, live_model) -> Run:
    """The losses and the raw head outputs of one case."""
    case, flip = request.param.split("/")
    config = load_config(REPOSITORY / "configs/live/gwd_r18_1x_dota.py")
    point_to_head(config)
    after_loading = [step for step in config.train_dataloader.dataset.pipeline if not step.type.count("Load")]
    packed = Compose(after_loading)(flipped(loaded_crop(dota_sample, case), flip))
    sample = packed["data_samples"]
    data = live_model.data_preprocessor(collate_views([packed]), training=True)

    head = live_model.bbox_head
    assigned = np.load(golden / f"assigned__{case}__{flip}.npz")
    published, calculator = head.assigner, dict(type="CircumscribedRBboxOverlaps2D")
    maps = {}
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        if case.startswith("P0019"):
            from mmrotate.registry import TASK_UTILS

            patch.setattr(published, "iou_calculator", TASK_UTILS.build(calculator))
        else:
            patch.setattr(head, "assigner", GoldenAssigner(published.iou_calculator, [assigned]))
        hooks = [
            model.register_forward_hook(lambda _, __, output, name=name: maps.__setitem__(name, output))
            for name, model in (("student", head), ("teacher", live_model.teacher.model.bbox_head))
        ]
        losses = live_model(**data, mode="loss")
        for hook in hooks:
            hook.remove()
    return Run(
        {name: [float(value) for value in values] for name, values in losses.items()},
        maps["student"],
        maps["teacher"],
        sample.gt_instances.bboxes.tensor.numpy(),
        json.loads((golden / "end_to_end.json").read_text())[request.param]
        | {"boxes": assigned["flipped_legacy_oc"], "labels": assigned["labels"]},
    )


def test_ground_truth(run) -> None:
    np.testing.assert_allclose(legacy_oc(run.boxes), run.expected["boxes"], rtol=1e-6, atol=2e-4)


def test_losses(run) -> None:
    assert set(run.losses) == {"loss_cls", "loss_bbox", "loss_ld", "loss_kd"}
    for name, values in run.losses.items():
        np.testing.assert_allclose(values, run.expected[name], rtol=1e-4, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_head_outputs(run, model) -> None:
    for kind, maps in zip(("cls", "box"), getattr(run, model), strict=True):
        found = [(float(of_level.double().mean()), float(of_level.double().std())) for of_level in maps]
        expected = run.expected[f"{model}_{kind}_mean_std"]
        assert len(found) == LEVELS
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=kind)


def test_logits_of_the_first_prior(run) -> None:
    for kind, maps, count in zip(("cls", "box"), run.teacher, (15, 45), strict=True):
        logits = maps[0][0, :count, 0, 0].numpy()
        np.testing.assert_allclose(logits, run.expected[f"teacher_{kind}_first_cell_level0"], atol=2e-5, err_msg=kind)
