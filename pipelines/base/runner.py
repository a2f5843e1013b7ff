"""mmengine's runner with a console that people can read; its log file keeps everything."""

from __future__ import annotations

import logging
import sys
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

from distill.arithmetic import use_tf32
from distill.checkpoint import use_safe_loading
from pipelines.base.device import require_operators

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
        ValueError: mmcv's operators were not built for the model's device.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        use_safe_loading()
        super().__init__(*args, **kwargs)
        use_tf32(self.cfg.get("tf32", False))
        require_operators(next(self.model.parameters()).device)

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
    return not any(start in message[:200] for start in (*_DUMPS, *_NOTICES))
