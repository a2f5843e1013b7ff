"""Patches with DOTA labels as a dataset: strict parsing, sorted order, the published filters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmrotate.registry import DATASETS

from distill.dota import list_images, read_labels
from distill.draws import DrawnPatches


@DATASETS.register_module()
class DotaPatchDataset(DrawnPatches, BaseDetDataset):
    """Images of a folder with one labelTxt file each, sorted by id.

    `ann_file` names the label folder. `metainfo` must give `classes`.

    Args:
        min_side: objects whose minimum-area rectangle has a shorter side (pixels) are dropped, as mmrotate 0.x did.
        skip_empty: at test time, leave out patches without objects, as the published evaluation did; training always
            leaves them out when `filter_cfg` says `filter_empty_gt`.
    """

    def __init__(self, *args: Any, min_side: float = 2.0, skip_empty: bool = False, **kwargs: Any) -> None:
        self.min_side = min_side
        self.skip_empty = skip_empty
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per image: `img_id`, `img_path`, `label_path`, `instances`.

        Raises:
            ValueError: a missing folder or label file, or a malformed label.
        """
        if "classes" not in self.metainfo:
            raise ValueError("the dataset needs metainfo=dict(classes=...)")
        classes = tuple(self.metainfo["classes"])
        label_of = {name: label for label, name in enumerate(classes)}
        entries = []
        for image_id, path in list_images(self.data_prefix["img_path"]).items():
            label_path = Path(self.ann_file) / f"{image_id}.txt"
            labels = read_labels(label_path, classes)
            instances = [
                {"bbox": polygon.tolist(), "bbox_label": label_of[name], "ignore_flag": 0}
                for polygon, name in zip(labels.polygons, labels.class_names, strict=True)
                if shorter_side(polygon) >= self.min_side
            ]
            entries.append(
                {"img_id": image_id, "img_path": str(path), "label_path": str(label_path), "instances": instances}
            )
        return entries

    @staticmethod
    def kept_objects(options: Mapping[str, Any]) -> dict[str, Any]:
        """Which labelled objects a dataset of these options keeps, as the manifest states it."""
        return {"min_side": float(options.get("min_side", 2.0))}

    def label_digest(self, info: dict[str, Any]) -> bytes:
        """SHA-256 of the labels of one image, `info` being its entry: the bytes of its label file."""
        return hashlib.sha256(Path(info["label_path"]).read_bytes()).digest()

    def filter_data(self) -> list[dict[str, Any]]:
        """Leave out patches without objects where the config says so."""
        drop_empty = self.skip_empty if self.test_mode else bool((self.filter_cfg or {}).get("filter_empty_gt"))
        return [entry for entry in self.data_list if entry["instances"] or not drop_empty]


def shorter_side(polygon: np.ndarray) -> float:
    """Shorter side in pixels of the minimum-area rectangle of an (8,) polygon."""
    return float(min(cv2.minAreaRect(polygon.reshape(4, 2).astype(np.float32))[1]))
