"""mmengine's runner with a console that people can read; its log file keeps everything."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from distill.arithmetic import use_tf32
from distill.checkpoint import use_safe_loading
from pipelines.base.device import NetworkLayout, copy_beside_computing, require_operators
from pipelines.base.model_check import in_one_line, require_fitting_parts

# How mmengine's longest messages begin: environment, whole config, hooks in their order.
_DUMPS = ("System environment:", "Config:", "Hooks will be executed in the following order")
# Notices that no user of this project can act on.
_NOTICES = (
    "Failed to search registry with scope",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "Distributed training is not used, all SyncBatchNorm",
)


class ConciseRunner(Runner):
    """A runner that writes its dumps to the log file alone, unpickles no checkpoint, and fits its model to the device.

    Of the config it also reads `tf32`, `channels_last` and `compiled` (docs/exactness.md).

    Raises:
        ValueError: a model that cannot be built, or whose parts do not fit together; mmcv's operators were not built
            for its device.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        use_safe_loading()
        super().__init__(*args, **kwargs)
        use_tf32(self.cfg.get("tf32", False))
        require_operators(next(self.model.parameters()).device)
        self.register_hook(NetworkLayout(self.cfg.get("channels_last", False), self.cfg.get("compiled", False)))

    def build_model(self, model: Any) -> nn.Module:
        with in_one_line("model"):
            built: nn.Module = super().build_model(model)
        require_fitting_parts(built)
        copy_beside_computing(built)
        return built

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        if deterministic:
            # Products of matrices raise without, read when a device is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        super().set_randomness(seed, diff_rank_seed, deterministic)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader[Any] | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader[Any]:
        if isinstance(dataloader, dict):
            if torch.cuda.is_available():
                # A device copies from there while it computes.
                dataloader = {"pin_memory": True, **dataloader}
            dataset = dataloader["dataset"]
            if isinstance(dataset, dict) and not dataset.get("test_mode"):
                dataloader = {**dataloader, "sampler": {"type": "VisitSampler", "sampler": dataloader["sampler"]}}
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(_worth_the_console)
                # Standard output belongs to a command's result.
                handler.setStream(sys.stderr)
        return logger


def _worth_the_console(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    # The command prints what it was asked for.
    is_result = message.startswith("Iter(test)") and "/AP: " in message
    return not is_result and not any(start in message[:200] for start in (*_DUMPS, *_NOTICES))
