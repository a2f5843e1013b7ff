"""Detections of one class, and the text files that they and their ground truth are exchanged in.

`Task1_<class>.txt` is the DOTA devkit's format: one line per detection, image, score and eight coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.dota import Labels, read_labels
from distill.errors import DataNeeded


@dataclass(frozen=True)
class Detections:
    """The detections of one class, over all images.

    image_ids: n ids (patch names before merging).
    scores: (n,) float64.
    polygons: (n, 8) float64, pixels.

    Raises:
        ValueError: lengths differ, or a score or coordinate is not finite.
    """

    image_ids: tuple[str, ...]
    scores: np.ndarray
    polygons: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.image_ids)
        if self.scores.shape != (num,) or self.polygons.shape != (num, 8):
            raise ValueError(
                f"{num} image ids need scores of shape ({num},) and polygons of shape ({num}, 8), "
                f"not {self.scores.shape} and {self.polygons.shape}"
            )
        finite = np.isfinite(self.scores) & np.isfinite(self.polygons).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            raise ValueError(
                f"detection {first} (image {self.image_ids[first]}) has a score or coordinate that is not finite; "
                "look for NaN or overflow in the detector's outputs"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def of(cls, image_ids: Iterable[str], scores: Any, polygons: Any) -> Detections:
        """Detections from anything array-like; an empty sequence gives none."""
        return cls(
            tuple(image_ids),
            np.asarray(scores, dtype=np.float64).reshape(-1),
            np.asarray(polygons, dtype=np.float64).reshape(-1, 8),
        )

    def take(self, index: np.ndarray) -> Detections:
        """The detections at `index` (integers), in that order."""
        return Detections(tuple(self.image_ids[i] for i in index), self.scores[index], self.polygons[index])


NO_DETECTIONS = Detections.of((), (), ())


def detections_by_class(
    predictions: Iterable[tuple[str, np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str]
) -> dict[str, Detections]:
    """Sort a detector's predictions by class.

    predictions: per image or patch its name, polygons (n, 8), scores (n,), labels (n,) that index `classes`.

    Raises:
        ValueError: a label outside `classes`.
    """
    predictions = list(predictions)
    names = np.repeat(np.arange(len(predictions)), [len(polygons) for _, polygons, _, _ in predictions])
    polygons = np.concatenate([np.zeros((0, 8)), *(part.reshape(-1, 8) for _, part, _, _ in predictions)])
    scores = np.concatenate([np.zeros(0), *(part for _, _, part, _ in predictions)])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(part for _, _, _, part in predictions)])
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"predicted labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes "
            f"({', '.join(classes)}); evaluate with the classes that the detector was trained on"
        )
    by_class = {}
    for label, class_name in enumerate(classes):
        mine = labels == label
        by_class[class_name] = Detections.of([predictions[k][0] for k in names[mine]], scores[mine], polygons[mine])
    return by_class


def select_images(detections: Mapping[str, Detections], image_ids: Iterable[str]) -> dict[str, Detections]:
    """The detections that lie on the given images."""
    wanted = set(image_ids)
    return {
        name: of_class.take(np.flatnonzero([image in wanted for image in of_class.image_ids]))
        for name, of_class in detections.items()
    }


def round_coordinates(detections: Mapping[str, Detections]) -> dict[str, Detections]:
    """Coordinates with the two decimals of a Task1 file, so that figures from memory and from files agree."""
    return {
        name: Detections(of_class.image_ids, of_class.scores, np.round(of_class.polygons, 2))
        for name, of_class in detections.items()
    }


def detection_path(folder: str | Path, class_name: str) -> Path:
    """`<folder>/Task1_<class>.txt`."""
    return Path(folder) / f"Task1_{class_name}.txt"


def format_detections(detections: Detections) -> str:
    """The text of a Task1 file: id, score with all its digits, eight coordinates with two decimals.

    Raises:
        ValueError: an image id holds white space, which the format cannot express.
    """
    for name in set(detections.image_ids):
        if len(name.split()) != 1:
            raise ValueError(f"image id {name!r} is empty or holds white space; rename the image")
    lines = []
    rows = zip(detections.image_ids, detections.scores.tolist(), detections.polygons.tolist(), strict=True)
    for name, score, polygon in rows:
        lines.append(f"{name} {score!r} {' '.join(f'{value:.2f}' for value in polygon)}\n")
    return "".join(lines)


def parse_detections(text: str, source: str | Path) -> Detections:
    """Parse the text of a Task1 file; blank lines are passed over. `source` is named in errors.

    Raises:
        ValueError: a line without 10 fields, or with a field that is no finite number.
    """
    image_ids: list[str] = []
    numbers: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        where, cure = f"{source}, line {number}", f"Correct or remove the line: {line.strip()!r}"
        if len(fields) != 10:
            raise ValueError(f"{where}: {len(fields)} fields, 10 needed (image score x1 y1 x2 y2 x3 y3 x4 y4). {cure}")
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise ValueError(f"{where}: {error}. {cure}") from None
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: the score or a coordinate is not finite. {cure}")
        image_ids.append(fields[0])
        numbers.append(values)
    table = np.asarray(numbers, dtype=np.float64).reshape(-1, 9)
    return Detections(tuple(image_ids), table[:, 0], table[:, 1:])


def write_detections(folder: str | Path, detections: Mapping[str, Detections]) -> list[Path]:
    """Write one Task1 file per class, empty ones included; the folder is made where needed."""
    paths = []
    for name, of_class in detections.items():
        path = detection_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_detections(of_class), encoding="utf-8")
        paths.append(path)
    return paths


def read_detections(folder: str | Path, classes: Sequence[str]) -> dict[str, Detections]:
    """Read the Task1 files of `classes`.

    Raises:
        ValueError: a file is missing or malformed.
    """
    detections = {}
    for name in classes:
        path = detection_path(folder, name)
        if not path.is_file():
            raise ValueError(f"detection file {path} does not exist; a class without detections needs an empty file")
        detections[name] = parse_detections(_read_text(path), path)
    return detections


def read_image_list(path: str | Path) -> list[str]:
    """Image ids from a list file, one a line; blank lines are passed over.

    Raises:
        ValueError: the file is missing or empty, an id comes twice or holds white space.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"image list {path} does not exist")
    first_line: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if len(name.split()) != 1:
            raise ValueError(f"{path}, line {number}: {name!r} holds white space; write one image id a line")
        if name in first_line:
            raise ValueError(f"{path}, line {number}: {name!r} stands on line {first_line[name]} already; remove one")
        first_line[name] = number
    if not first_line:
        raise ValueError(f"image list {path} names no image; write one image id a line")
    return list(first_line)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); write it again") from None


def read_ground_truth(folder: str | Path, image_ids: Iterable[str] | None = None) -> dict[str, Labels]:
    """Image id -> labels from a labelTxt folder: of the given images, or of all, sorted by id.

    Raises:
        ValueError: the folder is missing or holds no label file, or a label file is missing or malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataNeeded(f"label folder {folder} does not exist")
    if image_ids is None:
        image_ids = sorted(path.stem for path in folder.glob("*.txt"))
        if not image_ids:
            raise DataNeeded(f"label folder {folder} holds no .txt file")
    return {name: read_labels(folder / f"{name}.txt") for name in image_ids}
