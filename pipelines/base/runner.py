"""mmengine's runner with a console that people can read; its log file keeps everything."""

from __future__ import annotations

import logging
import sys
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from distill.arithmetic import use_tf32
from distill.checkpoint import use_safe_loading
from pipelines.base.device import require_operators
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
    """A runner that writes its dumps to the log file alone, unpickles no checkpoint, and reads the config's `tf32`.

    Raises:
        ValueError: a model that cannot be built, or whose parts do not fit together; mmcv's operators were not built
            for its device.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        use_safe_loading()
        super().__init__(*args, **kwargs)
        use_tf32(self.cfg.get("tf32", False))
        require_operators(next(self.model.parameters()).device)

    def build_model(self, model: Any) -> nn.Module:
        with in_one_line("model"):
            built: nn.Module = super().build_model(model)
        require_fitting_parts(built)
        return built

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
