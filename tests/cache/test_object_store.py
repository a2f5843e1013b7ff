"""Stores on S3: the same objects, whatever the network does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cache import s3
from cache.documents import verify_documents
from cache.layout import DOCUMENTS_CHUNK
from cache.manifest import ManifestMismatch
from cache.reader import CacheReader
from cache.s3 import Bucket
from cache.storage import StorageError, locate
from cache.store import CaptureNeeded, Store
from cache.verify import verify_block, verify_metadata
from cache.view import FLIPS
from cache.writer import Part
from tests.cache.fault_tools import all_findings
from tests.cache.object_tools import (
    BUCKET,
    KEY_ID,
    SECRET,
    Proxy,
    environment,
    every,
    make_public,
    proxy_of,
    remote_contents,
    s3_server,
)
from tests.cache.store_tools import (
    KINDS,
    NO_ERROR,
    block_fields,
    contents,
    open_writer,
    plan_for,
    small_plan,
    write_blocks,
    write_store,
)
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """This process reaches the server through a proxy of the test's own."""
    with proxy_of(server) as made:
        for name, value in environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def url(proxy: Proxy, tmp_path: Path) -> str:
    """An address where nothing is."""
    return f"s3://{BUCKET}/{tmp_path.name}/cache.zarr"


def start(script: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    """A process of its own that may reach S3."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("preset", KINDS)
def test_a_store_on_s3_has_the_objects_of_a_folder(url: str, tmp_path: Path, preset: str) -> None:
    plan = plan_for(preset, assigned=True)
    write_store(tmp_path / "cache.zarr", plan, preset)
    write_store(url, plan, preset)
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")
    assert all_findings(url) == []
    ours, theirs = CacheReader(url), CacheReader(tmp_path / "cache.zarr")
    ours.require_complete()
    for view in map(plan.view, range(plan.num_views)):
        one, other = (vars(reader.read(view.patch_id, view.draw)) for reader in (ours, theirs))
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_resume_writes_the_missing_blocks_alone(url: str, proxy: Proxy, tmp_path: Path) -> None:
    plan = write_store(tmp_path / "cache.zarr")
    with open_writer(url, plan) as writer:
        writer.write(1, block_fields(plan, 1), NO_ERROR)
    proxy.requests.clear()
    with open_writer(url, plan) as writer:
        assert writer.missing_blocks() == [0, 2]
        write_blocks(writer)
    assert not [request for request in proxy.of("PUT") if "/c/1" in request.key]
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")


def test_a_damaged_block_is_found_and_captured_again(url: str, tmp_path: Path) -> None:
    write_store(tmp_path / "cache.zarr")
    write_store(url)
    bucket = bucket_at(url)
    damaged = bytearray(bucket.read("weight/c/1/0"))
    damaged[3] ^= 4
    bucket.write({"weight/c/1/0": bytes(damaged)})
    (finding,) = all_findings(url)
    assert finding.object == "weight/c/1/0"
    assert finding.cure == f"Delete {url}/committed/c/1/0, then capture block 1 again"
    bucket.delete("committed/c/1/0")
    assert Store(url).captured_blocks() == [0, 2]
    write_store(url)
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")


@pytest.mark.parametrize("key", ["plan/zarr.json", "plan/block/c/0", "codec/basis/c/0/0", DOCUMENTS_CHUNK])
def test_lost_metadata_is_found(url: str, key: str) -> None:
    write_store(url, preset="default")
    bucket_at(url).delete(key)
    (finding,) = verify_documents(url)
    assert finding.object == key
    assert "absent" in finding.problem


def test_what_does_not_belong_is_found(url: str) -> None:
    write_store(url)
    bucket_at(url).write({"notes.txt": b"mine"})
    (finding,) = verify_metadata(url)
    assert (finding.object, finding.cure) == ("notes.txt", f"Delete {url}/notes.txt")


def bucket_at(url: str) -> Bucket:
    location = locate(url)
    assert isinstance(location, Bucket)
    return location


def test_nothing_on_s3_is_not_a_cache(url: str) -> None:
    with pytest.raises(CaptureNeeded, match=f"cache {url} does not exist"):
        CacheReader(url)
    bucket_at(url).write({"notes.txt": b"mine"})
    plan = small_plan()
    with pytest.raises(ValueError, match="exists but is not a teacher cache"):
        open_writer(url, plan)
    assert remote_contents(url) == {"notes.txt": b"mine"}


def test_another_capture_is_refused_by_name(url: str) -> None:
    plan = write_store(url)
    before = remote_contents(url)
    with pytest.raises(ManifestMismatch, match=r"teacher.weights_sha256 is .* in the cache but .* here"):
        open_writer(url, plan, sections={"teacher": {"weights_sha256": "1" * 64}})
    assert remote_contents(url) == before


@pytest.mark.parametrize(("preset", "objects"), [("half", 1), ("default", 2), ("default", 39)])
def test_a_creation_that_was_cut_short_is_completed(
    url: str, proxy: Proxy, tmp_path: Path, preset: str, objects: int
) -> None:
    """After so many objects no request is answered any more; a store of cells is laid out with 40."""
    plan = write_store(tmp_path / "cache.zarr", preset=preset)

    def fault(request) -> str | None:
        return "403" if request.method == "PUT" and len(proxy.of("PUT")) > objects else None

    proxy.fault = fault
    with pytest.raises(StorageError, match=r"cannot be written: .*403 Forbidden.* Check the credentials"):
        open_writer(url, plan, preset)
    proxy.fault = lambda request: None
    assert len(remote_contents(url)) == objects
    message = f"cache {url} is still being laid out.*go on with it"
    for read in (CacheReader, verify_documents):
        with pytest.raises(ValueError, match=message):
            read(url)
    with pytest.raises(ManifestMismatch, match=r"numeric.threads is 1 in the cache but 2 here"):
        open_writer(url, plan, preset, {"numeric": {"threads": 2}})
    write_store(url, plan, preset)
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")


WRITE = """
import sys
from tests.cache.store_tools import *
from cache.writer import Part
plan = small_plan(20)
threads, part = int(sys.argv[2]), Part(*map(int, sys.argv[3].split("/")))
try:
    with open_writer(sys.argv[1], plan, sections={"numeric": {"threads": threads}}, part=part) as writer:
        write_blocks(writer)
except ValueError as error:
    raise SystemExit(f"refused: {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("1/1", "1/1"), ("1/2", "2/2")], ids=["all", "parts"])
def test_two_captures_at_once_make_the_store_of_one(url: str, tmp_path: Path, parts: tuple[str, str]) -> None:
    plan = small_plan(20)
    write_store(tmp_path / "cache.zarr", plan)
    captures = [start(WRITE, url, "1", part) for part in parts]
    assert [capture.communicate()[1] for capture in captures] == ["", ""]
    assert [capture.returncode for capture in captures] == [0, 0]
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")


@pytest.mark.slow
def test_of_two_different_captures_at_once_one_is_refused(url: str, tmp_path: Path) -> None:
    captures = {threads: start(WRITE, url, str(threads), "1/1") for threads in (1, 2)}
    said = {threads: capture.communicate()[1] for threads, capture in captures.items()}
    (winner,) = (threads for threads, capture in captures.items() if capture.returncode == 0)
    assert f"numeric.threads is {winner} in the cache but {3 - winner} here" in said[3 - winner]
    plan = small_plan(20)
    with open_writer(tmp_path / "cache.zarr", plan, sections={"numeric": {"threads": winner}}) as writer:
        write_blocks(writer)
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")


def test_nobody_is_locked_out(url: str) -> None:
    plan = small_plan()
    with (
        open_writer(url, plan),
        open_writer(url, plan, part=Part(1, 2)),
    ):
        locate(url).require_idle()


@pytest.mark.slow
def test_faults_now_and_then_are_survived(url: str, proxy: Proxy, tmp_path: Path) -> None:
    plan = write_store(tmp_path / "cache.zarr")
    met = set()

    def fault(request) -> str | None:
        kind = every(5, "500", "503", "drop", "cut")(request)
        met.add((kind, request.method))
        return kind

    proxy.fault = fault
    write_store(url)
    reader = CacheReader(url)
    reader.require_complete()
    assert all_findings(url) == []
    records = [len(reader.read(view.patch_id, view.draw)) for view in map(plan.view, range(plan.num_views))]
    assert records == plan.priors_per_view.tolist()
    proxy.fault = lambda request: None
    assert remote_contents(url) == contents(tmp_path / "cache.zarr")
    assert met >= set(product(("500", "503", "drop", "cut"), ("GET", "PUT")))


READ_ONE = """
import os, sys
from cache import s3
s3.STALL_SECONDS = int(os.environ.get("STALL_SECONDS", s3.STALL_SECONDS))
from tests.cache.store_tools import *
print(read_in_child(sys.argv[1], "P0003__a__128__0___0"))
"""


@pytest.mark.slow
def test_an_answer_that_never_comes_is_asked_for_again(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of zarr's and one of TensorStore's; both would wait for ever."""
    monkeypatch.setattr(s3, "STALL_SECONDS", 1)
    plan = small_plan()
    proxy.fault = lambda request: "stall" if request.number in (3, 9) else None
    write_store(url, plan)
    assert CacheReader(url).missing_blocks() == []
    agents = []

    def stall_each(request) -> str | None:
        if "prior_index/c/" in request.key and request.agent not in agents:
            agents.append(request.agent)
            return "stall"
        return None

    proxy.fault = stall_each
    said, errors = start(READ_ONE, url, STALL_SECONDS="1", TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS="1").communicate()
    assert [agent.partition("/")[0] for agent in agents] == ["object_store", "tensorstore"]
    assert said.strip() == str(int(plan.priors_per_view[3 * len(FLIPS)])), errors


@pytest.mark.parametrize("kind", ["500", "drop"])
def test_faults_that_last_end_in_one_error(url: str, proxy: Proxy, kind: str) -> None:
    plan = write_store(url, preset="default")
    reader = CacheReader(url)
    view = plan.view(int(plan.priors_per_view.argmax()))
    block = int(plan.block[plan.priors_per_view.argmax()])
    assert reader.plan.num_views == plan.num_views
    proxy.fault = lambda request: kind
    cure = r"Check AWS_ENDPOINT_URL and the network, then run the same command again$"
    for work in (
        lambda: CacheReader(url),
        lambda: open_writer(url, plan, "default"),
        lambda: reader.codec,
        lambda: reader.read(view.patch_id, view.draw),
        lambda: verify_documents(url),
        lambda: verify_block(reader.store, block),
        lambda: reader.missing_blocks(),
    ):
        with pytest.raises((StorageError, ValueError), match=cure) as caught:
            work()
        assert "\n" not in str(caught.value)
        assert f"s3://{BUCKET}/" in str(caught.value)


def test_a_store_that_stops_answering_stops_a_reader(url: str, proxy: Proxy) -> None:
    """Arrays are open, so what fails is the record itself."""
    plan = write_store(url)
    reader = CacheReader(url)
    first, last = (plan.view(view) for view in np.flatnonzero(plan.priors_per_view)[[0, -1]])
    reader.read(first.patch_id, first.draw)
    proxy.fault = lambda request: "500"
    with pytest.raises((StorageError, ValueError), match=r"Check AWS_ENDPOINT_URL and the network"):
        reader.read(last.patch_id, last.draw)


def test_a_lost_shard_is_an_error_and_no_fill_value(url: str) -> None:
    plan = write_store(url)
    view = plan.view(int(plan.priors_per_view.argmax()))
    bucket_at(url).delete(f"cls_logits/c/{plan.block[plan.priors_per_view.argmax()]}/0/0")
    with pytest.raises(ValueError, match=r"Run make verify-cache"):
        CacheReader(url).read(view.patch_id, view.draw)


@pytest.mark.slow
def test_credentials_that_may_only_read(url: str, proxy: Proxy) -> None:
    """Readers and verification never write; a capture is told."""
    plan = small_plan()
    with open_writer(url, plan) as writer:
        writer.write(0, block_fields(plan, 0), NO_ERROR)
    proxy.fault = lambda request: "403" if request.method not in ("GET", "HEAD") else None
    reader = CacheReader(url)
    assert reader.missing_blocks() == [1, 2]
    assert [finding.object for finding in all_findings(url)] == ["committed/c/1/0"]
    view = plan.view(int(plan.views_of_block(0)[-1]))
    assert len(reader.read(view.patch_id, view.draw)) > 0
    before = remote_contents(url)
    with open_writer(url, plan) as writer:
        with pytest.raises(StorageError, match=r"cannot be written: .*Check the credentials"):
            write_blocks(writer)
    assert remote_contents(url) == before


READ_ONLY_FOLDER = """
import subprocess, sys
from tests.cache.test_object_store import *

folder = Path(sys.argv[1])
subprocess.run(["mount", "--bind", folder, folder], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
plan, path = small_plan(), folder / "cache.zarr"
before = contents(path)
reader = CacheReader(path)
reader.require_complete()
assert len(reader.read("P0003__a__128__0___0", "none")) > 0
locate(path).require_idle()
assert all_findings(path) == []
try:
    open_writer(path, plan)
except OSError as error:
    assert "Read-only file system" in str(error), error
else:
    raise SystemExit("nothing was refused")
try:
    open_writer(folder / "new.zarr", plan)
except OSError as error:
    assert "Read-only file system" in str(error), error
else:
    raise SystemExit("nothing was refused")
assert contents(path) == before
"""


def test_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    """A mount of its own that nobody can write to, not even root."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    write_store(tmp_path / "cache.zarr")
    command = [*namespace, sys.executable, "-W", "ignore", "-c", READ_ONLY_FOLDER, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_record_is_read_by_ranges(url: str, proxy: Proxy) -> None:
    """No request asks for a whole shard, and what was read is not asked for again."""
    plan = small_plan(40, views_per_block=160, seed=3)
    write_store(url, plan)
    bucket, reader = bucket_at(url), CacheReader(url)
    view = plan.view(int(plan.priors_per_view.argmax()))
    reader.find(view.patch_id, view.draw)
    proxy.requests.clear()
    assert len(reader.read(view.patch_id, view.draw)) > 0
    shards = {f"{bucket.prefix}/{key}": size for key, size in bucket.sizes("box_logits/c/").items()}
    proxy_reads = [request for request in proxy.of("GET") if request.key in shards]
    assert proxy_reads
    assert all(request.range for request in proxy_reads)
    assert sum(request.sent for request in proxy_reads) < 0.5 * sum(shards.values())
    proxy.requests.clear()
    reader.read(view.patch_id, view.draw)
    assert proxy.requests == []


READ_EVERYTHING = """
import sys
from tests.cache.store_tools import *
reader = CacheReader(sys.argv[1])
views = [reader.plan.view(view) for view in range(reader.plan.num_views)]
print("reading", flush=True)
sys.stdin.readline()
for _ in range(3):
    for view, rows in zip(views, reader.plan.priors_per_view.tolist(), strict=True):
        assert len(reader.read(view.patch_id, view.draw)) == rows
print("done", flush=True)
"""


@pytest.mark.slow
def test_reading_while_it_is_verified(url: str) -> None:
    write_store(url, small_plan(20))
    reading = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", READ_EVERYTHING, url],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reading.stdout.readline() == "reading\n"
    reading.stdin.write("go\n")
    reading.stdin.flush()
    while reading.poll() is None:
        assert all_findings(url) == []
    assert reading.stdout.read() == "done\n"
    assert reading.returncode == 0


def test_a_reader_travels_by_its_address(url: str) -> None:
    plan = write_store(url)
    reader = pickle.loads(pickle.dumps(CacheReader(url)))
    assert reader.path == url
    view = plan.view(int(plan.priors_per_view.argmax()))
    assert len(reader.read(view.patch_id, view.draw)) == plan.priors_per_view.max()
    assert SECRET.encode() not in pickle.dumps(reader)


FORK = """
import multiprocessing, sys
from tests.cache.store_tools import *
CacheReader(sys.argv[1])
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(read_in_child, (sys.argv[1], "P0003__a__128__0___0"))
"""


def test_a_forked_process_is_told_instead_of_hanging(url: str) -> None:
    write_store(url)
    _, said = start(FORK, url).communicate()
    assert f"ValueError: {url} cannot be reached from a process forked from one that has reached S3" in said
    assert "multiprocessing_context='forkserver'" in said


USE = """
import sys
from tests.cache.store_tools import *
from tests.cache.fault_tools import all_findings
url = sys.argv[1]
plan = write_store(url)
reader = CacheReader(url)
reader.require_complete()
print(len(reader.read("P0003__a__128__0___0", "none")), all_findings(url), vars(reader), reader.location)
absent = url.replace("teacher-caches", "no-such-bucket")
for work, where in ((CacheReader, url + "-absent"), (write_store, absent)):
    try:
        work(where)
    except (ValueError, OSError) as error:
        print(repr(error), error.__cause__)
    else:
        raise SystemExit("nothing was refused")
"""


@pytest.mark.slow
def test_secrets_are_nowhere(url: str, proxy: Proxy) -> None:
    """Neither in the store, nor in what is printed, raised or logged; not even where everything fails."""
    token = "temporaryTokenThatIsHidden123"
    process = start(USE, url, AWS_SESSION_TOKEN=token, RUST_LOG="trace", TENSORSTORE_VERBOSE_LOGGING="s3=1")
    printed = "".join(process.communicate())
    assert process.returncode == 0, printed
    assert "no-such-bucket" in printed
    proxy.fault = lambda request: "403"
    failed = start(USE, url, AWS_SESSION_TOKEN=token)
    printed += "".join(failed.communicate())
    assert failed.returncode == 1
    proxy.fault = lambda request: None
    stored = b"".join(remote_contents(url).values())
    for secret in (SECRET, token):
        assert secret not in printed
        assert secret.encode() not in stored
    assert KEY_ID.encode() not in stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": f"http://me:{SECRET}@host"}, "AWS_ENDPOINT_URL must be http://host:port or https://host"),
        ({"AWS_MAX_ATTEMPTS": "often"}, "AWS_MAX_ATTEMPTS is 'often'; a whole number from 1 on is needed"),
    ],
)
def test_an_environment_that_reaches_nothing(url: str, monkeypatch, changes: dict[str, str], message: str) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message) as caught:
        CacheReader(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", [f"s3://me:{SECRET}@bucket/c.zarr", "s3://bucket", "s3:/bucket/c.zarr", "s3://B/c"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"an object store's address is s3://bucket/name.zarr") as caught:
        CacheReader(text)
    assert SECRET not in str(caught.value)


def test_a_public_store_needs_no_credentials(url: str, server: str, proxy: Proxy, monkeypatch) -> None:
    """Neither zarr nor TensorStore signs a request."""
    plan = write_store(url)
    make_public(server, url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    proxy.requests.clear()
    assert CacheReader(url).missing_blocks() == []
    said, errors = start(READ_ONE, url).communicate()
    assert said.strip() == str(int(plan.priors_per_view[3 * len(FLIPS)])), errors
    assert not any(request.is_signed for request in proxy.requests)


def test_the_plan_is_read_back(url: str) -> None:
    plan = write_store(url)
    assert Store(url).plan.describe() == plan.describe()
