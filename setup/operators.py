"""mmcv's compiled operators: which build this machine gets, where it is kept, how it comes into .venv.

uv installs mmcv without them, in a second. They are compiled from the sources that this locked package brings, and kept
in uv's cache folder under a key of everything that shapes them: no build takes another's place, the next clone on the
machine finds what the first one compiled, and the package index is not asked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from setup.machine import cuda_toolkit, cxx_compiler
from setup.messages import Progress, SetupError, explained, say

KINDS = {
    "small": "mmcv's operators that our commands need on a CPU",
    "all": "all of mmcv's operators, for the CPU",
    "cuda": "all of mmcv's operators, for GPUs",
}

DEFAULT_ARCHS = "7.5;8.0;9.0+PTX"
"""What CUDA=1 builds for where no GPU is visible: Turing, Ampere with Ada, Hopper, and by PTX what came after them."""

_RECIPE = Path(__file__).with_name("compile.py")


def chosen_kind(ops: str, cuda: str, gpus: list[str]) -> str:
    """The build that OPS= and CUDA= ask for on a machine with these GPUs."""
    if ops not in ("", "small", "all"):
        raise SetupError(f"OPS={ops}: OPS=small ({KINDS['small']}) or OPS=all is needed")
    if cuda not in ("", "0", "1"):
        raise SetupError(f"CUDA={cuda}: CUDA=1 ({KINDS['cuda']}) or CUDA=0 (nothing for GPUs) is needed")
    if ops == "small" and cuda == "1":
        raise SetupError("OPS=small has no operators for GPUs: leave out OPS=small or CUDA=1")
    if cuda == "1" or (gpus and cuda != "0" and ops != "small"):
        return "cuda"
    return ops or "small"


@dataclass(frozen=True)
class Build:
    """Everything that shapes one build of the operators."""

    kind: str
    archs: str
    """The GPUs that it is for, as in TORCH_CUDA_ARCH_LIST; empty for the CPU."""
    cuda: str
    """Version of CUDA that torch is built with."""
    torch: str
    mmcv: str
    """SHA-256 of the source package."""
    python: str
    platform: str
    recipe: str
    """SHA-256 of what compiles it."""

    @property
    def key(self) -> str:
        """Name of the folder that it is kept in."""
        return f"{self.kind}-{hashlib.sha256(json.dumps(vars(self)).encode()).hexdigest()[:16]}"


def planned_build(kind: str, gpus: list[str], root: Path, environment: Mapping[str, str]) -> Build:
    """The build of a kind from the packages that `root`/uv.lock names."""
    seen = ";".join(gpus) + "+PTX" if gpus else DEFAULT_ARCHS
    return Build(
        kind=kind,
        archs=(environment.get("TORCH_CUDA_ARCH_LIST") or seen) if kind == "cuda" else "",
        cuda=locked(root, "cuda-toolkit", "version"),
        torch=locked(root, "torch", "version"),
        mmcv=locked(root, "onedl-mmcv", "sdist"),
        python=(root / ".python-version").read_text().strip(),
        platform=f"{platform.machine()} {os.confstr('CS_GNU_LIBC_VERSION')}",
        recipe=hashlib.sha256(_RECIPE.read_bytes()).hexdigest(),
    )


def locked(root: Path, package: str, field: str) -> str:
    """A package's version, or the SHA-256 of its sdist, in uv.lock. Before .venv there is no certain TOML reader."""
    pattern = {"version": r'\nversion = "(.+?)"', "sdist": r'\nsdist = .*hash = "sha256:(\w+)"'}[field]
    for entry in (root / "uv.lock").read_text().split("[[package]]\n"):
        if entry.startswith(f'name = "{package}"\n'):
            return re.search(pattern, entry)[1]
    raise AssertionError(f"uv.lock has no {package}")


def kept_file(folder: Path) -> Path | None:
    """The compiled file that a build's folder holds, once there is one."""
    return next(folder.glob("_ext.*.so"), None)


def compiler_variables(build: Build, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for compiling a build here; refused where this machine lacks something for it."""
    variables = {
        "CXX": cxx_compiler(environment),
        "MAX_JOBS": environment.get("MAX_JOBS") or str(len(os.sched_getaffinity(0))),
    }
    if build.kind == "cuda":
        variables["CUDA_HOME"] = str(cuda_toolkit(environment, build.cuda))
        variables["TORCH_CUDA_ARCH_LIST"] = build.archs
    return variables


def compile_operators(build: Build, folder: Path, root: Path, variables: Mapping[str, str]) -> Path:
    """The compiled file of a build, made in its folder.

    Goes on where an interrupted compilation stopped, and waits for one that is under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder) as lock:
        if already := kept_file(folder):
            return already
        work = folder / "work"
        work.mkdir(exist_ok=True)
        say("Compiling mmcv's operators, once on this machine.")
        (folder / "build.json").write_text(json.dumps(vars(build), indent=2) + "\n")
        bin_folder = root / ".venv/bin"
        process = subprocess.Popen(
            [bin_folder / "python", "-m", "setup.compile", build.kind, work],
            cwd=root,
            # ninja is found on PATH; the log is read in English.
            env={**os.environ, **variables, "PATH": f"{bin_folder}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Should this process be killed, the folder stays locked until the compilers have ended.
            pass_fds=[lock],
        )
        log = folder / "compile.log"
        _follow(process, log)
        if process.wait() != 0:
            text = log.read_text()
            lines = text.splitlines() or [f"exit status {process.returncode}"]
            error = next((line.strip() for line in lines if re.search("error", line, re.I)), lines[-1])
            places = [folder, Path(tempfile.gettempdir())]
            raise explained(text, places, f"mmcv's operators did not compile: {error}; the whole log: {log}")
        compiled = kept_file(work)
        os.replace(compiled, folder / compiled.name)
        shutil.rmtree(work)
        return folder / compiled.name


def _follow(process: subprocess.Popen[str], log: Path) -> None:
    progress = Progress()
    with log.open("w", buffering=1) as file:
        for line in process.stdout:
            file.write(line)
            ninja = re.match(r"\[(\d+)/(\d+)\]", line)
            if ninja and ninja[2] != "1":
                progress.say(f"operators: {ninja[1]} of {ninja[2]} files compiled")


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up on this machine is compiling the same operators: waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def install(compiled: Path, site_packages: Path) -> None:
    """Put a compiled file where mmcv imports it from, whole or not at all, in place of another build's."""
    target = site_packages / "mmcv" / compiled.name
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copy(compiled, temporary)
    os.replace(temporary, target)
