"""Brings .venv to what uv.lock names, with mmcv's operators beside it: what `make setup` runs."""

from __future__ import annotations

import argparse
import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from setup import operators
from setup.machine import require_python_headers, visible_gpus
from setup.messages import ENVIRONMENT_BYTES, Progress, SetupError, disk_full, explained, free_bytes, say

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m setup", description=__doc__)
    parser.add_argument("--ops", default="", help="small, which is the default without a GPU, or all")
    parser.add_argument("--cuda", default="", help="1: for GPUs, 0: not for GPUs; the default: for visible GPUs")
    parser.add_argument("--refresh", action="store_true", help="with the operators that were asked for last")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        set_up(arguments.ops, arguments.cuda, refresh=arguments.refresh)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the next `make setup` goes on from here", file=sys.stderr)
        return 130
    say(f"Ready after {time.monotonic() - started:.0f} s.")
    return 0


def set_up(ops: str, cuda: str, *, refresh: bool) -> None:
    """Packages, operators, and last the stamp that tells make that both are there."""
    gpus = visible_gpus(operators.locked(ROOT, "cuda-toolkit", "version"))
    uv = install_uv()
    asked = TOOLS / "operators"
    kind = asked.read_text() if refresh and asked.exists() else operators.chosen_kind(ops, cuda, gpus)
    build = operators.planned_build(kind, gpus, ROOT, os.environ)
    cache = ROOT / answer(uv, "cache", "dir")
    kept = cache / "mmcv-operators" / build.key
    try:
        compiled = operators.kept_file(kept)
        variables = {} if compiled else require(uv, build)
        say(f"Setting up .venv: the locked packages, and {operators.KINDS[kind]}.")
        stamp = VENV / ".ready"
        stamp.unlink(missing_ok=True)
        asked.write_text(kind)
        require_space(cache)
        sync(uv, cache)
        if not compiled:
            compiled = operators.compile_operators(build, kept, ROOT, variables)
        operators.install(compiled, VENV / f"lib/python{build.python}/site-packages")
        stamp.touch()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full([cache, VENV]) from error
        raise SetupError(f"{error.strerror}: {error.filename}") from error


def install_uv() -> Path:
    """The pinned uv, in .tools."""
    uv, pin, installed = TOOLS / "bin/uv", ROOT / "setup/uv.txt", TOOLS / "uv.txt"
    if uv.exists() and installed.exists() and installed.read_text() == pin.read_text():
        return uv
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    command += ["--retries", "2", "--require-hashes", "--target", str(TOOLS), "--requirement", str(pin)]
    pip = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if pip.returncode != 0:
        if "No module named pip" in pip.stdout:
            raise SetupError(f"{sys.executable} has no pip: `apt install python3-pip`, and run `make setup` again")
        raise explained(pip.stdout, [TOOLS], f"pip could not install uv: {pip.stdout.strip().splitlines()[-1]}")
    installed.write_text(pin.read_text())
    return uv


def answer(uv: Path, *question: str) -> str:
    """What uv prints; nothing where it fails."""
    return subprocess.run([uv, *question], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def require(uv: Path, build: operators.Build) -> dict[str, str]:
    """What compiling needs, looked at before anything is downloaded: variables for the compilers."""
    variables = operators.compiler_variables(build, os.environ)
    # Where there is none, uv brings a Python with headers.
    if python := answer(uv, "python", "find", build.python):
        require_python_headers(python)
    return variables


def require_space(cache: Path) -> None:
    if not (cache / "archive-v0").exists() and free_bytes(cache) < ENVIRONMENT_BYTES:
        raise disk_full([cache])


def sync(uv: Path, cache: Path) -> None:
    """Have uv install what uv.lock names, with a line now and then about what it downloads."""
    command = [uv, "sync", "--locked", "--color", "never"]
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(VENV)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    progress = Progress()
    log, mebibytes, done = [], {}, 0.0
    for line in process.stderr:
        log.append(line)
        if started := re.match(r"\s*Downloading (\S+) \(([\d.]+)MiB\)", line):
            mebibytes[started[1]] = float(started[2])
        if finished := re.match(r"\s*Downloaded (\S+)", line):
            done += mebibytes.get(finished[1], 0.0)
        progress.say(f"packages: {done:.0f} of {sum(mebibytes.values()):.0f} MiB downloaded")
    if process.wait() != 0:
        text = "".join(log)
        message = " ".join(text[max(text.find("error: "), 0) :].split()).removeprefix("error: ")
        raise explained(text, [cache, VENV], f"uv could not install the locked packages: {message}")


if __name__ == "__main__":
    sys.exit(main())
