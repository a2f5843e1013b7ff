"""Make the golden stores anew; only for a new format: python -m tests.golden.stores.make_stores

A store of each kind of head through the real commands, small enough to be read in a hexadecimal editor, and the records
that `CacheReader` reads from it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from mmrotate.registry import MODELS

from cache.reader import CacheReader
from pipelines import cache_teacher
from pipelines.base.experiment import load_config
from tests.cache.golden_stores import RECORD_ARRAYS, STORES
from tests.conftest import REPOSITORY
from tests.distill.coco_tools import write_coco_images

FOLDER = Path(__file__).parent
BASES = {"rotated_retina": ("teacher", "distill"), "gfl": ("gfl_teacher", "gfl_vlr_distill")}
CODECS = {"rotated_retina": "default", "gfl": "small"}
LABELS = (
    "20 24 84 24 84 56 20 56 ship 0\n60 70 96 88 84 112 48 94 plane 0\n",
    "100 90 140 90 140 120 100 120 ship 2\n",
)
CONFIG = """
_base_ = ["{repository}/configs/demo/{base}.py"]
data_root = "{folder}/"
train_dataloader = dict(dataset=dict(data_root=data_root))
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher.pth")
codec = "{codec}"
"""


def main() -> None:
    torch.set_num_threads(1)
    for name in STORES:
        store = FOLDER / f"{name}.zarr"
        assert not store.exists(), f"{store} is there: a golden store is never overwritten"
        with tempfile.TemporaryDirectory() as folder:
            capture(name, Path(folder), store)
        np.savez_compressed(FOLDER / f"{name}.npz", **records(store))


def capture(name: str, folder: Path, store: Path) -> None:
    """Data, a seeded teacher, and the capture command."""
    if name == "gfl":
        write_coco_images(folder)
    else:
        write_dota_patches(folder)
    for part, base in zip(("teacher", "student"), BASES[name], strict=True):
        values = {"repository": REPOSITORY, "folder": folder, "base": base, "codec": CODECS[name]}
        (folder / f"{part}.py").write_text(CONFIG.format(**values))
    torch.manual_seed(0)
    teacher = MODELS.build(load_config(folder / "teacher.py").model)
    teacher.init_weights()
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    where = ["--config", str(folder / "student.py"), "--cache", str(store)]
    options = ["--loaders", "0", "--views-per-block", "4"]
    cache_teacher.main(cache_teacher.make_parser().parse_args([*where, *options]))


def write_dota_patches(folder: Path) -> None:
    random = np.random.default_rng(9)
    for part in ("images", "annfiles"):
        (folder / "train" / part).mkdir(parents=True)
    for number, labels in enumerate(LABELS):
        image = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"train/images/P{number}.png"), image)
        (folder / f"train/annfiles/P{number}.txt").write_text(labels)


def records(store: Path) -> dict[str, np.ndarray]:
    """Every array of every view's record, by `patch/flip/array`."""
    reader = CacheReader(store)
    found = {}
    for view in map(reader.plan.view, range(reader.plan.num_views)):
        record = reader.read(view.patch_id, view.draw)
        for name in RECORD_ARRAYS:
            values = getattr(record, name)
            if values is not None:
                found[f"{view}/{name}"] = values
    return found


if __name__ == "__main__":
    main()
