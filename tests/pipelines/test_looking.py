"""Commands that look and run nothing: the caches of a folder, a config as it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.reader import CacheReader
from cache.writer import CacheWriter
from pipelines import caches, config, distill
from pipelines.evaluate import as_text
from tests.cache.store_tools import HALF, small_manifest, small_plan, write_store
from tests.pipelines.conftest import Project, call


def test_the_caches_of_a_folder(project: Project, tmp_path: Path, capfd) -> None:
    write_store(tmp_path / "deep/b.zarr")
    (tmp_path / "a.zarr").symlink_to(project.cache)
    plan = small_plan()
    with CacheWriter(tmp_path / "c.zarr", small_manifest(plan), plan, HALF):
        pass
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    write_store(tmp_path / "draft.zarr")
    document = json.loads((tmp_path / "draft.zarr/zarr.json").read_text())
    document["attributes"]["teacher"] = {}
    (tmp_path / "draft.zarr/zarr.json").write_text(json.dumps(document))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden.draft").mkdir()
    (tmp_path / ".hidden.draft/zarr.json").write_text("{}")
    assert call(caches, "--folder", tmp_path, "--json") == 0
    found = {Path(store["cache"]).name: store for store in json.loads(capfd.readouterr().out)}
    assert list(found) == ["c.zarr", "b.zarr", "draft.zarr", "other.zarr"]
    assert found["c.zarr"]["blocks_missing"] == found["c.zarr"]["blocks"] == plan.num_blocks
    assert found["b.zarr"]["blocks_missing"] == 0
    assert "teacher.weights_sha256 is null, a text needed" in found["draft.zarr"]["problem"]
    assert "is a Zarr group but not a teacher cache" in found["other.zarr"]["problem"]

    assert call(caches, "--folder", project.cache) == 0
    first, second = capfd.readouterr().out.splitlines()
    manifest = CacheReader(project.cache).manifest
    size = sum(file.stat().st_size for file in project.cache.rglob("*") if file.is_file())
    assert first == (
        f"{project.cache}: complete, {manifest.plan['num_views']} views of {manifest.plan['num_patches']} patches, "
        f"{size / 1e6:.2f} MB, codec exact, fingerprint {manifest.fingerprint[:12]}"
    )
    teacher = manifest.teacher["weights_sha256"][:12]
    assert second == f"    teacher ResNet-18 {teacher}; 3 classes: ship, plane, harbor"


def test_a_folder_without_caches(tmp_path: Path, capfd) -> None:
    assert call(caches, "--folder", tmp_path) == 0
    assert capfd.readouterr().out == f"{tmp_path} holds no cache\n"
    assert call(caches, "--folder", tmp_path / "absent") == 1
    assert "is no folder that exists" in capfd.readouterr().err


def test_a_config_as_it_is_read(project: Project, make_project, capfd) -> None:
    assert call(config, "--config", project.config("distill"), "--json", "--cfg-options", "data_root=moved/") == 0
    out, err = capfd.readouterr()
    read = json.loads(out)
    assert read["train_dataloader"]["dataset"]["data_root"] == read["val_evaluator"]["data_root"] == "moved/"
    lines = err.splitlines()
    assert lines[0] == (f"{project.config('distill')}: a student with a cache, 3 classes; nothing is wrong with it")
    assert lines[1].startswith("images: no training images at moved/train/images. Moved? make config CONFIG=")
    assert lines[2:] == [f"teacher: {project.checkpoint}", f"cache: {project.cache}"]
    # Nothing is there yet, and nothing is wrong.
    empty = make_project()
    assert call(config, "--config", empty.config("distill")) == 0
    out, err = capfd.readouterr()
    assert "distillation = dict(" in out
    assert f"Train one: make teacher TEACHER={empty.config('teacher')}" in err
    assert f"Capture it: make cache-teacher CONFIG={empty.config('distill')} CACHE={empty.cache}" in err


UNFIT = {
    "model.neck.in_channels=[8,16,32,65]": (
        "model.neck takes [8, 16, 32, 65] channels and does not fit model.backbone, whose maps have [8, 16, 32, 64]: "
        "RuntimeError"
    ),
    "model.neck.in_channels=[8,16,32]": "whose maps have [8, 16, 32, 64]: AssertionError",
    "model.bbox_head.in_channels=17": "model.bbox_head takes 17 channels and does not fit model.neck, whose maps have",
    "model.backbone.depth=35": "model: KeyError: invalid depth 35 for resnet",
    "model.backbone.out_indices=[0,1]": "model.neck takes [8, 16, 32, 64] channels and does not fit model.backbone",
}


@pytest.mark.parametrize(("option", "said"), UNFIT.items(), ids=UNFIT)
def test_parts_that_do_not_fit_are_one_line(project: Project, tmp_path: Path, option: str, said: str, capfd) -> None:
    for command, more in ((config, []), (distill, ["--work-dir", tmp_path])):
        assert call(command, "--config", project.config("distill"), *more, "--cfg-options", option) == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert said in errors[0]


def test_figures_of_an_evaluation_are_a_line_each() -> None:
    figures = {"AP": 0.2, "AP50": 0.5, "present_AP": 0.3, "present_AP50": 0.75, "legacy_AP": 0.4}
    assert as_text(figures).splitlines() == [
        "AP 20.00  AP50 50.00",
        "classes with objects alone: AP 30.00  AP50 75.00",
        "as the published script: AP 40.00",
    ]
