"""A student whose head or preprocessing is not its teacher's is refused by field and both values, before any work."""

from __future__ import annotations

import re

import pytest
import torch
from mmrotate.registry import MODELS

from cache.manifest import ManifestMismatch, differences
from distill.adapter import adapter_of
from distill.interface import describe_interface, require_same_interface
from distill.teacher import FrozenTeacher
from pipelines import cache_teacher, distill, plan, train, verify_cache
from pipelines.base.experiment import describe_student, load_config
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call

# What one option of a config makes of the description: the field, the value of the project, and the changed one.
CHANGES = [
    ("model.bbox_head.anchor_generator.strides=[16,64]", "head.grid.strides[1]", "32", "64"),
    ("model.bbox_head.anchor_generator.ratios=[1.0,0.5,3.0]", "head.grid.ratios[2]", "2.0", "3.0"),
    ("model.bbox_head.anchor_generator.octave_base_scale=2", "head.grid.scales[0]", "1.0", "2.0"),
    ("model.bbox_head.reg_max=6", "head.num_bins", "9", "7"),
    ("model.bbox_head.xywh_range=[-1.0,2.0]", "head.bin_ranges[0][0]", "-2.0", "-1.0"),
    ("model.bbox_head.angle_range=[-3.0,2.0]", "head.bin_ranges[4][0]", "-5.0", "-3.0"),
    ("model.bbox_head.anchor_generator.angle_version=le135", "head.anchor_angle", "null", '"le135"'),
    ("model.bbox_head.bbox_coder.angle_version=le90", "head.coder_angle", '"oc"', '"le90"'),
    ("model.bbox_head.bbox_coder.type=LegacyDeltaXYWHTRBBoxCoder", "head.coder_angle", '"oc"', '"legacy_oc"'),
    ("model.bbox_head.bbox_coder.target_stds=[1.0,1.0,1.0,1.0,2.0]", "head.target_stds", "(absent)", "2.0"),
    ("model.bbox_head.bbox_coder.target_means=[0.0,0.0,0.0,0.0,1.0]", "head.target_means", "(absent)", "1.0"),
    ("model.bbox_head.bbox_coder.norm_factor=2", "head.norm_factor", "(absent)", "2"),
    ("model.bbox_head.bbox_coder.edge_swap=True", "head.edge_swap", "(absent)", "true"),
    ("model.bbox_head.bbox_coder.proj_xy=True", "head.proj_xy", "(absent)", "true"),
    ("classes=['plane','ship','harbor']", "head.classes[0]", '"ship"', '"plane"'),
    ("model.data_preprocessor.mean=[123.675,116.28,0.0]", "preprocessing.mean[2]", "103.53", "0.0"),
    ("model.data_preprocessor.std=[58.395,57.12,1.0]", "preprocessing.std[2]", "57.375", "1.0"),
    ("model.data_preprocessor.bgr_to_rgb=False", "preprocessing.bgr_to_rgb", "true", "false"),
    ("model.data_preprocessor.pad_size_divisor=64", "preprocessing.pad_size_divisor", "32", "64"),
]


@pytest.fixture(scope="module")
def own_teacher(project: Project, tmp_path_factory):
    """Write the config of a teacher that differs from the project's in one option, and weights that fit it."""

    def make(option: str) -> list[str]:
        folder = tmp_path_factory.mktemp("teacher")
        config = load_config(project.config("teacher"), dict([parsed(option)]))
        config.dump(folder / "teacher.py")
        torch.save({"state_dict": MODELS.build(config.model).state_dict()}, folder / "teacher.pth")
        return ["--teacher", str(folder / "teacher.py"), "--checkpoint", str(folder / "teacher.pth")]

    return make


def parsed(option: str) -> tuple[str, object]:
    """`key=value` as the command line reads it."""
    arguments = cache_teacher.make_parser().parse_args(
        ["--config", str(REPOSITORY / "configs/demo/distill.py"), "--cfg-options", option]
    )
    ((key, value),) = arguments.cfg_options.items()
    return key, value


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(("option", "field", "usual", "changed"), CHANGES, ids=[change[0] for change in CHANGES])
def test_every_field_on_either_side(project, own_teacher, tmp_path, capfd, option, field, usual, changed, side) -> None:
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--cache", tmp_path / "new.zarr"]
    arguments += own_teacher(option) if side == "teacher" else ["--cfg-options", option]
    assert call(cache_teacher, *arguments) == 1
    *before, error = capfd.readouterr().err.splitlines()
    of_teacher, of_student = (changed, usual) if side == "teacher" else (usual, changed)
    wanted = rf"{re.escape(field)}\S* is {value(of_teacher)} in the teacher but {value(of_student)} in the student\. "
    assert re.search(wanted, error), error
    assert not any("plan" in line for line in before)
    assert not (tmp_path / "new.zarr").exists()


def value(shown: str) -> str:
    """A pattern of a value, alone or in a list."""
    return rf'"?(\[.*)?{re.escape(shown)}\]?"?'


def test_a_probe_refuses_as_a_capture(project: Project, capfd) -> None:
    option = "model.bbox_head.reg_max=6"
    assert call(plan, "--config", project.config("distill"), "--probe", "--loaders", 0, "--cfg-options", option) == 1
    captured = capfd.readouterr()
    assert "head.num_bins is 9 in the teacher but 7 in the student" in captured.err.splitlines()[-1]
    assert not captured.out


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value inside dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, below in inner for leaf in leaves(below, (*path, key))] or [path]


def changed(sections: dict, path: tuple) -> dict:
    """A copy with one value replaced."""
    made = copy_of(sections)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "another"
    return made


def copy_of(value):
    if isinstance(value, dict):
        return {key: copy_of(below) for key, below in value.items()}
    return [copy_of(below) for below in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["configs/demo/distill.py", "configs/distill/gfl_r18_1x_coco.py"])
def test_no_value_of_a_description_may_differ(name: str) -> None:
    """Whatever an adapter states, of whichever head: each single value, on either side, is refused by its name."""
    config = load_config(REPOSITORY / name)
    model = config.model
    head = MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})
    sections = describe_interface(adapter_of(head), model.data_preprocessor, config.classes)
    require_same_interface(sections, sections)
    for path in leaves(sections):
        other = changed(sections, path)
        ((field, *_),) = differences(other, sections)
        for ours, theirs in ((other, sections), (sections, other)):
            with pytest.raises(ManifestMismatch) as caught:
                require_same_interface(ours, theirs)
            assert caught.value.problem.startswith(f"{field} is ")
            assert '"another"' in caught.value.problem


def test_the_bins_of_a_checkpoint_are_those_of_its_config(project, own_teacher, capfd) -> None:
    """Loading would replace the values that the config names, and the manifest states, by others."""
    other, _ = own_teacher("model.bbox_head.angle_range=[-3.0,2.0]")[1::2]
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--teacher", other]
    assert call(cache_teacher, *arguments) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "integral_angle.project goes from -5 to 2 but from -3 to 2 in the teacher's config" in error


LIVE_REFUSALS = [
    ("model.bbox_head.angle_range=[-3.0,2.0]", r"head.bin_ranges[4][0] is -5.0 in the teacher but -3.0 in the student"),
    ("model.data_preprocessor.bgr_to_rgb=False", "preprocessing.bgr_to_rgb is true in the teacher but false in the st"),
    (
        "classes=['plane','ship','harbor']",
        'head.classes[0] is "ship" in the teacher but "plane" in the student',
    ),
]


@pytest.mark.parametrize(("option", "message"), LIVE_REFUSALS)
def test_a_live_teacher_is_compared_as_well(project: Project, tmp_path, capfd, option: str, message: str) -> None:
    teacher = f"config={project.config('teacher')}", f"checkpoint={project.checkpoint}"
    # Two runs of one second would share a logger.
    options = [*(f"teacher.{part}" for part in teacher), option, f"experiment_name={tmp_path.name}"]
    arguments = ["--config", project.config("live"), "--work-dir", tmp_path, "--cfg-options", *options]
    assert call(train, *arguments) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_a_cache_that_states_the_students_values_is_found_out(copy: Project, monkeypatch, capfd) -> None:
    """Captured before the two were compared: what verifies it, or audits a training from it, asks the teacher."""
    option, cache = "model.bbox_head.angle_range=[-3.0,2.0]", copy.folder / "new.zarr"
    student = load_config(copy.config("distill"), dict([parsed(option)]))
    with monkeypatch.context() as before:
        before.setattr(FrozenTeacher, "interface", lambda self: describe_student(student))
        arguments = ["--config", copy.config("distill"), "--cache", cache]
        assert call(cache_teacher, *arguments, "--loaders", 0, "--cfg-options", option) == 0
    capfd.readouterr()
    assert call(verify_cache, *arguments, "--cfg-options", option) == 1
    assert "wrong: zarr.json: head.bin_ranges[4][0] is -5.0 in the teacher but -3.0" in capfd.readouterr().out
    audit = "default_hooks.audit.type=TeacherAudit"
    assert call(distill, *arguments, "--work-dir", copy.folder / "run", "--cfg-options", option, audit) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "head.bin_ranges[4][0] is -3.0 in the cache but -5.0 here" in error
