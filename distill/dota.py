"""DOTA's label format: classes, label files, patch names, folder layout.

NumPy only, so that data preparation and evaluation read labels by the same code as training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DOTA_CLASSES = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_HEADER_LINE = re.compile(r"^(imagesource|gsd)\s*:", re.IGNORECASE)
# Greedy first group: the last `__size__x___y` wins, so image ids may contain `__` themselves.
_PATCH_NAME = re.compile(r"^(.+)__(\d+)__(\d+)___(\d+)$")


class UnknownClass(ValueError):
    """A label of a class that the config does not name: where it stands, and the name."""

    def __init__(self, problem: str, where: str = "", name: str = "") -> None:
        super().__init__(problem)
        self.where = where
        self.name = name


@dataclass(frozen=True)
class Labels:
    """The objects of one image, in file order.

    polygons: (G, 8) float64, pixels, x1 y1 ... x4 y4.
    class_names: G names.
    difficulty: (G,) int64; 0 easy, 1 difficult, 2 cut by a patch border.
    """

    polygons: np.ndarray
    class_names: tuple[str, ...]
    difficulty: np.ndarray

    def __len__(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class PatchName:
    """Where a patch lies in its image: `P0003__1024__0___824` is x = 0, y = 824 of P0003."""

    image_id: str
    size: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.image_id}__{self.size}__{self.x}___{self.y}"


@dataclass(frozen=True)
class SplitFolders:
    """The image and label folders of one split."""

    images: Path
    labels: Path


def parse_patch_name(name: str) -> PatchName | None:
    """Split a patch name from the right; None where the name is not a patch's."""
    match = _PATCH_NAME.match(name)
    if match is None:
        return None
    image_id, size, x, y = match.groups()
    return PatchName(image_id, int(size), int(x), int(y))


def parse_labels(text: str, source: str | Path, classes: Sequence[str] | None = None) -> Labels:
    """Parse the text of one labelTxt file; header lines and blank lines are passed over.

    A line holds eight coordinates, the class and, optionally, the difficulty (default 0).
    `source` is named in errors. `classes` limits the legal names; None accepts every name.

    Raises:
        ValueError: too few fields, a coordinate that is no finite number, an unknown class.
    """
    polygons: list[list[float]] = []
    names: list[str] = []
    difficulty: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or _HEADER_LINE.match(line):
            continue
        where = f"{source}, line {number}"
        if len(fields) < 9:
            raise ValueError(
                f"{where}: {len(fields)} fields, at least 9 needed (x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]). "
                f"Correct or remove the line: {line.strip()!r}"
            )
        try:
            coordinates = [float(field) for field in fields[:8]]
            level = int(fields[9]) if len(fields) > 9 else 0
        except ValueError as error:
            raise ValueError(f"{where}: {error}. Correct or remove the line: {line.strip()!r}") from None
        if not np.isfinite(coordinates).all():
            raise ValueError(f"{where}: a coordinate is not finite. Correct or remove the line: {line.strip()!r}")
        if classes is not None and fields[8] not in classes:
            raise UnknownClass(
                f"{where}: unknown class {fields[8]!r}; the config knows {', '.join(classes)}. "
                "Add it to the config's `classes`, or to `ignore_classes` to leave such objects out",
                where,
                fields[8],
            )
        polygons.append(coordinates)
        names.append(fields[8])
        difficulty.append(level)
    return Labels(
        np.asarray(polygons, dtype=np.float64).reshape(-1, 8),
        tuple(names),
        np.asarray(difficulty, dtype=np.int64),
    )


def read_labels(path: str | Path, classes: Sequence[str] | None = None) -> Labels:
    """Read one labelTxt file (see `parse_labels`).

    Raises:
        ValueError: the file is missing or no text, or its content is malformed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"label file {path} does not exist; every image needs one (empty where it holds no object)"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"label file {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    return parse_labels(text, path, classes)


def format_labels(labels: Labels) -> str:
    """The labelTxt text of `labels`: coordinates to 1e-4 px, without needless digits."""
    lines = []
    for polygon, name, level in zip(labels.polygons, labels.class_names, labels.difficulty, strict=True):
        coordinates = " ".join(str(round(float(value), 4)) for value in polygon)
        lines.append(f"{coordinates} {name} {int(level)}\n")
    return "".join(lines)


def split_folders(root: str | Path, split: str) -> SplitFolders:
    """The folders of `<root>/<split>`: images/ and labelTxt/ or labelTxt-v1.0/labelTxt/.

    Raises:
        ValueError: a folder is missing.
    """
    base = Path(root) / split
    images = base / "images"
    candidates = (base / "labelTxt", base / "labelTxt-v1.0" / "labelTxt")
    if not images.is_dir():
        raise ValueError(
            f"folder {images} does not exist; DOTA_ROOT must hold train/ and val/, each with images/ and labelTxt/"
        )
    for labels in candidates:
        if labels.is_dir():
            return SplitFolders(images, labels)
    raise ValueError(f"no label folder beside {images}: neither {candidates[0]} nor {candidates[1]} exists")


def list_images(folder: str | Path) -> dict[str, Path]:
    """Image id -> file of every image in `folder`, sorted by id.

    Raises:
        ValueError: the folder is missing or holds no image, or two files share an id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            raise ValueError(f"two images share the id {path.stem!r}: {images[path.stem]} and {path}; keep one")
        images[path.stem] = path
    if not images:
        raise ValueError(f"image folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return images
