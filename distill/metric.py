"""The DOTA devkit's AP as an mmengine metric: patches in, AP of the merged images out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmrotate.registry import METRICS

from distill.detections import (
    Detections,
    detections_by_class,
    read_ground_truth,
    read_image_list,
    round_coordinates,
    select_images,
    write_detections,
)
from distill.devkit import THRESHOLDS, DevkitResult, evaluate_detections, format_table
from distill.dota import parse_patch_name
from distill.merging import MERGE_NMS_THRESHOLD, merge_patches
from distill.polygons import rbox_to_polygon


@METRICS.register_module()
class DotaDevkitMetric(BaseMetric):
    """AP, AP50, ... AP95 (fractions) by the DOTA devkit's protocol, after merging patches into images.

    A class without objects counts as 0, as in the devkit. Where there is one, the means over the others are present_AP,
    present_AP50 and present_AP75.

    label_folder: labelTxt of the unsplit images, below `data_root`; with `merge=False`, of the patches. Read at once,
        so that a wrong path stops the run before it has inferred anything.
    image_list: file with the ids to evaluate, one a line; None takes every label file. Other images are passed over.
    merge: shift patches into their images and apply NMS there; False evaluates every patch on its own.
    nms_threshold: IoU above which the merging drops the lower score.
    thresholds: IoU thresholds, rising.
    outfile_prefix: folder for `Task1_<class>.txt` and `evaluation.json`; None writes nothing.
    legacy_cumulative: also return, as legacy_AP, legacy_AP50, ..., the figures that the published script prints.

    The classes come from the dataset's meta information.

    Raises:
        ValueError: labels or image list are missing or malformed.
    """

    default_prefix = "dota"

    def __init__(
        self,
        label_folder: str,
        data_root: str = "",
        image_list: str | None = None,
        merge: bool = True,
        nms_threshold: float = MERGE_NMS_THRESHOLD,
        thresholds: Sequence[float] = THRESHOLDS,
        outfile_prefix: str | None = None,
        legacy_cumulative: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.label_folder = str(Path(data_root) / label_folder)
        self.image_list = image_list
        self.merge = merge
        self.nms_threshold = nms_threshold
        self.thresholds = tuple(thresholds)
        self.out_folder = None if outfile_prefix is None else Path(outfile_prefix)
        self.legacy_cumulative = legacy_cumulative
        self.ground_truth = read_ground_truth(
            self.label_folder, None if image_list is None else read_image_list(image_list)
        )

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep name, polygons, scores and labels of each sample.

        Raises:
            ValueError: a sample without `img_id`, or, without an image list, of an image that has no label file.
        """
        for sample in data_samples:
            if "img_id" not in sample:
                raise ValueError("a data sample has no img_id; keep it in the meta_keys of PackDetInputs")
            name = str(sample["img_id"])
            image_id = self._image_id(name)
            if self.image_list is None and image_id not in self.ground_truth:
                raise ValueError(
                    f"patch {name} belongs to image {image_id!r}, which has no label file in {self.label_folder}; "
                    "point label_folder at the labels of the inferred images or give an image_list"
                )
            # One entry per sample, wanted or not: the collection over processes interleaves and counts them.
            self.results.append((name, *_predictions(sample["pred_instances"])))

    def compute_metrics(self, results: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Merge, evaluate, print the table, write the files."""
        if self.dataset_meta is None or "classes" not in self.dataset_meta:
            raise ValueError("the dataset's meta information names no classes; set METAINFO or metainfo of the dataset")
        classes = tuple(self.dataset_meta["classes"])
        # By name: neither the order of the loader nor a patch that it repeats may change a figure.
        patches = {result[0]: result for result in sorted(results, key=lambda result: result[0])}
        detections = detections_by_class(patches.values(), classes)
        if self.merge:
            detections = merge_patches(detections, self.nms_threshold)
        detections = round_coordinates(select_images(detections, self.ground_truth))
        inferred = {self._image_id(name) for name in patches} & self.ground_truth.keys()
        self._warn_of_images_not_inferred(inferred)

        result = evaluate_detections(detections, self.ground_truth, classes, self.thresholds)
        MMLogger.get_current_instance().info("\n" + format_table(result))
        if self.out_folder is not None:
            self._write(self.out_folder, detections, result, len(patches), len(inferred))
        metrics = result.summary()
        present = result.present_summary()
        metrics |= {f"present_{name}": present[name] for name in ("AP", "AP50", "AP75") if name in present}
        if self.legacy_cumulative:
            metrics |= {f"legacy_{name}": value for name, value in result.legacy_summary().items()}
        return metrics

    def _image_id(self, name: str) -> str:
        """The image that a patch belongs to, or the patch itself where patches are evaluated."""
        patch = parse_patch_name(name) if self.merge else None
        return name if patch is None else patch.image_id

    def _warn_of_images_not_inferred(self, inferred: set[str]) -> None:
        missed = [name for name, labels in self.ground_truth.items() if len(labels) and name not in inferred]
        if missed:
            MMLogger.get_current_instance().warning(
                f"{len(missed)} of {len(self.ground_truth)} images hold objects but none of their patches was inferred "
                f"(first: {missed[0]}); their objects count as missed. Give an image_list to evaluate fewer images."
            )

    def _write(
        self, folder: Path, detections: dict[str, Detections], result: DevkitResult, num_patches: int, num_inferred: int
    ) -> None:
        write_detections(folder, detections)
        report = {
            **result.to_json(),
            "merge": self.merge,
            "nms_threshold": self.nms_threshold if self.merge else None,
            "num_images": len(self.ground_truth),
            "num_images_inferred": num_inferred,
            "num_patches": num_patches,
        }
        (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _predictions(instances: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygons (n, 8), scores (n,) and labels (n,) of one sample's pred_instances (rotated boxes or (n, 5) tensor)."""
    boxes = instances["bboxes"]
    boxes = getattr(boxes, "tensor", boxes)
    # float64 from here on: at x = 10,000 px float32 resolves only a thousandth of a pixel.
    polygons = rbox_to_polygon(boxes.detach().cpu().double().numpy())
    scores = instances["scores"].detach().cpu().double().numpy()
    return polygons, scores, instances["labels"].detach().cpu().numpy().astype(np.int64)
