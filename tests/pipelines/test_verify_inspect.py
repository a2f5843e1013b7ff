"""`make verify-cache` and `make inspect-cache` on a captured project."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from mmrotate.registry import MODELS
from PIL import Image

from cache.commits import stored_block_digest
from cache.reader import CacheReader
from cache.store import Store
from cache.writer import CacheWriter
from distill.checkpoint import load_checkpoint
from distill.teacher import FrozenTeacher
from pipelines import inspect_cache, verify_cache
from pipelines.base.experiment import load_config
from pipelines.capture.views import TrainingViews
from pipelines.reporting.drawn_view import busy_patch, decode_boxes
from tests.cache.store_tools import contents
from tests.pipelines.conftest import Project, call


def verify(project: Project, *options) -> int:
    return call(verify_cache, "--config", project.config("distill"), "--workers", 2, *options)


def findings(capfd) -> list[str]:
    return [line for line in capfd.readouterr().out.splitlines() if line.startswith("wrong: ")]


def test_an_intact_cache_is_confirmed(project: Project, capfd) -> None:
    before = contents(project.cache)
    assert verify(project, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    plan = CacheReader(project.cache).plan
    assert report["ok"]
    assert report["findings"] == report["skipped"] == report["notes"] == []
    assert report["store"] == {
        "blocks": plan.num_blocks,
        "blocks_captured": plan.num_blocks,
        "objects": len(before),
        "bytes": sum(map(len, before.values())),
    }
    assert report["files"] == {"patches": len(plan.patch_ids)}
    teacher = report["teacher"]
    assert teacher["views_chosen"] == 8
    assert teacher["views"] % 4 == 0
    for field in ("cls_logits", "box_logits"):
        # The codec is exact and the teacher runs as it did: the same bits.
        assert teacher[field]["max_abs_error"] == teacher[field]["codec_bound"] == 0
    assert contents(project.cache) == before


def test_the_sample_is_seeded(project: Project, capfd) -> None:
    rows = []
    for seed in (0, 0, 1):
        assert verify(project, "--json", "--sample", 1, "--seed", seed) == 0
        rows.append(json.loads(capfd.readouterr().out)["teacher"]["rows"])
    assert rows[0] == rows[1] != rows[2]


def test_the_store_alone(project: Project, capfd) -> None:
    assert call(verify_cache, "--cache", project.cache) == 0
    output = capfd.readouterr().out
    assert "not checked: image and label files, and the teacher; with them: make verify-cache CONFIG=" in output
    assert "nothing is wrong" in output
    assert verify(project, "--no-teacher") == 0
    assert "not checked: the teacher: --no-teacher" in capfd.readouterr().out


def test_nothing_to_check_is_a_usage_error(capfd) -> None:
    for command in (verify_cache, inspect_cache):
        with pytest.raises(SystemExit) as error:
            call(command)
        assert error.value.code == 2
        assert re.search(
            "--cache, --config or --checkpoint is needed|--cache or --config is needed", capfd.readouterr().err
        )


@pytest.mark.parametrize("key", ["box_logits/c/0/0/0", "capture_error/c/0/0", "committed/c/0/0"])
def test_a_damaged_block_fails(copy: Project, capfd, key: str) -> None:
    file = copy.cache / key
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert verify(copy, "--no-teacher") == 1
    (finding,) = findings(capfd)
    assert finding.startswith(f"wrong: {key}: ")
    assert f"Delete {copy.cache}/committed/c/0/0, then capture block 0 again" in finding


def test_damaged_metadata_stops_the_rest(copy: Project, capfd) -> None:
    document = copy.cache / "weight/zarr.json"
    document.write_text(document.read_text() + " ")
    assert verify(copy) == 1
    output = capfd.readouterr().out
    assert "wrong: weight/zarr.json: its bytes are not those that were written" in output
    assert "not checked: blocks, files and teacher: the metadata must be whole first" in output


def test_an_unfinished_cache_fails(copy: Project, capfd) -> None:
    (copy.cache / "committed/c/0/0").unlink()
    status = call(verify_cache, "--cache", copy.cache)
    (finding,) = findings(capfd)
    assert status == 1
    assert "block 0 of 1 was never captured" in finding


def test_changed_files_fail_all_of_them(copy: Project, capfd) -> None:
    first, second, third, *_ = CacheReader(copy.cache).plan.patch_ids
    train = copy.folder / "data/train"
    for patch_id in (first, second):
        with open(train / f"images/{patch_id}.png", "ab") as file:
            file.write(b"\0")
    label = train / f"annfiles/{third}.txt"
    label.write_text(label.read_text() + "\n")
    assert verify(copy, "--no-teacher") == 1
    lines = findings(capfd)
    assert [line.split(": ")[1] for line in lines] == [f"patch {patch_id}" for patch_id in (first, second, third)]
    assert all("image_sha256 is" in line for line in lines[:2])
    assert "label_sha256 is" in lines[2]


def test_other_patches_fail(copy: Project, capfd) -> None:
    patch_id = CacheReader(copy.cache).plan.patch_ids[0]
    train = copy.folder / "data/train"
    (train / f"images/{patch_id}.png").rename(train / "images/new__96__0___0.png")
    (train / f"annfiles/{patch_id}.txt").rename(train / "annfiles/new__96__0___0.txt")
    assert verify(copy, "--no-teacher") == 1
    assert [line.split(". ")[0] for line in findings(capfd)] == [
        "wrong: patch new__96__0___0: in the training set but not in the cache",
        f"wrong: patch {patch_id}: in the cache but not in the training set",
    ]


def test_another_config_fails(project: Project, capfd) -> None:
    assert verify(project, "--cfg-options", "region.factor=0.5") == 1
    output = capfd.readouterr().out
    assert "wrong: zarr.json: region.factor is 0.25 in the cache but 0.5 in the config" in output
    assert "not checked: the teacher" in output


def test_another_teacher_fails(copy: Project, capfd) -> None:
    state = load_checkpoint(copy.checkpoint)["state_dict"]
    state["bbox_head.retina_reg.bias"][0] += 1e-3
    torch.save({"state_dict": state}, copy.checkpoint)
    assert verify(copy) == 1
    (finding,) = findings(capfd)
    assert "teacher.weights_sha256 is" in finding


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        pytest.param("box_logits", "box_logits differ by", id="box"),
        pytest.param("cls_logits", "cls_logits differ by", id="cls"),
        pytest.param("weight", "weights differ by", id="weight"),
        pytest.param("prior_index", "are not the region that the labels give", id="priors"),
        pytest.param("assigned_object", "planned assignment is not the one that labels", id="assignment"),
    ],
)
def test_rows_that_the_teacher_never_said_fail(copy: Project, capfd, field: str, problem: str) -> None:
    """Under a good commit: only the teacher can tell."""
    root = zarr.open_group(copy.cache, mode="r+")
    store = Store(copy.cache)
    plan = store.plan
    view = (plan.assigned_stop if field == "assigned_object" else plan.row_stop)[0]
    values = root[field][0, :view]
    # One value of the last row: all bins of a parameter moved alike would say the same.
    values[-1:].reshape(-1)[:1] += 1 if field in ("prior_index", "assigned_object") else 0.01
    root[field][0, :view] = values
    root["committed"][0] = np.frombuffer(stored_block_digest(store.location, store.names.block_keys(0)), np.uint8)
    assert verify(copy, "--sample", 64) == 1
    lines = findings(capfd)
    assert any(problem in line for line in lines), lines
    assert all("P" in line or "S" in line for line in lines)


def test_a_cache_that_is_being_written_is_not_judged(copy: Project, capfd) -> None:
    reader = CacheReader(copy.cache)
    with CacheWriter(copy.cache, reader.manifest, reader.plan, reader.codec):
        assert call(verify_cache, "--cache", copy.cache) == 1
    assert "is being written by another capture" in capfd.readouterr().err


def inspect(project: Project, *options) -> int:
    return call(inspect_cache, "--config", project.config("distill"), "--workers", 2, *options)


def test_inspection_counts_what_is_there(project: Project, capfd, tmp_path) -> None:
    assert inspect(project, "--json", "--out", tmp_path, "--checkpoint", project.checkpoint) == 0
    figures = json.loads(capfd.readouterr().out)
    files = contents(project.cache)
    plan = CacheReader(project.cache).plan
    assert figures["bytes"] == sum(map(len, files.values()))
    assert sum(size["bytes"] for size in figures["arrays"].values()) == figures["bytes"]
    assert figures["arrays"]["weight"]["bytes"] == sum(
        len(data) for key, data in files.items() if key.startswith("weight/")
    )
    assert figures["rows"] == plan.num_priors
    assert figures["rows_per_view"]["max"] == figures["expensive_views"][0]["rows"] == plan.priors_per_view.max()
    assert [level["mean"] for level in figures["levels"]] == plan.level_counts.mean(axis=0).tolist()
    assert figures["values"]["box_logits"]["high"] == 0
    assert figures["errors"]["box_max_abs_error"] == {"mean": 0, "largest_block": 0}
    # The teacher itself in the student's place: as far from what is stored as float32 rounds.
    assert figures["student"]["rows"] > 0
    assert all(figures["student"][name]["student"] < 1e-9 for name in ("cls", "box"))
    assert [Path(path).name for path in figures["pictures"]] == [
        "statistics.png",
        "region.jpg",
        "detections.jpg",
        "distributions.jpg",
    ]
    for path in figures["pictures"]:
        assert min(Image.open(path).size) > 400
        assert Path(path).stat().st_size < 1e6


def test_inspection_without_a_config(project: Project, capfd) -> None:
    assert call(inspect_cache, "--cache", project.cache) == 0
    output = capfd.readouterr().out
    assert "Most expensive views" in output
    assert "picture:" not in output


def test_a_damaged_block_is_not_inspected(copy: Project, capfd) -> None:
    (copy.cache / "weight/c/0/0").write_bytes(b"short")
    assert call(inspect_cache, "--cache", copy.cache) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cache")
    assert "make verify-cache" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--patch", "absent"], "holds no view absent", id="patch"),
        pytest.param(["--checkpoint", "absent.pth"], "absent.pth does not exist", id="checkpoint"),
    ],
)
def test_what_cannot_be_drawn_is_named(project: Project, tmp_path, capfd, options: list[str], message: str) -> None:
    assert inspect(project, "--out", tmp_path, *options) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_drawn_boxes_are_the_teachers_detections(project: Project) -> None:
    """Decoded from the store, against the head's own predictions on the live maps."""
    config = load_config(project.config("distill"))
    reader = CacheReader(project.cache)
    views = TrainingViews(config)
    teacher = FrozenTeacher.load(project.config("teacher"), project.checkpoint)
    patch_id = busy_patch(reader)
    sample = views.sample(patch_id, "vertical")
    record = reader.read(patch_id, "vertical")
    logits = torch.from_numpy(record.box_logits)
    ours = decode_boxes(teacher.adapter, sample, record.prior_index, logits)

    preprocessor = MODELS.build(config.model.data_preprocessor)
    maps = teacher.forward(preprocessor({"inputs": [sample.image], "data_samples": None})["inputs"])
    meta = {"img_shape": tuple(sample.image.shape[-2:]), "scale_factor": (1.0, 1.0)}
    predicted = teacher.model.bbox_head.predict_by_feat(
        *maps, batch_img_metas=[meta], cfg=config.model.test_cfg | {"score_thr": 0.0}, with_nms=False
    )[0]
    distance = torch.cdist(ours.double(), predicted.bboxes.tensor.double()).min(dim=1).values
    assert len(ours) > 100
    assert float(distance.max()) < 1e-3
