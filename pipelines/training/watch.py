"""Measures a training while it runs: time, memory, initial weights, the order of the views."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from cache.reader import CacheReader
from distill.checkpoint import weights_digest
from pipelines.base.files import bytes_on_disk
from pipelines.training.kind import cache_path

FIRST_STEPS = 4


class TrainingWatch(Hook):
    """What only a running training can tell; `write_run_record` writes it down.

    The digests of initial weights and of the order of the views say whether two runs can be compared step by step.
    """

    priority = "LOWEST"

    def __init__(self, config: Config) -> None:
        # Before training, when the store is certainly the one that the student reads.
        self.cache = describe_cache(config)
        self.gpu_memory, self.loader_memory = GpuMemory(), LoaderMemory()
        self.initial_sha256 = ""
        self.resumed_at = 0
        self.seconds = 0.0
        self._order = hashlib.sha256()
        self._steps: list[float] = []
        self._started = self._last_step = time.perf_counter()

    def before_train(self, runner: Runner) -> None:
        self.resumed_at = runner.iter
        self.initial_sha256 = weights_digest(bare_model(runner).state_dict())
        self._started = self._last_step = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        for sample in data_batch["data_samples"]:
            view = tuple(sample.metainfo.get(name) for name in ("img_id", "drawn", "flip_direction"))
            self._order.update(repr(view).encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self._steps.append(now - self._last_step)
        self._last_step = now

    def after_train(self, runner: Runner) -> None:
        self.seconds = time.perf_counter() - self._started

    @property
    def order_sha256(self) -> str:
        """Over patch, draw and flip of every sample in the order of training."""
        return self._order.hexdigest()

    @property
    def step_seconds(self) -> float | None:
        """Median time from the end of a step to the end of the next."""
        return median(self._steps) if self._steps else None


class GpuMemory(Hook):
    """The largest bytes of tensors on the GPU; None where there is none.

    Runs before mmengine's logger, which has torch forget its own peak with every line.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self.peak: int | None = None

    def before_train(self, runner: Runner) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.peak = 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._look()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._look()

    def after_train(self, runner: Runner) -> None:
        self._look()

    def _look(self) -> None:
        if self.peak is not None:
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())


class LoaderMemory(Hook):
    """The largest memory that a loader process has for itself; None without loader processes.

    Looked at every `interval` steps, and after the first ones.
    """

    priority = "LOWEST"

    def __init__(self, interval: int = 100) -> None:
        self.interval = interval
        self.peak: int | None = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx < FIRST_STEPS or not batch_idx % self.interval:
            for child in multiprocessing.active_children():
                self.peak = max(self.peak or 0, own_memory(child.pid) or 0) or None


def own_memory(pid: int | None) -> int | None:
    """Bytes of a process that no other shares with it; None where it has ended.

    Resident memory would count what a loader shares with the process that it was forked from.
    """
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Private_Clean", "Private_Dirty")


def bare_model(runner: Runner) -> nn.Module:
    """The model without the wrapper that trains it on several devices."""
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


def describe_cache(config: Config) -> dict[str, Any] | None:
    """Identity and size of the store that a student reads; None where it reads none."""
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
        "rows": manifest.plan["num_priors"],
        "bytes": bytes_on_disk(path),
    }


def peak_memory(watch: TrainingWatch) -> dict[str, int | None]:
    """Largest bytes: resident ones of this process, a loader process's own, and those of the GPU's tensors."""
    return {
        # Not the peak of getrusage, which begins with that of the process that has started this one.
        "process_bytes": _kilobytes("/proc/self/status", "VmHWM"),
        "loader_bytes": watch.loader_memory.peak,
        "cuda_bytes": watch.gpu_memory.peak,
    }


def _kilobytes(path: str, *names: str) -> int | None:
    """The sum of some fields of a file of /proc, in bytes; None where it is not there."""
    try:
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path(path).read_text(), flags=re.MULTILINE))
    except OSError:
        return None
    return 1024 * sum(int(found.get(name, 0)) for name in names)
