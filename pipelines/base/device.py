"""Where a command computes, and whether mmcv's operators run there."""

from __future__ import annotations

import torch
from mmcv.ops import nms


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
