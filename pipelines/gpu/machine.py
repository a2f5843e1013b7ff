"""What a check runs on, and whether mmcv's operators give there what they give on the CPU."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from mmcv.ops import box_iou_rotated, nms, nms_rotated, sigmoid_focal_loss
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import Tensor

from pipelines.training.environment import hardware


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device, driver, libraries, by name."""
    on_cpu = {"CPU": f"{hardware()['cpu']}, {hardware()['cores']} cores", "Python": platform.python_version()}
    packages = {name: metadata.version(package) for name, package in (("torch", "torch"), ("mmcv", "onedl-mmcv"))}
    if device.type == "cpu":
        return on_cpu | packages
    found = torch.cuda.get_device_properties(device)
    return {
        "GPU": f"{found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}",
        "driver": driver_version(),
        "CUDA, cuDNN of torch": f"{torch.version.cuda}, {torch.backends.cudnn.version()}",
        **packages,
        **on_cpu,
    }


def driver_version() -> str:
    """As nvidia-smi or the kernel says it."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.split("\n")[0].strip()
    module = Path("/proc/driver/nvidia/version")
    found = re.search(r"Module.*?(\d+\.[\d.]+)", module.read_text() if module.is_file() else "")
    return found[1] if found else "unknown"


def operator_differences(device: torch.device) -> dict[str, float]:
    """By operator, the largest difference between its answer on the device and the CPU's.

    Raises:
        RuntimeError: an operator was not built for the device.
    """
    random = torch.Generator().manual_seed(0)
    centre, side = torch.rand(200, 2, generator=random) * 100, 4 + torch.rand(200, 2, generator=random) * 30
    rotated = torch.cat([centre, side, 3 * torch.rand(200, 1, generator=random)], dim=1)
    upright = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    scores, labels = torch.rand(200, generator=random), torch.randint(0, 16, (200,), generator=random)
    logits = torch.randn(200, 15, generator=random)
    cases: dict[str, Callable[[torch.device], Tensor]] = {
        "nms": lambda at: nms(upright.to(at), scores.to(at), 0.5)[0],
        "nms_rotated": lambda at: nms_rotated(rotated.to(at), scores.to(at), 0.3)[0],
        "box_iou_rotated": lambda at: box_iou_rotated(rotated.to(at), rotated.flip(0).to(at)),
        "sigmoid_focal_loss": lambda at: _focal_loss(logits.to(at), labels.to(at)),
    }
    cpu = torch.device("cpu")
    return {name: _difference(run(device).cpu(), run(cpu)) for name, run in cases.items()}


def _focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each row and class and its gradient; on the CPU mmdet's own, for mmcv has none there."""
    logits = logits.requires_grad_()
    if logits.is_cuda:
        loss = sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "none")
    else:
        one_hot = torch.nn.functional.one_hot(labels, logits.shape[1] + 1)[:, :-1]
        loss = py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return torch.cat([loss.detach(), gradient])


def _difference(ours: Tensor, theirs: Tensor) -> float:
    # Another number of boxes is as wrong as can be.
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
