"""What a training run leaves beside its weights: `run.json`, written when the training ends.

It says what was trained (config, seed, order of the views), from which cache, by which code, on what, and what it took.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import hashlib
import json
import multiprocessing
import platform
import re
import resource
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from cache import __version__
from cache.reader import CacheReader
from distill.checkpoint import weights_digest
from pipelines.base.command import available_cores
from pipelines.base.files import bytes_on_disk, write_json

RECORD = "run.json"
EVALUATION = "evaluation"
FORMAT = 1
REPOSITORY = Path(__file__).resolve().parents[2]

KINDS = {"CachedDistiller": "cached", "LiveDistiller": "live"}
# What says where and how a run happens, not what is trained.
RUN_KEYS = ("work_dir", "resume", "launcher", "model_wrapper_cfg", "log_level")
PACKAGES = (
    *("torch", "torchvision", "numpy", "onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmrotate"),
    *("zarr", "tensorstore"),
)


class TrainingWatch(Hook):
    """Measures a training while it runs; `write_record` writes it down.

    The digests of initial weights and of the order of the views say whether two runs can be compared step by step.
    """

    priority = "LOWEST"

    def __init__(self, config: Config) -> None:
        # Before training, when the store is certainly the one that the student reads.
        self.cache = describe_cache(config)
        self.initial_sha256 = ""
        self.resumed_at = 0
        self.seconds = 0.0
        self._order = hashlib.sha256()
        self._steps: list[float] = []
        self._started = self._last_step = time.perf_counter()

    def before_train(self, runner: Runner) -> None:
        self.resumed_at = runner.iter
        self.initial_sha256 = weights_digest(_bare(runner.model).state_dict())
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = self._last_step = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        for sample in data_batch["data_samples"]:
            view = (sample.metainfo.get("img_id"), sample.metainfo.get("flip_direction") or "none")
            self._order.update(repr(view).encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self._steps.append(now - self._last_step)
        self._last_step = now

    def after_train(self, runner: Runner) -> None:
        self.seconds = time.perf_counter() - self._started

    @property
    def order_sha256(self) -> str:
        """Over (patch, flip) of every sample in the order of training."""
        return self._order.hexdigest()

    @property
    def step_seconds(self) -> float | None:
        """Median time from the end of a step to the end of the next."""
        return median(self._steps) if self._steps else None


def kind_of(config: Config) -> str:
    """'cached', 'live' or 'plain' (without distillation; a teacher is one too)."""
    return KINDS.get(str(config.model.type).rpartition(".")[2], "plain")


def cache_path(config: Config) -> str | None:
    """The store that the training pipeline reads; None where it reads none."""
    for step in config.train_dataloader.dataset.pipeline:
        if step["type"] == "LoadTeacherTargets":
            return step.get("cache")
    return None


def describe_cache(config: Config) -> dict[str, Any] | None:
    """Identity and size of the store that a student reads."""
    path = cache_path(config)
    if path is None:
        return None
    manifest = CacheReader(path).manifest
    return {
        "path": path,
        "fingerprint": manifest.fingerprint,
        "teacher_sha256": manifest.teacher["weights_sha256"],
        "preset": manifest.codec["preset"],
        "views": manifest.plan["num_views"],
        "rows": manifest.plan["num_rows"],
        "bytes": bytes_on_disk(path),
    }


def config_digest(config: Config) -> str:
    """SHA-256 over the resolved config without what says where a run happens (work folder, launcher, resume)."""
    values = {key: value for key, value in config.to_dict().items() if key not in RUN_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def forget_record(folder: Path) -> None:
    """Remove the record of an earlier training, which the one that starts now makes untrue."""
    (folder / RECORD).unlink(missing_ok=True)


def write_record(config: Config, runner: Runner, watch: TrainingWatch) -> None:
    """Write `run.json` into the work folder, whole or not at all; of several processes, the first does."""
    if runner.rank != 0:
        return
    folder = Path(runner.work_dir)
    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    own = folder / runner.timestamp / "vis_data/scalars.json"
    steps = runner.iter - watch.resumed_at
    record = {
        "format": FORMAT,
        "kind": kind_of(config),
        "config": {
            "file": str(config.filename),
            "text_file": Path(config.filename).name if config.filename else f"{runner.timestamp}.py",
            "sha256": config_digest(config),
        },
        "code": describe_code(),
        "cache": watch.cache,
        "overrides": _plain(config.get("overrides")),
        "seed": runner.seed,
        "steps": runner.iter,
        "resumed_at": watch.resumed_at,
        "seconds": watch.seconds,
        "seconds_per_step": watch.seconds / steps if steps else None,
        "step_seconds": watch.step_seconds,
        "peak_memory": peak_memory(),
        "checkpoint": last_checkpoint(folder),
        # A resumed training goes on in a log of its own.
        "logs": [str(log.relative_to(folder)) for log in logs if log == own or (watch.resumed_at and log < own)],
        "initial_sha256": watch.initial_sha256,
        "order_sha256": watch.order_sha256,
        "weights_sha256": weights_digest(_bare(runner.model).state_dict()),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(folder / RECORD, record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished training; None where there is none.

    Raises:
        ValueError: the file is not such a record.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the record of a training. Remove it, and train again") from None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r} but {FORMAT} is read here. Train again with this version")
    return dict(record)


def read_evaluation(folder: Path) -> dict[str, float] | None:
    """AP, AP50, ... AP95 as fractions from `evaluation/evaluation.json`; None where it is missing or half-written."""
    path = folder / EVALUATION / "evaluation.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    means = zip(found["thresholds"], found["mean_ap_per_threshold"], strict=True)
    return {"AP": found["AP"], **{f"AP{round(100 * threshold)}": value for threshold, value in means}}


def read_losses(folder: Path, record: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every loss in the training's logs, by name."""
    curves: dict[str, dict[int, float]] = {}
    for log in record["logs"]:
        for line in (folder / log).read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            for name, value in values.items():
                if "loss" in name:
                    curves.setdefault(name, {})[int(values["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}


def last_checkpoint(folder: Path) -> str | None:
    """Name of the newest checkpoint that mmengine has noted in a work folder."""
    note = folder / "last_checkpoint"
    return Path(note.read_text().strip()).name if note.is_file() else None


def describe_code() -> dict[str, Any]:
    """Version of the code, and its commit where it runs from a git checkout."""
    return {"version": __version__, "commit": _git("rev-parse", "HEAD"), "changed": _changed()}


def _changed() -> bool | None:
    """Whether tracked files differ from the commit; None outside a checkout."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory() -> dict[str, int | None]:
    """Largest resident bytes of this process since its start and of a loader process, and of the GPU's tensors."""
    workers = [_resident_peak(child.pid) for child in multiprocessing.active_children()]
    ended = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "loader_bytes": max([ended, *workers]),
        "cuda_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def _resident_peak(pid: int | None) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        # It ended in between, and is counted among those that have.
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
    """What the training ran on, without the machine's name."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", cpu.read_text() if cpu.is_file() else "", flags=re.MULTILINE)
    return {
        "cpu": found[1] if found else platform.machine(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _bare(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _plain(value: Any) -> Any:
    """A config value as JSON holds it."""
    return json.loads(json.dumps(value, default=str))
