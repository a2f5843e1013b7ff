"""Whether mmcv's operators run where a command computes."""

from __future__ import annotations

import torch
from mmcv.ops import nms


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
