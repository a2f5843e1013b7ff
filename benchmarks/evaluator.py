"""Time the evaluator and the merging on made-up detections: `python -m benchmarks.evaluator`.

The default is 100,000 detections against 30,000 objects on 458 images; one image is as dense as DOTA's worst
(3,000 objects of one class). Everything is drawn from a seed, so two runs time the same work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from time import perf_counter

import numpy as np

from distill.detections import Detections
from distill.devkit import evaluate_detections
from distill.dota import DOTA_CLASSES, Labels
from distill.merging import rotated_nms
from distill.polygons import rbox_to_polygon

NUM_IMAGES = 458
IMAGE_SIDE = 4000.0  # pixels
DENSE_OBJECTS = 3000


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 5) cx cy w h angle, sides of 10 to 120 pixels."""
    centres = rng.uniform(0, IMAGE_SIDE, (num, 2))
    sides = np.exp(rng.uniform(np.log(10), np.log(120), (num, 2)))
    return np.concatenate([centres, sides, rng.uniform(-np.pi / 2, np.pi / 2, (num, 1))], axis=1)


def jittered(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Boxes near the given ones: a detector's mixture of close hits and near misses."""
    noise = rng.normal(0, 0.15, boxes.shape)
    moved = boxes.copy()
    moved[:, :2] += noise[:, :2] * boxes[:, 2:4]
    moved[:, 2:4] *= np.exp(noise[:, 2:4])
    moved[:, 4] += noise[:, 4]
    return moved


def made_up_data(num_detections: int, num_objects: int, seed: int) -> tuple[dict[str, Detections], dict[str, Labels]]:
    """Half of the detections lie near objects, the other half anywhere; image 0 is dense, of one class."""
    rng = np.random.default_rng(seed)
    objects = random_boxes(rng, num_objects)
    image = rng.integers(1, NUM_IMAGES, num_objects)
    kind = rng.integers(0, len(DOTA_CLASSES), num_objects)
    dense = slice(0, min(DENSE_OBJECTS, num_objects))
    image[dense], kind[dense] = 0, DOTA_CLASSES.index("small-vehicle")

    near = rng.integers(0, num_objects, num_detections // 2)
    num_far = num_detections - len(near)
    polygons = rbox_to_polygon(np.concatenate([jittered(rng, objects[near]), random_boxes(rng, num_far)]))
    on_image = np.concatenate([image[near], rng.integers(0, NUM_IMAGES, num_far)])
    of_kind = np.concatenate([kind[near], rng.integers(0, len(DOTA_CLASSES), num_far)])
    scores = rng.uniform(0.05, 1, num_detections)

    detections = {}
    for index, name in enumerate(DOTA_CLASSES):
        mine = of_kind == index
        detections[name] = Detections.of([f"P{i:04d}" for i in on_image[mine]], scores[mine], polygons[mine])
    object_polygons = rbox_to_polygon(objects)
    ground_truth = {}
    for index in range(NUM_IMAGES):
        mine = image == index
        names = tuple(DOTA_CLASSES[k] for k in kind[mine])
        ground_truth[f"P{index:04d}"] = Labels(object_polygons[mine], names, rng.integers(0, 2, mine.sum()))
    return detections, ground_truth


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


def main() -> None:
    """Time evaluation and NMS, print both."""
    parser = argparse.ArgumentParser(description="Time the evaluator on made-up detections.")
    parser.add_argument("--detections", type=int, default=100_000, help="over all images and classes")
    parser.add_argument("--objects", type=int, default=30_000, help="over all images and classes")
    parser.add_argument("--nms-boxes", type=int, default=20_000, help="boxes of one class in one image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    detections, ground_truth = made_up_data(arguments.detections, arguments.objects, arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    boxes, scores = rbox_to_polygon(random_boxes(rng, arguments.nms_boxes)), rng.uniform(size=arguments.nms_boxes)
    times = {
        "evaluate_seconds": seconds(lambda: evaluate_detections(detections, ground_truth, DOTA_CLASSES)),
        "nms_seconds": seconds(lambda: rotated_nms(boxes, scores, 0.1)),
    }
    if arguments.json:
        print(json.dumps({**vars(arguments), **times}))
        return
    print(
        f"evaluate {arguments.detections:,} detections against {arguments.objects:,} objects at 10 thresholds: "
        f"{times['evaluate_seconds']:.2f} s"
    )
    print(f"rotated NMS of {arguments.nms_boxes:,} boxes in one image: {times['nms_seconds']:.2f} s")


if __name__ == "__main__":
    main()
