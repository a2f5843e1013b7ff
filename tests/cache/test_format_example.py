"""The worked example of cache/FORMAT.md: built here, and the page's tables, bytes and code held against it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.commits import stored_block_digest
from cache.layout import ERROR_COLUMNS
from cache.plan import PlannedPatch, make_plan
from cache.reader import CacheReader
from cache.store import Store
from cache.writer import CacheWriter
from tests.cache.store_tools import HALF, contents, small_manifest, small_plan, write_store
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "cache/FORMAT.md").read_text(encoding="utf-8")
NAME = "example.zarr"
# What the letters of the page's table stand for in the example.
SIZES = {"P": 2, "W": 13, "V": 4, "L": 3, "B": 2, "R": 3, "C": 3, "D": 5, "K": 9, "E": 14, "N": 19, "r": 3, "v": 4}
SIZES |= {"p": 2, "2": 2, "32": 32}


def write_example(path: Path) -> None:
    """Two patches of 128 px, two flips, one patch a block: three rows in block 0, one in block 1."""
    digests = [bytes([number]) * 32 for number in (1, 2, 3, 4)]
    patches = [
        PlannedPatch("A__128__0___0", digests[0], digests[1], (128, 128), np.array([[1, 1, 0], [1, 0, 0]])),
        PlannedPatch("B__128__0___0", digests[2], digests[3], (128, 128), np.array([[0, 0, 0], [0, 0, 1]])),
    ]
    plan = make_plan(patches, ("none", "horizontal"), views_per_block=2)
    with CacheWriter(path, small_manifest(plan, "small"), plan, HALF) as writer:
        writer.write(0, example_rows([5, 2310, 7], [0.5, 0.25, 0.75]), np.zeros(len(ERROR_COLUMNS)))
        writer.write(1, example_rows([3000], [0.5]), np.zeros(len(ERROR_COLUMNS)))


def example_rows(prior_index: list[int], weight: list[float]) -> dict[str, np.ndarray]:
    """Codes that a reader of the page can compute: class c of row r is 40 c + 7 r; bins fall by 16 from their peak."""
    rows = np.arange(len(prior_index))
    peak = (rows[:, None] + np.arange(5)) % 9
    return {
        "prior_index": np.array(prior_index, dtype=np.uint32),
        "weight": np.array(weight, dtype=np.float16),
        "cls_logits": (40 * np.arange(3) + 7 * rows[:, None]).astype(np.uint8),
        "box_logits": (255 - 16 * np.abs(np.arange(9) - peak[..., None])).astype(np.uint8),
    }


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_example(tmp_path / NAME)
    return tmp_path / NAME


def fenced(language: str) -> list[tuple[str, str]]:
    """(rest of the opening line, text) of every fenced block of a language."""
    found = re.findall(rf"^```{language}\b ?(.*?)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found, f"FORMAT.md has no {language} block"
    return found


def table_rows(before: str) -> list[list[str]]:
    """The cells of the first table after a text, without back quotes."""
    text = PAGE.split(before, 1)[1]
    lines = re.search(r"(^\|.*\n)+", text, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_names_every_array_as_it_is(store: Path) -> None:
    assert documented_arrays(store, "## Arrays\n", SIZES) == arrays_of(store)


def test_the_optional_arrays(tmp_path: Path) -> None:
    """A store of the same shape with an assignment: five rows in the fuller block."""
    plan = small_plan(2, ("none", "horizontal"), views_per_block=2, assigned=True)
    write_store(tmp_path / NAME, plan, "small")
    rows = int(plan.assigned_per_block.max())
    assert rows > 0
    found = documented_arrays(tmp_path / NAME, "**Planned assignment**", SIZES | {"A": rows, "a": rows})
    assert found == arrays_of(tmp_path / NAME) - arrays_of_example(tmp_path / "plain.zarr")


def arrays_of_example(path: Path) -> set[str]:
    write_example(path)
    return arrays_of(path)


def arrays_of(store: Path) -> set[str]:
    group = zarr.open_group(store, mode="r")
    return {name for name, _ in group.arrays()} | {f"plan/{name}" for name, _ in group["plan"].arrays()}


def documented_arrays(store: Path, before: str, sizes: dict[str, int]) -> set[str]:
    """Names of a table's arrays, after comparing what it says of them."""
    group = zarr.open_group(store, mode="r")
    arrays = dict(group.arrays()) | {f"plan/{name}": array for name, array in group["plan"].arrays()}
    documented = set()
    for name, dimensions, dtype, chunk, fill, *_ in table_rows(before):
        array = arrays[name]
        labels, letters = zip(*(part.rsplit(" ", 1) for part in dimensions.split(", ")), strict=True)
        assert array.metadata.dimension_names == labels, name
        assert array.shape == tuple(sizes[letter] for letter in letters), name
        assert str(array.dtype) in dtype.split(" / "), name
        inner, _, shard = chunk.partition(" in ")
        assert array.chunks == tuple(1 if size == "1" else sizes[size] for size in inner.split(" × ")), name
        wanted = tuple(1 if size == "1" else sizes[size] for size in shard.split(" × ")) if shard else None
        assert array.shards == wanted, name
        assert str(array.fill_value) in fill.split(" / "), name
        documented.add(name)
    return documented


@pytest.mark.parametrize(("name", "text"), fenced("codecs"))
def test_codecs_are_those_of_the_page(store: Path, name: str, text: str) -> None:
    (shard,) = json.loads((store / name / "zarr.json").read_text())["codecs"]
    found = [
        " ".join([codec["name"], *(f"{key}={_plain(value)}" for key, value in codec.get("configuration", {}).items())])
        for codec in shard["configuration"]["codecs"]
    ]
    assert found == text.splitlines()
    assert shard["name"] == "sharding_indexed"
    assert shard["configuration"]["index_location"] == "end"
    assert [codec["name"] for codec in shard["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_the_file_list(store: Path) -> None:
    ((_, text),) = fenced("files")
    quoted = {key: int(size) for size, key in (line.split() for line in text.splitlines())}
    objects = {key: len(data) for key, data in contents(store).items()}
    assert {key: size for key, size in objects.items() if not key.endswith("zarr.json")} == quoted
    # Every array and both groups have one metadata document.
    assert sum(key.endswith("zarr.json") for key in objects) == SIZES["N"]


@pytest.mark.parametrize(("key", "text"), fenced("hex"))
def test_the_quoted_bytes(store: Path, key: str, text: str) -> None:
    position = 0
    data = contents(store)[key]
    for line in text.splitlines():
        offset, values, _ = re.split(r"  +", line, maxsplit=2)
        assert int(offset) == position, f"{key}: {line}"
        quoted = bytes.fromhex(values)
        assert data[position : position + len(quoted)] == quoted, f"{key}: {line}"
        position += len(quoted)
    assert position == len(data)


def digest_of(path: Path, block: int) -> bytes:
    store = Store(path)
    return stored_block_digest(store.location, store.names.block_keys(block))


def test_the_quoted_digests(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    for block, quoted in re.findall(r"^block (\d+)  ([0-9a-f]{64})$", PAGE, flags=re.MULTILINE):
        assert digest_of(store, int(block)).hex() == quoted
        assert np.asarray(root["committed"][int(block)]).tobytes().hex() == quoted
    assert len(re.findall(r"^block \d+  ", PAGE, flags=re.MULTILINE)) == 2


def test_the_code_of_the_page_runs(store: Path) -> None:
    """All its Python, top to bottom, in the folder of the example; what it finds is what our reader gives."""
    found: dict = {}
    for _, code in fenced("python"):
        exec(compile(code, "cache/FORMAT.md", "exec"), found)
    record = CacheReader(store).read("A__128__0___0", "horizontal")
    for name in ("zarr_logits", "xarray_logits", "tensorstore_logits"):
        np.testing.assert_allclose(found[name], record.cls_logits, atol=1e-6)
    np.testing.assert_array_equal(found["weights"], [0.5, 0.25, 0.75])
    root = zarr.open_group(store, mode="r")
    assert found["block_digest"]("example.zarr", 0).digest() == digest_of(store, 0)
    np.testing.assert_array_equal(found["documents"], root["documents"][:])


def test_an_empty_block_commits_to_lengths_of_zero(tmp_path: Path) -> None:
    patch = PlannedPatch("A__128__0___0", bytes(32), bytes(32), (128, 128), np.zeros((1, 3), dtype=np.int64))
    plan = make_plan([patch], ("none",))
    with CacheWriter(tmp_path / NAME, small_manifest(plan, "small"), plan, HALF) as writer:
        writer.write(0, example_rows([], []), np.zeros(len(ERROR_COLUMNS)))
    objects = contents(tmp_path / NAME)
    assert not any(key.startswith(("prior_index/c", "weight/c", "cls_logits/c", "box_logits/c")) for key in objects)
    error = objects["capture_error/c/0/0"]
    expected = hashlib.sha256(bytes(4 * 8) + len(error).to_bytes(8, "little") + error).digest()
    assert digest_of(tmp_path / NAME, 0) == expected


def test_measured_errors_are_named_as_on_the_page(store: Path) -> None:
    assert zarr.open_group(store, mode="r")["capture_error"].attrs["columns"] == list(ERROR_COLUMNS)
    assert all(f"`{column}`" in PAGE for column in ERROR_COLUMNS)
