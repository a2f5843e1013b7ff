"""Captures and plans on Dask workers, in real processes: the bytes of one process, whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dask
import psutil
import pytest
import torch

from cache.reader import CacheReader
from pipelines import cache_teacher, plan
from tests.cache.store_tools import contents
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call
from tests.pipelines.worker_faults import FAULTS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PRELOAD = "tests.pipelines.worker_faults"
# Blocks of two patches.
SMALL_BLOCKS = ("--views-per-block", 8)


@pytest.fixture(scope="module")
def whole(project: Project, tmp_path_factory) -> dict[str, bytes]:
    """The files of a store of six blocks that one process has captured."""
    cache = tmp_path_factory.mktemp("whole") / "cache.zarr"
    assert capture(project, cache, "--loaders", 0) == 0
    assert CacheReader(cache).plan.num_blocks == 6
    return contents(cache)


def capture(project: Project, cache: Path, *options: object) -> int:
    return call(cache_teacher, "--config", project.config("distill"), "--cache", cache, *SMALL_BLOCKS, *options)


@dataclass(frozen=True)
class Faults:
    """What shall happen to the workers that look into this folder."""

    folder: Path

    def kill_one(self) -> None:
        (self.folder / "kill").touch()

    @contextmanager
    def paused(self) -> Iterator[Callable[[], None]]:
        """Workers stop in the middle of a block; the function returns when the first has, the end lets them go on."""
        fifo = self.folder / "pause"
        os.mkfifo(fifo)
        with ExitStack() as stack:
            stack.callback(fifo.unlink)
            # Opening waits for a reader.
            yield lambda: stack.enter_context(fifo.open("wb")) and None


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Iterator[Faults]:
    """Faults for every worker that is started from this module."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, dask.config.set({"distributed.worker.preload": [PRELOAD]}):
        patch.setenv(FAULTS, str(folder))
        yield Faults(folder)


@dataclass(frozen=True)
class RunningCluster:
    """A Dask scheduler and its workers, started as a user would."""

    address: str
    scheduler: subprocess.Popen

    @property
    def option(self) -> tuple[str, str]:
        return ("--scheduler", self.address)


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen]:
    """One of Dask's commands in a process group of its own; ends with all its children."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def running_cluster(folder: Path, workers: int) -> Iterator[RunningCluster]:
    with started("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard") as scheduler:
        lines = iter(scheduler.stderr.readline, "")
        address = next(match[1] for line in lines if (match := re.search(r"Scheduler at: +(tcp://\S+)", line)))
        options = ("--nworkers", str(workers), "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
        with started("distributed.cli.dask_worker", address, *options, "--preload", PRELOAD):
            yield RunningCluster(address, scheduler)


@pytest.fixture(scope="module")
def cluster(faults: Faults, tmp_path_factory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("workers"), 2) as cluster:
        yield cluster


@contextmanager
def in_background(project: Project, cache: Path, *options: object) -> Iterator[Future]:
    """A capture in another thread, whose status is the future's result."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor.submit(capture, project, cache, *options)


def last_error(capfd) -> str:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")][-1]


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def listened(process: psutil.Process) -> list[str]:
    """Addresses that a process listens on."""
    return [found.laddr.ip for found in process.net_connections() if found.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_makes_the_same_bytes(
    project: Project, whole, faults: Faults, tmp_path: Path, workers: int
) -> None:
    assert capture(project, tmp_path / "cache.zarr", "--workers", workers) == 0
    assert contents(tmp_path / "cache.zarr") == whole


def test_while_workers_capture(project: Project, whole, faults: Faults, tmp_path: Path, capfd) -> None:
    """Nobody else may write, and nobody else can connect."""
    cache = tmp_path / "cache.zarr"
    with in_background(project, cache, "--workers", 2) as status:
        with faults.paused() as wait:
            wait()
            assert capture(project, cache, "--loaders", 0) == 1
            assert "is being written by another capture" in last_error(capfd)
            me = psutil.Process()
            connections = [
                found for process in (me, *me.children(recursive=True)) for found in process.net_connections()
            ]
            listening = {found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}
        assert status.result() == 0
    assert listening == {"127.0.0.1"}
    assert contents(cache) == whole


def test_a_running_cluster_is_joined(project: Project, whole, cluster: RunningCluster, tmp_path: Path) -> None:
    assert capture(project, tmp_path / "cache.zarr", *cluster.option) == 0
    assert contents(tmp_path / "cache.zarr") == whole


def test_workers_plan_as_one_process(project: Project, cluster: RunningCluster, capfd) -> None:
    found = []
    for where in (("--loaders", 0), cluster.option):
        assert call(plan, "--config", project.config("distill"), "--json", *where) == 0
        found.append(json.loads(capfd.readouterr().out))
    assert found[0] == found[1]


def test_workers_take_the_threads_of_the_client(project: Project, cluster: RunningCluster, tmp_path: Path) -> None:
    """Dask starts its workers with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert capture(project, tmp_path / "here.zarr", "--loaders", 0) == 0
        assert capture(project, tmp_path / "there.zarr", *cluster.option) == 0
    finally:
        torch.set_num_threads(before)
    assert CacheReader(tmp_path / "there.zarr").manifest.numeric["threads"] == 2
    assert contents(tmp_path / "here.zarr") == contents(tmp_path / "there.zarr")


def test_a_killed_worker_changes_nothing(
    project: Project, whole, cluster: RunningCluster, faults: Faults, tmp_path: Path, capfd
) -> None:
    faults.kill_one()
    assert capture(project, tmp_path / "cache.zarr", *cluster.option) == 0
    assert not (faults.folder / "kill").exists()
    assert "was lost; what it was at runs again elsewhere" in capfd.readouterr().err
    assert contents(tmp_path / "cache.zarr") == whole


def test_a_worker_that_does_not_see_the_store(
    project: Project, cluster: RunningCluster, tmp_path: Path, monkeypatch, capfd
) -> None:
    """The command runs in another folder than the workers, and its path is relative."""
    monkeypatch.chdir(tmp_path)
    assert capture(project, Path("cache.zarr"), *cluster.option) == 1
    error = last_error(capfd)
    assert re.match(r"error: worker tcp://\S+ on \S+: cache cache.zarr, which the command has locked, cannot", error)


def test_an_error_in_a_worker_is_one_line(copy: Project, cluster: RunningCluster, tmp_path: Path, capfd) -> None:
    patch_id = CacheReader(copy.cache).plan.patch_ids[0]
    image = copy.folder / f"data/train/images/{patch_id}.png"
    image.write_bytes(image.read_bytes()[:200])
    assert capture(copy, tmp_path / "cache.zarr", *cluster.option) == 1
    error = last_error(capfd)
    assert re.match(r"error: (worker tcp://\S+ on \S+: )?image \S+ cannot be decoded", error)


def test_a_lost_scheduler(project: Project, whole, faults: Faults, tmp_path: Path, capfd) -> None:
    cache = tmp_path / "cache.zarr"
    with running_cluster(tmp_path, 1) as doomed, in_background(project, cache, *doomed.option) as status:
        with faults.paused() as wait:
            wait()
            doomed.scheduler.kill()
            assert status.result() == 1
    assert f"the Dask scheduler at {doomed.address} was lost. Start it again, then the same" in last_error(capfd)
    assert capture(project, cache, "--loaders", 0) == 0
    assert contents(cache) == whole


def test_an_address_without_a_scheduler(project: Project, cluster, capfd) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        assert capture(project, Path("never.zarr"), "--scheduler", "tcp://127.0.0.1:1") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in last_error(capfd)


def test_encryption_needs_certificates(project: Project, capfd) -> None:
    assert capture(project, Path("never.zarr"), "--scheduler", "tls://127.0.0.1:1") == 1
    assert "tls://127.0.0.1:1 needs certificates, and Dask's settings name none" in last_error(capfd)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--workers", "0"], id="no-worker"),
        pytest.param(["--workers", "2", "--loaders", "1"], id="loaders"),
        pytest.param(["--workers", "2", "--scheduler", "tcp://host:1"], id="two-clusters"),
        pytest.param(["--scheduler", "host:8786"], id="no-scheme"),
        pytest.param(["--scheduler", "tcp://host"], id="no-port"),
    ],
)
def test_unusable_options(options: list[str]) -> None:
    for command in (plan, cache_teacher):
        with pytest.raises(SystemExit, match="2"):
            call(command, "--config", str(REPOSITORY / "configs/demo/distill.py"), *options)


def test_ctrl_c_ends_the_workers(project: Project, whole, faults: Faults, tmp_path: Path) -> None:
    """A terminal interrupts the command and its workers alike."""
    cache = tmp_path / "cache.zarr"
    options = ["--config", project.config("distill"), "--cache", str(cache), "--views-per-block", "8", "--workers", "1"]
    command = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "pipelines.cache_teacher", *options],
        cwd=REPOSITORY,
        env={**os.environ, "DASK_DISTRIBUTED__WORKER__PRELOAD": PRELOAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background has made it deaf to the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with faults.paused() as wait:
        wait()
        workers = psutil.Process(command.pid).children(recursive=True)
        os.killpg(command.pid, signal.SIGINT)
        _, said = command.communicate()
    assert command.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers)
    assert alive == []
    assert capture(project, cache, "--loaders", 0) == 0
    assert contents(cache) == whole
