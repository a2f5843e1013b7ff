"""Format 1 is frozen: stores written when it was are read as ever, and what is written today has their bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.documents import verify_documents
from cache.layout import rows_in_block
from cache.reader import CacheReader
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.writer import CacheWriter
from tests.cache.golden_stores import FOLDER, RECORD_ARRAYS, STORES
from tests.cache.store_tools import HALF, contents


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
    seen = set()
    for view in map(reader.plan.view, range(reader.plan.num_views)):
        record = reader.read(view.patch_id, view.draw)
        for name in RECORD_ARRAYS:
            values = getattr(record, name)
            assert (values is None) == (f"{view}/{name}" not in expected)
            if values is not None:
                seen.add(f"{view}/{name}")
                np.testing.assert_array_equal(values, expected[f"{view}/{name}"])
                assert values.dtype == expected[f"{view}/{name}"].dtype
    assert seen == set(expected)
    assert sum(len(expected[name]) for name in seen if name.endswith("prior_index")) == reader.plan.num_priors > 20


def test_zarr_alone_reads_the_same(golden_store: Path, expected) -> None:
    """With the page and no code of ours: codes times scale_factor plus add_offset."""
    root = zarr.open_group(golden_store, mode="r", zarr_format=3)
    ids = [bytes(row).rstrip(b"\0").decode() for row in root["plan/patch_id"][...]]
    flips = ("none", "horizontal", "vertical", "diagonal")
    plan = {name: root[f"plan/{name}"][...] for name in ("view_patch", "view_flip", "block", "row_start", "row_stop")}
    for patch, flip, block, start, stop in zip(*plan.values(), strict=True):
        view = f"{ids[patch]}/{flips[flip]}"
        np.testing.assert_array_equal(root["prior_index"][block, start:stop], expected[f"{view}/prior_index"])
        for name in ("cls_logits", "box_logits"):
            scale, offset = (np.float32(root[name].attrs[key]) for key in ("scale_factor", "add_offset"))
            values = root[name][block, start:stop].astype(np.float32) * scale + offset
            np.testing.assert_allclose(values, expected[f"{view}/{name}"], rtol=1e-6, atol=1e-6)


def test_nothing_is_wrong_with_it(golden_store: Path) -> None:
    assert verify_documents(golden_store) == []
    assert verify_metadata(golden_store) == []
    store = Store(golden_store)
    for block in range(store.num_blocks):
        assert verify_block(store, block) == []


def test_the_writer_of_today_makes_the_same_bytes(golden_store: Path, tmp_path: Path) -> None:
    root = zarr.open_group(golden_store, mode="r", zarr_format=3)
    plan = CacheReader(golden_store).plan
    again = tmp_path / "again.zarr"
    with CacheWriter(again, CacheReader(golden_store).manifest, plan, HALF) as writer:
        for block in writer.missing_blocks():
            rows = {name: rows_in_block(plan, name, block) for name in writer.names.record}
            fields = {name: root[name][block, :count] for name, count in rows.items()}
            writer.write(block, fields, root["capture_error"][block])
    written, known = contents(again), contents(golden_store)
    assert written.keys() == known.keys()
    assert [key for key in known if written[key] != known[key]] == []
