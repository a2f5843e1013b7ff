"""`make setup` from end to end, with stand-ins for uv and the compilation that note how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

UV = """\
echo "$*" >> uv.log
case "$1" in
  cache) echo "$CACHE" ;;
  python) exit 2 ;;
  sync) mkdir -p .venv/bin .venv/lib/python3.12/site-packages/mmcv && cp python .venv/bin/ ;;
esac
"""
COMPILES = 'echo "$3" >> compiled.log; echo "$3 for ${TORCH_CUDA_ARCH_LIST:-CPUs} with $MAX_JOBS" > "$4/_ext.here.so"'
NVCC = "echo 'Cuda compilation tools, release {}, V{}.88'"
DRIVER = """\
int cuInit(unsigned flags) {{ return 0; }}
int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}
int cuDeviceGetCount(int *count) {{ *count = 2; return 0; }}
int cuDeviceGet(int *device, int index) {{ *device = index; return 0; }}
int cuDeviceGetAttribute(int *value, int name, int device) {{ *value = name == 75 ? 8 : 6 * device; return 0; }}
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Clone:
    """A folder with all that `make setup` reads, on a machine of which the test says what it has."""

    def __init__(self, folder: Path, machine: Path) -> None:
        self.folder = folder
        shutil.copytree(REPOSITORY / "setup", folder / "setup", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "uv.lock", "pyproject.toml", ".python-version"):
            shutil.copy(REPOSITORY / name, folder)
        script(folder / ".tools/bin/uv", UV)
        shutil.copy(REPOSITORY / "setup/uv.txt", folder / ".tools")
        script(folder / "python", COMPILES)
        self.environment = {
            "PATH": f"{machine / 'bin'}:/usr/bin:/bin",
            "CACHE": str(machine / "cache"),
            "CXX": str(script(machine / "bin/a-compiler", "exit 1")),
            "MAX_JOBS": "3",
        }

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *(arguments or ["setup"])]
        variables = {**self.environment, **environment}
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)

    def set_up(self, *variables: str, **environment: str) -> str:
        """What the compiled file holds after a set-up that has to succeed."""
        made = self.make("setup", *variables, **environment)
        assert made.returncode == 0, made.stderr
        return self.operators()

    def refused(self, *variables: str, **environment: str) -> str:
        """The one line of a set-up that has to fail."""
        made = self.make("setup", *variables, **environment)
        error, *rest = made.stderr.splitlines()
        assert made.returncode == 2
        assert len(rest) == 1
        assert rest[0].startswith("make: ***")
        assert not (self.folder / ".venv/.ready").exists()
        return error

    def operators(self) -> str:
        return (self.folder / ".venv/lib/python3.12/site-packages/mmcv/_ext.here.so").read_text().strip()

    def compiled(self) -> list[str]:
        return self.log("compiled.log")

    def log(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return tmp_path / "machine"


@pytest.fixture
def clone(tmp_path: Path, machine: Path) -> Clone:
    return Clone(tmp_path / "clone", machine)


@pytest.fixture
def toolkit(machine: Path) -> Path:
    """A toolkit of CUDA 13.0."""
    return cuda_toolkit(machine / "cuda-13.0", "13.0")


def cuda_toolkit(home: Path, release: str) -> Path:
    script(home / "bin/nvcc", NVCC.format(release, release))
    (home / "include").mkdir()
    (home / "include/cuda_runtime.h").touch()
    return home


def gpu_driver(folder: Path, version: int) -> dict[str, str]:
    """Environment of a machine with two GPUs, of compute capability 8.0 and 8.6."""
    folder.mkdir()
    source = folder / "driver.c"
    source.write_text(DRIVER.format(version=version))
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", folder / "libcuda.so.1"], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


def test_all_operators_and_back(clone: Clone) -> None:
    assert clone.set_up() == "small for CPUs with 3"
    assert clone.set_up("OPS=all") == "all for CPUs with 3"
    assert clone.set_up() == "small for CPUs with 3"
    assert clone.compiled() == ["small", "all"]


def test_a_second_clone_compiles_nothing(clone: Clone, tmp_path: Path, machine: Path) -> None:
    clone.set_up()
    second = Clone(tmp_path / "second", machine)
    assert second.set_up(CXX="none-is-needed") == "small for CPUs with 3"
    assert second.compiled() == []


def test_other_targets_keep_the_operators_that_were_asked_for(clone: Clone) -> None:
    clone.set_up("OPS=all")
    stamp = clone.folder / ".venv/.ready"
    assert clone.make(str(stamp.relative_to(clone.folder))).stdout.endswith("is up to date.\n")
    os.utime(clone.folder / "uv.lock")
    assert clone.make(".venv/.ready").returncode == 0
    assert clone.operators() == "all for CPUs with 3"


def test_an_interrupted_set_up_is_finished_by_the_next(clone: Clone) -> None:
    script(clone.folder / "python", "kill -9 $$")
    assert clone.refused("OPS=all").startswith("error: mmcv's operators did not compile: exit status -9; ")
    script(clone.folder / "python", COMPILES)
    assert clone.make(".venv/.ready").returncode == 0
    assert clone.operators() == "all for CPUs with 3"


def test_nothing_is_downloaded_where_the_compiler_is_missing(clone: Clone) -> None:
    assert clone.refused(CXX="no-such-compiler") == (
        "error: no C++ compiler: no-such-compiler is not on PATH, and mmcv's operators are compiled on this machine. "
        "`apt install g++`, or name another in CXX=, and run `make setup` again"
    )
    assert [line for line in clone.log("uv.log") if line.startswith("sync")] == []


def test_a_python_without_headers_is_refused(clone: Clone, machine: Path) -> None:
    bare = script(machine / "python3.12", "echo /no/include 3.12")
    script(clone.folder / ".tools/bin/uv", f'[ "$1" != python ] || echo {bare}; [ "$1" != cache ] || echo $CACHE')
    assert clone.refused() == (
        f"error: {bare} comes without its headers (no /no/include/Python.h), and mmcv's operators are compiled with "
        "them. `apt install python3.12-dev`, or have uv bring one: `UV_PYTHON_PREFERENCE=only-managed make setup`"
    )


@pytest.mark.parametrize("variable", ["OPS=most", "CUDA=yes", "OPS=small CUDA=1"])
def test_unknown_variables_are_refused(clone: Clone, variable: str) -> None:
    assert clone.refused(*variable.split()).startswith(f"error: {variable.split()[0]}")


def test_cuda_without_a_visible_gpu_builds_for_the_usual_ones(clone: Clone, toolkit: Path) -> None:
    assert clone.set_up("CUDA=1", CUDA_HOME=str(toolkit)) == "cuda for 7.5;8.0;9.0+PTX with 3"
    assert clone.set_up("CUDA=1", CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST="9.0") == "cuda for 9.0 with 3"
    assert clone.set_up() == "small for CPUs with 3"
    assert clone.compiled() == ["cuda", "cuda", "small"]


def test_a_visible_gpu_gets_its_operators_unless_they_are_refused(clone: Clone, machine: Path, toolkit: Path) -> None:
    variables = {**gpu_driver(machine / "driver", 13000), "CUDA_HOME": str(toolkit)}
    for asked in ([], ["OPS=all"]):
        assert clone.set_up(*asked, **variables) == "cuda for 8.0;8.6+PTX with 3"
    assert clone.set_up("OPS=all", "CUDA=0", **variables) == "all for CPUs with 3"
    for asked in (["CUDA=0"], ["OPS=small"]):
        assert clone.set_up(*asked, **variables) == "small for CPUs with 3"


def test_a_driver_too_old_for_torch_counts_as_no_gpu(clone: Clone, machine: Path) -> None:
    assert clone.set_up(**gpu_driver(machine / "driver", 12080)) == "small for CPUs with 3"


@pytest.mark.parametrize("release", ["12.4", "14.0"])
def test_a_toolkit_of_another_cuda_is_refused(clone: Clone, machine: Path, release: str) -> None:
    home = cuda_toolkit(machine / "cuda", release)
    assert clone.refused("CUDA=1", CUDA_HOME=str(home)) == (
        "error: mmcv's operators for GPUs are compiled with a toolkit of torch's CUDA 13 (bin/nvcc and "
        f"include/cuda_runtime.h); found in CUDA_HOME={home}: CUDA {release} in {home}. Install one and name its "
        "folder in CUDA_HOME=, or do without the GPU: `make setup CUDA=0`"
    )
    assert [line for line in clone.log("uv.log") if line.startswith("sync")] == []
