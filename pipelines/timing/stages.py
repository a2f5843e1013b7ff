"""Where the time of a training step goes: exclusive seconds of its stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.optim import OptimWrapper
from torch import nn

from distill.detectors import LiveDistiller

# In the order of a step; what belongs to none is `other`. `data` is the time blocked in next(loader).
STAGES = (
    "data",
    "preprocessing",
    "forward",
    "assignment",
    "detection losses",
    "teacher",
    "distillation",
    "backward",
    "optimizer",
    "other",
)


class StageClock:
    """Adds up the seconds of named stages; a stage inside another one of its thread is taken off the outer one.

    Args:
        synchronize: waits for the device, so that a stage's work is over when the stage is.
        now: the time, seconds.
    """

    def __init__(self, synchronize: Callable[[], None], now: Callable[[], float] = time.perf_counter) -> None:
        self.enabled = True
        self._synchronize = synchronize
        self._now = now
        self._seconds: dict[str, float] = {}
        self._nested = threading.local()
        self._guard = threading.Lock()
        self._undo: list[Callable[[], None]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block of code."""
        if not self.enabled:
            yield
            return
        self._synchronize()
        began = self._now()
        # Of this thread: what another does meanwhile is inside none of its stages.
        inner: list[float] = self._nested.__dict__.setdefault("seconds", [])
        inner.append(0.0)
        try:
            yield
        finally:
            self._synchronize()
            elapsed = self._now() - began
            with self._guard:
                self._seconds[name] = self._seconds.get(name, 0.0) + elapsed - inner.pop()
            if inner:
                inner[-1] += elapsed

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Time every call of `owner.function` until `close`."""
        original = getattr(owner, function)
        own = vars(owner).get(function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(owner, function, timed)
        self._undo.append(lambda: delattr(owner, function) if own is None else setattr(owner, function, own))

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def close(self) -> None:
        """Put back every function that is watched."""
        while self._undo:
            self._undo.pop()()


def watch_step(clock: StageClock, model: nn.Module, optim_wrapper: OptimWrapper) -> None:
    """Time the stages of a detector's `train_step`."""
    head = model.bbox_head
    clock.watch(model.data_preprocessor, "forward", "preprocessing")
    clock.watch(model, "extract_feat", "forward")
    clock.watch(head, "forward", "forward")
    for name in ("get_anchors", "get_targets", "assignment", "planned_assignment"):
        if hasattr(head, name):
            clock.watch(head, name, "assignment")
    for name in ("loss_by_feat", "planned_losses"):
        if hasattr(head, name):
            clock.watch(head, name, "detection losses")
    if hasattr(model, "distillation"):
        for name in ("answers", "distillation_losses"):
            clock.watch(model, name, "distillation")
    if isinstance(model, LiveDistiller):
        clock.watch(model.teacher, "forward", "teacher")
    clock.watch(optim_wrapper, "backward", "backward")
    clock.watch(optim_wrapper, "step", "optimizer")
    clock.watch(optim_wrapper, "zero_grad", "optimizer")
