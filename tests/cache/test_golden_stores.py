"""Stores written when the format was laid down are read as ever, and what is written today has their bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.cells import CellCodec
from cache.documents import verify_documents
from cache.layout import object_key, rows_in_block
from cache.manifest import ManifestMismatch
from cache.reader import CacheReader
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.writer import CacheWriter
from tests.cache.golden_stores import FOLDER, RECORD_ARRAYS, STORES
from tests.cache.store_tools import contents, open_writer, small_plan


@pytest.fixture(params=STORES)
def golden_store(request, tmp_path: Path) -> Path:
    """A copy: reading must not write, and a test that did would spoil the original."""
    store = tmp_path / f"{request.param}.zarr"
    shutil.copytree(FOLDER / store.name, store)
    return store


@pytest.fixture
def expected(golden_store: Path) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{golden_store.stem}.npz") as stored:
        return dict(stored)


def test_records_are_read_as_ever(golden_store: Path, expected) -> None:
    reader = CacheReader(golden_store)
    reader.require_complete()
    seen = {name for name in expected if name.startswith("teacher/")}
    for patch_id in reader.plan.patch_ids:
        for draw in reader.plan.draws:
            record = reader.read(patch_id, draw)
            for name in RECORD_ARRAYS:
                values, wanted = getattr(record, name), expected.get(f"{patch_id}/{draw}/{name}")
                assert (values is None) == (wanted is None)
                if values is not None and wanted is not None:
                    seen.add(f"{patch_id}/{draw}/{name}")
                    assert values.dtype == wanted.dtype
                    # Of cells a product of matrices, whose order of sums is the machine's.
                    tolerance = 1e-5 if reader.store.names.cells and name.endswith("logits") else 0
                    np.testing.assert_allclose(values, wanted, rtol=0, atol=tolerance)
    assert seen == set(expected)
    assert reader.plan.num_priors > 40


def test_zarr_alone_reads_the_same(golden_store: Path, expected) -> None:
    """With the page and no code of ours."""
    root = zarr.open_group(golden_store, mode="r", zarr_format=3)
    attributes = root.attrs.asdict()
    head, grid = attributes["head"], attributes["head"]["grid"]
    priors = len(grid["ratios"]) * len(grid["scales"])
    names = attributes["views"]["draws"]
    names = range(names) if isinstance(names, int) else names
    plan = {name: root[f"plan/{name}"][...] for name in ("draw_view", "block", "row_start", "row_stop")}
    for patch, draws in enumerate(plan["draw_view"]):
        patch_id = bytes(root["plan/patch_id"][patch]).rstrip(b"\0").decode()
        for draw, view in zip(names, draws, strict=True):
            block, rows = plan["block"][view], slice(plan["row_start"][view], plan["row_stop"][view])
            if attributes["codec"]["stored"] == "rows":
                prior_index = root["prior_index"][block, rows]
                cls_logits = root["cls_logits"][block, rows]
            else:
                steps = root["coefficients"][block, :, rows].T * root["coefficients"].attrs["scale_factor"]
                offset = root["codec/offset"][...]
                values = steps @ root["codec/basis"][...] + offset
                cell, prior = np.nonzero(root["cell_weight"][block, rows])
                prior_index = root["cell_index"][block, rows].astype(int)[cell] * priors + prior
                cls_logits = values.reshape(len(values), priors, offset.size // priors)[cell, prior][
                    :, : len(head["classes"])
                ]
            np.testing.assert_array_equal(prior_index, expected[f"{patch_id}/{draw}/prior_index"])
            np.testing.assert_allclose(cls_logits, expected[f"{patch_id}/{draw}/cls_logits"], rtol=1e-5, atol=1e-5)


def test_nothing_is_wrong_with_it(golden_store: Path) -> None:
    assert verify_documents(golden_store) == []
    assert verify_metadata(golden_store) == []
    store = Store(golden_store)
    for block in range(store.num_blocks):
        assert verify_block(store, block) == []


def test_the_writer_of_today_makes_the_same_bytes(golden_store: Path, tmp_path: Path) -> None:
    root = zarr.open_group(golden_store, mode="r", zarr_format=3)
    store = Store(golden_store)
    again = tmp_path / "again.zarr"
    with CacheWriter(again, store.manifest, store.plan, store.codec) as writer:
        for block in writer.missing_blocks():
            fields = {}
            for name in writer.names.record:
                rows = slice(rows_in_block(store.plan, name, block))
                fields[name] = root[name][store.specs[name].rows_of(block, rows)]
            error = zip(root["capture_error"].attrs["columns"], root["capture_error"][block], strict=True)
            writer.write(block, fields, dict(error))
    written, known = contents(again), contents(golden_store)
    assert written.keys() == known.keys()
    assert [key for key in known if written[key] != known[key]] == []


@pytest.mark.parametrize("name", ["rotated", "horizontal"])
def test_the_teachers_logits_give_the_same_codes(name: str) -> None:
    store = Store(FOLDER / f"{name}.zarr")
    codec, root = store.codec, zarr.open_group(FOLDER / f"{name}.zarr", mode="r", zarr_format=3)
    assert isinstance(codec, CellCodec)
    with np.load(FOLDER / f"{name}.npz") as stored:
        for block in range(store.num_blocks):
            rows = int(store.plan.rows_per_block()[block])
            is_stored = root["cell_weight"][block, :rows] > 0
            values = np.zeros((*is_stored.shape, codec.head.values), dtype=np.float32)
            values[is_stored] = stored[f"teacher/{block}"]
            codes = root["coefficients"][block, :, :rows]
            np.testing.assert_array_equal(codec.encode(values, is_stored), codes)
            assert codes.size > 0
            assert (FOLDER / f"{name}.zarr" / object_key("coefficients", block)).is_file()


def test_format_1_is_refused_in_one_line(tmp_path: Path) -> None:
    store = tmp_path / "old.zarr"
    shutil.copytree(FOLDER / "format_1.zarr", store)
    before = contents(store)
    for work in (CacheReader, verify_metadata, lambda place: open_writer(place, small_plan())):
        with pytest.raises(ManifestMismatch) as caught:
            work(store)
        assert str(caught.value) == f"cache {store}: format is 1 but this code reads format 2. Capture a new cache"
    assert contents(store) == before
