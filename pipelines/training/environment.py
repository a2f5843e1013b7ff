"""What a training ran on: code, packages, machine."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cache import __version__
from pipelines.base.command import available_cores

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("torch", "torchvision", "numpy", "onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmrotate"),
    *("zarr", "tensorstore"),
)


def describe_code() -> dict[str, Any]:
    """Version of the code, and its commit where it runs from a git checkout."""
    # None outside a checkout.
    status = _git("status", "--porcelain", "--untracked-files=no")
    changed = None if status is None else bool(status)
    return {"version": __version__, "commit": _git("rev-parse", "HEAD"), "changed": changed}


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


def _git(*arguments: str) -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
