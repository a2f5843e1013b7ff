"""The evaluator inside mmengine: from data samples to figures, files and refusals."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from mmrotate.registry import METRICS
from mmrotate.structures.bbox import RotatedBoxes

from distill.detections import read_detections, read_ground_truth
from distill.devkit import evaluate_detections
from distill.metric import DotaDevkitMetric

CLASSES = ("ship", "harbor")
SHIP, HARBOR = 0, 1
# On image A__b: a ship centred on (900, 100), 20 x 10, and a harbor centred on (1200, 500), 40 x 40. C holds nothing.
LABELS = {
    "A__b": "890 95 910 95 910 105 890 105 ship 0\n1180 480 1220 480 1220 520 1180 520 harbor 0\n",
    "C": "imagesource:GoogleEarth\ngsd:null\n",
}

Box = tuple[float, float, float, float, float]


@pytest.fixture
def label_folder(tmp_path: Path) -> Path:
    """labelTxt of two unsplit images."""
    folder = tmp_path / "labelTxt"
    folder.mkdir()
    for name, text in LABELS.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def sample(name: str, *predictions: tuple[Box, float, int], boxes_as_tensor: bool = False) -> DetDataSample:
    """A patch's data sample with (rotated box, score, label) predictions."""
    boxes = torch.tensor([box for box, _, _ in predictions]).reshape(-1, 5)
    instances = InstanceData(
        bboxes=boxes if boxes_as_tensor else RotatedBoxes(boxes),
        scores=torch.tensor([score for _, score, _ in predictions]),
        labels=torch.tensor([label for _, _, label in predictions], dtype=torch.long),
    )
    return DetDataSample(metainfo={"img_id": name}, pred_instances=instances)


def found_all() -> list[DetDataSample]:
    """Every patch: the ship seen by two patches, the harbor by one, nothing on C."""
    return [
        sample("A__b__1024__0___0", ((900, 100, 10, 20, np.pi / 2), 0.6, SHIP)),
        sample("C"),
        # IoU with the harbor: 40 x 31 of 40 x 40 = 0.775, so found at six thresholds of ten.
        sample(
            "A__b__1024__824___0",
            ((76, 100, 20, 10, 0.0), 0.9, SHIP),
            ((376, 500, 40, 31, 0.0), 0.5, HARBOR),
            boxes_as_tensor=True,
        ),
    ]


def evaluate(samples: list[DetDataSample], **options: Any) -> dict[str, float]:
    """The metric's figures as a runner gets them."""
    evaluator = Evaluator(DotaDevkitMetric(**options))
    evaluator.dataset_meta = {"classes": CLASSES}
    for one in samples:
        evaluator.process([one])
    return evaluator.evaluate(len(samples))


def test_configs_find_the_metric_by_name() -> None:
    # Looked up, not built: METRICS.build would first import every model of mmdet.
    assert METRICS.module_dict["DotaDevkitMetric"] is DotaDevkitMetric


def test_figures_of_merged_images(label_folder: Path) -> None:
    figures = evaluate(found_all(), label_folder=str(label_folder))
    # The ship at all thresholds, the harbor up to 0.75: (1 + 1) / 2 and (1 + 0) / 2.
    expected = {f"dota/AP{k}": 1.0 if k <= 75 else 0.5 for k in range(50, 100, 5)}
    assert figures == pytest.approx({"dota/AP": 0.8, **expected})


def test_neither_order_nor_repeated_patches_matter(label_folder: Path) -> None:
    figures = evaluate(found_all(), label_folder=str(label_folder))
    samples = found_all()
    assert evaluate([*samples[::-1], samples[0]], label_folder=str(label_folder), nms_threshold=1.0) == pytest.approx(
        evaluate(samples, label_folder=str(label_folder), nms_threshold=1.0)
    )
    assert evaluate(samples[::-1], label_folder=str(label_folder)) == figures


def test_files_hold_what_was_evaluated(label_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "val"
    options: dict[str, Any] = {"label_folder": str(label_folder), "outfile_prefix": str(out), "legacy_cumulative": True}
    figures = evaluate(found_all(), **options)
    # Merged: one ship, the better one, shifted by 824.
    assert (out / "Task1_ship.txt").read_text() == (
        f"A__b {float(np.float32(0.9))!r} 890.00 95.00 910.00 95.00 910.00 105.00 890.00 105.00\n"
    )
    again = evaluate_detections(read_detections(out, CLASSES), read_ground_truth(label_folder), CLASSES)
    assert again.mean == figures["dota/AP"]
    report = json.loads((out / "evaluation.json").read_text())
    assert report["AP"] == figures["dota/AP"]
    assert (report["num_images"], report["num_images_inferred"], report["num_patches"]) == (2, 2, 3)
    # Published script: 1, then 1 + 1 / 2.
    assert figures["dota/legacy_AP50"] == pytest.approx(1)
    assert figures["dota/legacy_AP55"] == pytest.approx(1.5)
    assert figures["dota/legacy_AP"] == pytest.approx(report["legacy_AP"])


def test_patches_on_their_own(tmp_path: Path) -> None:
    (tmp_path / "A__b__1024__824___0.txt").write_text("66 95 86 95 86 105 66 105 ship 0\n")
    figures = evaluate([found_all()[2]], label_folder=str(tmp_path), merge=False, thresholds=[0.5, 0.75])
    # The ship is found; no harbor is annotated, which counts as 0.
    ship = {"dota/present_AP": 1.0, "dota/present_AP50": 1.0, "dota/present_AP75": 1.0}
    assert figures == pytest.approx({"dota/AP": 0.5, "dota/AP50": 0.5, "dota/AP75": 0.5, **ship})


def test_image_list_limits_the_images(label_folder: Path, tmp_path: Path) -> None:
    image_list = tmp_path / "list.txt"
    image_list.write_text("A__b\n")
    stray = sample("B__1024__0___0", ((900, 100, 20, 10, 0.0), 0.99, SHIP))
    figures = evaluate([*found_all(), stray], label_folder=str(label_folder), image_list=str(image_list))
    assert figures["dota/AP50"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"patch B__1024__0___0 belongs to image 'B', which has no label file in"):
        evaluate([stray], label_folder=str(label_folder))


def test_images_that_were_not_inferred_count_and_are_named(label_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "warning", lambda message, *_: warnings.append(message))
    assert evaluate([sample("C")], label_folder=str(label_folder))["dota/AP"] == 0
    assert warnings[0].startswith("1 of 2 images hold objects but none of their patches was inferred (first: A__b)")
    warnings.clear()
    evaluate(found_all()[::2], label_folder=str(label_folder))
    assert not warnings


def test_refusals(label_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"label folder .*none does not exist"):
        DotaDevkitMetric(str(label_folder / "none"))
    metric = DotaDevkitMetric(str(label_folder))
    with pytest.raises(ValueError, match="has no img_id; keep it in the meta_keys of PackDetInputs"):
        metric.process(None, [{"pred_instances": {}}])
    with pytest.raises(ValueError, match="meta information names no classes"):
        metric.compute_metrics([])


def test_table_is_logged(label_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    logger = MMLogger.get_current_instance()
    assert isinstance(logger, logging.Logger)
    monkeypatch.setattr(logger, "info", lambda message, *_: messages.append(message))
    evaluate(found_all(), label_folder=str(label_folder))
    assert messages[0].splitlines()[-1].split()[-3:] == ["100.00", "100.00", "80.00"]
