"""Writing, reading, resuming and refusing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from cache.cells import CellCodec
from cache.codec import PRESETS
from cache.layout import CELL_FIELDS, ROW_FIELDS, ArrayNames
from cache.manifest import ManifestMismatch
from cache.plan import Plan
from cache.reader import CacheReader
from cache.storage import locate
from cache.store import CaptureNeeded
from cache.view import FLIPS
from cache.writer import Part
from tests.cache.store_tools import (
    HEAD,
    KINDS,
    NO_ERROR,
    block_fields,
    block_logits,
    contents,
    open_writer,
    plan_for,
    small_codec,
    small_manifest,
    small_plan,
    view_rows,
    write_blocks,
    write_store,
)
from tests.conftest import REPOSITORY

NAMES = {preset: ArrayNames(cells=preset == "default", assigned=True) for preset in KINDS}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "cache.zarr")
    return tmp_path / "cache.zarr"


@pytest.mark.parametrize("preset", PRESETS)
def test_records_come_back_within_the_bound(tmp_path: Path, preset: str) -> None:
    plan = write_store(tmp_path / "cache.zarr", preset=preset)
    reader, codec = CacheReader(tmp_path / "cache.zarr"), small_codec(preset)
    for view_index in range(plan.num_views):
        view, rows = plan.view(view_index), view_rows(plan, view_index)
        record = reader.read(view.patch_id, view.draw)
        logits = block_logits(plan, int(plan.block[view_index]))
        np.testing.assert_array_equal(record.prior_index, logits["prior_index"][rows])
        np.testing.assert_allclose(record.weight, logits["weight"][rows], rtol=0 if preset == "exact" else 2**-11)
        assert {record.weight.dtype, record.cls_logits.dtype, record.box_logits.dtype} == {np.dtype(np.float32)}
        ours, theirs = ((part.cls_logits, part.box_logits) for part in (record, SimpleNamespace(**logits)))
        np.testing.assert_array_equal(ours[1].max(axis=-1, initial=-99)[: len(record)], 0)
        theirs = tuple(values[rows] for values in theirs)
        if isinstance(codec, CellCodec):
            cls_bound, box_bound = np.split(codec.max_abs_error + 1e-5, [HEAD.classes])
            bounds = cls_bound, box_bound.reshape(HEAD.box_shape)
            ours, theirs = ((part[0], centred(part[1])) for part in (ours, theirs))
        else:
            bounds = codec.max_abs_error(4), codec.max_abs_error(14)
        for stored, wanted, bound in zip(ours, theirs, bounds, strict=True):
            assert stored.shape == wanted.shape
            assert (np.abs(stored - wanted) <= bound).all()


def centred(box_logits: np.ndarray) -> np.ndarray:
    """Without the mean of each group of bins, which cells do not hold."""
    return box_logits - box_logits.mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("preset", KINDS)
def test_a_planned_assignment_comes_back(tmp_path: Path, preset: str) -> None:
    """Its rows are counted by themselves: views may have some without the other."""
    plan = write_store(tmp_path / "cache.zarr", plan_for(preset, assigned=True), preset)
    reader = CacheReader(tmp_path / "cache.zarr")
    for view_index in range(plan.num_views):
        view, rows = plan.view(view_index), view_rows(plan, view_index, "assigned")
        record = reader.read(view.patch_id, view.draw)
        stored = block_logits(plan, int(plan.block[view_index]))
        np.testing.assert_array_equal(record.assigned_prior, stored["assigned_prior"][rows])
        np.testing.assert_array_equal(record.assigned_object, stored["assigned_object"][rows])
        assert record.assigned_prior.dtype == record.assigned_object.dtype == np.int64


def test_a_store_without_assignment_says_so(store: Path) -> None:
    record = CacheReader(store).read("P0003__a__128__0___0", "none")
    assert record.assigned_prior is None
    assert record.assigned_object is None


@pytest.mark.parametrize("preset", KINDS)
def test_a_view_without_objects_is_an_empty_record(tmp_path: Path, preset: str) -> None:
    write_store(tmp_path / "cache.zarr", preset=preset)
    record = CacheReader(tmp_path / "cache.zarr").read("P0000__a__128__0___0", "none")
    assert len(record) == 0
    assert record.cls_logits.shape == (0, 3)
    assert record.box_logits.shape == (0, 5, 9)


def test_other_readers_agree_with_ours(store: Path) -> None:
    """zarr, TensorStore and xarray give the floats of rows without our code."""
    plan, reader = CacheReader(store).plan, CacheReader(store)
    dataset = xarray.open_zarr(store, consolidated=False)
    group = zarr.open_group(store, mode="r")
    for name in ROW_FIELDS:
        path = f"{store}/{name}/"
        foreign = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, read=True).result()
        for view_index in range(0, plan.num_views, 5):
            block = int(plan.block[view_index])
            rows = slice(int(plan.row_start[view_index]), int(plan.row_stop[view_index]))
            view, values = plan.view(view_index), np.asarray(group[name][block, rows])
            np.testing.assert_array_equal(foreign[block, rows].read().result(), values)
            np.testing.assert_array_equal(dataset[name][block, rows].values, values)
            # Box logits were stored with the largest of each row of bins at 0, where our reader puts it.
            np.testing.assert_array_equal(getattr(reader.read(*vars(view).values()), name).ravel(), values.ravel())


def test_other_readers_make_logits_of_cells(tmp_path: Path) -> None:
    """Weights, cells and coefficients through each of the three, and one line."""
    store = tmp_path / "cache.zarr"
    plan = write_store(store, preset="default")
    reader, group = CacheReader(store), zarr.open_group(store, mode="r")
    dataset = xarray.open_zarr(store, consolidated=False)
    basis, offset = (group[f"codec/{name}"][...] for name in ("basis", "offset"))
    view_index = int(plan.priors_per_view.argmax())
    block, rows = int(plan.block[view_index]), slice(int(plan.row_start[view_index]), int(plan.row_stop[view_index]))
    foreign = {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store}/{name}/"}}, read=True
        ).result()
        for name in CELL_FIELDS
    }
    scale = group["coefficients"].attrs["scale_factor"]
    found = [
        tuple(array[(block, ..., rows) if name == "coefficients" else (block, rows)] for name, array in arrays.items())
        for arrays in (
            {name: group[name] for name in CELL_FIELDS},
            foreign,
            {name: dataset[name] for name in CELL_FIELDS},
        )
    ]
    ours = reader.read(*vars(plan.view(view_index)).values())
    for number, (index, weight, codes) in enumerate(found):
        # Xarray has applied the scale.
        steps = codes.values if number == 2 else np.asarray(codes) * scale
        logits = steps.T @ basis + offset
        cell, prior = np.nonzero(np.asarray(weight))
        np.testing.assert_array_equal(np.asarray(index).astype(int)[cell] * HEAD.priors + prior, ours.prior_index)
        values = logits.reshape(-1, HEAD.priors, HEAD.values)[cell, prior]
        np.testing.assert_allclose(values[:, : HEAD.classes], ours.cls_logits, atol=1e-4)
        box = values[:, HEAD.classes :].reshape(-1, 5, 9)
        np.testing.assert_allclose(box - box.max(axis=-1, keepdims=True), ours.box_logits, atol=1e-4)


@pytest.mark.parametrize("preset", KINDS)
def test_opening_reads_metadata_only(tmp_path: Path, preset: str) -> None:
    store = tmp_path / "cache.zarr"
    write_store(store, preset=preset)
    for file in store.rglob("c/**/*"):
        if file.is_file():
            file.unlink()
    assert CacheReader(store).manifest.format == 2


@pytest.mark.parametrize("preset", KINDS)
def test_resume_writes_the_missing_blocks_alone(tmp_path: Path, preset: str) -> None:
    plan = plan_for(preset)
    write_store(tmp_path / "whole.zarr", plan, preset)
    with open_writer(tmp_path / "cache.zarr", plan, preset) as writer:
        writer.write(1, block_fields(plan, 1, preset), NO_ERROR)
        written = tmp_path / f"cache.zarr/{writer.names.record[-1]}/c/1/0/0"
    untouched = written.stat().st_mtime_ns
    with open_writer(tmp_path / "cache.zarr", plan, preset) as writer:
        assert 1 not in writer.missing_blocks()
        write_blocks(writer, preset)
    assert written.stat().st_mtime_ns == untouched
    assert contents(tmp_path / "cache.zarr") == contents(tmp_path / "whole.zarr")


WRITE = """
import sys
from tests.cache.test_store import *
part = Part(*map(int, sys.argv[2].split("/"))) if len(sys.argv) > 2 else None
with open_writer(sys.argv[1], kill_plan(), "default", part=part) as writer:
    write_blocks(writer, "default")
"""


def kill_plan() -> Plan:
    return plan_for("default", num_patches=20)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("whole") / "cache.zarr"
    write_store(path, kill_plan(), "default")
    return contents(path)


@pytest.mark.slow
@pytest.mark.parametrize("object_count", [3, 20, 45, 60, 75])
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path, uninterrupted, object_count: int) -> None:
    """A real process is killed as soon as that many files exist, wherever that catches it."""
    path = tmp_path / "cache.zarr"
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], cwd=REPOSITORY)
    while process.poll() is None:
        if sum(len(files) for _, _, files in os.walk(tmp_path)) >= object_count:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the process ended before it could be killed"
    write_store(path, kill_plan(), "default")
    assert contents(path) == uninterrupted


FILL_A_DISK = """
import errno, subprocess, sys
from tests.cache.test_store import *

disk, whole = Path(sys.argv[1]), contents(Path(sys.argv[2]))
size = sum(map(len, whole.values()))
mount = ["mount", "-t", "tmpfs", "-o"]
# Every file takes whole pages.
subprocess.run([*mount, f"size={3 * size // 4 + 4096 * len(whole) // 2}", "tmpfs", disk], check=True)
try:
    write_store(disk / "cache.zarr", kill_plan(), "default")
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise SystemExit("the disk has not filled up")
missing = CacheReader(disk / "cache.zarr").missing_blocks()
assert 0 < len(missing) < kill_plan().num_blocks, missing
subprocess.run(["mount", "-o", f"remount,size={4 * size + 8192 * len(whole)}", disk], check=True)
write_store(disk / "cache.zarr", kill_plan(), "default")
assert contents(disk / "cache.zarr") == whole
"""


def test_a_full_disk_leaves_a_store_that_resumes(tmp_path: Path) -> None:
    """A small disk in a mount namespace of its own fills up mid-way; with room again the bytes are those of one run."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    write_store(tmp_path / "whole.zarr", kill_plan(), "default")
    (tmp_path / "disk").mkdir()
    command = [sys.executable, "-c", FILL_A_DISK, str(tmp_path / "disk"), str(tmp_path / "whole.zarr")]
    done = subprocess.run([*namespace, *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    plan = small_plan()
    with open_writer(tmp_path / "cache.zarr", plan):
        with pytest.raises(ValueError, match="being written by another capture"):
            open_writer(tmp_path / "cache.zarr", plan)
    open_writer(tmp_path / "cache.zarr", plan).close()


@pytest.mark.slow
def test_four_parts_at_once_make_the_store_of_one_writer(tmp_path: Path) -> None:
    """Four processes, started together on a path where nothing is: one lays the store out, each writes its blocks."""
    write_store(tmp_path / "one.zarr", kill_plan(), "default")
    paths = [sys.executable, "-c", WRITE, str(tmp_path / "four.zarr")]
    processes = [subprocess.Popen([*paths, f"{number}/4"], cwd=REPOSITORY) for number in range(1, 5)]
    assert [process.wait() for process in processes] == [0] * 4
    assert contents(tmp_path / "four.zarr") == contents(tmp_path / "one.zarr")


def test_parts_exclude_each_other_only_where_they_overlap(tmp_path: Path) -> None:
    plan = small_plan()
    path = tmp_path / "cache.zarr"
    assert plan.num_blocks >= 3
    with open_writer(path, plan, part=Part(1, 3)) as first:
        with open_writer(path, plan, part=Part(2, 3)) as second:
            assert not set(first.missing_blocks()) & set(second.missing_blocks())
            for part in (None, Part(1, 3), Part(2, 3), Part(1, 1)):
                with pytest.raises(ValueError, match="being written by another capture"):
                    open_writer(path, plan, part=part)
            with pytest.raises(ValueError, match="being written by another capture"):
                locate(path).require_idle()
    locate(path).require_idle()


def test_another_process_may_write_for_the_one_that_holds_the_lock(tmp_path: Path) -> None:
    """It neither makes a store nor locks one, and a block that is committed meanwhile is left as it is."""
    plan = small_plan()
    path = tmp_path / "cache.zarr"
    with pytest.raises(ValueError, match="does not exist"):
        open_writer(path, plan, locked_elsewhere=True)
    with (
        open_writer(path, plan) as first,
        open_writer(path, plan, locked_elsewhere=True) as second,
    ):
        half = path / "weight/c/1/0.x.partial"
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_text("of a worker that was killed")
        assert second.write(1, block_fields(plan, 1), NO_ERROR) > 0
        assert not half.exists()
        before = contents(path)
        assert first.write(1, block_fields(plan, 1), NO_ERROR) == 0
        assert contents(path) == before
        with pytest.raises(ManifestMismatch, match=r"numeric\.threads"):
            open_writer(path, plan, sections={"numeric": {"threads": 2}}, locked_elsewhere=True)


def test_a_part_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    """A `.partial` file in a block of another part may belong to a writer that lives."""
    plan = small_plan()
    path = tmp_path / "cache.zarr"
    open_writer(path, plan).close()
    files = [path / f"weight/c/{block}/0.x.partial" for block in (0, 1)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    open_writer(path, plan, part=Part(1, 2)).close()
    assert [file.exists() for file in files] == [False, True]


@pytest.mark.parametrize(("number", "count"), [(0, 4), (5, 4), (1, 0)])
def test_a_part_that_does_not_exist(number: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"part {number}/{count} does not exist"):
        Part(number, count)


@pytest.mark.parametrize(
    ("section", "value", "field"),
    [
        pytest.param("teacher", {"weights_sha256": "1" * 64}, "teacher.weights_sha256", id="teacher"),
        pytest.param("numeric", {"threads": 2}, "numeric.threads", id="threads"),
        pytest.param("region", {"factor": 0.5, "topk": 9}, "region.factor", id="region"),
    ],
)
def test_a_store_of_something_else_is_refused_whole(store: Path, section: str, value: dict, field: str) -> None:
    before = contents(store)
    plan = small_plan()
    with pytest.raises(ManifestMismatch, match=f"{field} is .* in the cache but .* here"):
        open_writer(store, plan, sections={section: value})
    assert contents(store) == before


def test_another_plan_is_refused(store: Path) -> None:
    with pytest.raises(ManifestMismatch, match="plan"):
        open_writer(store, small_plan(seed=1))


def test_another_codec_is_refused(tmp_path: Path) -> None:
    """A capture that probes again may find another step or another basis: the store's are kept, or it is refused."""
    plan = write_store(tmp_path / "cache.zarr", preset="default")
    codec = small_manifest(plan, "default").codec
    for field, value, cache, here in (
        ("step", 0.25, "0.5", "0.25"),
        ("digest", "0" * 64, '"[0-9a-f]{64}"', '"0{64}"'),
        ("kl", 1e-4, "6e-06", "0.0001"),
    ):
        with pytest.raises(ManifestMismatch, match=rf"codec\.{field} is {cache} in the cache but {here} here"):
            open_writer(tmp_path / "cache.zarr", plan, "default", {"codec": {**codec, field: value}})
    with pytest.raises(ManifestMismatch, match=r"codec\.columns is \d+ in the cache but .* here"):
        open_writer(tmp_path / "cache.zarr", plan, "small")
    with pytest.raises(ManifestMismatch, match=r'codec\.columns is \d+ in the cache but "\(absent\)" here'):
        open_writer(tmp_path / "cache.zarr", plan, "half")


def test_paths_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text.txt").write_text("mine")
    zarr.create_group(tmp_path / "other.zarr")
    plan = small_plan()
    for path, message in [
        (tmp_path / "absent.zarr", "does not exist"),
        (tmp_path / "notes", "not a teacher cache"),
        (tmp_path / "other.zarr", "not a teacher cache"),
        (tmp_path / "notes/text.txt", "not a teacher cache"),
    ]:
        with pytest.raises(ValueError, match=message):
            CacheReader(path)
        if "absent" not in path.name:
            with pytest.raises(ValueError, match=message):
                open_writer(path, plan)
    assert (tmp_path / "notes/text.txt").read_text() == "mine"


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    plan = small_plan()
    with open_writer(tmp_path / "cache.zarr", plan) as writer:
        writer.write(0, block_fields(plan, 0), NO_ERROR)
    reader = CacheReader(tmp_path / "cache.zarr")
    with pytest.raises(CaptureNeeded, match=r"2 of 3 blocks are missing"):
        reader.require_complete()
    missing = plan.view(int(plan.views_of_block(1)[-1]))
    with pytest.raises(ValueError, match="block 1 was never captured"):
        reader.read(missing.patch_id, missing.draw)


def test_unknown_views_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "cache.zarr", small_plan(flips=("none", "vertical")))
    reader = CacheReader(tmp_path / "cache.zarr")
    with pytest.raises(ValueError, match="holds no view P9/none"):
        reader.read("P9", "none")
    with pytest.raises(ValueError, match="no view P0001__a__128__0___0/horizontal"):
        reader.read("P0001__a__128__0___0", "horizontal")


def test_another_image_is_refused(store: Path) -> None:
    reader = CacheReader(store)
    stored = reader.find("P0002__a__128__0___0", "none")
    reader.require_image(stored, bytes([2]) * 32)
    with pytest.raises(ValueError, match=r"P0002.*image_sha256 is 0202.* in the cache but 0303.* on disk"):
        reader.require_image(stored, bytes([3]) * 32)


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset in KINDS for name in NAMES[preset].record])
def test_a_lost_object_raises(tmp_path: Path, preset: str, name: str) -> None:
    store = tmp_path / "cache.zarr"
    plan = write_store(store, plan_for(preset, assigned=True), preset)
    view_index = int(np.argmax(plan.priors_per_view))
    view = plan.view(view_index)
    for file in (store / name / f"c/{plan.block[view_index]}").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(ValueError, match="verify-cache"):
        CacheReader(store).read(view.patch_id, view.draw)


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset in KINDS for name in NAMES[preset].record])
def test_wrong_rows_are_never_written(tmp_path: Path, preset: str, name: str) -> None:
    plan = plan_for(preset, assigned=True)
    with open_writer(tmp_path / "cache.zarr", plan, preset) as writer:
        fields = block_fields(plan, 0, preset)
        for wrong in (fields[name][..., :-1], fields[name].astype("float64")):
            with pytest.raises(ValueError, match=f"block 0: {name} has shape .* the plan says .*start a new cache"):
                writer.write(0, fields | {name: wrong}, NO_ERROR)
        assert 0 in writer.missing_blocks()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_records_read_in_other_processes(store: Path, method: str, workers: int) -> None:
    """Under fork the parent has not read a record; under the others it has."""
    patch_id = "P0003__a__128__0___0"
    expected = int(CacheReader(store).plan.priors_per_view[3 * len(FLIPS)])
    script = (
        "import multiprocessing, sys; from tests.cache.store_tools import read_in_child\n"
        "if __name__ == '__main__':\n"
        f"    {'pass' if method == 'fork' else 'read_in_child(sys.argv[1], sys.argv[2])'}\n"
        f"    with multiprocessing.get_context('{method}').Pool({workers}) as pool:\n"
        "        print(pool.starmap(read_in_child, [(sys.argv[1], sys.argv[2])] * 16))\n"
    )
    file = store.parent / "script.py"
    file.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(file), str(store), patch_id], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([expected] * 16)


def test_codec_of_the_store_is_that_of_the_manifest(tmp_path: Path) -> None:
    write_store(tmp_path / "cache.zarr", preset="default")
    root, codec = zarr.open_group(tmp_path / "cache.zarr", mode="r"), CacheReader(tmp_path / "cache.zarr").codec
    section = root.attrs.asdict()["codec"]
    assert root["coefficients"].attrs["scale_factor"] == section["step"] == codec.step
    assert root["coefficients"].attrs["add_offset"] == 0
    assert {"preset": "default", "kl": 6e-6, "stored": "cells", **codec.describe()} == section
    assert codec.digest == small_codec("default").digest
