"""The evaluator: hand-computed figures, laws, and two golden sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import devkit, merging
from distill.detections import (
    NO_DETECTIONS,
    Detections,
    detections_by_class,
    format_detections,
    parse_detections,
    read_detections,
    read_ground_truth,
    read_image_list,
    round_coordinates,
    select_images,
    write_detections,
)
from distill.devkit import THRESHOLDS, average_precision_11, evaluate_detections, format_table, legacy_from_true
from distill.dota import DOTA_CLASSES, Labels
from distill.merging import merge_patches, rotated_nms
from distill.polygons import overlapping_boxes, rbox_to_polygon
from tests.distill.polygon_tools import SQUARE, rectangle, reference_iou

OWN_GOLDEN = Path(__file__).parents[1] / "golden" / "evaluator"

# Two classes of the published golden hold detections of exactly equal score (0.999) whose order matters at IoU 0.90 and
# 0.95. The devkit's unstable sort left them in the order below (zero-based lines of the file); ours is the file's own.
# It is what NumPy 2's default argsort gives where the processor has AVX2 but no AVX-512.
RECORDED_ORDER_OF_TIES = {
    "storage-tank": [274, 275, 300, 79, 327, 254, 294, 90, 234, 113, 211, 236, 114, 285, 205, 145, 343],
    "ship": [
        *(584, 442, 370, 403, 390, 436, 77, 380, 338, 453, 307, 449, 279),
        *(286, 104, 101, 246, 560, 130, 272, 146, 195, 215, 168, 531, 615),
    ],
}


def labels(*rows: tuple[tuple[float, ...], str, int]) -> Labels:
    """Labels of one image from (polygon, class, difficulty) rows."""
    polygons = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 8)
    return Labels(polygons, tuple(row[1] for row in rows), np.array([row[2] for row in rows], dtype=np.int64))


def detections(*rows: tuple[str, float, tuple[float, ...]]) -> Detections:
    """Detections from (image, score, polygon) rows."""
    return Detections.of([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def ap_of(found: Detections, truth: dict[str, Labels], threshold: float = 0.5) -> float:
    """AP of the class `ship` at one threshold."""
    return float(evaluate_detections({"ship": found}, truth, ["ship"], [threshold]).ap[0, 0])


# --- an independent reference -----------------------------------------------------------------------------------------


def reference_ap(found: Detections, truth: dict[str, Labels], class_name: str) -> list[float]:
    """AP of one class at every threshold, detection by detection in plain Python, from the protocol's text."""
    objects = {
        image: [
            (polygon, level > 0)
            for polygon, name, level in zip(of.polygons, of.class_names, of.difficulty, strict=True)
            if name == class_name
        ]
        for image, of in truth.items()
    }
    num_objects = sum(not difficult for of_image in objects.values() for _, difficult in of_image)
    if num_objects == 0:
        return [0.0] * len(THRESHOLDS)
    order = sorted(range(len(found)), key=lambda k: -found.scores[k])
    overlaps = [
        [reference_iou(found.polygons[k], polygon) for polygon, _ in objects[found.image_ids[k]]] for k in order
    ]
    figures = []
    for threshold in THRESHOLDS:
        taken = set()
        points = []
        num_true = num_false = 0
        for k, overlap in zip(order, overlaps, strict=True):
            image, best = found.image_ids[k], max(overlap, default=0.0)
            place = (image, overlap.index(best) if overlap else -1)
            if best > threshold and objects[image][place[1]][1]:
                continue
            if best > threshold and place not in taken:
                taken.add(place)
                num_true += 1
            else:
                num_false += 1
            points.append((num_true / num_objects, num_true / (num_true + num_false)))
        figures.append(sum(max((p for r, p in points if r >= 0.1 * k), default=0.0) for k in range(11)) / 11)
    return figures


def reference_table(found: dict[str, Detections], truth: dict[str, Labels], classes: list[str]) -> list[list[float]]:
    """(T, C) AP by `reference_ap`."""
    return [list(row) for row in zip(*(reference_ap(found[name], truth, name) for name in classes), strict=True)]


def random_scene(
    seed: int, num_images: int = 3, num_objects: int = 40
) -> tuple[dict[str, Detections], dict[str, Labels]]:
    """Crowded images of two classes; scores with one decimal, so that many are equal."""
    rng = np.random.default_rng(seed)
    truth, rows = {}, {"ship": [], "harbor": []}
    for image in range(num_images):
        boxes = np.column_stack(
            [
                rng.uniform(0, 200, (num_objects, 2)),
                rng.uniform(8, 60, (num_objects, 2)),
                rng.uniform(-2, 2, num_objects),
            ]
        )
        names = rng.choice(["ship", "harbor"], num_objects)
        truth[f"P{image}"] = Labels(rbox_to_polygon(boxes), tuple(names), rng.choice(3, num_objects, p=[0.8, 0.1, 0.1]))
        picked = rng.integers(0, num_objects, 2 * num_objects)
        moved = boxes[picked] + rng.normal(0, 1, (len(picked), 5)) * (2, 2, 2, 2, 0.05)
        moved[:, 2:4] = np.maximum(moved[:, 2:4], 2)
        for polygon, name in zip(rbox_to_polygon(moved), names[picked], strict=True):
            rows[str(name)].append((f"P{image}", float(rng.integers(0, 10)) / 10, tuple(polygon)))
    return {name: detections(*of_class) for name, of_class in rows.items()}, truth


# --- average precision ------------------------------------------------------------------------------------------------


def test_prefilter_counts_pixels_inclusively() -> None:
    # Widths of the overlap in the devkit's count: 10 - 10.5 + 1 = 0.5 is one, 10 - 11 + 1 = 0 is none.
    box = np.array([[0.0, 0, 10, 10]])
    near, far = np.array([[10.5, 0, 20, 10]]), np.array([[11.0, 0, 20, 10]])
    assert len(overlapping_boxes(box, near, margin=devkit.INCLUSIVE_PIXEL)[0]) == 1
    assert len(overlapping_boxes(box, far, margin=devkit.INCLUSIVE_PIXEL)[0]) == 0
    assert len(overlapping_boxes(box, near)[0]) == 0
    # Such a pair is looked at and found to share no area: a false positive at every threshold, 0 included.
    truth = {"P0": labels((SQUARE, "ship", 0))}
    assert ap_of(detections(("P0", 0.9, rectangle(10.5, 0, 10, 10))), truth, threshold=0.0) == 0


def test_average_precision_11_by_hand() -> None:
    # Hit, miss, hit on two objects. Points 0 to 0.5 reach precision 1, points 0.6 to 1 reach 2/3.
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert average_precision_11(recall, precision) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11, abs=1e-15)
    assert average_precision_11(np.zeros(0), np.zeros(0)) == 0


def test_average_precision_11_keeps_the_rounding_of_the_devkits_grid() -> None:
    # 3 of 10 found: recall 0.3 lies below the fourth point, 0.30000000000000004, so 0, 0.1 and 0.2 alone count.
    assert average_precision_11(np.array([0.1, 0.2, 0.3]), np.ones(3)) == pytest.approx(3 / 11, abs=1e-15)


def test_iou_must_exceed_the_threshold() -> None:
    # The detection is the object's lower half: 50 / 100, exactly.
    truth = {"P0": labels((SQUARE, "ship", 0))}
    half = detections(("P0", 0.9, rectangle(0, 0, 10, 5)))
    assert ap_of(half, truth, 0.5) == 0
    assert ap_of(half, truth, 0.499) == pytest.approx(1)


def test_second_detection_of_an_object_is_a_false_positive() -> None:
    # Hit, duplicate, hit: as in test_average_precision_11_by_hand.
    truth = {"P0": labels((SQUARE, "ship", 0), (rectangle(50, 0, 10, 10), "ship", 0))}
    found = detections(("P0", 0.9, SQUARE), ("P0", 0.8, SQUARE), ("P0", 0.7, rectangle(50, 0, 10, 10)))
    assert ap_of(found, truth) == pytest.approx((6 + 10 / 3) / 11)


def test_an_object_is_taken_per_threshold() -> None:
    # IoU 0.6 at score 0.9, IoU 0.9 at score 0.8: the first takes the object at 0.5; at 0.75 it is a miss and the second
    # takes it at precision 1/2.
    truth = {"P0": labels((SQUARE, "ship", 0))}
    found = detections(("P0", 0.9, rectangle(0, 0, 10, 6)), ("P0", 0.8, rectangle(0, 0, 10, 9)))
    assert ap_of(found, truth, 0.5) == pytest.approx(1)
    assert ap_of(found, truth, 0.75) == pytest.approx(0.5)


def test_a_detection_matches_its_best_object_only() -> None:
    # The second detection's best object (IoU 0.9) is taken; that it also covers the other by 0.8 does not help it.
    truth = {"P0": labels((SQUARE, "ship", 0), (rectangle(0, 0, 10, 9), "ship", 0))}
    found = detections(("P0", 0.9, SQUARE), ("P0", 0.8, rectangle(0, 0, 10, 9.9)))
    # One hit of two objects at precision 1: points 0 to 0.5.
    assert ap_of(found, truth) == pytest.approx(6 / 11)


def test_equal_overlaps_match_the_first_object_of_the_file() -> None:
    # The same object annotated twice, difficult first: the detection goes to the difficult one and is ignored.
    assert ap_of(detections(("P0", 0.9, SQUARE)), {"P0": labels((SQUARE, "ship", 1), (SQUARE, "ship", 0))}) == 0
    assert ap_of(
        detections(("P0", 0.9, SQUARE)), {"P0": labels((SQUARE, "ship", 0), (SQUARE, "ship", 1))}
    ) == pytest.approx(1)


@pytest.mark.parametrize("level", [1, 2])
def test_difficult_objects_neither_count_nor_cost(level: int) -> None:
    far = rectangle(50, 0, 10, 10)
    truth = {"P0": labels((SQUARE, "ship", level), (far, "ship", 0))}
    # Two detections on the difficult object before the hit: ignored, so precision 1 at recall 1.
    found = detections(("P0", 0.9, SQUARE), ("P0", 0.8, SQUARE), ("P0", 0.7, far))
    assert ap_of(found, truth) == pytest.approx(1)
    # Alone they reach nothing.
    assert ap_of(detections(("P0", 0.9, SQUARE)), truth) == 0


def test_equal_scores_keep_their_order() -> None:
    truth = {"P0": labels((SQUARE, "ship", 0))}
    hit, miss = ("P0", 0.5, SQUARE), ("P0", 0.5, rectangle(50, 50, 10, 10))
    assert ap_of(detections(hit, miss), truth) == pytest.approx(1)
    assert ap_of(detections(miss, hit), truth) == pytest.approx(0.5)


def test_mean_counts_every_class() -> None:
    # ship is found, harbor has an object and no detection, plane a detection and no object: (1 + 0 + 0) / 3.
    truth = {"P0": labels((SQUARE, "ship", 0), (SQUARE, "harbor", 0)), "P1": labels()}
    found = {"ship": detections(("P0", 0.9, SQUARE)), "plane": detections(("P1", 0.9, SQUARE))}
    result = evaluate_detections(found, truth, ["ship", "harbor", "plane"])
    np.testing.assert_allclose(result.ap, np.tile([1.0, 0, 0], (10, 1)))
    np.testing.assert_allclose(result.threshold_means, np.full(10, 1 / 3))
    assert result.mean == pytest.approx(1 / 3)
    assert result.num_objects.tolist() == [1, 1, 0]
    assert result.num_detections.tolist() == [1, 0, 1]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_evaluation_equals_the_reference(seed: int) -> None:
    found, truth = random_scene(seed)
    result = evaluate_detections(found, truth, ["ship", "harbor"])
    np.testing.assert_allclose(result.ap, reference_table(found, truth, ["ship", "harbor"]), atol=1e-12)


def test_detection_on_an_unknown_image_is_refused() -> None:
    truth = {"P0": labels((SQUARE, "ship", 0))}
    with pytest.raises(ValueError, match=r"a ship detection lies on image 'P9', which is not among the 1 images"):
        ap_of(detections(("P9", 0.9, SQUARE)), truth)


@pytest.mark.parametrize("thresholds", [(), (0.5, 0.5), (0.7, 0.6), (-0.1,), (0.5, 1.0)])
def test_thresholds_must_rise(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"IoU thresholds must rise inside \[0, 1\)"):
        evaluate_detections({}, {}, ["ship"], thresholds)


def test_classes_are_checked() -> None:
    with pytest.raises(ValueError, match="no class to evaluate"):
        evaluate_detections({}, {}, [])
    with pytest.raises(ValueError, match="a class stands twice"):
        evaluate_detections({}, {}, ["ship", "ship"])


# --- the published script's figures -----------------------------------------------------------------------------------


def test_legacy_figures_of_the_specification() -> None:
    # 0.664 = 0.62 + 0.66 / 15, 0.6243 = 0.58 + 0.664 / 15, and so on.
    true = np.array([0.66, 0.62, 0.58, 0.53, 0.47, 0.39, 0.29, 0.17, 0.06, 0.01])
    printed = legacy_from_true(true, 15)
    expected = [0.66, 0.664, 0.6243, 0.5716, 0.5081, 0.4239, 0.3183, 0.1912, 0.0727, 0.0148]
    np.testing.assert_allclose(printed, expected, atol=5e-5)
    assert printed.mean() == pytest.approx(0.4049, abs=5e-5)
    assert true.mean() == pytest.approx(0.378)
    # The closed form of the specification for the true mean.
    assert 14 / 15 * printed.mean() + printed[-1] / 150 == pytest.approx(true.mean(), abs=1e-15)


# --- merging ----------------------------------------------------------------------------------------------------------


def brute_force_nms(polygons: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy NMS from its definition, all pairs by shapely."""
    kept: list[int] = []
    for k in sorted(range(len(scores)), key=lambda k: -scores[k]):
        if all(reference_iou(polygons[k], polygons[j]) <= threshold for j in kept):
            kept.append(k)
    return kept


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_nms_equals_brute_force(monkeypatch: pytest.MonkeyPatch, seed: int, threshold: float, block: int) -> None:
    monkeypatch.setattr(merging, "_NMS_BLOCK", block)
    rng = np.random.default_rng(seed)
    boxes = np.column_stack([rng.uniform(0, 100, (80, 2)), rng.uniform(5, 50, (80, 2)), rng.uniform(-2, 2, 80)])
    polygons, scores = rbox_to_polygon(boxes), rng.integers(0, 20, 80) / 20
    assert rotated_nms(polygons, scores, threshold).tolist() == brute_force_nms(polygons, scores, threshold)


def test_nms_by_hand() -> None:
    # 2 is hidden by 1 (IoU 90 / 110), 0 is apart; 3 overlaps 2 alone (IoU 0.6) and 2 is gone, so 3 stays.
    polygons = np.array([rectangle(50, 0, 10, 10), SQUARE, rectangle(1, 0, 10, 10), rectangle(10.5, 0, 10, 10)])
    assert rotated_nms(polygons, np.array([0.2, 0.9, 0.8, 0.7]), 0.01).tolist() == [1, 3, 0]
    assert rotated_nms(np.zeros((0, 8)), np.zeros(0), 0.1).tolist() == []


def test_merging_shifts_patches_and_drops_what_two_of_them_saw() -> None:
    # One ship at (900, 100) of image A__b, seen by the patches at x = 0 and x = 824; a second, in the other image, at
    # the same place; a harbor on top of the first. NMS concerns image and class separately.
    patches = {
        "ship": detections(
            ("A__b__1024__0___0", 0.6, rectangle(900, 100, 10, 10)),
            ("A__b__1024__824___0", 0.8, rectangle(77, 100, 10, 10)),
            ("A__b__1024__824___824", 0.5, rectangle(0, 0, 10, 10)),
            ("C", 0.7, rectangle(900, 100, 10, 10)),
        ),
        "harbor": detections(("A__b__1024__0___0", 0.3, rectangle(900, 100, 10, 10))),
        "plane": NO_DETECTIONS,
    }
    merged = merge_patches(patches)
    assert merged["ship"].image_ids == ("A__b", "A__b", "C")
    assert merged["ship"].scores.tolist() == [0.8, 0.5, 0.7]
    expected = [rectangle(901, 100, 10, 10), rectangle(824, 824, 10, 10), rectangle(900, 100, 10, 10)]
    np.testing.assert_array_equal(merged["ship"].polygons, expected)
    assert merged["harbor"].image_ids == ("A__b",)
    assert len(merged["plane"]) == 0


def test_select_images() -> None:
    found = {"ship": detections(("P0", 0.1, SQUARE), ("P1", 0.2, SQUARE), ("P0", 0.3, SQUARE))}
    assert select_images(found, ["P0", "P7"])["ship"].scores.tolist() == [0.1, 0.3]


def test_detections_by_class() -> None:
    predictions = [
        ("P0", np.array([SQUARE, SQUARE]), np.array([0.1, 0.2]), np.array([1, 0])),
        ("P1", np.zeros((0, 8)), np.zeros(0), np.zeros(0, dtype=int)),
        ("P2", np.array([SQUARE]), np.array([0.3]), np.array([1])),
    ]
    found = detections_by_class(predictions, ["ship", "harbor", "plane"])
    assert (found["ship"].image_ids, found["harbor"].image_ids) == (("P0",), ("P0", "P2"))
    assert found["harbor"].scores.tolist() == [0.1, 0.3]
    assert len(found["plane"]) == 0
    with pytest.raises(ValueError, match="labels run from 0 to 1, but there are 1 classes"):
        detections_by_class(predictions, ["ship"])
    assert len(detections_by_class([], ["ship"])["ship"]) == 0


# --- files ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1e5, 1e5)), max_size=5))
def test_detections_survive_their_text(rows: list[tuple[float, float]]) -> None:
    found = detections(*((f"A__{k}", score, (place,) * 8) for k, (score, place) in enumerate(rows)))
    back = parse_detections(format_detections(found), "memory")
    assert back.image_ids == found.image_ids
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_allclose(back.polygons, found.polygons, atol=0.005 + 1e-9)
    # Rounded beforehand, nothing changes at all: figures from memory are those from the files.
    rounded = round_coordinates({"ship": found})["ship"]
    again = parse_detections(format_detections(rounded), "memory")
    np.testing.assert_array_equal(again.polygons, rounded.polygons)


def test_detection_files_round_trip(tmp_path: Path) -> None:
    found = {"ship": detections(("P0", 0.1 + 0.2, SQUARE)), "plane": NO_DETECTIONS}
    paths = write_detections(tmp_path / "new" / "folder", found)
    assert [path.name for path in paths] == ["Task1_ship.txt", "Task1_plane.txt"]
    expected = "P0 0.30000000000000004 0.00 0.00 10.00 0.00 10.00 10.00 0.00 10.00\n"
    assert paths[0].read_text() == expected
    back = read_detections(paths[0].parent, ["ship", "plane"])
    np.testing.assert_array_equal(back["ship"].polygons, found["ship"].polygons)
    assert len(back["plane"]) == 0
    with pytest.raises(ValueError, match=r"Task1_harbor.txt does not exist; a class without detections needs an empty"):
        read_detections(paths[0].parent, ["harbor"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("P0 0.5 1 2 3", "5 fields, 10 needed", id="short"),
        pytest.param("P0 0.5 1 2 3 4 5 6 7 8 9", "11 fields, 10 needed", id="long"),
        pytest.param("P0 high 1 2 3 4 5 6 7 8", "could not convert string to float: 'high'", id="word"),
        pytest.param("P0 nan 1 2 3 4 5 6 7 8", "not finite", id="nan"),
        pytest.param("P0 0.5 1 2 3 4 5 6 7 inf", "not finite", id="infinite"),
    ],
)
def test_malformed_detection_names_file_line_and_cure(line: str, message: str) -> None:
    text = f"P0 0.5 1 2 3 4 5 6 7 8\n\n{line}\n"
    with pytest.raises(ValueError, match=message) as error:
        parse_detections(text, "Task1_ship.txt")
    assert str(error.value).startswith("Task1_ship.txt, line 3: ")
    assert str(error.value).endswith(f"Correct or remove the line: {line!r}")


def test_detections_are_checked() -> None:
    with pytest.raises(ValueError, match=r"2 image ids need scores of shape \(2,\)"):
        Detections(("P0", "P1"), np.zeros(1), np.zeros((2, 8)))
    with pytest.raises(ValueError, match=r"detection 1 \(image P1\) has a score or coordinate that is not finite"):
        Detections.of(["P0", "P1"], [0.5, np.nan], [SQUARE, SQUARE])
    with pytest.raises(ValueError, match="image id 'P 0' is empty or holds white space"):
        format_detections(detections(("P 0", 0.5, SQUARE)))


def test_image_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("P2\n\n P0__1 \n")
    assert read_image_list(path) == ["P2", "P0__1"]
    path.write_text("P2\nP0\nP2\n")
    with pytest.raises(ValueError, match=r"list.txt, line 3: 'P2' stands on line 1 already; remove one"):
        read_image_list(path)
    path.write_text("P2 P3\n")
    with pytest.raises(ValueError, match=r"list.txt, line 1: 'P2 P3' holds white space"):
        read_image_list(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        read_image_list(path)
    with pytest.raises(ValueError, match=r"none\.txt does not exist"):
        read_image_list(tmp_path / "none.txt")
    path.write_bytes(b"P0\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"is not UTF-8 text .* at byte 3"):
        read_image_list(path)


def test_ground_truth(tmp_path: Path) -> None:
    line = " ".join(map(str, SQUARE)) + " ship 1\n"
    (tmp_path / "P1.txt").write_text("imagesource:GoogleEarth\ngsd:0.1\n" + line)
    (tmp_path / "P0.txt").write_text("imagesource:GoogleEarth\ngsd:0.1\n")
    (tmp_path / "P2.txt").write_text("")
    truth = read_ground_truth(tmp_path)
    assert list(truth) == ["P0", "P1", "P2"]
    assert truth["P1"].difficulty.tolist() == [1]
    assert list(read_ground_truth(tmp_path, ["P2", "P1"])) == ["P2", "P1"]
    with pytest.raises(ValueError, match=r"P7.txt does not exist"):
        read_ground_truth(tmp_path, ["P7"])
    with pytest.raises(ValueError, match="none does not exist"):
        read_ground_truth(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no .txt file"):
        read_ground_truth(tmp_path / "empty")


# --- reports ----------------------------------------------------------------------------------------------------------


def test_table_and_json() -> None:
    truth = {"P0": labels((SQUARE, "ship", 0), (SQUARE, "harbor", 0))}
    # IoU 0.78: found up to threshold 0.75. AP50 = (1 + 0) / 2, AP = 6 of 10 thresholds of that.
    found = {"ship": detections(("P0", 0.9, rectangle(0, 0, 10, 7.8)))}
    result = evaluate_detections(found, truth, ["ship", "harbor"])
    # Printed by the published script: 0.5, 0.5 + 0.5 / 2, ..., which tends to 1, then halves four times.
    assert format_table(result) == (
        "class      objects  detections    AP50    AP75     AP\n"
        "ship             1           1  100.00  100.00  60.00\n"
        "harbor           1           0    0.00    0.00   0.00\n"
        "mean of 2        2           1   50.00   50.00  30.00\n"
    )
    assert result.present_summary() == {}
    assert list(result.summary()) == ["AP", *(f"AP{k}" for k in range(50, 100, 5))]
    assert result.summary()["AP"] == pytest.approx(0.3)
    assert result.legacy_summary()["AP95"] == pytest.approx(0.0615, abs=5e-5)
    # A class without objects counts as 0, as published; beside it stands the mean over the others.
    absent = evaluate_detections(found, truth, ["ship", "harbor", "plane"])
    assert format_table(absent).splitlines()[-2:] == [
        "mean of 3                         2           1   33.33   33.33  20.00",
        "mean of the 2 with objects        2           1   50.00   50.00  30.00",
    ]
    assert absent.summary()["AP"] == pytest.approx(0.2)
    assert absent.present_summary()["AP"] == pytest.approx(0.3)
    assert evaluate_detections({}, {}, ["ship"]).present_summary() == {}
    report = json.loads(json.dumps(result.to_json()))
    assert report["AP"] == pytest.approx(0.3)
    assert report["ap"][5] == pytest.approx([1, 0])
    assert report["legacy_AP"] == pytest.approx(0.5938, abs=5e-5)


# --- golden sets ------------------------------------------------------------------------------------------------------


def test_own_golden() -> None:
    """Recorded from `reference_table`, never from the code under test."""
    expected = json.loads((OWN_GOLDEN / "expected.json").read_text())
    truth = read_ground_truth(OWN_GOLDEN / "labelTxt", read_image_list(OWN_GOLDEN / "image_ids.txt"))
    found = read_detections(OWN_GOLDEN / "detections", expected["classes"])
    np.testing.assert_allclose(reference_table(found, truth, expected["classes"]), expected["ap"], atol=1e-12)
    result = evaluate_detections(found, truth, expected["classes"])
    np.testing.assert_allclose(result.ap, expected["ap"], atol=1e-12)
    np.testing.assert_allclose(result.threshold_means, expected["mean_ap_per_threshold"], atol=1e-12)
    assert result.mean == pytest.approx(expected["AP"], abs=1e-12)


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, Detections], dict[str, Labels], dict]:
    """The published devkit's golden detections, labels and figures, which stand beside the repository."""
    shared = Path(__file__).parents[3] / "shared"
    folder = shared / "golden" / "evaluator"
    if not folder.is_dir():
        pytest.skip("the devkit's golden figures are not beside this repository (../shared/golden/evaluator)")
    expected = json.loads((folder / "expected.json").read_text())
    truth = read_ground_truth(shared / "dota_sample" / "train" / "labelTxt", read_image_list(folder / "image_ids.txt"))
    return read_detections(folder / "detections", expected["classes"]), truth, expected


def with_recorded_ties(found: dict[str, Detections]) -> dict[str, Detections]:
    """The detections in an order whose stable sort is the one that the golden figures were recorded with."""
    ordered = dict(found)
    for name, tied in RECORDED_ORDER_OF_TIES.items():
        assert sorted(tied) == np.flatnonzero(found[name].scores == found[name].scores[tied[0]]).tolist()
        rest = np.setdiff1d(np.arange(len(found[name])), tied)
        ordered[name] = found[name].take(np.concatenate([tied, rest]))
    return ordered


def test_published_golden_with_its_own_order_of_ties(published: tuple) -> None:
    found, truth, expected = published
    result = evaluate_detections(with_recorded_ties(found), truth, expected["classes"], expected["thresholds"])
    assert result.classes == DOTA_CLASSES
    np.testing.assert_allclose(result.ap, expected["ap"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.threshold_means, expected["mean_ap_per_threshold"], rtol=0, atol=1e-6)
    assert result.mean == pytest.approx(expected["AP"], abs=1e-6)
    legacy = result.legacy_cumulative()
    np.testing.assert_allclose(legacy, expected["legacy_printed_per_threshold"], rtol=0, atol=1e-6)
    assert legacy.mean() == pytest.approx(expected["legacy_AP"], abs=1e-6)


def test_published_golden_in_file_order(published: tuple) -> None:
    """As read from the files: equal but for three entries, which only the order of tied scores decides."""
    found, truth, expected = published
    result = evaluate_detections(found, truth, expected["classes"])
    difference = np.abs(result.ap - np.array(expected["ap"]))
    rows, columns = np.nonzero(difference > 1e-6)
    apart = {(result.thresholds[k], result.classes[c]) for k, c in zip(rows, columns, strict=True)}
    assert apart == {(0.9, "storage-tank"), (0.95, "storage-tank"), (0.95, "ship")}
    assert difference.max() < 5e-3
    assert abs(result.mean - expected["AP"]) < 5e-5
