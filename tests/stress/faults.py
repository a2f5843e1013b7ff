"""The long fault runs that `make test` samples: 500 flipped bits, and 50 captures killed and resumed.

    make stress

Its name keeps it out of `make test`. The captures are the real command in real processes. They come from a fork server
that has imported everything once, so that the time goes into captures.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from cache.reader import CacheReader
from tests.cache.fault_tools import all_findings, flipped, random_flips
from tests.cache.store_tools import contents
from tests.pipelines.conftest import Project, write_config

FLIPS = 500
KILLS = 50
SEED = 0
# A moment before the first file of a store exists is a number of looks at its folder: planning takes thousands.
MAX_LOOKS = 4000

pytestmark = pytest.mark.timeout(3600)
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pipelines.cache_teacher", "pipelines.data", "pipelines.teacher"])


def run_quietly(command: str, argv: list[str]) -> None:
    """In a child process: one of the project's commands."""
    import importlib

    from pipelines.base.command import run_command

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    module = importlib.import_module(f"pipelines.{command}")
    sys.exit(run_command(module.main, module.make_parser(), argv))


def start(command: str, *argv: object) -> BaseProcess:
    process = processes.Process(target=run_quietly, args=(command, [str(argument) for argument in argv]))
    process.start()
    return process


def finish(command: str, *argv: object) -> None:
    process = start(command, *argv)
    process.join()
    assert process.exitcode == 0, f"{command} {argv} ended with {process.exitcode}"


@pytest.fixture(scope="module")
def captured(tmp_path_factory) -> Project:
    """A project whose cache has several blocks, captured without interruption."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("teacher", "distill"):
        write_config(folder, name)
        config = folder / f"{name}.py"
        text = config.read_text().replace("scenes = dict(train=6,", "scenes = dict(train=40,")
        config.write_text(text.replace('codec = "exact"', 'codec = "default"'))
    project = Project(folder)
    finish("data", "--config", project.config("teacher"), "--workers", 1)
    finish("teacher", "--config", project.config("teacher"))
    capture(project, project.cache)
    assert CacheReader(project.cache).plan.num_blocks >= 4
    return project


def capture(project: Project, cache: Path) -> None:
    finish("cache_teacher", "--config", project.config("distill"), "--cache", cache, "--loaders", 0)


def test_flipped_bits(captured: Project, summary) -> None:
    """Each is the only finding, and the object that holds it is named."""
    began = time.perf_counter()
    found = named = 0
    flips = list(random_flips(captured.cache, FLIPS, SEED))
    for flip in flips:
        with flipped(captured.cache, flip):
            findings = all_findings(captured.cache)
        found += bool(findings)
        named += [finding.object for finding in findings] == [flip.key]
    objects = len({flip.key for flip in flips})
    summary(
        f"{found} of {FLIPS} flipped bits found, {named} with the object's name, in {objects} objects of "
        f"{len(contents(captured.cache))}; {time.perf_counter() - began:.0f} s"
    )
    assert found == named == FLIPS
    assert all_findings(captured.cache) == []


@dataclass(frozen=True)
class Moment:
    """When to kill: the store's folder has so many files, seen at least so many times."""

    files: int
    looks: int = 0


def random_moments(files_when_created: int, files_at_the_end: int) -> list[Moment]:
    """A tenth while planning, the rest over creation and capture as they have files."""
    random = np.random.default_rng(SEED)
    planning = [Moment(0, int(looks)) for looks in random.integers(0, MAX_LOOKS, KILLS // 10)]
    creation = [Moment(int(files)) for files in random.integers(1, files_when_created, 3 * KILLS // 10)]
    capture = [
        Moment(int(files)) for files in random.integers(files_when_created, files_at_the_end - 2, 6 * KILLS // 10)
    ]
    moments = planning + creation + capture
    random.shuffle(moments)
    return moments


def count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def kill_at(moment: Moment, project: Project, cache: Path) -> int:
    """Start a capture and kill it at that moment; returns how many files it had left."""
    process = start("cache_teacher", "--config", project.config("distill"), "--cache", cache, "--loaders", 0)
    looks = 0
    while process.exitcode is None:
        looks += 1
        if count_files(cache.parent) >= moment.files and looks >= moment.looks:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the capture ended ({process.exitcode}) before {moment}"
    return count_files(cache.parent)


def test_killed_captures(captured: Project, tmp_path: Path, summary: Callable[[str], None]) -> None:
    """Every third store is killed once more while it resumes."""
    began = time.perf_counter()
    whole = contents(captured.cache)
    plan = CacheReader(captured.cache).plan
    block_objects = [key for key in whole if not key.startswith(("plan/", "codec/", "documents/")) and "/c/" in key]
    created = len(whole) - len(block_objects)
    moments = random_moments(created, len(whole))
    left: list[int] = []
    same = stores = 0
    while moments:
        cache = tmp_path / str(stores) / "cache.zarr"
        cache.parent.mkdir()
        planned = [moments.pop() for _ in range(2 if stores % 3 == 0 and len(moments) > 1 else 1)]
        left += [kill_at(moment, captured, cache) for moment in sorted(planned, key=lambda moment: moment.files)]
        capture(captured, cache)
        files = contents(cache)
        same += files == whole
        assert files.keys() == whole.keys(), f"store {stores}, killed at {planned}"
        assert files == whole, f"store {stores}, killed at {planned}"
        assert os.listdir(cache.parent) == [cache.name], "the draft of a killed creation is left"
        stores += 1
        shutil.rmtree(cache.parent)
    planning, creation = sum(count == 0 for count in left), sum(0 < count < created for count in left)
    summary(
        f"{len(left)} captures killed ({planning} before the first file, {creation} while the store was created, "
        f"{len(left) - planning - creation} later), {same} of {stores} stores of {plan.num_blocks} blocks resumed to "
        f"the bytes of an uninterrupted run; {time.perf_counter() - began:.0f} s"
    )
    assert len(left) == KILLS
    assert same == stores


def test_four_parts_at_once(captured: Project, tmp_path: Path, summary: Callable[[str], None]) -> None:
    """Four captures of a part each, started together where nothing is, make the store of one."""
    whole = contents(captured.cache)
    cache = tmp_path / "parts.zarr"
    arguments = ["cache_teacher", "--config", captured.config("distill"), "--cache", cache, "--loaders", 0, "--part"]
    processes = [start(*arguments, f"{number}/4") for number in range(1, 5)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert contents(cache) == whole
    summary("four captures with --part 1/4 to 4/4 at once: the bytes of one capture")
