"""DOTA's folders as a source: its images with their labels, and what tells them from other files of the same name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.dota import Labels, UnknownClass, list_images, read_labels, split_folders
from distill.settings import did_you_mean
from pipelines.prepare.windows import SplitRule


@dataclass(frozen=True)
class SourceImage:
    """One image of a source: its files, what tells them from others of the same name, and how many objects it keeps."""

    image_id: str
    image: Path
    label_file: Path
    image_bytes: int
    label_sha256: str
    num_objects: int

    def identity(self) -> dict[str, Any]:
        """What a record remembers of the source: nothing of where it lies."""
        return {"image": self.image.name, "image_bytes": self.image_bytes, "label_sha256": self.label_sha256}


@dataclass(frozen=True)
class Source:
    """One split of a source, sorted by image id."""

    images: tuple[SourceImage, ...]
    labels_without_image: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 over the file names, image sizes and label contents."""
        identities = [image.identity() for image in self.images]
        return hashlib.sha256(json.dumps(identities, ensure_ascii=False).encode()).hexdigest()

    @property
    def num_objects(self) -> int:
        return sum(image.num_objects for image in self.images)

    def describe(self) -> dict[str, Any]:
        """What `source.json` remembers of the split."""
        return {"images": len(self.images), "objects": self.num_objects, "sha256": self.digest()}


def read_sources(root: Path, splits: Sequence[str], rule: SplitRule) -> dict[str, Source]:
    """List the images of every split and check its label files, which takes seconds and saves an error after hours.

    Raises:
        ValueError: a folder or label file is missing, a label line is malformed, or some are of unknown classes: all
            of these are named.
    """
    try:
        return {split: _read_source(root, split, rule) for split in splits}
    except UnknownClass as error:
        unknown = _unknown_classes(root, splits, rule)
        others = f" Unknown as well: {', '.join(unknown[1:])}." if unknown[1:] else ""
        alike = {name: did_you_mean(name, rule.classes, cutoff=0.85) for name in unknown}
        meant = "".join(f" {name}:{question}" for name, question in alike.items() if question)
        raise ValueError(
            f"{error.where}: unknown class {error.name!r}; the config knows {', '.join(rule.classes)}.{others}{meant} "
            f"Add {'them' if others else 'it'} to the config's `classes`, or leave such objects out: "
            f"ignore_classes = {(*rule.ignore_classes, *unknown)!r}"
        ) from None


def _unknown_classes(root: Path, splits: Sequence[str], rule: SplitRule) -> list[str]:
    """The classes of all labels that the rule does not name, in the order in which they are met."""
    found: dict[str, None] = {}
    for folders in (split_folders(root, split) for split in splits):
        for image_id in list_images(folders.images):
            found |= dict.fromkeys(read_labels(folders.labels / f"{image_id}.txt").class_names)
    return [name for name in found if name not in (*rule.classes, *rule.ignore_classes)]


def _read_source(root: Path, split: str, rule: SplitRule) -> Source:
    folders = split_folders(root, split)
    images = []
    for image_id, path in list_images(folders.images).items():
        label_file = folders.labels / f"{image_id}.txt"
        num_objects = len(read_kept_labels(label_file, rule))
        label_sha256 = hashlib.sha256(label_file.read_bytes()).hexdigest()
        images.append(SourceImage(image_id, path, label_file, path.stat().st_size, label_sha256, num_objects))
    without_image = {path.stem for path in folders.labels.glob("*.txt")} - {image.image_id for image in images}
    return Source(tuple(images), tuple(sorted(without_image)))


def read_kept_labels(path: Path, rule: SplitRule) -> Labels:
    """The objects of a label file that the patches keep: all but those of `ignore_classes`.

    Raises:
        ValueError: the file is missing, a line is malformed or of a class that the rule does not name.
    """
    labels = read_labels(path, (*rule.classes, *rule.ignore_classes))
    kept = [index for index, name in enumerate(labels.class_names) if name in rule.classes]
    return Labels(labels.polygons[kept], tuple(labels.class_names[index] for index in kept), labels.difficulty[kept])
