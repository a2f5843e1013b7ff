"""COCO-format data: what is read, in which order, what a digest covers, what is refused, and AP by hand."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from distill.coco import CocoBoxMetric, CocoImageDataset
from distill.coco_annotations import read_annotations
from distill.errors import DataNeeded

CLASSES = ("plane", "ship")
PLANE, SHIP, CAR = 7, 3, 5  # ids as odd as COCO's own, in another order than the classes


def annotation(number: int, image: int, category: int, bbox: list[float], **changes: Any) -> dict[str, Any]:
    """One object; `changes` replaces keys."""
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3]}
    return {**entry, "iscrowd": 0, **changes}


def content() -> dict[str, Any]:
    """Images 12, 9 and 4 (no object of the classes), neither images nor annotations in order."""
    return {
        "images": [
            {"id": 12, "file_name": "twelve.png", "width": 100, "height": 80},
            {"id": 9, "file_name": "nine.png", "width": 64, "height": 48},
            {"id": 4, "file_name": "four.png", "width": 30, "height": 90},
        ],
        "categories": [
            {"id": SHIP, "name": "ship"},
            {"id": CAR, "name": "car"},
            {"id": PLANE, "name": "plane"},
        ],
        "annotations": [
            annotation(31, 12, SHIP, [10, 10, 20.5, 8]),
            annotation(30, 12, PLANE, [40, 20, 30, 30], iscrowd=1),
            annotation(32, 9, PLANE, [0, 0, 64, 48]),
            annotation(33, 4, CAR, [1, 1, 9, 9]),
        ],
    }


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def load(path: Path, **options: Any) -> CocoImageDataset:
    """The dataset of an annotation file."""
    return CocoImageDataset(
        ann_file=str(path),
        data_prefix={"img_path": "images/"},
        metainfo={"classes": CLASSES},
        pipeline=[],
        serialize_data=False,
        **options,
    )


def entries(path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    dataset = load(path, **options)
    return {str(info["img_id"]): info for info in map(dataset.get_data_info, range(len(dataset)))}


def digests(path: Path, **options: Any) -> dict[str, bytes]:
    dataset = load(path, **options)
    infos = map(dataset.get_data_info, range(len(dataset)))
    return {str(info["img_id"]): dataset.label_digest(info) for info in infos}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "instances.json", content())


def test_images_come_by_id_and_objects_by_annotation_id(file: Path) -> None:
    found = entries(file)
    assert list(found) == ["4", "9", "12"]
    assert found["12"]["img_path"] == "images/twelve.png"
    assert (found["12"]["width"], found["12"]["height"]) == (100, 80)
    # By annotation id the crowd is first; classes are numbered as the config does, not as the file.
    assert found["12"]["instances"] == [
        {"ignore_flag": 1, "bbox": [40, 20, 70, 50], "bbox_label": 0},
        {"ignore_flag": 0, "bbox": [10, 10, 30.5, 18], "bbox_label": 1},
    ]
    assert found["4"]["instances"] == [], "a car is no class of the config"


def test_filters_are_those_of_mmdet(file: Path) -> None:
    assert list(entries(file, filter_cfg={"filter_empty_gt": True})) == ["9", "12"]
    assert list(entries(file, filter_cfg={"min_size": 49})) == ["12"]
    assert list(entries(file, filter_cfg={"filter_empty_gt": True, "min_size": 49}, test_mode=True)) == ["4", "9", "12"]


@pytest.mark.parametrize(
    "change",
    [{"bbox": [10, 10, 0.5, 8]}, {"bbox": [100, 10, 9, 8]}, {"area": 0}, {"ignore": 1}],
    ids=["below a pixel", "outside", "no area", "ignored"],
)
def test_objects_that_mmdet_leaves_out(tmp_path: Path, change: dict[str, Any]) -> None:
    value = content()
    value["annotations"][0].update(change)
    labels = [instance["bbox_label"] for instance in entries(write(tmp_path / "a.json", value))["12"]["instances"]]
    assert labels == [0]


def test_the_order_of_the_file_changes_nothing(tmp_path: Path, file: Path) -> None:
    turned = {part: list(reversed(entries)) for part, entries in content().items()}
    other = write(tmp_path / "turned.json", turned)
    moved = [{**info, "label_path": str(file)} for info in entries(other).values()]
    assert moved == list(entries(file).values())
    assert list(digests(other).items()) == list(digests(file).items())


def of_twelve(value: dict[str, Any]) -> dict[str, Any]:
    return value["annotations"][0]


OWN_CHANGES = {
    "box": lambda value: of_twelve(value).update(bbox=[10, 10, 20.5, 8.25]),
    "class": lambda value: of_twelve(value).update(category_id=PLANE),
    "crowd": lambda value: of_twelve(value).update(iscrowd=1),
    "one less": lambda value: value["annotations"].pop(0),
    "one more": lambda value: value["annotations"].append(annotation(99, 12, SHIP, [1, 1, 5, 5])),
    "order": lambda value: of_twelve(value).update(id=29),
    "size": lambda value: value["images"][0].update(width=101),
}
OTHER_CHANGES = {
    "box of another image": lambda value: value["annotations"][2].update(bbox=[0, 0, 9, 9]),
    "another image gone": lambda value: (value["images"].pop(1), value["annotations"].pop(2)),
    "segmentation": lambda value: of_twelve(value).update(segmentation=[[0, 0, 1, 1, 0, 1]]),
    "same number, other form": lambda value: of_twelve(value).update(bbox=[10.0, 10.0, 20.5, 8.0]),
    "new ids, same order": lambda value: of_twelve(value).update(id=57),
    "licence": lambda value: value["images"][0].update(license=2),
}


@pytest.mark.parametrize("change", OWN_CHANGES.values(), ids=OWN_CHANGES)
def test_a_digest_changes_with_the_image_s_own_labels_alone(tmp_path: Path, file: Path, change: Callable) -> None:
    value = content()
    change(value)
    before, after = digests(file), digests(write(tmp_path / "changed.json", value))
    assert {name for name in before if before[name] != after[name]} == {"12"}
    assert all(len(digest) == 32 for digest in after.values())


@pytest.mark.parametrize("change", OTHER_CHANGES.values(), ids=OTHER_CHANGES)
def test_a_digest_ignores_what_training_does_not_read(tmp_path: Path, file: Path, change: Callable) -> None:
    value = content()
    change(value)
    assert digests(write(tmp_path / "changed.json", value))["12"] == digests(file)["12"]


side = st.integers(0, 39).map(lambda value: value / 2)
length = st.integers(2, 40).map(lambda value: value / 2)
objects = st.lists(
    st.tuples(st.sampled_from([PLANE, SHIP]), side, side, length, length, st.sampled_from([0, 1])), max_size=4
)


@settings(max_examples=25, deadline=None)
@given(first=objects, second=objects, other=objects)
def test_digests_are_equal_where_and_only_where_labels_are(tmp_path_factory, first, second, other) -> None:
    folder = tmp_path_factory.mktemp("law")

    def digests_of(own: list[tuple], neighbour: list[tuple]) -> dict[str, bytes]:
        images = [{"id": number, "file_name": f"{number}.png", "width": 60, "height": 60} for number in (1, 2)]
        all_objects = [(1, *entry) for entry in own] + [(2, *entry) for entry in neighbour]
        annotations = [
            annotation(number, image, category, [x, y, w, h], iscrowd=crowd)
            for number, (image, category, x, y, w, h, crowd) in enumerate(all_objects)
        ]
        value = {"images": images, "categories": content()["categories"], "annotations": annotations}
        return digests(write(folder / "law.json", value))

    base = digests_of(first, other)
    assert digests_of(first, second)["1"] == base["1"]
    assert (digests_of(second, other)["1"] == base["1"]) == (second == first)
    assert (base["1"] == base["2"]) == (first == other)


@dataclass(frozen=True)
class Refusal:
    """A change of the file after which it is refused with this text."""

    id: str
    change: Callable[[dict[str, Any]], object]
    message: str


MALFORMED = [
    Refusal("no images", lambda value: value.pop("images"), "`images` must be a list of objects"),
    Refusal("no list", lambda value: value.update(categories={}), "`categories` must be a list of objects"),
    Refusal("no size", lambda value: value["images"][1].pop("height"), ", image 9: no `height`. Add it or remove"),
    Refusal("size", lambda value: value["images"][1].update(width="64"), 'image 9: width is "64"; a whole number'),
    Refusal("image twice", lambda value: value["images"][1].update(id=12), "two images have the id 12; keep one"),
    Refusal("category twice", lambda value: value["categories"][1].update(id=3), "two categories have the id 3"),
    Refusal(
        "name twice", lambda value: value["categories"][1].update(name="ship"), 'two categories have the name "ship"'
    ),
    Refusal(
        "annotation twice", lambda value: of_twelve(value).update(id=30), "two annotations have the id 30; keep one"
    ),
    Refusal("no box", lambda value: of_twelve(value).pop("bbox"), "annotation 31 of image 12: no `bbox`. Add it"),
    Refusal("no area", lambda value: of_twelve(value).pop("area"), "annotation 31 of image 12: no `area`. Add it"),
    Refusal("no image", lambda value: of_twelve(value).pop("image_id"), "annotation 31 of image null: no `image_id`"),
    Refusal(
        "not finite",
        lambda value: of_twelve(value).update(bbox=[1, float("nan"), 2, 3]),
        "annotation 31 of image 12: bbox is [1, NaN, 2, 3]; four finite numbers (x, y, width, height) is needed",
    ),
    Refusal(
        "short box", lambda value: of_twelve(value).update(bbox=[1, 2, 3]), "bbox is [1, 2, 3]; four finite numbers"
    ),
    Refusal("crowd", lambda value: of_twelve(value).update(iscrowd="no"), 'iscrowd is "no"; 0 or 1 is needed'),
    Refusal(
        "other image",
        lambda value: of_twelve(value).update(image_id=1),
        "annotation 31 of image 1: image_id is 1; an id of the file's `images` is needed",
    ),
    Refusal(
        "other category",
        lambda value: of_twelve(value).update(category_id=99),
        "annotation 31 of image 12: category_id is 99; an id of the file's `categories` is needed",
    ),
    Refusal(
        "class without category",
        lambda value: value["categories"][0].update(name="boat"),
        "no category 'ship' (the config has 2 classes, 1 of them are missing); the file's are boat, car, plane",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.id)
def test_malformed_files_are_refused(tmp_path: Path, case: Refusal) -> None:
    value = content()
    case.change(value)
    path = write(tmp_path / "instances.json", value)
    with pytest.raises(ValueError, match=re.escape(case.message)) as error:
        load(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_annotations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNeeded, match=r"none\.json does not exist"):
        read_annotations(tmp_path / "none.json")
    torn = tmp_path / "torn.json"
    torn.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        load(torn)
    torn.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        load(torn)
    with pytest.raises(ValueError, match=r"an object with images, annotations, categories is needed, not \[\]"):
        load(write(tmp_path / "list.json", []))


def test_iscrowd_may_be_left_out(tmp_path: Path, file: Path) -> None:
    value = content()
    for entry in value["annotations"]:
        if not entry["iscrowd"]:
            del entry["iscrowd"]
    assert digests(write(tmp_path / "short.json", value)) == digests(file)


def test_the_image_folder_must_be_named_as_elsewhere(file: Path) -> None:
    with pytest.raises(ValueError, match="the folder of the images is needed as img_path"):
        CocoImageDataset(ann_file=str(file), data_prefix={"img": "images/"}, metainfo={"classes": CLASSES}, pipeline=[])


# --- AP ---------------------------------------------------------------------------------------------------------------

EVALUATED = {
    "images": [{"id": number, "file_name": f"{number}.png", "width": 200, "height": 200} for number in (1, 2)],
    "categories": content()["categories"],
    "annotations": [
        annotation(1, 1, PLANE, [10, 10, 20, 20]),
        annotation(2, 1, PLANE, [60, 60, 40, 40]),
        annotation(3, 1, SHIP, [100, 0, 100, 50]),
        annotation(4, 2, PLANE, [0, 0, 50, 50], iscrowd=1),
    ],
}


def sample(image: int, *predictions: tuple[list[float], float, int]) -> DetDataSample:
    """One image's detections: (x1 y1 x2 y2, score, label)."""
    instances = InstanceData(
        bboxes=torch.tensor([box for box, _, _ in predictions]).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in predictions]),
        labels=torch.tensor([label for _, _, label in predictions], dtype=torch.long),
    )
    return DetDataSample(metainfo={"img_id": image, "ori_shape": (200, 200)}, pred_instances=instances)


def detections() -> list[DetDataSample]:
    return [
        sample(2, ([5.0, 5, 45, 45], 0.99, 0)),
        sample(
            1,
            ([10.0, 10, 30, 30], 0.9, 0),
            ([150.0, 150, 170, 170], 0.8, 0),
            ([100.0, 0, 177.5, 50], 0.7, 1),
        ),
    ]


def evaluate(metric: CocoBoxMetric, samples: list[DetDataSample]) -> dict[str, float]:
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, [sample.to_dict() for sample in samples])
    return metric.evaluate(size=len(samples))


def test_ap_by_hand(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", EVALUATED)
    figures = evaluate(CocoBoxMetric(str(truth), outfile_prefix=str(tmp_path / "out")), detections())
    # Planes: one of two found exactly, before the false alarm, so precision is 1 at the recalls 0, 0.01 ... 0.5: 51 of
    # 101 points. The detection in the crowd counts neither way.
    plane = 51 / 101
    # The ship: IoU 77.5 / 100, so found at six thresholds of ten.
    expected = {"AP": (plane + 0.6) / 2, "AP50": (plane + 1) / 2, "AP75": (plane + 1) / 2}
    # Small: the plane of 20 px, found. Medium: the plane of 40 px, missed, and the ship. Large: nothing, no figure.
    expected |= {"APs": 1.0, "APm": (0 + 0.6) / 2}
    assert {name.removeprefix("coco/"): value for name, value in figures.items()} == pytest.approx(expected, abs=1e-12)

    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert report["classes"] == list(CLASSES)
    assert report["thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert report["ap"][0] == pytest.approx([plane] * 10)
    assert report["ap"][1] == pytest.approx([1] * 6 + [0] * 4)
    assert report["mean_ap_per_threshold"][9] == pytest.approx(plane / 2)
    assert (report["num_objects"], report["num_detections"]) == ([2, 1], [3, 1])
    assert report["AP"] == pytest.approx(expected["AP"])
    written = json.loads((tmp_path / "out/detections.bbox.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in written] == [(1, 7), (1, 7), (1, 3), (2, 7)]


def test_neither_order_nor_repetition_changes_ap(tmp_path: Path) -> None:
    truth = str(write(tmp_path / "truth.json", EVALUATED))
    first, second = detections()
    assert evaluate(CocoBoxMetric(truth), [second, first, second]) == evaluate(CocoBoxMetric(truth), detections())


def test_nothing_found_is_ap_0(tmp_path: Path) -> None:
    metric = CocoBoxMetric(str(write(tmp_path / "truth.json", EVALUATED)), outfile_prefix=str(tmp_path / "out"))
    assert set(evaluate(metric, [sample(1), sample(2)]).values()) == {0.0}
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["num_detections"] == [0, 0]


def test_a_class_without_objects_has_no_ap(tmp_path: Path) -> None:
    value = copy.deepcopy(EVALUATED)
    del value["annotations"][2]
    metric = CocoBoxMetric(str(write(tmp_path / "truth.json", value)), outfile_prefix=str(tmp_path / "out"))
    assert evaluate(metric, detections())["coco/AP"] == pytest.approx(51 / 101)
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["ap"][1] == [None] * 10


def test_evaluating_on_nothing_is_refused(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {**EVALUATED, "annotations": []})
    with pytest.raises(ValueError, match="holds no object of plane, ship, so there is no AP"):
        evaluate(CocoBoxMetric(str(truth)), detections())
