"""Chosen crops of real DOTA images, for teachers that are to know them by heart.

    python -m benchmarks.crops --sample <folder of real DOTA images> --out data/real_crops

Places alone are kept here: the images may not be passed on. Training and evaluation see the same crops.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from distill.dota import format_labels, read_labels
from pipelines.base.command import run_command
from pipelines.prepare.windows import SplitRule, Window, crop_image, crop_labels


@dataclass(frozen=True)
class Crop:
    """A square window of an image of the sample, whose pixels are resized to a side that all crops share."""

    image_id: str
    x: int
    y: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.image_id}_{self.x}_{self.y}_{self.size}"


# Sixteen windows with 13 classes (the sample holds no more) and 88 whole objects that the anchors of
# configs/real_crops_teacher.py match where they are 256 px wide: large fields are shrunk by four, planes by two.
REAL_CROPS = (
    Crop("P0032__1__0___665", 0, 512, 512),
    Crop("P0032__1__1401___0", 128, 320, 512),
    Crop("P0770", 384, 128, 1024),
    Crop("P0770", 448, 320, 1024),
    Crop("P0770", 192, 576, 512),
    Crop("P0770", 0, 192, 512),
    Crop("P1580__1024__824___824", 448, 192, 512),
    Crop("P1234__0.5__976___976", 128, 128, 256),
    Crop("P1234__0.5__0___976", 0, 0, 256),
    Crop("P0053__1__0___397", 768, 0, 256),
    Crop("P0053__1__0___397", 704, 640, 256),
    Crop("P0003", 704, 704, 256),
    Crop("P1234__0.5__976___976", 768, 768, 256),
    Crop("P1234__0.5__976___976", 576, 384, 256),
    Crop("P0019__1__5376___1536", 384, 192, 512),
    Crop("P1470__1024__3296___1648", 0, 0, 1024),
)
REAL_CROPS_SIDE = 256


def main(arguments: argparse.Namespace) -> None:
    """Sample -> crops."""
    make_crops(Path(arguments.sample), REAL_CROPS, REAL_CROPS_SIDE, Path(arguments.out))


def make_crops(sample: Path, crops: Sequence[Crop], side: int, folder: Path) -> None:
    """Cut the crops, `side` pixels wide and high, into the splits `train` and `val` of a data folder."""
    for split in ("train", "val"):
        for kind in ("images", "annfiles", "labelTxt"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
    for crop in crops:
        window = Window(crop.x, crop.y, crop.size)
        image = cv2.imread(str(next((sample / "train/images").glob(f"{crop.image_id}.*"))))
        pixels = crop_image(image, window, SplitRule.padding_bgr)
        if crop.size != side:
            pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        labels = crop_labels(read_labels(sample / f"train/labelTxt/{crop.image_id}.txt"), window)
        text = format_labels(replace(labels, polygons=labels.polygons * (side / crop.size)))
        for split in ("train", "val"):
            cv2.imwrite(str(folder / split / f"images/{crop.name}.png"), pixels)
            for kind in ("annfiles", "labelTxt"):
                (folder / split / f"{kind}/{crop.name}.txt").write_text(text)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crops", description="Cut the crops of configs/real_crops_teacher.py."
    )
    parser.add_argument(
        "--sample", required=True, help="folder of real DOTA images with train/images and train/labelTxt"
    )
    parser.add_argument("--out", default="data/real_crops", help="data folder (default: data/real_crops)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
