"""COCO-format data with horizontal boxes: the dataset, and COCO's AP as a metric."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.datasets.coco import CocoDataset
from mmdet.evaluation.metrics import CocoMetric
from mmengine.logging import MMLogger
from mmrotate.registry import DATASETS, METRICS

from distill.coco_annotations import category_ids, read_annotations
from distill.draws import DrawnPatches

# As COCO's own evaluation prints them.
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class CheckedAnnotations(COCO):
    """A checked annotation file as mmdet asks for it, in an order that does not depend on the file's.

    Images and annotations come by id, categories in the order of the classes: mmdet takes the file's order for the
    classes', so that a file with its categories in another order would give every object a wrong name.
    """

    def __init__(self, annotation_file: str | Path) -> None:
        super().__init__()
        self.source = annotation_file
        self.dataset = read_annotations(annotation_file)
        with redirect_stdout(io.StringIO()):  # pycocotools says that it makes an index
            self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def get_cat_ids(self, cat_names: Sequence[str] = (), **kwargs: Any) -> list[int]:
        return category_ids(self.dataset, cat_names, self.source)

    def get_img_ids(self, **kwargs: Any) -> list[int]:
        return sorted(super().get_img_ids(**kwargs))

    def get_ann_ids(self, **kwargs: Any) -> list[int]:
        return sorted(super().get_ann_ids(**kwargs))


@DATASETS.register_module()
class CocoImageDataset(DrawnPatches, CocoDataset):
    """Images of a COCO annotation file, sorted by id; objects by annotation id.

    `data_prefix.img_path` names the image folder. Which objects and images count is mmdet's rule: boxes below one pixel
    or outside the image are left out, crowds have `ignore_flag` 1, and `filter_cfg` drops images when training.

    Raises:
        ValueError: the annotation file is missing or malformed, or has no category of a class's name.
    """

    COCOAPI = CheckedAnnotations

    def _join_prefix(self) -> None:
        super()._join_prefix()
        if "img_path" not in self.data_prefix:
            raise ValueError(f"data_prefix is {self.data_prefix}; the folder of the images is needed as img_path")
        self.data_prefix["img"] = self.data_prefix["img_path"]  # mmdet's name for it here

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """mmdet's entry of an image, with the file of its labels."""
        return {**super().parse_data_info(raw_data_info), "label_path": self.ann_file}

    @staticmethod
    def kept_objects(options: Mapping[str, Any]) -> dict[str, Any]:
        """Which labelled objects a dataset keeps, as the manifest states it: by mmdet's rule, without options."""
        return {}

    def label_digest(self, info: dict[str, Any]) -> bytes:
        """SHA-256 of what training reads of an image's annotations: its size, and class, box and crowd of its objects.

        An annotation of another image changes nothing, nor does the order or layout of the file.
        """
        classes = self.metainfo["classes"]
        objects = [
            {
                "category": classes[instance["bbox_label"]],
                "bbox": [float(value) for value in instance["bbox"]],
                "iscrowd": instance["ignore_flag"],
            }
            for instance in info["instances"]
        ]
        labels = {"width": info["width"], "height": info["height"], "objects": objects}
        return hashlib.sha256(json.dumps(labels, sort_keys=True, separators=(",", ":")).encode()).digest()


@METRICS.register_module()
class CocoBoxMetric(CocoMetric):
    """COCO's AP of boxes as fractions, not rounded: AP, AP50, AP75, and APs, APm, APl by size.

    A size that no object has gets no figure.

    ann_file: annotations of the evaluated images, below `data_root`; an image that was not inferred counts as one
        without detections.
    outfile_prefix: folder for `detections.bbox.json` (COCO's result format) and `evaluation.json`; None writes nothing.

    Raises:
        ValueError: the annotation file is missing or malformed, or holds no object of the classes.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = "",
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self._coco_api = CheckedAnnotations(str(Path(data_root) / ann_file))
        self.out_folder = None if outfile_prefix is None else Path(outfile_prefix)

    def compute_metrics(self, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
        """Evaluate, log COCO's table, write the files."""
        classes = tuple(self.dataset_meta["classes"])
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
        # By id: neither the order of the loader nor an image that it repeats may change a figure.
        by_image = {prediction["img_id"]: prediction for _, prediction in results}
        detections = self._detections([by_image[image] for image in sorted(by_image)])
        evaluation, table = evaluate_detections(self._coco_api, detections, self.cat_ids)
        MMLogger.get_current_instance().info(f"\n{table}")

        # -1 is pycocotools' word for a mean over nothing.
        figures = {name: float(value) for name, value in zip(FIGURES, evaluation.stats, strict=False) if value >= 0}
        if "AP" not in figures:
            raise ValueError(f"{self._coco_api.source} holds no object of {', '.join(classes)}, so there is no AP")
        if self.out_folder is not None:
            report = describe_evaluation(evaluation, self.cat_ids, classes, figures, len(by_image))
            (self.out_folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return figures

    def _detections(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The predictions in COCO's result format, written where a folder is given."""
        with TemporaryDirectory() as temporary:
            folder = self.out_folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            file = self.results2json(predictions, str(folder / "detections"))["bbox"]
            return json.loads(Path(file).read_text(encoding="utf-8"))


def evaluate_detections(
    truth: CheckedAnnotations, detections: list[dict[str, Any]], categories: Sequence[int]
) -> tuple[COCOeval, str]:
    """pycocotools' evaluation of boxes with its standard parameters, and the table that it prints."""
    with redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections) if detections else COCO()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.catIds = list(categories)
        evaluation.evaluate()
        evaluation.accumulate()
    with redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    return evaluation, table.getvalue()


def describe_evaluation(
    evaluation: COCOeval,
    categories: Sequence[int],
    classes: Sequence[str],
    figures: dict[str, float],
    num_inferred: int,
) -> dict[str, Any]:
    """The figures by class and threshold, under the names that `DotaDevkitMetric` writes; null where undefined."""
    # (threshold, recall, category, size, detections per image) -> all sizes, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    # pycocotools has sorted the categories by id; classes come in the config's order.
    precision = precision[:, :, [evaluation.params.catIds.index(category) for category in categories]]
    by_class = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1)).T
    truth, found = evaluation.cocoGt, evaluation.cocoDt
    return {
        "classes": list(classes),
        "thresholds": [round(float(threshold), 2) for threshold in evaluation.params.iouThrs],
        "num_objects": [len(truth.getAnnIds(catIds=[category], iscrowd=False)) for category in categories],
        "num_detections": [len(found.getAnnIds(catIds=[category])) if found.anns else 0 for category in categories],
        "ap": [[None if np.isnan(value) else float(value) for value in row] for row in by_class],
        "mean_ap_per_threshold": np.nanmean(by_class, axis=0).tolist(),
        **figures,
        "num_images": len(evaluation.params.imgIds),
        "num_images_inferred": num_inferred,
    }
