"""COCO's annotation format: one JSON file a split, checked before anything relies on it.

No torch, so that data preparation reads annotations by the same code as training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import DataNeeded

PARTS = ("images", "annotations", "categories")


def read_annotations(path: str | Path) -> dict[str, Any]:
    """The content of an `instances_*.json`, checked; an annotation without `iscrowd` gets 0.

    Raises:
        ValueError: the file is missing or no JSON, a key is missing, an id occurs twice, an annotation names an image
            or a category that is not there, a number is not finite.
    """
    path = Path(path)
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object with {', '.join(PARTS)} is needed, not {_shown(content)}")
    for part in PARTS:
        if not isinstance(content.get(part), list) or not all(isinstance(entry, dict) for entry in content[part]):
            raise ValueError(f"{path}: `{part}` must be a list of objects. Export the annotations again")
    for image in content["images"]:
        _check_image(image, path)
    for category in content["categories"]:
        _check_category(category, path)
    image_ids = _unique((image["id"] for image in content["images"]), "images", "id", path)
    category_ids = _unique((category["id"] for category in content["categories"]), "categories", "id", path)
    _unique((category["name"] for category in content["categories"]), "categories", "name", path)
    for annotation in content["annotations"]:
        _check_annotation(annotation, path, image_ids, category_ids)
    _unique((annotation["id"] for annotation in content["annotations"]), "annotations", "id", path)
    return content


def category_ids(content: Mapping[str, Any], classes: Sequence[str], source: str | Path) -> list[int]:
    """The category of every class, in the order of the classes.

    Categories that are no classes are left out of training and evaluation.

    Raises:
        ValueError: a class that the file, which `source` names, has no category for.
    """
    id_of = {category["name"]: category["id"] for category in content["categories"]}
    missing = [name for name in classes if name not in id_of]
    if missing:
        raise ValueError(
            f"{source}: no category {missing[0]!r} (the config has {len(classes)} classes, {len(missing)} of them are "
            f"missing); the file's are {', '.join(id_of) or 'none'}. Correct `classes` in the config or the file"
        )
    return [id_of[name] for name in classes]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataNeeded(f"annotation file {path} does not exist") from None
    except ValueError as error:  # a broken encoding, too
        raise ValueError(f"annotation file {path} is not JSON ({error}). Fetch or export it again") from None


def _check_image(image: Mapping[str, Any], path: Path) -> None:
    where = f"{path}, image {_shown(image.get('id'))}"
    _require_keys(image, ("id", "file_name", "width", "height"), where)
    _require(_is_whole(image["id"]), where, "id", image["id"], "a whole number")
    _require(isinstance(image["file_name"], str), where, "file_name", image["file_name"], "a text")
    for key in ("width", "height"):
        _require(_is_whole(image[key]) and image[key] > 0, where, key, image[key], "a whole number above 0")


def _check_category(category: Mapping[str, Any], path: Path) -> None:
    where = f"{path}, category {_shown(category.get('id'))}"
    _require_keys(category, ("id", "name"), where)
    _require(_is_whole(category["id"]), where, "id", category["id"], "a whole number")
    _require(isinstance(category["name"], str), where, "name", category["name"], "a text")


def _check_annotation(annotation: dict[str, Any], path: Path, image_ids: set[int], category_ids: set[int]) -> None:
    where = f"{path}, annotation {_shown(annotation.get('id'))} of image {_shown(annotation.get('image_id'))}"
    _require_keys(annotation, ("id", "image_id", "category_id", "bbox", "area"), where)
    annotation.setdefault("iscrowd", 0)
    _require(_is_whole(annotation["id"]), where, "id", annotation["id"], "a whole number")
    bbox = annotation["bbox"]
    is_box = isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_finite, bbox))
    _require(is_box, where, "bbox", bbox, "four finite numbers (x, y, width, height)")
    _require(_is_finite(annotation["area"]), where, "area", annotation["area"], "a finite number")
    _require(annotation["iscrowd"] in (0, 1), where, "iscrowd", annotation["iscrowd"], "0 or 1")
    for key, known, part in (("image_id", image_ids, "images"), ("category_id", category_ids, "categories")):
        is_known = _is_whole(annotation[key]) and annotation[key] in known
        _require(is_known, where, key, annotation[key], f"an id of the file's `{part}`")


def _require_keys(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in entry:
            raise ValueError(f"{where}: no `{key}`. Add it or remove the entry")


def _require(holds: bool, where: str, key: str, value: Any, needed: str) -> None:
    if not holds:
        raise ValueError(f"{where}: {key} is {_shown(value)}; {needed} is needed. Correct or remove the entry")


def _unique(values: Iterable[Any], part: str, key: str, path: Path) -> set[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{path}: two {part} have the {key} {_shown(value)}; keep one or renumber them")
        seen.add(value)
    return seen


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    """A value of the file in an error message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
