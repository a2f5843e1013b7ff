"""What is timed: patches, teacher and cache of a config, or made up for the run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmrotate.registry import DATASETS, MODELS
from torch.utils.data import DataLoader, Dataset

from cache.reader import CacheReader
from cache.storage import locate
from pipelines.base.command import available_cores
from pipelines.base.experiment import load_config, training_set
from pipelines.base.ready import require_keys, require_training_images
from pipelines.base.runner import ConciseRunner
from pipelines.capture.engine import InProcess
from pipelines.capture.filling import Filled, fill_cache
from pipelines.capture.kept import KeptRegions
from pipelines.capture.options import CaptureOptions, TeacherOptions
from pipelines.capture.planning import plan_views
from pipelines.prepare.data_config import Options
from pipelines.prepare.dota import prepare_dota
from pipelines.training.kind import point_to_cache
from pipelines.training.match import require_matching_cache

REPOSITORY = Path(__file__).resolve().parents[2]
# The GWD row, whose assignment is horizontal, and the same path with narrow models.
MODEL_CONFIGS = {"full": "configs/distill/gwd_r18_1x_dota.py", "narrow": "configs/demo/dota_distill.py"}
STUDENT = """
_base_ = ["{base}"]

data_root = "{data_root}"
train_dataloader = dict(dataset=dict(data_root=data_root))
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher.pth")
cache = "{folder}/cache.zarr"
"""
SCENES = """
patch_size = {size}
patch_overlap = 0
scenes = dict(train={patches}, val=1, image_size=({size}, {size}), scale=1.0, seed={seed})
"""
# A step costs the same at any rate, and weights that hardly move keep every loss finite.
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Project:
    """A cached student's config whose pipeline reads a complete cache, its file, and where it all comes from."""

    config: Config
    file: Path
    origin: str


def project_of_config(path: str, cache: str | None, options: Mapping[str, Any] | None) -> Project:
    """The patches, the teacher and the captured cache of a config.

    Raises:
        ValueError: the config is no cached student's, its patches are missing, or the cache is not its own.
    """
    config = load_config(path, options)
    require_keys(config, ("region", "classes", "teacher", "cache"), path)
    config.cache = cache or config.cache
    require_training_images(config)
    require_matching_cache(config, CacheReader(config.cache))
    return Project(ready(config), Path(path), f"{path}, cache {config.cache}")


def made_up_project(
    folder: Path,
    model: str,
    size: int,
    patches: int,
    seed: int,
    options: Mapping[str, Any] | None,
    device: str | None = None,
) -> Project:
    """Built-in scenes, an untrained teacher with seeded weights, and its cache, in `folder`."""
    path = _write_student(folder, model, f"{folder}/data/", seed)
    with path.open("a") as file:
        file.write(SCENES.format(size=size, patches=patches, seed=seed))
    prepare_dota(load_config(path), Options(dota_root=None, workers=1))
    return _captured(path, options, f"{patches} built-in scenes, untrained teacher, {MODEL_CONFIGS[model]}", device)


def project_of_patches(
    folder: Path, model: str, data_root: str, patches: int, seed: int, options: Mapping[str, Any] | None
) -> Project:
    """Patches that `make data` has made, evenly taken from all of them, and an untrained teacher's cache in `folder`.

    Raises:
        ValueError: there are no patches.
    """
    path = _write_student(folder, model, f"{Path(data_root).resolve()}/", seed)
    config = load_config(path)
    require_training_images(config)
    count = len(training_set(config, []))
    chosen = sorted({index * count // patches for index in range(patches)})
    with path.open("a") as file:
        file.write(f'train_dataloader["dataset"]["indices"] = {chosen}\n')
    return _captured(path, options, f"{len(chosen)} patches of {data_root}, untrained teacher, {MODEL_CONFIGS[model]}")


def _write_student(folder: Path, model: str, data_root: str, seed: int) -> Path:
    """Write the student's config, and the teacher's with a checkpoint of seeded weights.

    An untrained teacher is enough for timing: neither a step nor a record costs more with a trained one, but its store
    compresses less.
    """
    base = REPOSITORY / MODEL_CONFIGS[model]
    path = folder / "student.py"
    path.write_text(STUDENT.format(base=base, folder=folder, data_root=data_root))
    teacher = load_config(REPOSITORY / load_config(base).teacher.config)
    teacher.model.backbone.init_cfg = None
    teacher.dump(folder / "teacher.py")
    torch.manual_seed(seed)
    detector = MODELS.build(teacher.model)
    detector.init_weights()
    torch.save({"state_dict": detector.state_dict()}, folder / "teacher.pth")
    return path


def capture(config: Config, cache: Path, options: CaptureOptions, device: str | None = None) -> Filled:
    """Fill a new store with the answers of the config's teacher, as `make cache-teacher` does."""
    engine = InProcess(config, TeacherOptions(device=device), options)
    kept = KeptRegions()
    plan = plan_views(config, options.loaders, kept=kept)
    return fill_cache(locate(str(cache)), plan, config, engine, kept)


def _captured(path: Path, options: Mapping[str, Any] | None, origin: str, device: str | None = None) -> Project:
    config = load_config(path)
    capture(config, Path(config.cache), CaptureOptions(loaders=available_cores()), device)
    config = load_config(path, options)
    require_matching_cache(config, CacheReader(config.cache))
    return Project(ready(config), path, origin)


def copy_patches(project: Project, folder: Path, count: int) -> dict[str, str]:
    """So many patches under names of their own, each a copy of one of a made-up project's; options of their config."""
    source, target = Path(project.config.data_root) / "train", folder / "train"
    images = sorted((source / "images").iterdir())
    for part in ("images", "annfiles"):
        (target / part).mkdir(parents=True)
    for number, image in zip(range(count), cycle(images)):
        name = f"C{number:04d}__{image.stem.partition('__')[2]}"
        shutil.copyfile(image, target / "images" / f"{name}{image.suffix}")
        shutil.copyfile(source / "annfiles" / f"{image.stem}.txt", target / "annfiles" / f"{name}.txt")
    return {"data_root": f"{folder}/"}


def ready(config: Config) -> Config:
    """Point the pipeline to the cache; pretrained weights would change no time."""
    point_to_cache(config)
    config.model.backbone.init_cfg = None
    config.optim_wrapper.optimizer.lr = LEARNING_RATE
    return config


def make_loader(config: Config, left_out: tuple[str, ...], batch_size: int, workers: int, seed: int) -> DataLoader[Any]:
    """The config's training loader without some of its transforms; samples carry their `load_seconds`."""
    dataset = dict(config.train_dataloader.dataset)
    dataset["pipeline"] = [step for step in dataset["pipeline"] if step["type"] not in left_out]
    return ConciseRunner.build_dataloader(
        {
            "batch_size": batch_size,
            "num_workers": workers,
            "sampler": {"type": "InfiniteSampler", "shuffle": True, "seed": seed},
            "collate_fn": {"type": "collate_views"},
            "dataset": _TimedDataset(DATASETS.build(dataset)),
        },
        seed=seed,
    )


class _TimedDataset(Dataset[dict[str, Any]]):
    """Notes in every sample how long it took to load."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        began = time.perf_counter()
        sample = self.dataset[index]
        return {**sample, "load_seconds": time.perf_counter() - began}
