"""Where a command computes, how a network is fitted to it, and whether mmcv's operators run there."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import nms
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


def choose_device(name: str | None = None, turn: int = 0) -> torch.device:
    """The device of this name; without one a GPU where there is one, else the CPU.

    turn: of several processes that share a machine's GPUs, which this is: "cuda" is then the GPU whose turn it is.

    Raises:
        ValueError: a GPU that is not visible.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if count else "cpu"))
    if device.type == "cpu":
        return device
    if (device.index or 0) >= count:
        raise ValueError(
            f"device {name} is not there: {count} GPUs are visible (CUDA_VISIBLE_DEVICES says which). Give another "
            "--device, or cpu"
        )
    device = torch.device("cuda", turn % count if device.index is None else device.index)
    # What is made without naming a device, such as a library's workspace, lies there too.
    torch.cuda.set_device(device)
    return device


def copy_beside_computing(model: Any) -> None:
    """Let a detector's images and labels be copied while the device computes, from pinned memory.

    An option of its preprocessor's constructor; but the configs of models must stay what the teachers of caches have.
    """
    model.data_preprocessor._non_blocking = True


class NetworkLayout(Hook):
    """Lets a detector's network train in another memory format, or compiled.

    Neither is part of the model's config, and so of a teacher's identity. A live teacher computes as it would alone.

    Args:
        channels_last: maps lie in memory pixel by pixel, as tensor cores read them.
        compiled: backbone and neck by torch.compile; mmengine's own `compile` takes the losses in, and breaks.
    """

    def __init__(self, channels_last: bool, compiled: bool) -> None:
        self.channels_last = channels_last
        self.compiled = compiled

    def before_train(self, runner: Runner) -> None:
        """When weights have been drawn, in the order of the format that all trainings share, or loaded."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compiled:
            for part in (model.backbone, model.neck):
                part.compile()


def require_operators(device: str | torch.device) -> None:
    """Refuse a device for which mmcv's operators were not built, before hours of work end at the first of them.

    Raises:
        ValueError: naming the device, what mmcv says, and how to build for it.
    """
    if torch.device(device).type == "cpu":
        return
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
    try:
        nms(box, box[:, 2], iou_threshold=0.5)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise ValueError(
            f"mmcv's operators were not built for {device} ({reason}). Build them on this machine: make setup CUDA=1; "
            "or compute on the CPU: CUDA_VISIBLE_DEVICES= in the environment"
        ) from None
