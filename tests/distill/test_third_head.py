"""The example of docs/heads.md, taken from the page: a head that the project does not know, through every command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from mmrotate.registry import MODELS
from torch import nn

from cache.reader import CacheReader
from distill.targets import collate_views
from pipelines import cache_teacher, inspect_cache, verify_cache
from pipelines.base.experiment import load_config, training_set
from tests.conftest import REPOSITORY
from tests.distill.coco_tools import write_coco_images
from tests.distill.draw_tools import flipped

HEAD = """
_base_ = ["{repository}/configs/demo/gfl_{base}.py"]

data_root = "{folder}/"
custom_imports = dict(imports=["mmrotate", "distill.registered", "third_head"])
train_dataloader = dict(dataset=dict(data_root=data_root))
model = dict(
    bbox_head=dict(
        _delete_=True,
        type="RetinaDistributionHead",
        num_classes=5,
        in_channels=64,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator=dict(
            type="mmdet.AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[1.0, 0.5, 2.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(type="mmdet.DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True),
        loss_bbox=dict(type="mmdet.L1Loss"),
    ),
    train_cfg=dict(
        _delete_=True,
        assigner=dict(
            type="mmdet.MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            iou_calculator=dict(type="mmdet.BboxOverlaps2D"),
        ),
        sampler=dict(type="mmdet.PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
    ),
)
"""
TEACHER = """
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher.pth")
"""
CACHED = """
cache = "{folder}/cache.zarr"
codec = "{codec}"
plan_assignment = False
"""
LIVE = """
model.update(type="LiveDistiller")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The module of the page, configs, data, a teacher, and its cache as the command makes it."""
    folder = tmp_path_factory.mktemp("third")
    page = (REPOSITORY / "docs/heads.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / "third_head.py").write_text(example)
    write_coco_images(folder)
    for name, base, addition in (
        ("teacher", "teacher", ""),
        ("cached", "distill", TEACHER + CACHED),
        ("live", "distill", TEACHER + LIVE),
    ):
        values = {"repository": REPOSITORY, "folder": folder, "base": base, "codec": "exact"}
        (folder / f"{name}.py").write_text((HEAD + addition).format(**values))
    sys.path.insert(0, str(folder))
    torch.manual_seed(0)
    teacher = MODELS.build(load_config(folder / "teacher.py").model)
    teacher.init_weights()
    with torch.no_grad():
        for layer in (teacher.bbox_head.retina_cls, teacher.bbox_head.retina_reg):
            layer.weight.normal_(0, 0.1)
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    options = ["--config", str(folder / "cached.py"), "--loaders", "0"]
    cache_teacher.main(cache_teacher.make_parser().parse_args(options))
    yield folder
    sys.path.remove(str(folder))


def student(folder: Path, name: str) -> nn.Module:
    torch.manual_seed(1)
    model = MODELS.build(load_config(folder / f"{name}.py").model)
    model.init_weights()
    return model.train()


def test_live_equals_cached(folder) -> None:
    config = load_config(folder / "cached.py")
    pipeline = config.train_dataloader.dataset.pipeline
    next(step for step in pipeline if step.type == "LoadTeacherTargets").cache = config.cache
    dataset = training_set(config, pipeline)
    infos = [dataset.get_data_info(index) for index in (2, 3)]
    results = []
    for name in ("live", "cached"):
        model = student(folder, name)
        batch = collate_views([dataset.pipeline(flipped(info, "horizontal")) for info in infos])
        data = model.data_preprocessor(batch, training=True)
        total, parts = model.parse_losses(model(**data, mode="loss"))
        total.backward()
        gradient = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        results.append((parts, gradient))
    (live, live_gradient), (cached, cached_gradient) = results
    assert set(live) == {"loss", "loss_cls", "loss_bbox", "loss_ld"}
    for name, value in live.items():
        assert value > 0
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-6), name
    assert (cached_gradient - live_gradient).norm() <= 1e-5 * live_gradient.norm()


def test_the_store_is_its_own(folder) -> None:
    manifest = CacheReader(folder / "cache.zarr").manifest
    assert manifest.head["kind"] == "retina"
    assert manifest.head["box_parameters"] == ["x", "y", "w", "h"]
    assert manifest.head["num_bins"] == 9


def test_commands_know_it(folder, capsys) -> None:
    options = ["--config", str(folder / "cached.py"), "--json"]
    assert verify_cache.main(verify_cache.make_parser().parse_args(options)) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    torch.save({"state_dict": student(folder, "cached").state_dict()}, folder / "student.pth")
    drawn = [*options, "--out", str(folder / "pictures"), "--checkpoint", str(folder / "student.pth")]
    inspect_cache.main(inspect_cache.make_parser().parse_args(drawn))
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    names = ["statistics.png", "region.jpg", "detections.jpg", "distributions.jpg"]
    assert [Path(picture).name for picture in pictures] == names
