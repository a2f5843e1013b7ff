"""Each setting has one place, and none is without effect: names, options and types that nothing reads are refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import Runner

from distill.settings import RUNNER_SETTINGS, read_config
from pipelines.base.experiment import load_config
from tests.conftest import REPOSITORY

STUDENT = "configs/demo/distill.py"


def student(folder: Path, text: str, base: str = STUDENT, name: str = "student.py") -> Path:
    """A user's config: `base`, and some lines of its own."""
    path = folder / name
    path.write_text(f"_base_ = [{str(REPOSITORY / base)!r}]\n{text}\n")
    return path


def message(path: Path | str, options: dict[str, Any] | None = None) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        load_config(path, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_runner_reads_what_is_taken_for_its_settings() -> None:
    parameters = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
    assert parameters <= set(RUNNER_SETTINGS)
    assert set(RUNNER_SETTINGS) - parameters == {"compile", "model_wrapper_cfg", "custom_imports"}


# What a user writes, and what the refusal must say: the place, and what would work.
TYPOS = [
    ("regoin = dict(factor=0.5)", ("`regoin`", "Did you mean region?")),
    ("distilation = dict(loss_kd=None)", ("`distilation`", "Did you mean distillation?")),
    ("load_form = 'a.pth'", ("`load_form`", "Did you mean load_from?")),
    ("batchsize = 1", ("`batchsize`",)),
    (
        "flip = dict(type='RandomViewFlip', prob=0.5, direction='horizontal')",
        ("`flip` has no effect", "views.py"),
    ),
    ("distill_pipeline = []", ("`distill_pipeline` has no effect", "`train_dataloader`", "distill.py")),
    ("model = dict(distillation=dict(loss_kd=None))", ("model.distillation", "follows from `distillation`")),
    ("model = dict(bbox_head=dict(num_classes=3))", ("model.bbox_head.num_classes is 3", "`classes` says 5")),
    ("train_dataloader = dict(dataset=dict(data_root='other/'))", ("dataset.data_root", "`data_root` says")),
    ("val_dataloader = dict(dataset=dict(metainfo=dict(classes=('ship',))))", ("val_dataloader", "`classes` says")),
    ("visualizer = dict(vis_backends=[])", ("visualizer.vis_backends", "`vis_backends` says")),
    ("distillation = dict(loss_kd=dict(temprature=2.0))", ("loss_kd has no option 'temprature'", "temperature?")),
    ("distillation = dict(loss_kd=dict(temperature='2'))", ("loss_kd.temperature is '2'", "float is needed")),
    ("distillation = dict(loss_kd=dict(type='DistributionLoss'))", ("'DistributionLoss'", "Did you mean Distribution")),
    ("distillation = dict(normaliser='global')", ("'normaliser'", "Did you mean normalizer?")),
    ("model = dict(backbon=dict(depth=34))", ("model has no option 'backbon'", "backbone?")),
    ("model = dict(backbone=dict(dept=34))", ("model.backbone has no option 'dept'", "depth?")),
    ("model = dict(bbox_head=dict(reg_max='6'))", ("model.bbox_head.reg_max is '6'", "int is needed")),
    ("model = dict(backbone=dict(type='mmdet.ResNest'))", ("'mmdet.ResNest'", "not registered")),
    ("model = dict(bbox_head=dict(regmax=6))", ("'regmax'", "reg_max?")),
    ("model = dict(bbox_head=dict(loss_cls=dict(gama=1.0)))", ("loss_cls has no option 'gama'", "gamma?")),
    ("model = dict(test_cfg=dict(score_thresh=0.1))", ("model.test_cfg has no option", "score_thr?")),
    ("model = dict(train_cfg=dict(assigner=dict(pos_iou=0.5)))", ("assigner has no option 'pos_iou'", "pos_iou_thr?")),
    ("model = dict(data_preprocessor=dict(stdd=[1, 1, 1]))", ("data_preprocessor", "std?")),
    ("train_cfg = dict(max_iter=2)", ("train_cfg has no option 'max_iter'", "max_iters?")),
    ("train_cfg = dict(max_iters='2')", ("train_cfg.max_iters is '2'", "int is needed")),
    ("train_cfg = dict(type='IterTrainLoop')", ("'IterTrainLoop'", "IterBasedTrainLoop?")),
    ("train_dataloader = dict(batchsize=1)", ("train_dataloader has no option 'batchsize'", "batch_size?")),
    ("train_dataloader = dict(batch_size='4')", ("train_dataloader.batch_size is '4'", "int is needed")),
    ("train_dataloader = dict(num_worker=1)", ("'num_worker'", "num_workers?")),
    ("train_dataloader = dict(sampler=dict(shufle=False))", ("sampler has no option 'shufle'", "shuffle?")),
    ("train_dataloader = dict(dataset=dict(minside=4))", ("'minside'", "min_side?")),
    ("optim_wrapper = dict(optimizer=dict(learning_rate=0.1))", ("optimizer has no option", "lr")),
    ("optim_wrapper = dict(optimizer=dict(lr='0.1'))", ("optimizer.lr is '0.1'", "float")),
    ("optim_wrapper = dict(acumulative_counts=2)", ("optim_wrapper has no option", "accumulative_counts?")),
    (
        "param_scheduler = [dict(type='LinearLR', start_facto=0.1)]",
        ("param_scheduler.0 has no option", "start_factor?"),
    ),
    ("param_scheduler = [dict(type='LinearRL')]", ("'LinearRL'", "LinearLR?")),
    ("default_hooks = dict(logger=dict(intervall=5))", ("default_hooks.logger has no option", "interval?")),
    ("default_hooks = dict(audit=dict(type='TeacherAudits'))", ("'TeacherAudits'", "TeacherAudit?")),
    ("custom_hooks = [dict(type='IterTimerHook', every=1)]", ("custom_hooks.0 has no option 'every'",)),
    ("val_evaluator = dict(labels='x')", ("val_evaluator has no option 'labels'",)),
    ("log_processor = dict(window=5)", ("log_processor has no option 'window'", "window_size?")),
    ("randomness = dict(sed=1)", ("randomness has no option 'sed'", "seed?")),
    ("env_cfg = dict(cudnn_bench=True)", ("env_cfg has no option", "cudnn_benchmark?")),
    ("model = dict(", ("cannot be read",)),
    ("train_cfg = undefined", ("cannot be read", "undefined")),
]


@pytest.mark.parametrize(
    ("text", "wanted"), TYPOS, ids=[text.split("=")[0].strip() + str(i) for i, (text, _) in enumerate(TYPOS)]
)
def test_what_would_have_no_effect_is_refused(tmp_path: Path, text: str, wanted: tuple[str, ...]) -> None:
    said = message(student(tmp_path, text))
    for part in wanted:
        assert part in said


OPTIONS = [
    ({"regoin.factor": 0.5}, ("regoin", "Did you mean region?")),
    ({"batchsize": 1}, ("batchsize", "nothing reads it")),
    ({"model.distillation.loss_kd.temperature": 2.0}, ("Give distillation.loss_kd.temperature=2.0 instead",)),
    ({"train_dataloader.dataset.data_root": "x"}, ("Give data_root=x instead",)),
    ({"model.bbox_head.num_classes": 3}, ("follows from `classes`", "Give classes=<names>")),
    ({"distillation.loss_kd.temprature": 2.0}, ("loss_kd has no option 'temprature'", "temperature?")),
    ({"distilation.loss_kd.temperature": 2.0}, ("distilation", "distillation?")),
    ({"model.backbon.depth": 34}, ("model has no option 'backbon'", "backbone?")),
    ({"train_cfg.max_iter": 2}, ("'max_iter'", "max_iters?")),
]


@pytest.mark.parametrize(("options", "wanted"), OPTIONS, ids=[next(iter(options)) for options, _ in OPTIONS])
def test_options_that_would_have_no_effect_are_refused(options: dict[str, Any], wanted: tuple[str, ...]) -> None:
    said = message(REPOSITORY / STUDENT, options)
    for part in wanted:
        assert part in said


@pytest.mark.parametrize("name", ["cache", "codec", "region", "distillation", "plan_assignment", "teacher"])
def test_a_plain_student_has_no_use_for_a_cache(tmp_path: Path, name: str) -> None:
    said = message(
        student(
            tmp_path,
            f"{name} = {'dict(a=1)' if name in ('region', 'distillation', 'teacher') else '1'}",
            "configs/demo/plain.py",
        )
    )
    assert f"`{name}` is" in said
    assert "has no effect: model.type is 'SingleStageDetector'" in said


def test_one_line_changes_a_setting_everywhere(tmp_path: Path) -> None:
    lines = "\n".join(
        [
            "_factor = 0.5  # a name of one's own",
            "data_root = 'elsewhere/'",
            "classes = ('ship', 'plane')",
            "distillation = dict(loss_kd=dict(temperature=2.0))",
            "region = dict(factor=_factor)",
            "vis_backends = [dict(type='TensorboardVisBackend')]",
        ]
    )
    for base, kind in ((STUDENT, "distill"), ("configs/demo/live.py", "live")):
        config = load_config(student(tmp_path, lines, base, f"{kind}.py"))
        for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
            assert loader.dataset.data_root == "elsewhere/"
            assert loader.dataset.metainfo.classes == ("ship", "plane")
        assert config.test_evaluator.data_root == "elsewhere/"
        assert config.model.bbox_head.num_classes == 2
        assert config.model.distillation.loss_kd.temperature == 2.0
        assert config.model.distillation.loss_ld.temperature == 5.0
        assert [backend.type for backend in config.visualizer.vis_backends] == [
            "LocalVisBackend",
            "TensorboardVisBackend",
        ]
        if kind == "live":
            assert config.train_dataloader.dataset.pipeline[-2].region.factor == 0.5
            assert config.model.teacher == config.teacher


def test_an_option_changes_a_setting_everywhere() -> None:
    options = {"data_root": "moved/", "distillation.loss_kd": None, "region.factor": 1.0}
    config = load_config(REPOSITORY / "configs/demo/live.py", options)
    assert config.train_dataloader.dataset.data_root == config.test_evaluator.data_root == "moved/"
    assert config.model.distillation.loss_kd is None
    assert config.train_dataloader.dataset.pipeline[-2].region.factor == config.region.factor == 1.0


def test_a_config_survives_its_own_file(tmp_path: Path) -> None:
    """A run's config is written with every setting filled in: read again it says the same, and takes options."""
    config = load_config(REPOSITORY / STUDENT)
    config.dump(tmp_path / "run.py")
    again = read_config(tmp_path / "run.py")
    assert again.to_dict() == read_config(tmp_path / "run.py").to_dict()
    assert again.model.to_dict() == config.model.to_dict()
    moved = load_config(tmp_path / "run.py", {"data_root": "moved/"})
    assert moved.val_dataloader.dataset.data_root == "moved/"


def test_names_of_a_stock_of_parts_may_be_unused(tmp_path: Path) -> None:
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "parts.py").write_text("small = dict(depth=18)\nlarge = dict(depth=34)\n")
    path = student(tmp_path, "model = dict(backbone={{_base_.large}})")
    path.write_text(path.read_text().replace("]\n", ", './_base_/parts.py']\n", 1))
    assert load_config(path).model.backbone.depth == 34
