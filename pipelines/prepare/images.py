"""Image files -> pixels, and back: what training reads, or a refusal that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np


def read_image(path: Path) -> np.ndarray:
    """Decode an image as training does: (H, W, 3) uint8 BGR.

    Raises:
        ValueError: the file is damaged, cut short or no image, or has more than 8 bits a channel.
    """
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    try:
        with _silent_decoders():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(
            f"{path}: not a readable image (damaged, cut short or empty). "
            "Fetch it again, or remove it together with its label file"
        )
    if image.dtype != np.uint8:
        raise ValueError(
            f"{path}: {8 * image.itemsize} bits a channel; 8 are needed. Convert the data set first, and choose how "
            "its values scale: gdal_translate -ot Byte -scale LOWEST HIGHEST 0 255"
        )
    return np.asarray(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """The PNG file of (H, W, 3) uint8 BGR."""
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
