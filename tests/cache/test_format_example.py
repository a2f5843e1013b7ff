"""The worked example of cache/FORMAT.md: built here, and the page's tables, bytes and code held against it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cache import layout
from cache.cells import WIDE_STEPS, Basis, CellCodec, CellRows, HeadShape
from cache.codec import BLOCK_ALLOWANCE, PRESETS, CodecRequest, RowCodec, describe_codec
from cache.commits import stored_block_digest
from cache.layout import ERROR_COLUMNS, array_specs
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.reader import CacheReader
from cache.store import Store
from cache.writer import CacheWriter
from tests.cache.store_tools import NO_ERROR, contents
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "cache/FORMAT.md").read_text(encoding="utf-8")
NAME = "example.zarr"
HEAD = {
    "kind": "example",
    "classes": ["a", "b"],
    "box_parameters": ["x"],
    "num_bins": 2,
    "grid": {"strides": [8, 16, 32], "ratios": [1.0], "scales": [4.0, 8.0]},
}
# What the letters of the page's tables stand for in the example.
SIZES = {
    "P": 2,
    "W": 13,
    "K": 2,
    "V": 4,
    "L": 3,
    "B": 2,
    "R": 3,
    "A": 2,
    "C": 2,
    "S": 2,
    "U": 8,
    "J": 7,
    "E": 14,
    "N": 24,
}
SIZES |= {"Q": 4, "p": 2, "v": 4, "r": 3, "c": 3, "q": 4, "1": 1, "2": 2, "32": 32}
# By patch and draw: the stored priors, with class logits, bin logits and weight.
PRIORS = {
    ("A", "none"): {7: ((-1, -3), (2, 0), 0.75)},
    ("A", "horizontal"): {
        4: ((90, -94), (0, 1), 0.5),
        5: ((-2, -2), (1, 0), 0.25),
        514: ((-4, -4), (0, 0), 1.0),
    },
    ("B", "none"): {},
    ("B", "horizontal"): {650: ((0, -2), (-1, 1), 0.5)},
}


def example_plan(*, as_cells: bool = True, assigned: bool = False) -> Plan:
    """Two patches of 128 px, two flips, one patch a block."""
    patches = []
    for number, name in enumerate("AB"):
        views = [np.array(list(PRIORS[name, draw]), dtype=int) for draw in ("none", "horizontal")]
        patches.append(
            PlannedPatch(
                f"{name}__128__0___0",
                bytes([2 * number + 1]) * 32,
                bytes([2 * number + 2]) * 32,
                draw_view=np.arange(2),
                view_shape=np.full((2, 2), 128),
                view_crc32c=np.array([0, 1]) + 16 * number,
                # 512 priors on the first level, 128 on the second.
                level_counts=np.array([np.histogram(view, [0, 512, 640, 672])[0] for view in views]),
                cell_counts=np.array([len(set(view // 2)) for view in views]),
                assigned_counts=np.array([3 - 2 * number, 1]) if assigned else None,
            )
        )
    return make_plan(patches, ("none", "horizontal"), views_per_block=2, as_cells=as_cells)


def example_codec() -> CellCodec:
    """Directions that are the coordinates themselves, so that every number can be found by hand."""
    shape = HeadShape.of(HEAD)
    mean = shape.reduce(np.array([[[-2, -2, 0, 0]] * 2]))[0]
    basis = Basis(shape, mean, np.eye(6), np.array([9.0, 1, 1, 1, 1, 1]))
    return CellCodec.of_basis(basis, 0.5, largest=np.array([100.0, 1, 1, 1, 1, 1]))


def example_manifest(plan: Plan, codec: CellCodec | RowCodec, preset: str) -> Manifest:
    return Manifest(
        code_version="0.1.0",
        teacher={"weights_sha256": "0" * 64},
        head=HEAD,
        views={"draws": list(plan.draws), "flip_offset": 1.0},
        preprocessing={},
        numeric={"threads": 1},
        region={"rule": "example"},
        plan=plan.describe(),
        codec=describe_codec(CodecRequest.of(preset), codec),
        assignment=None if plan.assigned_start is None else {"arrays": list(layout.ASSIGNED_FIELDS), "assigner": {}},
    )


def example_fields(patch: str) -> dict[str, np.ndarray]:
    """The block of a patch."""
    views = [PRIORS[patch, draw] for draw in ("none", "horizontal")]
    index = np.array([prior for view in views for prior in view], dtype=np.int64)
    given = [answer for view in views for answer in view.values()]
    logits = np.array([[*classes, *bins] for classes, bins, _ in given], dtype=np.float32)
    weight = np.array([weight for *_, weight in given], dtype=np.float16)
    cells = CellRows.of(index, np.array([len(view) for view in views]), priors=2)
    return {
        "cell_index": cells.cell_index.astype(np.uint32),
        "cell_weight": cells.scatter(weight),
        "coefficients": example_codec().encode(cells.scatter(logits), cells.is_stored),
    }


def write_example(path: Path) -> None:
    plan, codec = example_plan(), example_codec()
    with CacheWriter(path, example_manifest(plan, codec, "small"), plan, codec) as writer:
        for block, patch in enumerate("AB"):
            writer.write(block, example_fields(patch), NO_ERROR)


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


COMMON = ("### Plan", "### Blocks")
VARIANTS = {
    "cells": (True, False, "small", ("### Records in cells",)),
    "float16": (False, False, "half", ("### Records in rows",)),
    "float32": (False, False, "exact", ("### Records in rows",)),
    "assignment": (True, True, "small", ("### Records in cells", "### Planned assignment")),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tables_name_every_array_as_it_is(tmp_path: Path, variant: str) -> None:
    create_example(tmp_path / NAME, variant)
    arrays = arrays_of(tmp_path / NAME)
    sizes = SIZES | {"N": len(Store(tmp_path / NAME).names.documents)}
    if "prior_index" in arrays:
        sizes |= {"R": 4, "r": 4}
    tables = VARIANTS[variant][-1]
    documented = [row for table in (*COMMON, *tables) for row in table_rows(table)]
    assert sorted(row[0] for row in documented) == sorted(arrays)
    for name, *said in documented:
        require_documented(arrays[name], name, said, sizes)


def require_documented(array: Any, name: str, said: list[str], sizes: dict[str, int]) -> None:
    """What a line of a table says of an array is so."""
    dimensions, dtype, chunk, fill, *_ = said
    labels, letters = zip(*(part.rsplit(" ", 1) for part in dimensions.split(", ")), strict=True)
    assert array.metadata.dimension_names == labels, name
    assert array.shape == tuple(sizes[letter] for letter in letters), name
    assert str(array.dtype) in dtype.split(" / "), name
    inner, _, shard = chunk.partition(" in ")
    assert array.chunks == tuple(sizes[size] for size in inner.split(" × ")), name
    assert array.shards == (tuple(sizes[size] for size in shard.split(" × ")) if shard else None), name
    assert str(array.fill_value) == fill, name


def test_limits_of_chunks_are_those_of_the_page() -> None:
    for letter, size, of in (
        ("r", layout.ROWS_PER_CHUNK, "R"),
        ("c", layout.CELLS_PER_CHUNK, "R"),
        ("q", layout.ROWS_PER_CHUNK, "Q"),
        ("p", layout.VIEWS_PER_CHUNK, "P"),
        ("v", layout.VIEWS_PER_CHUNK, "V"),
    ):
        assert f"`{letter}` = min({size:,}, `{of}`)" in PAGE
    assert f"{WIDE_STEPS} steps" in PAGE


@pytest.mark.parametrize("variant", VARIANTS)
def test_codecs_are_those_of_the_page(tmp_path: Path, variant: str) -> None:
    pages = {name: text.splitlines() for names, text in fenced("codecs") for name in names.split(", ")}
    create_example(tmp_path / NAME, variant)
    for name, array in arrays_of(tmp_path / NAME).items():
        codecs = json.loads((tmp_path / NAME / name / "zarr.json").read_text())["codecs"]
        if array.shards:
            (shard,) = codecs
            assert shard["configuration"]["index_location"] == "end"
            assert [codec["name"] for codec in shard["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
            codecs = shard["configuration"]["codecs"]
        said = [
            " ".join([codec["name"], *(f"{key}={_plain(v)}" for key, v in codec.get("configuration", {}).items())])
            for codec in codecs
        ]
        # Types of one byte have no order of bytes.
        expected = pages.get(name, pages["others"])
        assert said == [line if array.dtype.itemsize > 1 else line.removesuffix(" endian=little") for line in expected]


def create_example(path: Path, variant: str) -> None:
    """A store of the example's plan without blocks."""
    as_cells, assigned, preset, _ = VARIANTS[variant]
    plan = example_plan(as_cells=as_cells, assigned=assigned)
    codec = example_codec() if as_cells else RowCodec(str(PRESETS[preset]))
    CacheWriter(path, example_manifest(plan, codec, preset), plan, codec).close()


def arrays_of(path: Path) -> dict[str, Any]:
    members = zarr.open_group(path, mode="r").members(max_depth=1)
    return {name: array for name, array in members if isinstance(array, zarr.Array)}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_presets_are_those_of_the_page() -> None:
    assert {name: value for name, _, value in table_rows("### Presets")} == {
        name: value if isinstance(value, str) else f"{value:g}" for name, value in PRESETS.items()
    }
    assert f"{BLOCK_ALLOWANCE - 1:.0%}" in PAGE.split("### Presets", 1)[1].split("###", 1)[0]


def test_the_file_list(store: Path) -> None:
    ((_, text),) = fenced("files")
    quoted = {key: int(size) for size, key in (line.split() for line in text.splitlines())}
    objects = {key: len(data) for key, data in contents(store).items()}
    assert {key: size for key, size in objects.items() if not key.endswith("zarr.json")} == quoted
    # Every array and every group has one metadata document.
    assert sum(key.endswith("zarr.json") for key in objects) == SIZES["N"]
    assert f"Beside {SIZES['N']} `zarr.json`" in " ".join(PAGE.split())


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


def test_the_quoted_basis_and_codes(store: Path) -> None:
    """Numbers of the page's two tables of the example."""
    root = zarr.open_group(store, mode="r")
    basis = [[float(cell.replace("−", "-")) for cell in row[1:]] for row in table_rows("The basis")]
    np.testing.assert_allclose(root["codec/basis"][...], basis, atol=0.005)
    offset = re.search(r"offset is \(([^)]*)\)", PAGE)[1].replace("−", "-")
    np.testing.assert_array_equal(root["codec/offset"][...], [float(value) for value in offset.split(",")])
    for view, block, rows, cells, weights, codes, *_ in table_rows("## Worked example"):
        start, stop = map(int, rows.split(" to "))
        shown = [re.sub(r"\s", "", text.replace("−", "-")) for text in (cells, weights, codes)]
        block = int(block)
        stored = root["cell_index"][block, start:stop], root["cell_weight"][block, start:stop]
        coefficients = root["coefficients"][block, :, start:stop].T
        expected = [
            "none"
            if not stop - start
            else ";".join(",".join(f"{value:g}" for value in np.atleast_1d(row)) for row in values)
            for values in (*stored, coefficients)
        ]
        assert shown == expected, view


def digest_of(path: Path, block: int) -> bytes:
    store = Store(path)
    return stored_block_digest(store.location, store.names.block_keys(block))


def test_the_quoted_digests(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    quoted = re.findall(r"^block (\d+)  ([0-9a-f]{64})$", PAGE, flags=re.MULTILINE)
    assert len(quoted) == 2
    for block, digest in quoted:
        assert digest_of(store, int(block)).hex() == digest
        assert np.asarray(root["committed"][int(block)]).tobytes().hex() == digest


def test_the_code_of_the_page_runs(store: Path) -> None:
    """All its Python, top to bottom, in the folder of the example; what it finds is what our reader gives."""
    found: dict = {}
    for _, code in fenced("python"):
        exec(compile(code, "cache/FORMAT.md", "exec"), found)
    record = CacheReader(store).read("A__128__0___0", "horizontal")
    np.testing.assert_array_equal(found["prior_index"], record.prior_index)
    np.testing.assert_array_equal(found["weight"], record.weight)
    assert record.prior_index.tolist() == [4, 5, 514]
    for name in ("zarr_logits", "xarray_logits", "tensorstore_logits"):
        logits = found["of_priors"](found[name])
        np.testing.assert_allclose(logits[:, :2], record.cls_logits, atol=1e-5)
        np.testing.assert_allclose(
            logits[:, 2:] - logits[:, 2:].max(axis=1, keepdims=True), record.box_logits[:, 0], atol=1e-5
        )
    np.testing.assert_array_equal(found["weights"], [0, 0.75, 0.5, 0.25, 1, 0])
    root = zarr.open_group(store, mode="r")
    assert found["block_digest"]("example.zarr", 0).digest() == digest_of(store, 0)
    np.testing.assert_array_equal(found["documents"], root["documents"][:])


def test_logits_are_off_by_less_than_the_page_says(store: Path) -> None:
    """Each coefficient by half a step, 0.25: a class logit by 0.25 × (0.71 + 2.83), a bin by 0.25 × 0.71."""
    reader = CacheReader(store)
    np.testing.assert_allclose(reader.codec.max_abs_error, [0.884, 0.884, 0.177, 0.177], atol=1e-3)
    for (patch, draw), priors in PRIORS.items():
        record = reader.read(f"{patch}__128__0___0", draw)
        assert record.prior_index.tolist() == list(priors)
        for row, (classes, bins, weight) in enumerate(priors.values()):
            assert np.abs(record.cls_logits[row] - classes).max() <= 0.885
            assert abs(np.diff(record.box_logits[row, 0])[0] - np.diff(bins)[0]) <= 2 * 0.178
            assert record.weight[row] == weight


def test_an_empty_block_commits_to_lengths_of_zero(tmp_path: Path) -> None:
    patch = replace_counts(example_plan())
    codec = example_codec()
    with CacheWriter(tmp_path / NAME, example_manifest(patch, codec, "small"), patch, codec) as writer:
        specs = array_specs(layout.StoreSizes.of_plan(patch), writer.manifest)
        empty = {name: np.empty(specs[name].block_shape(0), specs[name].dtype) for name in writer.names.record}
        writer.write(0, empty, NO_ERROR)
    objects = contents(tmp_path / NAME)
    assert not any(key.startswith(("cell_index/c", "cell_weight/c", "coefficients/c")) for key in objects)
    error = objects["capture_error/c/0/0"]
    expected = hashlib.sha256(bytes(3 * 8) + len(error).to_bytes(8, "little") + error).digest()
    assert digest_of(tmp_path / NAME, 0) == expected


def replace_counts(plan: Plan) -> Plan:
    """The plan with no stored prior at all."""
    empty = np.zeros_like(plan.row_start)
    return replace(plan, level_counts=np.zeros_like(plan.level_counts), row_start=empty, row_stop=empty)


def test_measured_errors_are_named_as_on_the_page(store: Path) -> None:
    assert zarr.open_group(store, mode="r")["capture_error"].attrs["columns"] == list(ERROR_COLUMNS)
    assert all(f"`{column}`" in PAGE for column in ERROR_COLUMNS)
