"""Every damaged, lost or surplus object of a store is found, and named with its cure."""

from __future__ import annotations

import functools
import operator
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache import layout, statistics
from cache.codec import LOGIT_FIELDS, CodecRequest, RowCodec
from cache.documents import Finding, stored_document_digest, verify_documents
from cache.layout import ERROR_COLUMNS, ArrayNames
from cache.plan import Plan, make_plan
from cache.reader import CacheReader
from cache.statistics import block_statistics
from cache.storage import locate
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.view import FLIPS
from tests.cache.fault_tools import Flip, all_findings, damaged, flipped, objects_by_kind, random_flips
from tests.cache.store_tools import (
    HEAD_SECTION,
    KINDS,
    NO_ERROR,
    block_fields,
    contents,
    open_writer,
    plan_for,
    planned_patch,
    small_codec,
    small_plan,
    view_cells,
    write_blocks,
    write_store,
)


@pytest.fixture(scope="module")
def layout_of_many_chunks() -> Iterator[None]:
    """Chunks so small that shards and plan arrays have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS_PER_CHUNK", 200)
        patch.setattr(layout, "CELLS_PER_CHUNK", 200)
        patch.setattr(layout, "VIEWS_PER_CHUNK", 10)
        yield


def plan_with_an_empty_block(preset: str, *, assigned: bool = False) -> Plan:
    """Three blocks, of which one has no rows, since most patches have no object."""
    patches = []
    for number in range(6):
        counts = np.full((4, 3), 0 if number > 1 else 60 + 5 * number)
        cells = [view_cells(number, view, count) for view, count in enumerate(counts.sum(axis=1))]
        # A patch without region rows may have assigned priors, and the other way round.
        planned = np.full(4, 30 * (number in (1, 2))) if assigned else None
        digest, fields = bytes([number]) * 32, {"cell_counts": np.asarray(cells), "assigned_counts": planned}
        patches.append(planned_patch(f"P{number:04d}", counts, digest, **fields))
    plan = make_plan(patches, FLIPS, views_per_block=8, as_cells=CodecRequest.of(preset).is_cells)
    assert 0 in plan.priors_per_block.tolist()
    return plan


# Every kind of store with and without the optional arrays.
STORES = ("exact", "half-assigned", "default", "small-assigned")


@pytest.fixture(scope="module", params=STORES)
def intact(request, tmp_path_factory, layout_of_many_chunks) -> Path:
    """A store that tests leave as it is."""
    path = tmp_path_factory.mktemp("intact") / f"{request.param}.zarr"
    preset, _, assigned = request.param.partition("-")
    write_store(path, plan_with_an_empty_block(preset, assigned=bool(assigned)), preset)
    assert len(objects_by_kind(path)["plan/block"]) == 3, "several chunks"
    assert all(Store(path).specs[name].chunks_per_object > 1 for name in Store(path).names.record[:3])
    return path


@pytest.fixture
def store(tmp_path: Path, layout_of_many_chunks) -> Path:
    """A store that a test may damage."""
    path = tmp_path / "cache.zarr"
    write_store(path, plan_with_an_empty_block("half"))
    return path


@pytest.fixture
def cells(tmp_path: Path, layout_of_many_chunks) -> Path:
    """The same of cells."""
    path = tmp_path / "cells.zarr"
    write_store(path, plan_with_an_empty_block("default"), "default")
    return path


def full_block(path: Path) -> int:
    return int(Store(path).plan.priors_per_block.argmax())


def named(findings: list[Finding]) -> list[str]:
    return [finding.object for finding in findings]


def test_an_intact_store_has_no_findings(intact: Path) -> None:
    assert all_findings(intact) == []


@pytest.mark.slow
def test_random_flips_are_found(intact: Path) -> None:
    """25 here for each codec; `make stress` makes 500."""
    flips = list(random_flips(intact, 25, seed=STORES.index(intact.stem)))
    for flip in flips:
        with flipped(intact, flip):
            findings = all_findings(intact)
            assert named(findings) == [flip.key], flip
            assert findings[0].problem
            assert "capture" in findings[0].cure
    assert len({flip.key.partition("/c/")[0] for flip in flips}) == 25, "a kind of object each"
    assert all_findings(intact) == []


@pytest.mark.parametrize("key", ["zarr.json", "documents/zarr.json", "documents/c/0/0", "committed/c/0/0"])
def test_every_bit_of_the_objects_that_hold_digests(store: Path, key: str) -> None:
    size = (store / key).stat().st_size
    step = max(1, size // 40)
    for byte in range(0, size, step):
        with flipped(store, Flip(key, byte, byte % 8)):
            assert named(verify_documents(store) or verify_block(Store(store), 0)) == [key], byte


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "last byte lost": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
}
# Nothing else in a store vouches for these.
ALONE = ("zarr.json", "documents", "committed")


def damages_of(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Damage -> (kind, key) of the objects that suffer it.

    The kinds take the damages in turn, neighbours different ones, stores different turns: every kind is damaged in
    every store, and each damage meets metadata and plan of each. What stands alone suffers all of them.
    """
    kinds = objects_by_kind(path)
    others = sorted(set(kinds) - set(ALONE), key=lambda kind: (kind.endswith("zarr.json"), kind))
    suffered = {damage: [(kind, kinds[kind]) for kind in ALONE] for damage in DAMAGE}
    for kind, damage in zip(others, islice(cycle(DAMAGE), STORES.index(path.stem), None), strict=False):
        suffered[damage].append((kind, kinds[kind]))
    return {damage: [(kind, keys[len(keys) // 2]) for kind, keys in objects] for damage, objects in suffered.items()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_lost_and_truncated_objects_are_found(intact: Path, damage: str) -> None:
    for kind, key in damages_of(intact)[damage]:
        with damaged(intact / key, DAMAGE[damage]):
            findings = all_findings(intact)
        assert named(findings) == [key]
        assert damage != "absent" or "absent" in findings[0].problem or kind == "committed", key


def test_every_kind_of_object_is_damaged_in_every_store(intact: Path) -> None:
    suffered = damages_of(intact)
    kinds = [kind for objects in suffered.values() for kind, _ in objects]
    assert set(kinds) == set(objects_by_kind(intact))
    assert {kind for kind in kinds if kinds.count(kind) > 1} == set(ALONE)
    for objects in suffered.values():
        rest = {kind for kind, _ in objects} - set(ALONE)
        documents = {kind for kind in rest if kind.endswith("zarr.json")}
        plan_chunks = {kind for kind in rest - documents if kind.startswith(("plan/", "codec/"))}
        assert documents
        assert plan_chunks


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        "plan/notes.txt",
        "plan/block/c/9",
        "plan/patch_id/c/0/1",
        "box_logits/c/3/0/0",
        "box_logits/c/007/0/0",
        "box_logits/c/0/1/0",
        "committed/c/3/0",
        "committed/c/0/0.1234.partial",
        "extra/zarr.json",
    ],
)
def test_surplus_objects_are_found(store: Path, key: str) -> None:
    (store / key).parent.mkdir(parents=True, exist_ok=True)
    (store / key).write_bytes(b"surplus")
    findings = all_findings(store)
    assert named(findings) == [key]
    assert f"Delete {store / key}" in findings[0].cure


def test_a_shard_in_an_empty_block_is_found(store: Path) -> None:
    plan = Store(store).plan
    empty, full = int(plan.priors_per_block.argmin()), full_block(store)
    key = f"weight/c/{empty}/0"
    (store / key).parent.mkdir(parents=True)
    shutil.copy(store / f"weight/c/{full}/0", store / key)
    findings = all_findings(store)
    assert named(findings) == [key]
    assert "has no rows" in findings[0].problem


def test_an_intact_object_of_another_block_is_found(store: Path) -> None:
    """Each passes its own checksum; the commit tells."""
    plan = Store(store).plan
    first, second = np.flatnonzero(plan.priors_per_block)[:2]
    shutil.copy(store / f"cls_logits/c/{first}/0/0", store / f"cls_logits/c/{second}/0/0")
    findings = all_findings(store)
    assert named(findings) == [f"committed/c/{second}/0"]
    assert "come from elsewhere" in findings[0].problem


def test_a_commit_of_zeros_is_no_commit(store: Path) -> None:
    committed = zarr.open_group(store, mode="r+")["committed"].with_config({"write_empty_chunks": True})
    committed[1] = np.zeros(32, np.uint8)
    findings = all_findings(store)
    assert named(findings) == ["committed/c/1/0"]
    assert "holds zeros: block 1 was never captured" in findings[0].problem


@pytest.mark.parametrize("preset", KINDS)
def test_following_the_cure_repairs_a_block(tmp_path: Path, preset: str) -> None:
    store = tmp_path / "cache.zarr"
    plan = write_store(store, preset=preset)
    whole = contents(store)
    block = full_block(store)
    with open(store / f"{Store(store).names.record[-1]}/c/{block}/0/0", "r+b") as file:
        file.truncate(100)
    (finding,) = all_findings(store)
    commit = store / f"committed/c/{block}/0"
    assert finding.cure == f"Delete {commit}, then capture block {block} again"
    commit.unlink()
    write_store(store, plan, preset)
    assert contents(store) == whole


def test_an_unfinished_cache_is_one_finding(tmp_path: Path) -> None:
    plan = small_plan()
    with open_writer(tmp_path / "cache.zarr", plan) as writer:
        assert "3 of 3 blocks were never captured" in all_findings(tmp_path / "cache.zarr")[0].problem
        writer.write(0, block_fields(plan, 0), NO_ERROR)
        writer.write(2, block_fields(plan, 2), NO_ERROR)
    (finding,) = all_findings(tmp_path / "cache.zarr")
    assert "block 1 of 3 was never captured" in finding.problem
    assert finding.cure == "Finish the capture"


def seal(path: Path) -> None:
    """Make the digests agree with whatever the store holds: what is wrong now was captured wrongly."""
    root = zarr.open_group(path, mode="r+")
    digests = [stored_document_digest(locate(path), key) for key in Store(path).names.documents]
    root["documents"][...] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


@pytest.mark.parametrize(
    ("array", "change", "problem"),
    [
        pytest.param("row_stop", 1, "rows but", id="row-stop"),
        pytest.param("row_start", 1, "rows but", id="row-start"),
        pytest.param("level_counts", 1, "in level_counts", id="level-counts"),
        pytest.param("label_sha256", 1, "plan.label_digest is", id="label-digest"),
        pytest.param("patch_id", 40, "not sorted", id="order"),
    ],
)
def test_a_plan_that_contradicts_itself_or_the_manifest(store: Path, array: str, change: int, problem: str) -> None:
    stored = zarr.open_group(store, mode="r+")[f"plan/{array}"].with_config({"write_empty_chunks": True})
    values = stored[...]
    values[(0,) * values.ndim] += change
    stored[...] = values
    seal(store)
    assert problem in " ".join(finding.problem for finding in verify_metadata(store))


def test_rows_that_overlap_are_found(store: Path) -> None:
    root = zarr.open_group(store, mode="r+")
    for name in ("row_start", "row_stop"):
        values = root[f"plan/{name}"][...]
        values[4:8] += 7
        root[f"plan/{name}"][...] = values
    seal(store)
    assert "do not follow" in " ".join(finding.problem for finding in verify_metadata(store))


def test_a_scale_that_is_not_the_manifests_is_found(cells: Path) -> None:
    zarr.open_group(cells, mode="r+")["coefficients"].attrs["scale_factor"] = 0.25
    seal(cells)
    (finding,) = verify_metadata(cells)
    assert str(finding).startswith("coefficients/zarr.json: stores scale_factor 0.25 but the manifest says 0.5")


@pytest.mark.parametrize("array", ["basis", "offset", "variance"])
def test_a_codec_that_is_not_the_manifests_is_found(cells: Path, array: str) -> None:
    stored = zarr.open_group(cells, mode="r+")[f"codec/{array}"]
    stored[(-1,) * stored.ndim] += 1
    seal(cells)
    (finding,) = verify_metadata(cells)
    assert finding.object == "codec"
    assert re.search(r"codec.digest is [0-9a-f]{16} in the manifest but [0-9a-f]{16} in codec/", finding.problem)


@pytest.mark.parametrize("damage", ["absent", "cut in half"])
@pytest.mark.parametrize("key", ["codec/basis/c/0/0", "codec/offset/c/0", "codec/variance/c/0"])
def test_a_lost_codec_is_found_and_nothing_is_read_with_it(cells: Path, key: str, damage: str) -> None:
    """Read as fill values it would make logits of nothing; whoever reads or continues the store is told."""
    DAMAGE[damage](cells / key)
    (finding,) = all_findings(cells)
    assert finding.object == key
    assert finding.problem == ("absent" if damage == "absent" else "its checksum fails")
    assert "Restore it from a copy" in finding.cure
    view = Store(cells).plan.view(0)
    with pytest.raises(ValueError, match=rf"{key[: key.index('/c/')]} cannot be read: .*make verify-cache"):
        CacheReader(cells).read(view.patch_id, view.draw)
    with pytest.raises(ValueError, match=rf"is damaged: {key}"):
        CacheReader(cells).require_complete()


@pytest.mark.parametrize(
    ("preset", "field", "value", "problem"),
    [
        pytest.param("half", "weight", 0, "weights outside", id="zero-weight"),
        pytest.param("half", "weight", np.nan, "weights outside", id="nan-weight"),
        pytest.param("half", "prior_index", layout.POISON_INDEX, "never written", id="poison"),
        pytest.param("half", "prior_index", 0, "does not rise", id="unsorted"),
        pytest.param("half", "cls_logits", np.nan, "values were never written", id="poisoned-classes"),
        pytest.param("half", "box_logits", np.nan, "values were never written", id="poisoned-bins"),
        pytest.param("default", "cell_weight", 0, "weights outside", id="cell-of-nothing"),
        pytest.param("default", "cell_weight", np.nan, "weights outside", id="nan-cell-weight"),
        pytest.param("default", "cell_weight", -0.5, "weights outside", id="negative-cell-weight"),
        pytest.param("default", "cell_index", layout.POISON_INDEX, "never written", id="cell-poison"),
        pytest.param("default", "cell_index", 0, "does not rise", id="unsorted-cells"),
        pytest.param("default", "coefficients", layout.POISON_CODE, "values were never written", id="poisoned-code"),
    ],
)
def test_wrong_rows_under_a_good_commit_are_found(tmp_path: Path, preset: str, field: str, value, problem: str) -> None:
    plan = plan_for(preset)
    block = int(plan.priors_per_block.argmax())
    fields = block_fields(plan, block, preset)
    fields[field][..., 5 if field == "coefficients" else slice(5, 6), *[slice(None)] * (fields[field].ndim - 1)][:] = (
        value
    )
    with open_writer(tmp_path / "cache.zarr", plan, preset) as writer:
        writer.write(block, fields, NO_ERROR)
    findings = verify_block(Store(tmp_path / "cache.zarr"), block)
    assert any(problem in finding.problem for finding in findings)
    assert set(named(findings)) == {next(key for key in named(findings) if key.startswith(f"{field}/c/{block}/"))}


@pytest.mark.parametrize("preset", KINDS)
def test_rows_on_other_levels_than_planned_are_found(tmp_path: Path, preset: str) -> None:
    """The made-up priors fall on any level, so a manifest whose grid has strides contradicts the plan."""
    plan = plan_for(preset)
    # 9,216 and 2,304 and 576 cells of two priors: all of the made-up ones lie on the first level.
    head = HEAD_SECTION | {"grid": HEAD_SECTION["grid"] | {"strides": [1, 2, 4]}}
    path = tmp_path / "cache.zarr"
    with open_writer(path, plan, preset, {"head": head}) as writer:
        write_blocks(writer, preset)
    findings = verify_block(Store(path), 1)
    assert findings
    assert all(re.search(r"\[\d+, 0, 0\] priors by level, .* planned", finding.problem) for finding in findings)


def test_the_metadata_is_checked_before_training(store: Path) -> None:
    CacheReader(store).require_complete()
    document = (store / "zarr.json").read_text()
    assert '"topk": 9' in document
    (store / "zarr.json").write_text(document.replace('"topk": 9', '"topk": 8'))
    with pytest.raises(ValueError, match=r"is damaged: zarr.json: its bytes are not those that were written"):
        CacheReader(store).require_complete()


def test_no_cache_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        verify_metadata(tmp_path / "absent.zarr")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="not a teacher cache"):
        verify_metadata(tmp_path / "notes")


@pytest.mark.parametrize("preset", ["default", "half", "exact"])
def test_statistics_of_blocks_add_up(tmp_path: Path, preset: str, layout_of_many_chunks) -> None:
    """Against the rows themselves, all at once."""
    path = tmp_path / "cache.zarr"
    plan = plan_with_an_empty_block(preset)
    with open_writer(path, plan, preset) as writer:
        for block in writer.missing_blocks():
            error = dict.fromkeys(ERROR_COLUMNS, block + 1.0)
            writer.write(block, block_fields(plan, block, preset), error)
    total = functools.reduce(operator.add, [block_statistics(Store(path), block) for block in range(plan.num_blocks)])

    assert (total.blocks, total.views, total.priors) == (plan.num_blocks, plan.num_views, plan.num_priors)
    assert total.rows == plan.rows_per_block().sum()
    np.testing.assert_array_equal(total.priors_per_level, plan.level_counts.sum(axis=0))
    assert total.block_priors == dict(enumerate(plan.priors_per_block.tolist()))
    for name in ArrayNames(cells=preset == "default", assigned=False).block:
        sizes = [file.stat().st_size for file in (path / name).rglob("c/*/**/*") if file.is_file()]
        assert sum(total.object_bytes[name].values()) == sum(sizes)
    np.testing.assert_array_equal(total.error_max, plan.num_blocks)
    weighted = (plan.priors_per_block * np.arange(1, plan.num_blocks + 1)).sum()
    np.testing.assert_allclose(total.error_sum, weighted)

    blocks = [stored_values(block_fields(plan, block, preset), preset) for block in range(plan.num_blocks)]
    for name in statistics.VALUES:
        values = np.concatenate([block[name].ravel() for block in blocks])
        np.testing.assert_allclose(total.ranges[name], [values.min(), values.max()], rtol=1e-6)
        edges = statistics.WEIGHT_EDGES if name == "weight" else statistics.FLOAT_EDGES
        np.testing.assert_array_equal(total.histograms[name], np.histogram(values, edges)[0])
    assert dict(total.outside) == dict.fromkeys(LOGIT_FIELDS, 0)


def stored_values(fields: dict[str, np.ndarray], preset: str) -> dict[str, np.ndarray]:
    """Weights and logits of a block's stored priors, as floats."""
    codec = small_codec(preset)
    if isinstance(codec, RowCodec):
        return {name: fields[name].astype(np.float32) for name in statistics.VALUES}
    weight = fields["cell_weight"]
    cls_logits, box_logits = np.split(codec.decode(fields["coefficients"])[weight > 0], [codec.head.classes], axis=1)
    return {"weight": weight[weight > 0].astype(np.float32), "cls_logits": cls_logits, "box_logits": box_logits}


def test_statistics_of_a_damaged_block_name_it(store: Path) -> None:
    block = full_block(store)
    (store / f"weight/c/{block}/0").write_bytes(b"short")
    with pytest.raises(ValueError, match=rf"block {block}: .*make verify-cache"):
        block_statistics(Store(store), block)
