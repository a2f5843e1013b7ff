"""The whole path with its cache on S3: capture, verify, inspect, train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.s3 import Bucket
from cache.storage import locate
from pipelines import cache_teacher, distill, inspect_cache, verify_cache
from tests.cache.object_tools import BUCKET, SECRET, Proxy, environment, proxy_of, remote_contents, s3_server
from tests.cache.store_tools import contents
from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project, call
from tests.pipelines.test_whole_path import expect_refusal, last_losses

pytestmark = [pytest.mark.s3, pytest.mark.slow]
URL = f"s3://{BUCKET}/demo/cache.zarr"


@pytest.fixture(scope="module")
def proxy(project: Project) -> Iterator[Proxy]:
    """A server with the project's cache, captured into it."""
    with s3_server() as server, proxy_of(server) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(made.endpoint).items():
            patch.setenv(name, value)
        assert call(cache_teacher, "--config", project.config("distill"), "--cache", URL, "--loaders", 0) == 0
        yield made


def test_a_capture_makes_the_objects_of_a_folder(project: Project, proxy: Proxy) -> None:
    assert remote_contents(URL) == contents(project.cache)


def test_a_stopped_capture_goes_on(project: Project, proxy: Proxy, capfd) -> None:
    bucket = locate(URL)
    assert isinstance(bucket, Bucket)
    bucket.delete("committed/c/0/0")
    bucket.delete("documents/c/0/0")
    capture = ["--config", project.config("distill"), "--cache", URL, "--loaders", 0]
    expect_refusal(capfd, call(distill, "--config", project.config("distill"), "--cache", URL), "still being laid out")
    expect_refusal(capfd, call(cache_teacher, *capture, "--cfg-options", "codec=half"), "codec.preset is 'exact' in")
    assert call(cache_teacher, *capture) == 0
    assert remote_contents(URL) == contents(project.cache)


@pytest.mark.cluster
def test_workers_capture_into_the_bucket(project: Project, proxy: Proxy) -> None:
    """Each Dask worker reaches S3 by itself; the objects are those of a folder."""
    url = f"s3://{BUCKET}/demo/workers.zarr"
    assert call(cache_teacher, "--config", project.config("distill"), "--cache", url, "--workers", 2) == 0
    assert remote_contents(url) == contents(project.cache)


def test_verification_looks_at_store_files_and_teacher(project: Project, proxy: Proxy, capfd) -> None:
    proxy.requests.clear()
    assert call(verify_cache, "--config", project.config("distill"), "--cache", URL, "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["ok"], figures["cache"]) == (True, URL)
    assert figures["store"]["bytes"] == sum(map(len, contents(project.cache).values()))
    assert figures["teacher"]["views"] > 0
    assert {request.method for request in proxy.requests} == {"GET", "HEAD"}


def test_inspection_gives_the_figures_of_a_folder(project: Project, proxy: Proxy, tmp_path: Path, capfd) -> None:
    figures = []
    for cache in (URL, project.cache):
        assert call(inspect_cache, "--cache", cache, "--out", tmp_path, "--json") == 0
        figures.append(json.loads(capfd.readouterr().out))
    assert figures[0]["cache"] == URL
    ours, theirs = ({key: value for key, value in found.items() if key != "cache"} for found in figures)
    assert ours == theirs


def train(project: Project, cache: str, folder: Path) -> str:
    """A training in a process of its own, with two that load for it; returns what it prints."""
    command = ["-m", "pipelines.distill", "--config", project.config("distill"), "--cache", cache]
    options = ["--work-dir", str(folder), "--cfg-options", "train_dataloader.num_workers=2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, *options],
        cwd=REPOSITORY,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_student_learns_what_it_learns_from_a_folder(project: Project, proxy: Proxy, tmp_path: Path) -> None:
    """Loader processes reach S3 by themselves and read ranges; the losses are the same, and no secret is left."""
    train(project, str(project.cache), tmp_path / "folder")
    proxy.requests.clear()
    said = train(project, URL, tmp_path / "s3")
    losses = [
        [(line["loss_ld"], line["loss_kd"]) for line in last_losses(tmp_path / name)] for name in ("s3", "folder")
    ]
    assert losses[0] == losses[1]
    shards = [request for request in proxy.of("GET") if "_logits/c/" in request.key]
    assert shards
    assert all(request.range for request in shards)
    record = json.loads((tmp_path / "s3/run.json").read_text())
    assert record["cache"]["path"] == URL
    assert record["cache"]["bytes"] == sum(map(len, contents(project.cache).values()))
    assert SECRET not in said
    for file in (tmp_path / "s3").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_store_that_does_not_answer_is_one_line(project: Project, proxy: Proxy, tmp_path: Path, capfd) -> None:
    proxy.fault = lambda request: "500"
    try:
        status = call(distill, "--config", project.config("distill"), "--cache", URL, "--work-dir", tmp_path)
    finally:
        proxy.fault = lambda request: None
    expect_refusal(capfd, status, "Check AWS_ENDPOINT_URL and the network, then run the same command again")
