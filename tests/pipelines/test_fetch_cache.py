"""`make fetch-cache`: a copy that is whole, or not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache.s3 import Bucket
from cache.storage import locate
from cache.writer import CacheWriter
from pipelines import fetch_cache
from tests.cache.object_tools import BUCKET, Proxy, environment, every, proxy_of, s3_server
from tests.cache.store_tools import HALF, contents, small_manifest, small_plan, write_store
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import call

pytestmark = pytest.mark.s3
URL = f"s3://{BUCKET}/runs/cache.zarr"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A complete store lies behind it."""
    with proxy_of(server) as made:
        for name, value in environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        write_store(URL)
        made.requests.clear()
        yield made


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    write_store(tmp_path / "whole.zarr")
    return contents(tmp_path / "whole.zarr")


def objects_fetched(proxy: Proxy) -> list[str]:
    """Shards and commits that were read whole, in order."""
    keys = [request.key.removeprefix("runs/cache.zarr/") for request in proxy.of("GET") if request.range is None]
    return [key for key in keys if key.startswith(("weight/c/", "box_logits/c/", "cls_logits/c/", "prior_index/c/"))]


def test_a_copy_has_the_bytes_of_the_store(proxy: Proxy, whole, tmp_path: Path, capfd) -> None:
    to = tmp_path / "caches/copy.zarr"
    assert call(fetch_cache, "--cache", URL, "--to", to, "--json") == 0
    assert contents(to) == whole
    said = capfd.readouterr()
    figures = json.loads(said.out)
    assert (figures["ok"], figures["objects_fetched"]) == (True, len(whole))
    assert figures["bytes_fetched"] == sum(map(len, whole.values()))
    assert "fetch: " in said.err
    assert "kB" in said.err
    assert sorted(path.name for path in to.parent.iterdir()) == ["copy.zarr"]


def test_a_second_fetch_fetches_nothing(proxy: Proxy, whole, tmp_path: Path, capfd) -> None:
    to = tmp_path / "copy.zarr"
    assert call(fetch_cache, "--cache", URL, "--to", to) == 0
    proxy.requests.clear()
    capfd.readouterr()
    assert call(fetch_cache, "--cache", URL, "--to", to) == 0
    assert objects_fetched(proxy) == []
    assert "0 objects, 0.0 MB fetched" in capfd.readouterr().out


@pytest.mark.parametrize("after", [3, 15, 40])
def test_killed_and_started_again(proxy: Proxy, whole, tmp_path: Path, after: int) -> None:
    """The process is killed at a request; what it had is not fetched again, and nothing looks like a cache before."""
    to = tmp_path / "copy.zarr"
    process: list[subprocess.Popen[bytes]] = []
    started = 0

    def kill(request) -> str | None:
        nonlocal started
        if "/c/" in request.key and request.method == "GET" and process:
            started += 1
            if started == after:
                process[0].send_signal(signal.SIGKILL)
                return "drop"
        return None

    proxy.fault = kill
    command = [sys.executable, "-m", "pipelines.fetch_cache", "--cache", URL, "--to", str(to), "--jobs", "2"]
    process.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL))
    assert process[0].wait() == -signal.SIGKILL
    assert not to.exists()
    draft = tmp_path / ".copy.zarr.fetch"
    kept = {key for key in contents(draft) if not key.endswith(".partial")} if draft.exists() else set()
    assert kept or after < 40
    proxy.fault = lambda request: None
    proxy.requests.clear()
    assert call(fetch_cache, "--cache", URL, "--to", to) == 0
    assert contents(to) == whole
    assert not kept & set(objects_fetched(proxy))
    assert not draft.exists()


def test_damage_to_a_copy_is_mended(proxy: Proxy, whole, tmp_path: Path) -> None:
    """In metadata and in a block; what is whole stays."""
    to = tmp_path / "copy.zarr"
    assert call(fetch_cache, "--cache", URL, "--to", to) == 0
    for key in ("plan/zarr.json", "weight/c/1/0"):
        content = bytearray(whole[key])
        content[7] ^= 1
        (to / key).write_bytes(content)
    proxy.requests.clear()
    assert call(fetch_cache, "--cache", URL, "--to", to) == 0
    assert contents(to) == whole
    assert {key.split("/")[2] for key in objects_fetched(proxy)} == {"1"}


def test_damage_to_the_store_is_said(proxy: Proxy, tmp_path: Path, capfd) -> None:
    bucket = locate(URL)
    assert isinstance(bucket, Bucket)
    stored = bucket.read("weight/c/1/0")
    bucket.write({"weight/c/1/0": stored[:5] + bytes([stored[5] ^ 1]) + stored[6:]})
    try:
        assert call(fetch_cache, "--cache", URL, "--to", tmp_path / "copy.zarr") == 1
    finally:
        bucket.write({"weight/c/1/0": stored})
    said = capfd.readouterr().out
    assert "wrong: weight/c/1/0: damaged" in said
    assert f"make verify-cache CACHE={URL}" in said
    assert not (tmp_path / "copy.zarr").exists()


@pytest.mark.parametrize("kind", ["500", "drop", "cut"])
def test_faults_now_and_then_are_survived(proxy: Proxy, whole, tmp_path: Path, kind: str) -> None:
    proxy.fault = every(7, kind)
    assert call(fetch_cache, "--cache", URL, "--to", tmp_path / "copy.zarr") == 0
    assert contents(tmp_path / "copy.zarr") == whole


def expect_refusal(capfd, status: int, message: str) -> None:
    assert status == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_store_that_does_not_answer(proxy: Proxy, tmp_path: Path, capfd) -> None:
    proxy.fault = lambda request: "500"
    status = call(fetch_cache, "--cache", URL, "--to", tmp_path / "copy.zarr")
    expect_refusal(capfd, status, "Check AWS_ENDPOINT_URL and the network, then run the same command again")


def test_what_cannot_be_copied(proxy: Proxy, tmp_path: Path, capfd, monkeypatch) -> None:
    to = tmp_path / "copy.zarr"
    plan = small_plan()
    with CacheWriter(f"{URL}.unfinished", small_manifest(plan), plan, HALF):
        pass
    unfinished = call(fetch_cache, "--cache", f"{URL}.unfinished", "--to", to)
    expect_refusal(capfd, unfinished, "is incomplete: 3 of 3 blocks are missing")
    expect_refusal(capfd, call(fetch_cache, "--cache", tmp_path, "--to", to), "is a folder of this machine")
    to.mkdir()
    expect_refusal(capfd, call(fetch_cache, "--cache", URL, "--to", to), "is not a teacher cache")
    to.rmdir()
    write_store(to, small_plan(seed=1))
    expect_refusal(capfd, call(fetch_cache, "--cache", URL, "--to", to), f"holds another cache than {URL}")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    expect_refusal(
        capfd, call(fetch_cache, "--cache", URL, "--to", tmp_path / "new.zarr"), "the rest of the copy needs"
    )


def test_two_fetches_into_one_folder(proxy: Proxy, tmp_path: Path, capfd) -> None:
    draft = tmp_path / ".copy.zarr.fetch"
    draft.mkdir()
    descriptor = os.open(draft, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    status = call(fetch_cache, "--cache", URL, "--to", tmp_path / "copy.zarr")
    os.close(descriptor)
    expect_refusal(capfd, status, "another fetch is writing into")


@pytest.mark.parametrize("arguments", [[], ["--cache", URL], ["--cache", URL, "--to", "x", "--jobs", "0"]])
def test_unusable_arguments(arguments: list[str], capfd) -> None:
    with pytest.raises(SystemExit) as caught:
        call(fetch_cache, *arguments)
    assert caught.value.code == 2
    capfd.readouterr()
