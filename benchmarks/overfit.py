"""Teacher, plain, live and cached student each overfit the same few real 512 px crops, from scratch.

    python -m benchmarks.overfit --sample <folder of real DOTA images>

One schedule for all four. Prints AP50 on the crops and draws the detections; a detector that stays below 0.3 fails it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.crops import Crop, make_crops
from distill.detections import Detections, read_detections
from distill.dota import DOTA_CLASSES, read_labels
from pipelines.base.command import run_command
from pipelines.base.experiment import load_config
from pipelines.training.evaluation import evaluate

SIDE = 512
CROPS = (
    Crop("P0007__1__0___768", 0, 512, SIDE),
    Crop("P0007__1__0___768", 512, 0, SIDE),
    Crop("P0770", 768, 0, SIDE),
    Crop("P1234__0.5__976___0", 0, 0, SIDE),
    Crop("P0019__1__1536___2304", 512, 512, SIDE),
)
# The command that trains each.
DETECTORS = {"teacher": "teacher", "plain": "train", "live": "train", "distill": "distill"}
AP50_NEEDED = 0.3
SHOWN_SCORE = 0.3


def main(arguments: argparse.Namespace) -> int:
    """Crops -> four trainings -> AP50 and pictures."""
    work = Path(arguments.work_dir)
    make_crops(Path(arguments.sample), CROPS, SIDE, work / "data")
    configs = {name: write_config(name, work, arguments.steps) for name in DETECTORS}
    figures = {}
    for name, command in DETECTORS.items():
        if name == "distill":
            run("cache_teacher", "--config", configs[name], "--loaders", "1")
        run(command, "--config", configs[name])
        config = load_config(configs[name])
        config.work_dir = str(work / f"evaluate_{name}")
        figures[name] = evaluate(config, work / name / f"iter_{arguments.steps}.pth", work / f"evaluate_{name}")
        draw_detections(work, name)
    print(
        json.dumps(
            {name: {key: round(value[key], 4) for key in ("AP", "AP50", "AP75")} for name, value in figures.items()}
        )
    )
    failed = [
        name for name, value in figures.items() if value["AP50"] * len(DOTA_CLASSES) / num_present(work) < AP50_NEEDED
    ]
    print(f"below AP50 {AP50_NEEDED} over the classes present: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def run(command: str, *argv: str | Path) -> None:
    """A command as a user would type it."""
    subprocess.run([sys.executable, "-m", f"pipelines.{command}", *argv], check=True)


def write_config(name: str, work: Path, steps: int) -> Path:
    """The demo's config of a detector on the crops: four levels, 15 classes, no flips, one schedule for all."""
    options: dict[str, Any] = {
        "classes": DOTA_CLASSES,
        "data_root": str(work / "data"),
        "model.neck.num_outs": 4,
        "model.bbox_head.anchor_generator.octave_base_scale": 4,
        "model.bbox_head.anchor_generator.strides": [8, 16, 32, 64],
        "train_dataloader.batch_size": len(CROPS),
        "train_cfg.max_iters": steps,
        "work_dir": str(work / name),
    }
    if name in ("live", "distill"):
        options |= {
            "teacher.config": str(work / "teacher.py"),
            "teacher.checkpoint": str(work / f"teacher/iter_{steps}.pth"),
        }
    if name == "distill":
        options["cache"] = str(work / "cache.zarr")
    config = load_config(f"configs/demo/{name}.py", options)
    for step in config.train_dataloader.dataset.pipeline:
        if step["type"] == "RandomViewFlip":
            step["prob"], step["direction"] = 0.0, "horizontal"
    config.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.05, "by_epoch": False, "begin": 0, "end": 20},
        {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 20, "end": steps, "eta_min": 0},
    ]
    path = work / f"{name}.py"
    config.dump(path)
    return path


def num_present(work: Path) -> int:
    """How many classes the crops hold: the devkit's mean divides by all fifteen."""
    names = set()
    for label in (work / "data/val/labelTxt").glob("*.txt"):
        names.update(read_labels(label).class_names)
    return len(names)


def draw_detections(work: Path, name: str) -> None:
    """One sheet: ground truth in white, detections above the shown score in orange."""
    detections = read_detections(work / f"evaluate_{name}", DOTA_CLASSES)
    tiles = []
    for path in sorted((work / "data/val/images").glob("*.png")):
        image = cv2.imread(str(path))
        for polygon in read_labels(work / f"data/val/labelTxt/{path.stem}.txt").polygons:
            cv2.polylines(image, [polygon.reshape(4, 2).astype(np.int32)], True, (255, 255, 255), 3)
        for class_name, found in detections.items():
            draw_class(image, found, class_name, path.stem)
        tiles.append(image)
    cv2.imwrite(str(work / f"{name}.png"), np.hstack(tiles))


def draw_class(image: np.ndarray, found: Detections, class_name: str, image_id: str) -> None:
    for identifier, score, polygon in zip(found.image_ids, found.scores, found.polygons, strict=True):
        if identifier == image_id and score >= SHOWN_SCORE:
            corners = polygon.reshape(4, 2).astype(np.int32)
            cv2.polylines(image, [corners], True, (0, 140, 255), 2)
            text = f"{class_name} {score:.2f}"
            cv2.putText(
                image, text, tuple(corners[0].tolist()), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 140, 255), 1, cv2.LINE_AA
            )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overfit", description=__doc__)
    parser.add_argument(
        "--sample", required=True, help="folder of real DOTA images with train/images and train/labelTxt"
    )
    parser.add_argument("--work-dir", default="work_dirs/overfit")
    parser.add_argument("--steps", type=int, default=70)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
