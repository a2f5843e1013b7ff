"""Every damaged, lost or surplus object of a store is found, and named with its cure."""

from __future__ import annotations

import functools
import operator
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import zarr
from cache.quantize import LOGIT_FIELDS, FieldCodec, choose_codecs

from cache import layout
from cache.documents import Finding, stored_document_digest, verify_documents
from cache.grid import AnchorGrid
from cache.layout import ERROR_COLUMNS, RECORD_FIELDS
from cache.plan import Plan, PlannedPatch, make_plan
from cache.reader import CacheReader
from cache.statistics import block_statistics
from cache.storage import locate
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.writer import CacheWriter
from tests.cache.fault_tools import Flip, all_findings, damaged, flipped, objects_by_kind, random_flips
from tests.cache.store_tools import (
    HALF,
    NO_ERROR,
    RANGES,
    block_fields,
    block_logits,
    contents,
    small_manifest,
    small_plan,
    write_blocks,
    write_store,
)


@pytest.fixture(scope="module")
def layout_of_many_chunks() -> Iterator[None]:
    """Chunks so small that shards and plan arrays have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS_PER_CHUNK", 200)
        patch.setattr(layout, "VIEWS_PER_CHUNK", 10)
        yield


def plan_with_an_empty_block(*, assigned: bool = False) -> Plan:
    """Three blocks, of which one has no rows, since most patches have no object."""
    patches = []
    for number in range(6):
        counts = np.full((4, 3), 0 if number > 1 else 60 + 5 * number)
        digest = bytes([number]) * 32
        # A patch without region rows may have assigned priors, and the other way round.
        planned = np.full(4, 30 * (number in (1, 2))) if assigned else None
        patches.append(PlannedPatch(f"P{number:04d}", digest, digest, (128, 128), counts, planned))
    plan = make_plan(patches, ("none", "horizontal", "vertical", "diagonal"), views_per_block=8)
    assert 0 in plan.priors_per_block.tolist()
    return plan


STORES = ("default", "exact", "assigned")


@pytest.fixture(scope="module", params=STORES)
def intact(request, tmp_path_factory, layout_of_many_chunks) -> Path:
    """A store that tests leave as it is."""
    path = tmp_path_factory.mktemp("intact") / f"{request.param}.zarr"
    is_assigned = request.param == "assigned"
    plan = plan_with_an_empty_block(assigned=is_assigned)
    write_store(path, plan, preset="default" if is_assigned else request.param)
    assert len(objects_by_kind(path)["plan/block"]) == 3, "several chunks"
    return path


@pytest.fixture
def store(tmp_path: Path, layout_of_many_chunks) -> Path:
    """A store that a test may damage."""
    path = tmp_path / "cache.zarr"
    write_store(path, plan_with_an_empty_block())
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
    every store, and each damage meets metadata, plan and blocks of each. What stands alone suffers all of them.
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
        plan_chunks = {kind for kind in rest - documents if kind.startswith("plan/")}
        assert all((documents, plan_chunks, rest - documents - plan_chunks))


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        "plan/notes.txt",
        "plan/block/c/9",
        "plan/patch_id/c/0/1",
        "box_logits/c/3/0/0/0",
        "box_logits/c/007/0/0/0",
        "box_logits/c/0/1/0/0",
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


def test_following_the_cure_repairs_a_block(store: Path) -> None:
    whole = contents(store)
    block = full_block(store)
    with open(store / f"box_logits/c/{block}/0/0/0", "r+b") as file:
        file.truncate(100)
    (finding,) = all_findings(store)
    commit = store / f"committed/c/{block}/0"
    assert finding.cure == f"Delete {commit}, then capture block {block} again"
    commit.unlink()
    plan = plan_with_an_empty_block()
    with open_writer(store, plan) as writer:
        write_blocks(writer)
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


def test_a_scale_that_is_not_the_manifests_is_found(store: Path) -> None:
    zarr.open_group(store, mode="r+")["cls_logits"].attrs["scale_factor"] = 0.5
    seal(store)
    findings = verify_metadata(store)
    assert named(findings) == ["cls_logits/zarr.json"]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        pytest.param("weight", np.float32(0), "weights outside", id="zero-weight"),
        pytest.param("weight", np.float32("nan"), "weights outside", id="nan-weight"),
        pytest.param("prior_index", np.uint32(layout.POISON_INDEX), "never written", id="poison"),
        pytest.param("prior_index", np.uint32(0), "do not rise", id="unsorted"),
    ],
)
def test_wrong_rows_under_a_good_commit_are_found(tmp_path: Path, field: str, value, problem: str) -> None:
    plan = small_plan()
    block = int(plan.priors_per_block.argmax())
    fields = block_fields(plan, block)
    fields[field][5] = value
    with open_writer(tmp_path / "cache.zarr", plan) as writer:
        writer.write(block, fields, NO_ERROR)
    findings = verify_block(Store(tmp_path / "cache.zarr"), block)
    assert any(problem in finding.problem for finding in findings)
    assert set(named(findings)) == {next(key for key in named(findings) if key.startswith(f"{field}/c/{block}/"))}


def test_rows_on_other_levels_than_planned_are_found(tmp_path: Path) -> None:
    """The made-up priors fall on any level, so a manifest with a grid contradicts the plan."""
    plan = small_plan()
    grid = AnchorGrid.retina(128, 128, strides=(8, 16, 32)).to_json()
    head = small_manifest(plan).head | {"grid": {key: grid[key] for key in ("strides", "ratios", "scales")}}
    path = tmp_path / "cache.zarr"
    with CacheWriter(path, small_manifest(plan, head=head), plan, HALF) as writer:
        write_blocks(writer)
    findings = verify_block(Store(path), 1)
    assert findings
    assert all("rows by level" in finding.problem for finding in findings)


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
    plan = plan_with_an_empty_block()
    with CacheWriter(path, small_manifest(plan, preset), plan, HALF) as writer:
        for block in writer.missing_blocks():
            writer.write(block, block_fields(plan, block, preset), np.full(len(ERROR_COLUMNS), block + 1.0))
    total = functools.reduce(operator.add, [block_statistics(Store(path), block) for block in range(plan.num_blocks)])

    assert (total.blocks, total.views, total.rows) == (plan.num_blocks, plan.num_views, plan.num_priors)
    np.testing.assert_array_equal(total.priors_per_level, plan.level_counts.sum(axis=0))
    assert total.block_priors == dict(enumerate(plan.priors_per_block.tolist()))
    for name in layout.ArrayNames(False).block:
        sizes = [file.stat().st_size for file in (path / name).rglob("c/*/**/*") if file.is_file()]
        assert sum(total.object_bytes[name].values()) == sum(sizes)
    np.testing.assert_array_equal(total.error_max, plan.num_blocks)
    weighted = (plan.priors_per_block * np.arange(1, plan.num_blocks + 1)).sum()
    np.testing.assert_allclose(total.error_sum, weighted)

    rows = [block_logits(plan, block) for block in range(plan.num_blocks)]
    codecs = choose_codecs(preset, RANGES)
    for name in RECORD_FIELDS:
        values = np.concatenate([block[name].ravel() for block in rows])
        bound = codecs[name].max_abs_error(14) if name in codecs else 0
        np.testing.assert_allclose(total.ranges[name], [values.min(), values.max()], atol=bound)
    for name in LOGIT_FIELDS:
        assert total.histograms[name].sum() == plan.num_priors * int(np.prod(rows[0][name].shape[1:]))
        assert total.outside[name] == 0
    assert total.histograms["weight"].sum() == plan.num_priors


def test_the_histogram_counts_codes(store: Path) -> None:
    block = full_block(store)
    codec: FieldCodec = choose_codecs("default", RANGES)["box_logits"]
    codes = codec.encode(block_logits(plan_with_an_empty_block(), block)["box_logits"]).astype(int)
    counts = block_statistics(Store(store), block).histograms["box_logits"]
    np.testing.assert_array_equal(counts, np.bincount(codes.ravel(), minlength=codec.largest_code + 1))


def test_statistics_of_a_damaged_block_name_it(store: Path) -> None:
    block = full_block(store)
    (store / f"weight/c/{block}/0").write_bytes(b"short")
    with pytest.raises(ValueError, match=rf"block {block}: .*make verify-cache"):
        block_statistics(Store(store), block)
