"""What a machine must bring: looked at before anything long starts, each lack in one line with its cure."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from setup.messages import SetupError


def cxx_compiler(environment: Mapping[str, str]) -> str:
    """Path of the C++ compiler: $CXX, or c++."""
    name = environment.get("CXX") or "c++"
    path = shutil.which(name, path=environment.get("PATH"))
    if path is None:
        raise SetupError(
            f"no C++ compiler: {name} is not on PATH, and mmcv's operators are compiled on this machine. "
            "`apt install g++`, or name another in CXX=, and run `make setup` again"
        )
    return path


def require_python_headers(python: str) -> None:
    """Refuse a Python that comes without Python.h, as Debian's and Ubuntu's do until python3-dev is installed."""
    question = "import sysconfig; print(sysconfig.get_path('include'), sysconfig.get_python_version())"
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout
    include, version = answer.split()
    if not Path(include, "Python.h").exists():
        raise SetupError(
            f"{python} comes without its headers (no {include}/Python.h), and mmcv's operators are compiled with them. "
            f"`apt install python{version}-dev`, or have uv bring one: `UV_PYTHON_PREFERENCE=only-managed make setup`"
        )


def visible_gpus(cuda: str) -> list[str]:
    """Compute capabilities, such as "8.0", of the GPUs that a torch for this version of CUDA sees, asked without torch.

    None where there is no driver, where CUDA_VISIBLE_DEVICES hides them, or where the driver is older than `cuda`.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)) or version.value // 1000 < _major(cuda):
        return []
    driver.cuDeviceGetCount(ctypes.byref(count))
    return sorted({_capability(driver, index) for index in range(count.value)})


def _capability(driver: ctypes.CDLL, index: int) -> str:
    device, value = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    numbers = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return ".".join(numbers)


def cuda_toolkit(environment: Mapping[str, str], cuda: str, toolkits: Path = Path("/usr/local")) -> Path:
    """Folder of a CUDA toolkit that compiles for a torch of this version of CUDA: what CUDA_HOME should be.

    $CUDA_HOME where it is set; else where the nvcc on PATH really lies (a script or a link in /usr/local/bin is no
    toolkit), or `toolkits`/cuda*.
    """
    named = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    if named:
        homes, where = [Path(named)], f"CUDA_HOME={named}"
    else:
        homes, where = sorted(toolkits.glob("cuda*")), f"PATH and {toolkits}/cuda*"
        homes = [Path(nvcc).resolve().parent.parent, *homes] if nvcc else homes
    complete = [home for home in dict.fromkeys(map(Path.resolve, homes)) if (home / "include/cuda_runtime.h").exists()]
    releases = {home: release for home in complete if (release := _nvcc_release(home))}
    for home, release in releases.items():
        if _major(release) == _major(cuda):
            return home
    found = " and ".join(f"CUDA {release} in {home}" for home, release in releases.items()) or "none"
    raise SetupError(
        f"mmcv's operators for GPUs are compiled with a toolkit of torch's CUDA {_major(cuda)} (bin/nvcc and "
        f"include/cuda_runtime.h); found in {where}: {found}. Install one and name its folder in CUDA_HOME=, or do "
        "without the GPU: `make setup CUDA=0`"
    )


def _nvcc_release(home: Path) -> str | None:
    try:
        answer = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    release = re.search(r"release (\d+\.\d+)", answer)
    return release[1] if release else None


def _major(version: str) -> int:
    return int(version.split(".")[0])
