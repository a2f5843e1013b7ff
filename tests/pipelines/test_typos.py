"""Mistakes of a user in every command: one line each that names the place and what would work, and no traceback.

Misspelt names, values of another kind, files that are something else. Options of configs are in test_settings.py,
variables of make in test_cures.py.
"""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest

from pipelines.base.command import run_command
from tests.pipelines.conftest import Project
from tests.pipelines.test_arguments import COMMANDS

SWEEPS = {
    "key": "base = {distill!r}\nruns = dict(a={{}})\nwork_dirr = 'x'\n",
    "option": "base = {distill!r}\nruns = dict(a=dict(distilation=dict(loss_kd=None)))\n",
    "type": "base = {distill!r}\nruns = dict(a=dict(distillation=dict(loss_kd=dict(temperature='2'))))\n",
    "name": "base = {distill!r}\nruns = {{'a/b': {{}}}}\n",
    "runs": "base = {distill!r}\nruns = ['a']\n",
    "cache": "base = {distill!r}\nruns = dict(a=dict(cache='x.zarr'))\n",
    "base": "base = 'absent.py'\nruns = dict(a=dict())\n",
    "plain": "base = {plain!r}\nruns = dict(a=dict())\n",
}
# A command line, and what its one line says. {distill} and the like are configs; {work} a folder of the test's own.
DATA = "data --config {teacher} --cfg-options"
TEACHER = "teacher --config {teacher} --work-dir {work} --cfg-options"
TRAIN = "train --config {plain} --work-dir {work} --cfg-options"
DISTILL = "distill --config {distill} --work-dir {work} --cfg-options"
CAPTURE = "cache_teacher --config {distill}"
EVALUATE = "evaluate --config {plain} --checkpoint {weights}"
TYPOS = {
    "recode_cache --to new.zarr --codec smaller": "or a bound of mean KL such as 2e-5 is needed, not 'smaller'",
    # data
    "data --confg {teacher}": "there is no option --confg. Did you mean --config?",
    "data --config {teacher} --workers two": "--workers: must be a whole number of at least 1, not 'two'",
    "data --config {teacher} --dota-rot x": "there is no option --dota-rot. Did you mean --dota-root?",
    f"{DATA} patchsize=96": "patchsize: nothing reads it. Did you mean patch_size?",
    f"{DATA} patch_size=big": '`patch_size` is "big"; a whole number is needed',
    f"{DATA} patch_overlap=1.5": "`patch_overlap` is 1.5; a whole number is needed",
    f"{DATA} patch_overlap=200": "patches of 96 pixels cannot overlap by 200",
    f"{DATA} scenes.trian=3": "trian; it needs train, val, image_size",
    f"{DATA} scenes.train=0": "scenes.train is 0; at least 1 scene is needed",
    f"{DATA} scenes.train=few": "scenes.train is 'few'; a whole number is needed",
    f"{DATA} scenes.scale=small": "scenes.scale is 'small'; a number above 0 is needed",
    f"{DATA} scenes.image_size=160": "scenes.image_size is [160]; (width, height)",
    f"{DATA} data_format=voc": "data_format is 'voc'; one of dota, coco is needed",
    f"{DATA} classes=ship": '`classes` is "ship"; a list of names is needed',
    f"{DATA} ignore_classes=5": "`ignore_classes` is 5; a list of names is needed",
    # teacher
    "teacher --config {teacher} --resum": "there is no option --resum. Did you mean --resume?",
    "teacher --config {distill}": "TEACHER= is needed: make teacher TEACHER={teacher}",
    "teacher": "CONFIG= is needed",
    "teacher --config absent.py": "config absent.py does not exist",
    "teacher --config {teacher} --work-dir {weights}": "WORK_DIR {weights} cannot be written: Not a directory",
    f"{TEACHER} train_cfg.max_iters": "--cfg-options: KEY=VALUE is needed, not 'train_cfg.max_iters'",
    f"{TEACHER} model.neck.in_channels=[8,16": "model.neck.in_channels: Imbalanced brackets exist in [8,16",
    f"{TEACHER} optim_wrapper.optimizer.lr=-1.0": "Invalid learning rate: -1.0",
    f"{TEACHER} load_from=absent.pth": "checkpoint absent.pth does not exist",
    f"{TEACHER} load_from={{torn}}": "checkpoint {torn} cannot be read: it is damaged, or no checkpoint",
    # train
    "train --config {plain} --work-dirr x": "there is no option --work-dirr. Did you mean --work-dir?",
    "train --config {distill}": "It is trained by: make distill CONFIG={distill}",
    "train --config {live} --cfg-options teacher.checkpoint=absent.pth": "the teacher's checkpoint absent.pth does not",
    f"{TRAIN} cache=x.zarr": '`cache` is "x.zarr", which has no effect',
    f"{TRAIN} train_dataloader.batch_size=0": "batch_size should be a positive integer value",
    f"{TRAIN} randomness.seed=one": "randomness.seed is 'one'; int is needed",
    f"{TRAIN} default_hooks.checkpoint.interval=often": "default_hooks.checkpoint.interval is 'often'; int is needed",
    f"{TRAIN} default_hooks.checkpoint.intervall=5": "has no option 'intervall'. Did you mean interval?",
    f"{TRAIN} train_dataloader.dataset.pipeline=5": "`train_dataloader.dataset.pipeline` is 5; a list of dictionaries",
    f"{TRAIN} param_scheduler=5": "`param_scheduler` is 5; a dictionary or a list of dictionaries is needed",
    f"{TRAIN} vis_backends=TensorboardVisBackend": '`vis_backends` is "TensorboardVisBackend"; a list of dictionaries',
    f"{TRAIN} env_cfg=5": "`env_cfg` is 5; a dictionary is needed",
    f"{TRAIN} model=5": "`model` is 5; a dictionary is needed",
    # plan
    "plan --config {distill} --students none": "--students: must be a whole number of at least 1, not 'none'",
    "plan --config {distill} --student 2": "there is no option --student. Did you mean --students?",
    "plan --config {distill} --students 2": "--students are for the break-even, which takes a teacher: --probe",
    "plan --config {distill} --loaders -1": "--loaders: must be a whole number from 0 on, not '-1'",
    "plan --config {distill} --loaders 2 --workers 2": "--workers: not allowed with argument --loaders",
    "plan --config {distill} --views-per-block 0": "--views-per-block: must be a whole number of at least 1, not '0'",
    "plan --config {distill} --dashboard": "--dashboard needs --workers",
    "plan --config {plain}": "has no `region`",
    "plan --config {distill} --checkpoint {torn}": "checkpoint {torn} cannot be read",
    "plan --config {distill} --loaders 0 --cfg-options region.factor=wide": "region.factor is 'wide'; float is needed",
    "plan --config {distill} --loaders 0 --cfg-options region.factor=-1": "factor is -1, 0 to 1 needed",
    "plan --config {distill} --loaders 0 --cfg-options region.rule=center": "region.rule is 'center'; one of",
    # cache_teacher
    f"{CAPTURE} --part 5/4": "--part: part 5/4 does not exist; 1/4 to 4/4 do",
    f"{CAPTURE} --part half": "--part: a share like 1/4 is needed, not 'half'",
    f"{CAPTURE} --dtype float8": "--dtype: invalid choice: 'float8'",
    f"{CAPTURE} --device gpu": "--device: cpu, cuda or a GPU like cuda:1 is needed, not 'gpu'",
    f"{CAPTURE} --scheduler localhost": "--scheduler: an address like tls://host:8786 is needed, not 'localhost'",
    f"{CAPTURE} --chekpoint x": "there is no option --chekpoint. Did you mean --checkpoint?",
    f"{CAPTURE} --cache {{weights}}": "{weights} exists but is not a teacher cache",
    f"{CAPTURE} --cache s3:/bucket/x": "an object store's address is s3://bucket/name.zarr",
    f"{CAPTURE} --cfg-options codec=defualt": "codec preset 'defualt' is unknown; one of exact, half, default, small",
    f"{CAPTURE} --cfg-options codec.preset=half": '`codec` is "exact", which has no parts',
    f"{CAPTURE} --cfg-options plan_assignment=maybe": '`plan_assignment` is "maybe"; True or False is needed',
    # verify_cache
    "verify_cache": "--cache or --config is needed",
    "verify_cache --cache absent.zarr": "cache absent.zarr does not exist. Capture it: make cache-teacher CONFIG=",
    "verify_cache --cache {cache} --sample 0": "--sample: must be a whole number of at least 1, not '0'",
    "verify_cache --cache {cache} --tolerance -1": "--tolerance: must be a number from 0 to 1, not '-1'",
    "verify_cache --cache {cache} --no-teachr": "there is no option --no-teachr. Did you mean --no-teacher?",
    "verify_cache --cache {cache} --config {plain}": "has no `region`",
    # inspect_cache
    "inspect_cache --cache {cache} --config {distill} --draw sideways": "holds no view",
    "inspect_cache --cache {cache} --pach x": "there is no option --pach. Did you mean --patch?",
    "inspect_cache --cache {cache} --patch P9": "--patch and --draw choose what is drawn, which takes --config",
    "inspect_cache --cache {cache} --checkpoint absent.pth": "CHECKPOINT absent.pth does not exist",
    "inspect_cache --cache {cache} --config {distill} --out {work} --patch P9": "holds no view P9/",
    # distill
    "distill --config {distill} --cach x": "there is no option --cach. Did you mean --cache?",
    "distill --config {distill} --cache {work}/..": "exists but is not a teacher cache",
    "distill --config {plain}": "It is trained by: make train CONFIG={plain}",
    "distill --config {distill} --work-dir {work} --allow regions": "--allow regions: only views.flip_offset",
    f"{DISTILL} teacher.checkpont=x": "teacher has no option 'checkpont'. Did you mean checkpoint?",
    f"{DISTILL} distillation.loss_kd.temperature=0": "temperature is 0; it must be above 0",
    f"{DISTILL} distillation.normalizer=locally": "normalizer is 'locally'; one of per_level",
    f"{DISTILL} distillation=5": "`distillation` is 5; a dictionary is needed",
    f"{DISTILL} allow=region": '`allow` is "region"; a list of names is needed',
    f"{DISTILL} model.bbox_head.reg_max=6": "head.num_bins is 9 in the cache but 7 here. Change the config, or capture",
    # sweep
    "sweep": "the following arguments are required: --sweep",
    "sweep --sweep {sweep_key}": "unknown key 'work_dirr'; known are base, baseline, runs, work_dir",
    "sweep --sweep {sweep_option}": "run a distilation.loss_kd: the config has no 'distilation'. Did you mean distilla",
    "sweep --sweep {sweep_type}": "distillation.loss_kd.temperature is '2'; float is needed",
    "sweep --sweep {sweep_name}": "'a/b' is no usable name",
    "sweep --sweep {sweep_runs}": "`runs` is ['a']; a dict is needed",
    "sweep --sweep {sweep_cache}": "run a sets cache = 'x.zarr'; a sweep reads one cache",
    "sweep --sweep {sweep_base}": "config absent.py does not exist",
    "sweep --sweep {sweep_plain}": "has no `region`",
    "sweep --sweep {sweep_key} --jobs 0": "--jobs: must be a whole number of at least 1, not '0'",
    # compare
    "compare --config {distill} --seeds 1 1": "at least two different ones are needed for a spread",
    "compare --config {distill} --seeds a b": "--seeds: invalid int value: 'a'",
    "compare --config {distill} --liv x": "there is no option --liv. Did you mean --live?",
    "compare --config {plain}": "a cached student is needed there",
    "compare --config {distill} --plain {live}": "a plain student is needed there",
    # evaluate
    "evaluate": "the following arguments are required: --checkpoint",
    f"{EVALUATE} --skip-emty": "there is no option --skip-emty. Did you mean --skip-empty?",
    f"{EVALUATE} --images absent.txt": "image list absent.txt does not exist",
    f"{EVALUATE} --cfg-options model.test_cfg.score_thr=low": "model.test_cfg.score_thr is 'low'; float is needed",
    f"{EVALUATE} --cfg-options model.test_cfg.nms.iou_threshold=x": "nms.iou_threshold is 'x'; float is needed",
    "evaluate --config {plain} --checkpoint {torn}": "checkpoint {torn} cannot be read",
    # publish, report, demo, smoke, fetch_cache, caches, config, check_gpu
    "publish --chekpoint x": "there is no option --chekpoint. Did you mean --checkpoint?",
    "publish --checkpoint {distill}": "checkpoint {distill} cannot be read: it is damaged, or no checkpoint",
    "publish --checkpoint {weights} --out /proc/x.pth": "--out /proc cannot be written",
    "report --work-dir absent": "WORK_DIR absent is no folder that exists",
    "report --no-picture": "there is no option --no-picture. Did you mean --no-pictures?",
    "demo --seed x": "--seed: invalid int value: 'x'",
    "demo --workdir x": "there is no option --workdir. Did you mean --work-dir?",
    "smoke --golden absent.json": "golden file absent.json does not exist",
    "fetch_cache --cache s3://b": "the following arguments are required: --to",
    "fetch_cache --cache s3://bucket/x.zarr --to x --jobs 0": "--jobs: must be a whole number of at least 1, not '0'",
    "caches --foldr x": "there is no option --foldr. Did you mean --folder?",
    "config --config {distill} --cfg-options batchsize=2": "Did you mean train_dataloader.batch_size?",
    "check_gpu --device gpu": "--device: cpu, cuda or a GPU like cuda:1 is needed, not 'gpu'",
    "check_gpu --foldr x": "there is no option --foldr. Did you mean --folder?",
}


@pytest.fixture(scope="module")
def names(project: Project, tmp_path_factory) -> dict[str, str]:
    """What stands for {...} in a command line."""
    folder = tmp_path_factory.mktemp("typos")
    configs = {name: project.config(name) for name in ("teacher", "plain", "live", "distill")}
    for name, text in SWEEPS.items():
        (folder / f"{name}.py").write_text(text.format(**configs))
    (folder / "torn.pth").write_bytes(b"torn")
    files = {
        "weights": project.checkpoint,
        "cache": project.cache,
        "torn": folder / "torn.pth",
        "work": folder / "work",
    }
    (folder / "work").mkdir()
    return {
        **configs,
        **{name: str(path) for name, path in files.items()},
        **{f"sweep_{name}": str(folder / f"{name}.py") for name in SWEEPS},
    }


def test_every_command_has_its_mistakes() -> None:
    tried = {line.split()[0] for line in TYPOS}
    assert tried == set(COMMANDS)


@pytest.mark.parametrize(("line", "said"), TYPOS.items(), ids=TYPOS)
def test_a_mistake_is_one_line(names: dict[str, str], line: str, said: str, capfd) -> None:
    command, *argv = shlex.split(line.format(**names))
    module = importlib.import_module(f"pipelines.{command}")
    try:
        status = run_command(module.main, module.make_parser(), argv)
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert [place for place, text in enumerate(lines) if text.startswith("error: ")] == [len(lines) - 1]
    assert said.format(**names) in lines[-1]
    assert "Traceback" not in "".join(lines)
    assert Path(names["cache"]).is_dir()
