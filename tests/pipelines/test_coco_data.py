"""`make data` and `make evaluate` for COCO-format data: the files, the boxes, the refusals, the figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmrotate.registry import MODELS

from distill.coco_annotations import read_annotations
from distill.dota import Labels, read_labels
from pipelines.base.command import run_command
from pipelines.base.experiment import load_config
from pipelines.data import main, make_parser
from pipelines.prepare.coco import horizontal_boxes
from pipelines.training.evaluation import evaluate, read_evaluation
from tests.conftest import REPOSITORY

CLASSES = ("plane", "ship", "storage-tank")
SIZES = ((128, 96), (96, 96), (80, 112))
SCENES = {"train": 4, "val": 3, "image_sizes": SIZES, "scale": 0.45, "seed": 1}


def write_config(folder: Path, **changes: object) -> Path:
    """A config of built-in scenes in COCO's format; `changes` replaces keys, None leaves one out."""
    data_root = str(folder / "out")
    loaders = {
        f"{split}_dataloader": {
            "dataset": {
                "data_root": data_root,
                "ann_file": f"annotations/instances_{split}.json",
                "data_prefix": {"img_path": f"{split}/images/"},
            }
        }
        for split in ("train", "val")
    }
    keys = {"data_format": "coco", "data_root": data_root, "classes": CLASSES, "scenes": SCENES, **loaders, **changes}
    path = folder / "config.py"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in keys.items() if value is not None))
    return path


def run(config: Path, *arguments: str) -> int:
    """The command in this process; its exit status."""
    return run_command(main, make_parser(), ["--config", str(config), "--workers", "1", *arguments])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert run(write_config(folder)) == 0
    return folder


@pytest.fixture
def made(tmp_path: Path, made_once: Path) -> Path:
    """A folder with the scenes in out/; copied, for nothing in there knows where it lies."""
    shutil.copytree(made_once / "out", tmp_path / "out")
    return tmp_path


def images_and_objects(root: Path, split: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    content = read_annotations(root / f"annotations/instances_{split}.json")
    for image in content["images"]:
        yield image, [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]


def test_same_bytes_in_any_folder(tmp_path: Path, made_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(tmp_path), "--json") == 0
    assert tree(tmp_path / "out") == tree(made_once / "out")
    assert str(tmp_path) not in (tmp_path / "out/source.json").read_text(), "nothing of this machine"
    summary = json.loads(capsys.readouterr().out)
    assert [summary["splits"][split]["images"] for split in ("train", "val")] == [4, 3]
    assert summary["splits"]["train"]["objects"] > 0


def test_images_differ_in_size_and_are_as_annotated(made_once: Path) -> None:
    out = made_once / "out"
    for split, count in (("train", 4), ("val", 3)):
        found = [image for image, _ in images_and_objects(out, split)]
        assert [(image["width"], image["height"]) for image in found] == [SIZES[n % 3] for n in range(count)]
        for image in found:
            shape = cv2.imread(str(out / split / "images" / image["file_name"])).shape
            assert shape == (image["height"], image["width"], 3)
    pixels = [(out / split / "images/S0000.png").read_bytes() for split in ("train", "val")]
    assert pixels[0] != pixels[1], "the splits are different scenes"


def test_boxes_are_the_bounds_of_the_polygons_inside_the_image(made_once: Path) -> None:
    for split in ("train", "val"):
        for image, objects in images_and_objects(made_once / "out", split):
            labels = read_labels(made_once / f"out/{split}/labelTxt/{Path(image['file_name']).stem}.txt", CLASSES)
            assert [CLASSES[entry["category_id"] - 1] for entry in objects] == list(labels.class_names)
            frame = np.array([image["width"], image["height"]])
            for polygon, entry in zip(labels.polygons.reshape(-1, 4, 2), objects, strict=True):
                x, y, width, height = entry["bbox"]
                assert x >= 0
                assert y >= 0
                assert x + width <= frame[0]
                assert y + height <= frame[1]
                assert entry["area"] == width * height > 0
                bounds = [*polygon.min(axis=0), *polygon.max(axis=0)]
                if (polygon >= 0).all() and (polygon <= frame).all():
                    np.testing.assert_allclose([x, y, x + width, y + height], bounds, atol=1 / 512)
                else:  # what is seen of an object may have a smaller box than its clipped bounds, never a larger one
                    assert x >= bounds[0] - 1 / 512
                    assert y >= bounds[1] - 1 / 512
                    assert x + width <= bounds[2] + 1 / 512
                    assert y + height <= bounds[3] + 1 / 512


def test_box_of_the_visible_part_by_hand() -> None:
    # A diamond around (0, 50), half of it left of the image; an upright box that reaches over the lower right corner.
    polygons = [[-20, 50, 0, 30, 20, 50, 0, 70], [90, 70, 130, 70, 130, 100, 90, 100]]
    labels = Labels(np.array(polygons, dtype=np.float64), ("plane", "ship"), np.zeros(2, dtype=np.int64))
    assert horizontal_boxes(labels, 100, 80) == [[0, 30, 20, 40], [90, 70, 10, 10]]
    nothing = Labels(np.empty((0, 8)), (), np.empty(0, dtype=np.int64))
    assert horizontal_boxes(nothing, 100, 80) == []


def test_second_run_touches_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "out").rglob("*") if path.is_file()}
    assert run(write_config(made)) == 0
    assert "is complete; nothing needs to be made" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (made / "out").rglob("*") if path.is_file()} == before


def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, made_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.prepare.coco.annotate", lambda *arguments: (_ for _ in ()).throw(OSError("no space left"))
        )
        assert run(write_config(tmp_path)) == 1
    assert json.loads((tmp_path / "out/source.json").read_text())["complete"] is False
    assert run(write_config(tmp_path)) == 0
    assert tree(tmp_path / "out") == tree(made_once / "out")


CHANGED = {
    "lost image": lambda out: (out / "train/images/S0001.png").unlink(),
    "other image": lambda out: (out / "train/images/S0001.png").write_bytes(b"other"),
    "other annotations": lambda out: (out / "annotations/instances_train.json").write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_finished_data_that_have_changed_are_refused(
    made: Path, change: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    change(made / "out")
    assert run(write_config(made)) == 1
    error = capsys.readouterr().err
    assert "was made from something else: splits.train." in error
    assert f"delete {made / 'out'} and run again" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenes": {**SCENES, "seed": 2}}, "scenes.seed is 1 there, 2 here"),
        ({"scenes": {**SCENES, "image_sizes": SIZES[:2]}}, "scenes.image_sizes"),
        ({"classes": ("plane", "ship")}, "classes"),
    ],
    ids=["seed", "sizes", "classes"],
)
def test_other_scenes_are_refused(
    made: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(made / "out")
    assert run(write_config(made, **changes)) == 1
    assert message in capsys.readouterr().err
    assert tree(made / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": "voc"}, "data_format is 'voc'; one of dota, coco is needed"),
        ({"val_dataloader": None}, "has no `val_dataloader`; data preparation needs data_root, classes"),
        ({"scenes": {"train": 1}}, "scenes has train; it needs train, val, image_size"),
        ({"scenes": {**SCENES, "image_sizes": ()}}, "scenes.image_size is (); (width, height) in whole pixels"),
        ({"scenes": {**SCENES, "val": 0}}, "scenes.val is 0; at least 1 scene is needed"),
        ({"scenes": {**SCENES, "image_sizes": ((128, 32),)}}, "scene size 128 x 32: each side needs at least 64 px"),
    ],
)
def test_unusable_configs(
    tmp_path: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_config(tmp_path, **changes)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_of_real_annotations_is_never_written_over(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "out/source.json").unlink()
    shutil.rmtree(made / "out/train")
    shutil.rmtree(made / "out/val")
    before = tree(made / "out")
    assert run(write_config(made)) == 1
    assert "so they are not this command's. Use another data_root" in capsys.readouterr().err
    assert tree(made / "out") == before


def test_real_data_need_nothing_but_a_check(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(made, scenes=None)
    (made / "out/source.json").unlink()
    before = tree(made / "out")
    assert run(config) == 0
    assert "is complete; nothing needs to be made" in capsys.readouterr().out
    assert tree(made / "out") == before

    (made / "out/val/images/S0001.png").unlink()
    assert run(config) == 1
    missing = made / "out/val/images/S0001.png"
    assert (
        f"1 of the 3 images of {made / 'out/annotations/instances_val.json'} are missing; the first is {missing}"
        in (capsys.readouterr().err)
    )
    (made / "out/annotations/instances_train.json").unlink()
    assert run(config) == 1
    error = capsys.readouterr().err
    assert "instances_train.json does not exist. This config has no built-in data: unpack the images" in error
    assert run(config, "--dota-root", "DOTA") == 1
    assert "so it has no use for DOTA (DOTA_ROOT)" in capsys.readouterr().err


# --- make evaluate ----------------------------------------------------------------------------------------------------


@pytest.fixture
def detector(made: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Path]:
    """The demo's plain detector with its initial weights, on the scenes of `made`."""
    monkeypatch.chdir(REPOSITORY)
    config = load_config("configs/demo/gfl_plain.py")
    out = f"{made / 'out'}/"
    config.merge_from_dict({"work_dir": str(made / "work"), "model.bbox_head.num_classes": len(CLASSES)})
    dataset = {"data_root": out, "metainfo": {"classes": CLASSES}}
    config.merge_from_dict({"test_dataloader": {"num_workers": 0, "dataset": dataset}})
    config.merge_from_dict({"test_evaluator.ann_file": f"{out}annotations/instances_val.json"})
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(config.model).state_dict()}, made / "detector.pth")
    return config, made / "detector.pth"


def test_evaluation_gives_coco_s_figures(made: Path, detector: tuple[Config, Path]) -> None:
    config, checkpoint = detector
    figures = evaluate(config, checkpoint, made / "evaluation")
    assert {"AP", "AP50", "AP75"} <= set(figures) <= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert all(0 <= value <= 1 for value in figures.values())
    # The same file that reports and comparisons read of a rotated detector.
    stored = read_evaluation(made)
    assert {name: stored[name] for name in ("AP", "AP50", "AP75")} == pytest.approx(
        {name: figures[name] for name in ("AP", "AP50", "AP75")}
    )
    assert json.loads((made / "evaluation/evaluation.json").read_text())["num_images_inferred"] == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"images": "list.txt"}, "CocoBoxMetric has no image_list"),
        ({"legacy": True}, "CocoBoxMetric has no legacy_cumulative"),
        ({"skip_empty": True}, "CocoImageDataset has no skip_empty"),
    ],
    ids=["images", "legacy", "skip empty"],
)
def test_options_of_the_dota_devkit_are_refused(
    detector: tuple[Config, Path], option: dict[str, Any], message: str
) -> None:
    config, checkpoint = detector
    with pytest.raises(ValueError, match=message):
        evaluate(config, checkpoint, **option)
