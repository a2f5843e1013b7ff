"""What a capture refuses before it plans, and what it does on a disk that fills up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cache.reader import CacheReader
from cache.storage import Folder, locate
from distill.checkpoint import load_checkpoint
from pipelines import cache_teacher, distill
from tests.cache.store_tools import contents
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call


def capture(project: Project, *more: object) -> int:
    return call(cache_teacher, "--config", project.config("distill"), "--loaders", 0, *more)


def refusal(capfd) -> str:
    """The one line that says why; nothing was planned before it."""
    said = capfd.readouterr().err
    assert "plan:" not in said
    return said.splitlines()[-1]


def test_another_teacher_is_refused_before_planning(copy: Project, capfd) -> None:
    checkpoint = load_checkpoint(copy.checkpoint)
    checkpoint["state_dict"]["bbox_head.retina_reg.bias"][0] += 1
    torch.save(checkpoint, copy.checkpoint)
    assert capture(copy) == 1
    error = refusal(capfd)
    assert "teacher.weights_sha256 is" in error
    assert f"make cache-teacher CONFIG={copy.config('distill')} CACHE={copy.folder}/cache-2.zarr" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cfg-options", "codec=half"], "codec.preset is 'exact' in the cache but 'half' here"),
        (["--cfg-options", "region.topk=5"], "region.topk is 9 in the cache but 5 here"),
        (["--threads", 2], "numeric.threads is 1 in the cache but 2 here"),
    ],
    ids=["codec", "region", "threads"],
)
def test_another_capture_is_refused_before_planning(project: Project, capfd, options: list, message: str) -> None:
    threads = torch.get_num_threads()
    try:
        assert capture(project, *options) == 1
    finally:
        torch.set_num_threads(threads)
    assert message in refusal(capfd)


def test_a_store_that_is_being_written_is_refused_before_planning(copy: Project, capfd) -> None:
    (copy.cache / "committed/c/0/0").unlink()
    with locate(copy.cache).lock(range(CacheReader(copy.cache).plan.num_blocks)):
        assert capture(copy) == 1
    assert "is being written by another capture. Wait for it, or stop it first" in refusal(capfd)
    assert capture(copy) == 0


def test_a_path_where_no_cache_can_be(project: Project, tmp_path: Path, capfd) -> None:
    for path, message in (
        (project.folder, "exists but is not a teacher cache (no zarr.json)"),
        ("/proc/x.zarr", "CACHE /proc cannot be written"),
    ):
        assert capture(project, "--cache", path) == 1
        assert message in refusal(capfd)


def test_a_capture_that_goes_on_is_not_refused_for_room(copy: Project, capfd, monkeypatch) -> None:
    """What it still needs is not known, and a disk that fills up loses nothing."""
    whole = contents(copy.cache)
    for block in range(CacheReader(copy.cache).plan.num_blocks):
        (copy.cache / f"committed/c/{block}/0").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert capture(copy) == 0
    assert f"cache {copy.cache} (" in capfd.readouterr().err
    assert contents(copy.cache) == whole


DISK = """
set -e
mount -t tmpfs -o size=64m,nr_inodes=60 none {disk}
{capture} && exit 9
mount -o remount,size=64m,nr_inodes=10000 {disk}
{capture}
cp -r {disk}/cache.zarr {copy}
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_named_and_the_capture_goes_on(project: Project, tmp_path: Path) -> None:
    """A file system of its own, which runs out of files and then gets room."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user name spaces on this machine")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "pipelines.cache_teacher", "--config", project.config("distill"), "--loaders", "0"]
    line = " ".join([*command, "--cache", f"{disk}/cache.zarr"])
    script = DISK.format(disk=disk, capture=line, copy=tmp_path / "copy.zarr")
    ran = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (error,) = (said for said in ran.stderr.splitlines() if said.startswith("error: "))
    assert error.startswith(f"error: No space left on device: {disk}/")
    again = f"make cache-teacher CONFIG={project.config('distill')} CACHE={disk}/cache.zarr ARGS='--loaders 0'"
    assert error.endswith(f"Make room there, then run it again: {again}")
    assert contents(tmp_path / "copy.zarr") == contents(project.cache)


@pytest.mark.slow
def test_an_object_that_does_not_fit_says_where(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user name spaces on this machine")
    program = (
        "import sys; from pathlib import Path; from cache.storage import Folder\n"
        "try:\n    Folder(Path(sys.argv[1])).write({'a/b': bytes(2**20)})\n"
        "except OSError as error:\n    print(error.errno, error.filename)"
    )
    script = f'mount -t tmpfs -o size=64k none {tmp_path} && {sys.executable} -c "$1" {tmp_path}/cache.zarr'
    ran = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script, "-", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ran.stdout == f"28 {tmp_path}/cache.zarr/a/b\n", ran.stderr


def test_a_new_cache_says_what_it_is_made_from(copy: Project, tmp_path: Path, capfd) -> None:
    cache = tmp_path / "new.zarr"
    assert capture(copy, "--cache", cache) == 0
    digest = CacheReader(cache).manifest.teacher["weights_sha256"][:12]
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"cache {cache}, a new one; teacher {digest} of {copy.checkpoint}"
    assert Folder(cache).exists()
    assert call(distill, "--config", copy.config("distill"), "--cache", cache, "--work-dir", tmp_path / "run") == 0
