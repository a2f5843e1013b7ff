"""DOTA images and labels -> square patches, by the rules of mmrotate's img_split with ss_train.json (ld_spec 1.6).

Pure functions first (windows, labels and pixels of one patch), then the files of one image, then all images in
parallel. Layout of a split's folder, `<data_root>/train` or `<data_root>/val`:

    images/<image>__<size>__<x>___<y>.png     patches
    annfiles/<image>__<size>__<x>___<y>.txt   their labels; empty where a patch holds no object
    labelTxt/<image>.txt                      the labels of the whole image, byte for byte, for the evaluation
    done/<image>.json                         an image's record, written when everything else of it is in place
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from distill.dota import Labels, PatchName, format_labels, list_images, parse_patch_name, read_labels, split_folders
from pipelines.base.files import PARTIAL, write_bytes, write_json

CUT_DIFFICULTY = 2


@dataclass(frozen=True)
class Window:
    """A square part of an image: columns x to x + size, rows y to y + size, in pixels of the whole image."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class SplitRule:
    """How images become patches; the defaults are the published ones.

    Raises:
        ValueError: a value outside its range.
    """

    size: int = 1024
    """Side of a patch, pixels."""
    overlap: int = 200
    """Pixels that neighbouring patches share."""
    keep_ratio: float = 0.7
    """Smallest share of an object's area inside a patch with which the patch keeps the object."""
    image_rate_threshold: float = 0.6
    """Share of a patch that must be image rather than padding."""
    padding_bgr: tuple[int, int, int] = (104, 116, 124)
    """Colour right of and below a small image, in OpenCV's channel order."""

    def __post_init__(self) -> None:
        _check_window_size(self.size, self.overlap)
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {self.keep_ratio}; it must lie above 0 and be at most 1")
        if not 0 <= self.image_rate_threshold < 1:
            raise ValueError(f"image_rate_threshold is {self.image_rate_threshold}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Patch:
    """One patch: its name, its pixels (size, size, 3) uint8 BGR, its labels in its own coordinates."""

    name: PatchName
    pixels: np.ndarray
    labels: Labels


def windows(width: int, height: int, size: int, overlap: int, image_rate_threshold: float = 0.6) -> list[Window]:
    """The windows over a `width` x `height` image, column by column; never none.

    The last window of a row or column moves back to touch the border. A window whose image share is not above the
    threshold is dropped; where that drops all, those within 0.01 of the largest share are kept.

    Raises:
        ValueError: a side below 1, or an overlap outside 0 .. size - 1.
    """
    _check_window_size(size, overlap)
    if min(width, height) < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no windows")
    candidates = [
        Window(x, y, size) for x in _starts(width, size, size - overlap) for y in _starts(height, size, size - overlap)
    ]
    shares = [min(size, width - w.x) * min(size, height - w.y) / size**2 for w in candidates]
    kept = [window for window, share in zip(candidates, shares, strict=True) if share > image_rate_threshold]
    best = max(shares)
    return kept or [window for window, share in zip(candidates, shares, strict=True) if best - share < 0.01]


def inside_ratios(polygons: np.ndarray, window: Window) -> np.ndarray:
    """(G,) share of each polygon's area inside the window; polygons (G, 8). A polygon without area has share 0."""
    shapes = shapely.polygons(polygons.reshape(-1, 4, 2))
    # Corners in crossed order, as a few hand-made labels have, make a shape that cannot be intersected as it is.
    crossed = ~shapely.is_valid(shapes)
    shapes[crossed] = shapely.make_valid(shapes[crossed])
    areas = shapely.area(shapes)
    frame = shapely.box(window.x, window.y, window.x + window.size, window.y + window.size)
    shared = shapely.area(shapely.intersection(shapes, frame))
    ratios: np.ndarray = np.divide(shared, areas, out=np.zeros_like(areas), where=areas > 0)
    return ratios


def crop_labels(labels: Labels, window: Window, keep_ratio: float = 0.7) -> Labels:
    """The objects with at least `keep_ratio` of their area inside, in the window's coordinates.

    Polygons are not clipped. An object that reaches out of the window gets difficulty 2: with a corner outside, which
    is the reference's "share below 1" without its rounding.
    """
    kept = np.flatnonzero(inside_ratios(labels.polygons, window) >= keep_ratio)
    corners = labels.polygons[kept].reshape(-1, 4, 2) - (window.x, window.y)
    is_cut = ((corners < 0) | (corners > window.size)).any(axis=(1, 2))
    return Labels(
        corners.reshape(-1, 8),
        tuple(labels.class_names[index] for index in kept),
        np.where(is_cut, CUT_DIFFICULTY, labels.difficulty[kept]),
    )


def crop_image(image: np.ndarray, window: Window, padding_bgr: Sequence[int]) -> np.ndarray:
    """The window's pixels, (size, size, 3) uint8; padding fills what lies right of or below the image (H, W, 3)."""
    part = image[window.y : window.y + window.size, window.x : window.x + window.size]
    if part.shape[:2] == (window.size, window.size):
        return part
    patch = np.empty((window.size, window.size, 3), dtype=np.uint8)
    patch[:] = padding_bgr
    patch[: part.shape[0], : part.shape[1]] = part
    return patch


def split_image(image: np.ndarray, labels: Labels, image_id: str, rule: SplitRule) -> Iterator[Patch]:
    """The patches of one image, (H, W, 3) uint8 BGR, one at a time."""
    height, width = image.shape[:2]
    for window in windows(width, height, rule.size, rule.overlap, rule.image_rate_threshold):
        yield Patch(
            PatchName(image_id, window.size, window.x, window.y),
            crop_image(image, window, rule.padding_bgr),
            crop_labels(labels, window, rule.keep_ratio),
        )


@dataclass(frozen=True)
class SourceImage:
    """One image of a source: its files, and what tells them from other files of the same name."""

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


def read_source(root: Path, split: str, classes: Sequence[str]) -> Source:
    """List a split's images and check every label file, which takes seconds and saves finding an error after hours.

    Raises:
        ValueError: a folder or label file is missing, a label line is malformed or of an unknown class.
    """
    folders = split_folders(root, split)
    images = []
    for image_id, path in list_images(folders.images).items():
        label_file = folders.labels / f"{image_id}.txt"
        num_objects = len(read_labels(label_file, classes))
        label_sha256 = hashlib.sha256(label_file.read_bytes()).hexdigest()
        images.append(SourceImage(image_id, path, label_file, path.stat().st_size, label_sha256, num_objects))
    without_image = {path.stem for path in folders.labels.glob("*.txt")} - {image.image_id for image in images}
    return Source(tuple(images), tuple(sorted(without_image)))


@dataclass(frozen=True)
class ImageRecord:
    """What was made of one image. `patches`: patch name -> number of objects; num_bytes: of all its patch files."""

    source: Mapping[str, Any]
    patches: Mapping[str, int]
    num_bytes: int


@dataclass(frozen=True)
class SplitFolder:
    """The patches of one split on disk; see the top of this module."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annfiles(self) -> Path:
        return self.root / "annfiles"

    @property
    def label_texts(self) -> Path:
        return self.root / "labelTxt"

    @property
    def done(self) -> Path:
        return self.root / "done"

    def folders(self) -> tuple[Path, ...]:
        return self.images, self.annfiles, self.label_texts, self.done

    def make(self) -> None:
        for folder in self.folders():
            folder.mkdir(parents=True, exist_ok=True)

    def records(self) -> dict[str, ImageRecord]:
        """Image id -> record of every image all of whose files are there."""
        if not self.done.is_dir():
            return {}
        pictures, annfiles, texts = ({path.name for path in folder.iterdir()} for folder in self.folders()[:3])
        records = {}
        for path in sorted(self.done.glob("*.json")):
            try:
                record = ImageRecord(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError):  # a power cut can leave an empty file under a finished name
                continue
            has_patches = all(f"{name}.png" in pictures and f"{name}.txt" in annfiles for name in record.patches)
            if has_patches and f"{path.stem}.txt" in texts:
                records[path.stem] = record
        return records

    def remove_unfinished(self) -> None:
        """Delete what a killed run left: temporary files, and everything of images that have no record.

        Without this, an image that is replaced before it was finished could leave patches that no image owns.
        """
        finished = self.records()
        for folder in (self.images, self.annfiles):
            for path in folder.iterdir():
                name = parse_patch_name(path.stem)
                if path.suffix == PARTIAL or (name is not None and name.image_id not in finished):
                    path.unlink(missing_ok=True)
        for folder in (self.label_texts, self.done):
            for path in folder.iterdir():
                if path.suffix == PARTIAL or path.stem not in finished:
                    path.unlink(missing_ok=True)


def write_patches(source: SourceImage, folder: SplitFolder, rule: SplitRule, classes: Sequence[str]) -> ImageRecord:
    """Write all files of one image, each whole or not at all, its record last.

    Whenever the process dies, either the record is missing, and the image is split again to the same bytes, or
    everything is there.

    Raises:
        ValueError: the image cannot be decoded, or its labels are malformed.
    """
    labels = read_labels(source.label_file, classes)
    patches: dict[str, int] = {}
    num_bytes = 0
    for patch in split_image(read_image(source.image), labels, source.image_id, rule):
        picture, text = _encode_png(patch.pixels), format_labels(patch.labels).encode()
        write_bytes(folder.images / f"{patch.name}.png", picture)
        write_bytes(folder.annfiles / f"{patch.name}.txt", text)
        patches[str(patch.name)] = len(patch.labels)
        num_bytes += len(picture) + len(text)
    write_bytes(folder.label_texts / f"{source.image_id}.txt", source.label_file.read_bytes())
    record = ImageRecord(source.identity(), patches, num_bytes)
    write_json(folder.done / f"{source.image_id}.json", asdict(record))
    return record


def split_images(
    tasks: Sequence[tuple[SourceImage, SplitFolder]],
    rule: SplitRule,
    classes: Sequence[str],
    *,
    workers: int,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write the patches of every image, one image per worker at a time; `on_image` is called after each.

    At the first error the images in work are finished, the others are left for the next run.

    Raises:
        ValueError: from `write_patches`, or a worker process died.
        OSError: a file cannot be read or written.
    """
    if not tasks:
        return
    # Spawned, not forked: a fork copies the locks of OpenCV's and the progress display's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_prepare_worker) as pool:
        futures = [pool.submit(write_patches, source, folder, rule, tuple(classes)) for source, folder in tasks]
        try:
            for future in as_completed(futures):
                future.result()
                on_image()
        except BrokenExecutor:
            raise ValueError(
                "a worker process died, probably for want of memory. Finished images are kept: run the same command "
                f"again with fewer --workers (now {workers})"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def read_image(path: Path) -> np.ndarray:
    """Decode an image as training does: (H, W, 3) uint8 BGR.

    Raises:
        ValueError: the file is damaged, cut short or no image.
    """
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    try:
        with _silent_decoders():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(
            f"{path}: not a readable image (damaged, cut short or empty). "
            "Fetch it again, or remove it together with its label file"
        )
    return np.asarray(image)


def _check_window_size(size: int, overlap: int) -> None:
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"patches of {size} pixels cannot overlap by {overlap}; 0 <= overlap < size is needed")


def _starts(length: int, size: int, step: int) -> list[int]:
    if length <= size:
        return [0]
    count = ceil((length - size) / step) + 1
    return [min(index * step, length - size) for index in range(count)]


def _encode_png(pixels: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".png", pixels)
    assert encoded, "OpenCV encodes every uint8 image as PNG"
    return data.tobytes()


@contextmanager
def _silent_decoders() -> Iterator[None]:
    # libpng and libjpeg print their complaints straight to file descriptor 2; the error names the file instead.
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _prepare_worker() -> None:
    cv2.setNumThreads(1)  # one image per process keeps the cores busy already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one winds the work up
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's workers outlive a killed main process: they hold both ends of the queue that they wait on.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
