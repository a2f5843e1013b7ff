"""COCO-format data with horizontal boxes: built-in scenes of several sizes, or a check of data that are there.

Layout of a data_root that this module fills:

    train/images/S0000.png            images, of several sizes; likewise val/
    train/labelTxt/S0000.txt          the oriented boxes that they were drawn from
    annotations/instances_train.json  the horizontal boxes, in COCO's format
    source.json                       what all that was made from
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from distill.coco_annotations import category_ids, read_annotations
from distill.dota import Labels, list_images, read_labels
from pipelines.base.files import write_json
from pipelines.prepare.data_config import SPLITS, Options, Scenes, read_scenes, require_data_keys
from pipelines.prepare.data_folder import open_data_folder
from pipelines.prepare.images import read_image

if TYPE_CHECKING:
    from mmengine.config import Config

# Exact in binary, so that x + width is the right side to the last bit and never leaves the image.
_STEPS_PER_PIXEL = 256


@dataclass(frozen=True)
class SplitFiles:
    """Where a config looks for a split."""

    annotations: Path
    images: Path


def prepare_coco(config: Config, options: Options) -> tuple[dict[str, Any], str]:
    """Make the config's built-in scenes, if any, and check that all it reads is there; counts per split, outcome.

    Raises:
        ValueError: an unusable config, data that are missing or malformed, a folder made from something else.
    """
    require_data_keys(config, ("train_dataloader", "val_dataloader"))
    for name in ("rates", "overlap"):
        if getattr(options, name) is not None:
            raise ValueError(f"{config.filename} trains on COCO-format data, which are not split: leave out --{name}")
    if options.dota_root is not None:
        raise ValueError(
            f"{config.filename} trains on COCO-format data, so it has no use for {options.dota_root} (DOTA_ROOT). "
            f"Leave it out, and put images and annotations into {config.data_root}"
        )
    scenes = read_scenes(config)
    made = scenes is not None and make_scenes(Path(config.data_root), tuple(config.classes), scenes)
    splits = {split: check_split(split_files(config, split), config.classes) for split in SPLITS}
    return splits, f"{config.data_root} is complete{'' if made else '; nothing needs to be made'}"


def split_files(config: Config, split: str) -> SplitFiles:
    """Where the config's data loader looks for a split."""
    dataset = config[f"{split}_dataloader"].dataset
    root = Path(dataset.data_root)
    return SplitFiles(root / dataset.ann_file, root / dataset.data_prefix["img_path"])


def check_split(files: SplitFiles, classes: Sequence[str]) -> dict[str, int]:
    """Counts and bytes of a split whose annotations are sound and whose images are all there.

    Raises:
        ValueError: the annotation file is missing or malformed, or an image is missing.
    """
    if not files.annotations.is_file():
        raise ValueError(
            f"annotation file {files.annotations} does not exist. This config has no built-in data: unpack the images "
            "and annotations of the data set (COCO 2017: train2017, val2017, annotations) into its data_root, or "
            "correct ann_file"
        )
    content = read_annotations(files.annotations)
    wanted = set(category_ids(content, classes, files.annotations))
    paths = [files.images / image["file_name"] for image in content["images"]]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(paths)} images of {files.annotations} are missing; the first is {missing[0]}. "
            "Unpack the images there, or correct data_prefix.img_path"
        )
    objects = [annotation for annotation in content["annotations"] if annotation["category_id"] in wanted]
    return {
        "images": len(paths),
        "empty_images": len(paths) - len({annotation["image_id"] for annotation in objects}),
        "objects": len(objects),
        "bytes": sum(path.stat().st_size for path in [files.annotations, *paths]),
    }


def make_scenes(data_root: Path, classes: tuple[str, ...], scenes: Scenes) -> bool:
    """Render the scenes and write their annotations; False where an earlier run has finished them.

    Raises:
        ValueError: the folder holds something else.
    """
    parameters = {
        "format": 1,
        "source": "synthetic scenes, COCO format",
        "scenes": asdict(scenes),
        "classes": classes,
    }
    filled = [data_root / split / part for split in SPLITS for part in ("images", "labelTxt")]
    with open_data_folder(data_root, parameters, [*filled, data_root / "annotations"]) as folder:
        if folder.is_complete:
            folder.require_same_splits(describe_splits(data_root))
            return False
        # Before the first scene, so that scenes of other parameters are never taken for these.
        folder.describe({}, complete=False)
        (data_root / "annotations").mkdir(exist_ok=True)
        for split in SPLITS:
            scenes.write(data_root / split, split, classes)
            write_json(data_root / f"annotations/instances_{split}.json", annotate(data_root / split, classes))
        folder.describe(describe_splits(data_root), complete=True)
    return True


def annotate(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """COCO's annotations of the images of `folder`, from their oriented labels; every id counts from 1."""
    category_of = {name: number for number, name in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, path) in enumerate(list_images(folder / "images").items(), start=1):
        height, width = read_image(path).shape[:2]
        images.append({"id": image_id, "file_name": path.name, "width": width, "height": height})
        labels = read_labels(folder / "labelTxt" / f"{name}.txt", classes)
        for class_name, box in zip(labels.class_names, horizontal_boxes(labels, width, height), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_of[class_name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def horizontal_boxes(labels: Labels, width: int, height: int) -> list[list[float]]:
    """x, y, width, height of the part of each object that lies in the image, to 1/256 px."""
    visible = shapely.clip_by_rect(shapely.polygons(labels.polygons.reshape(-1, 4, 2)), 0, 0, width, height)
    sides = np.round(shapely.bounds(visible) * _STEPS_PER_PIXEL) / _STEPS_PER_PIXEL
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in sides.reshape(-1, 4).tolist()]


def describe_splits(data_root: Path) -> dict[str, Any]:
    """Number of images, and one digest over all files, of each split."""
    splits = {}
    for split in SPLITS:
        images = sorted((data_root / split / "images").glob("*.png"))
        contents = hashlib.sha256()
        for path in [*images, data_root / "annotations" / f"instances_{split}.json"]:
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
            contents.update(json.dumps([path.name, digest]).encode())
        splits[split] = {"images": len(images), "sha256": contents.hexdigest()}
    return splits
