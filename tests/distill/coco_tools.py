"""Small COCO-format data for the tests of horizontal heads."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("plane", "ship", "large-vehicle", "tennis-court", "storage-tank")
# Height and width; the demo resizes the last.
SIZES = [(128, 128), (128, 128), (128, 160), (128, 160), (144, 112)]


def write_coco_images(folder: Path) -> None:
    """Noise of several sizes with four objects an image, one of them a crowd, where the demo's configs look for it."""
    random = np.random.default_rng(5)
    images, annotations = [], []
    (folder / "train/images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number, (height, width) in enumerate(SIZES, start=1):
        image = cv2.GaussianBlur(random.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 2)
        name = f"{number:03d}.png"
        cv2.imwrite(str(folder / "train/images" / name), image)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for _ in range(4):
            left, top = random.uniform(0, (width - 40, height - 40))
            across, down = random.uniform(12, 40, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(random.integers(1, 6)),
                    "bbox": [left, top, across, down],
                    "area": across * down,
                    # One crowd, which nobody learns from.
                    "iscrowd": int(len(annotations) == 3),
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/instances_train.json").write_text(json.dumps(truth))
