"""Stores made to harm their reader: each is refused with a reason, and no memory is taken for what it claims.

The stores are made here; one child process under an address limit opens, reads and verifies all of them, and measures
the memory that each has cost it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import pytest
import zarr

from cache import trust
from cache.commits import block_digest
from cache.documents import stored_document_digest
from cache.layout import CELLS_PER_CHUNK, ROWS_PER_CHUNK, ArrayNames, largest_encoded, object_key
from cache.plan import make_plan
from cache.reader import CacheReader
from cache.statistics import block_statistics
from cache.storage import locate
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.view import FLIPS
from tests.cache.store_tools import KINDS, NO_ERROR, block_fields, open_writer, planned_patch, write_store
from tests.conftest import REPOSITORY

# TensorStore's threads reserve about 0.5 GB of it.
ADDRESS_LIMIT = 2 << 30
# What a child may take on top of what it has: TensorStore and zarr themselves take a few MB at first use.
ALLOWED_GROWTH = 96 << 20
NAMES = {preset: ArrayNames(cells=preset == "default", assigned=False) for preset in KINDS}
HUGE = 10**15

# Events of the interpreter that say that something is run.
RUNS = {
    "pickle.find_class",
    "marshal.loads",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "ctypes.dlopen",
}
# No store but memory that is really taken.
CONTROL = "control"
# What only a check finds: a reader would have to look at every code.
NOTHING = "nothing"

Edit = Callable[[Path], None]


class Hostile(NamedTuple):
    """What is done to a good store, what its reader says then, and what a check of it says (where that differs).

    preset: of the good store.
    """

    edit: Edit
    read: str
    verify: str | None = None
    preset: str = "half"


def of_cells(edit: Edit, read: str, verify: str | None = None) -> Hostile:
    return Hostile(edit, read, verify, "default")


def change_document(key: str, change: Callable[[dict[str, Any]], None]) -> Edit:
    def edit(store: Path) -> None:
        document = json.loads((store / key).read_text())
        change(document)
        (store / key).write_text(json.dumps(document))

    return edit


def manifest(**values: Any) -> Edit:
    """Set fields of the manifest: section__field=value."""

    def change(document: dict[str, Any]) -> None:
        for name, value in values.items():
            *sections, field = name.split("__")
            place = document["attributes"]
            for section in sections:
                place = place[section]
            place[field] = value

    return change_document("zarr.json", change)


def metadata(array: str, **fields: Any) -> Edit:
    return change_document(f"{array}/zarr.json", lambda document: document.update(fields))


def rows_of_all(rows: int, preset: str = "half") -> Edit:
    """The same rows in every array of a block, as a layout of that size would have them."""
    axes = {"coefficients": 2}

    def edit(store: Path) -> None:
        for name in NAMES[preset].record:

            def change(document: dict[str, Any], axis: int = axes.get(name, 1)) -> None:
                document["shape"][axis] = document["chunk_grid"]["configuration"]["chunk_shape"][axis] = rows
                chunk = CELLS_PER_CHUNK if preset == "default" else ROWS_PER_CHUNK
                document["codecs"][0]["configuration"]["chunk_shape"][axis] = chunk

            change_document(f"{name}/zarr.json", change)(store)

    return edit


def rows_of_one_view(rows: int, preset: str = "half") -> Edit:
    """One view has all of them."""

    def edit(store: Path) -> None:
        rows_of_all(rows, preset)(store)
        plan = zarr.open_group(store, mode="r+")["plan"]
        plan["row_stop"][7], plan["row_start"][7] = rows, 0

    return edit


def views_of_all(views: int) -> Edit:
    """As many views and patches, everywhere."""

    def edit(store: Path) -> None:
        manifest(plan__num_views=views, plan__num_patches=views)(store)
        for name in NAMES["half"].plan:

            def change(document: dict[str, Any]) -> None:
                document["shape"][0] = views
                document["chunk_grid"]["configuration"]["chunk_shape"][0] = 65536

            change_document(f"plan/{name}/zarr.json", change)(store)

    return edit


def codecs(array: str, *added: Any, inner: bool = False) -> Edit:
    def change(document: dict[str, Any]) -> None:
        target = document["codecs"][0]["configuration"]["codecs"] if inner else document["codecs"]
        target[:0] = added

    return change_document(f"{array}/zarr.json", change)


def nested(key: str, depth: int) -> Edit:
    """JSON that is well formed and as deep."""

    def edit(store: Path) -> None:
        text = (store / key).read_text()
        head, brace, tail = text.partition("{")
        (store / key).write_text(f'{head}{brace}"deep": {"[" * depth}{"]" * depth}, {tail}')

    return edit


def sparse(key: str, size: int) -> Edit:
    """A file of holes, which takes no disk."""
    return lambda store: os.truncate(store / key, size)


def content(key: str, data: bytes) -> Edit:
    def edit(store: Path) -> None:
        assert (store / key).is_file()
        (store / key).write_bytes(data)

    return edit


def block_values(array: str, position: Any, value: float) -> Edit:
    """Values of the first block with rows."""

    def edit(store: Path) -> None:
        opened = zarr.open_group(store, mode="r+")[array].with_config({"write_empty_chunks": True})
        opened[(1, *position)] = value

    return edit


def plan_values(array: str, position: int | tuple[int, ...], value: int) -> Edit:
    def edit(store: Path) -> None:
        zarr.open_group(store, mode="r+")[array if "/" in array else f"plan/{array}"][position] = value

    return edit


def patch_id(text: bytes) -> Edit:
    """The first id, which has 21 bytes, replaced."""
    assert len(text) <= 21
    padded = np.frombuffer(text.ljust(21, b"\0"), np.uint8)

    def edit(store: Path) -> None:
        zarr.open_group(store, mode="r+")["plan/patch_id"][0] = padded

    return edit


def moved_and_linked(key: str) -> Edit:
    """The object, or a folder above it, lies elsewhere and a link points there."""

    def edit(store: Path) -> None:
        elsewhere = store.with_suffix(".elsewhere")
        shutil.move(store / key, elsewhere)
        (store / key).symlink_to(elsewhere)

    return edit


def pipe(key: str) -> Edit:
    def edit(store: Path) -> None:
        (store / key).unlink()
        os.mkfifo(store / key)

    return edit


def checked(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


def zstd_bomb(*, declared: int | None, blocks: int = 40_000) -> bytes:
    """A frame of 4 bytes for every 128 KiB of zeros: 5 GB."""
    head = trust.ZSTD_MAGIC + (b"\0\x58" if declared is None else b"\xc0\x58" + struct.pack("<Q", declared))
    block = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (131072 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return checked(head + block * (blocks - 1) + last)


def blosc_bomb() -> bytes:
    """1.9 GB of zeros: blosc ends at 2 GB."""
    return checked(numcodecs.blosc.compress(np.zeros(1900 << 20, np.uint8), b"zstd", 5, 1))


def shard(chunk: bytes, *, offset: int = 0, size: int | None = None) -> bytes:
    """A shard of one chunk, its index possibly a lie."""
    return chunk + checked(struct.pack("<QQ", offset, len(chunk) if size is None else size))


PATCH_ID = r"patch id .* cannot name a file"
CASES: dict[str, Hostile] = {
    # Documents.
    "root-of-10-GB": Hostile(sparse("zarr.json", 10**10), "zarr.json has 10,000,000,000 bytes; at most 4,194,304"),
    "array-document-of-10-GB": Hostile(sparse("weight/zarr.json", 10**10), "weight/zarr.json has 10,000,000,000 bytes"),
    "root-nested-100000": Hostile(nested("zarr.json", 10**5), "zarr.json is not readable JSON"),
    "root-nested-500": Hostile(nested("zarr.json", 500), "zarr.json is nested 501 deep, at most 32"),
    "array-nested-100000": Hostile(nested("box_logits/zarr.json", 10**5), "box_logits/zarr.json is not readable JSON"),
    "array-nested-500": Hostile(nested("box_logits/zarr.json", 500), "box_logits/zarr.json is nested 501 deep"),
    "root-is-a-list": Hostile(content("zarr.json", b"[1, 2]"), r"zarr.json is not a JSON object but \[1, 2\]"),
    "root-is-no-text": Hostile(content("zarr.json", b"\xff\xfe\0"), "zarr.json is not readable JSON"),
    "array-is-a-pickle": Hostile(content("weight/zarr.json", b"\x80\x04N."), "weight/zarr.json is not readable JSON"),
    "consolidated": Hostile(
        change_document("zarr.json", lambda document: document.update(consolidated_metadata={"metadata": {}})),
        "zarr.json holds consolidated metadata",
    ),
    # Manifest.
    "no-plan": Hostile(manifest(plan=None), "plan is null, an object needed"),
    "views-negative": Hostile(manifest(plan__num_views=-4), "plan.num_views is -4"),
    "views-true": Hostile(manifest(plan__num_views=True), "plan.num_views is true"),
    "views-fraction": Hostile(manifest(plan__num_views=24.5), r"plan.num_views is 24\.5"),
    "views-huge": Hostile(manifest(plan__num_views=10**300), "plan.num_views is 1000"),
    "more-blocks-than-patches": Hostile(
        manifest(plan__num_blocks=7), "plan.num_blocks is 7, a whole number from 1 to 6"
    ),
    "blocks-not-those-of-the-arrays": Hostile(manifest(plan__num_blocks=4), r"shape\[0\] is 3, 4 needed"),
    "bins-huge": Hostile(manifest(head__num_bins=10**12), "head.num_bins is 1000000000000"),
    "classes-no-list": Hostile(manifest(head__classes={"a": 1}), "head.classes is .*, a list of names needed"),
    "classes-100000": Hostile(manifest(head__classes=["a"] * 100_000), "number of head.classes is 100000"),
    "draws-of-another-kind": Hostile(manifest(views__draws=["none", "../x"]), "views.draws is"),
    "draws-twice": Hostile(manifest(views__draws=["none"] * 4), "views.draws is .*, or names of none, .*, each once"),
    "draws-100000": Hostile(manifest(views__draws=["none", *["vertical"] * 100_000]), "views.draws is"),
    "draws-of-lists": Hostile(manifest(views__draws=[["none"], {}]), "views.draws is"),
    "draws-beyond-number": Hostile(manifest(views__draws=2**31), "views.draws is 2147483648, a whole number"),
    "draws-below-one": Hostile(manifest(views__draws=0), "views.draws is 0, a whole number from 1"),
    "dtype-no-float": Hostile(manifest(codec__dtype="object"), 'codec.dtype is "object", one of float32, float16'),
    "preset-unknown": Hostile(manifest(codec__preset="tiny"), 'codec.preset is "tiny", one of exact, half, default'),
    "preset-no-text": Hostile(manifest(codec__preset=["exact"]), r'codec.preset is \["exact"\]'),
    "stored-unknown": Hostile(manifest(codec__stored="pickles"), 'codec.stored is "pickles", rows or cells needed'),
    "rows-that-say-cells": Hostile(
        manifest(
            codec={
                "preset": "default",
                "kl": 1e-5,
                "stored": "cells",
                "step": 1,
                "wide_columns": 0,
                "columns": 86,
                "digest": "",
            }
        ),
        "codec/zarr.json is absent",
        "zarr.json: its bytes are not those|codec/zarr.json is absent",
    ),
    "cells-that-say-rows": of_cells(
        manifest(codec={"preset": "half", "kl": None, "stored": "rows", "dtype": "float16"}),
        "prior_index/zarr.json is absent",
        "documents/c/0/0|prior_index/zarr.json is absent",
    ),
    **{
        f"step-{name}": of_cells(
            manifest(codec__step=value), "codec.step and codec.kl is .*, two numbers above 0 needed"
        )
        for name, value in {"text": "1", "zero": 0, "negative": -1.0, "nan": float("nan"), "huge": 1e300}.items()
    },
    **{
        f"kl-{name}": of_cells(manifest(codec__kl=value), "codec.step and codec.kl is .*, two numbers above 0 needed")
        for name, value in {"absent": None, "zero": 0, "negative": -1e-5, "nan": float("nan"), "true": True}.items()
    },
    **{
        f"wide-columns-{name}": of_cells(manifest(codec__wide_columns=value), "codec.wide_columns is")
        for name, value in {"negative": -1, "true": True, "more-than-there-are": 87, "fraction": 1.5}.items()
    },
    **{
        f"columns-{name}": of_cells(
            manifest(codec__columns=value), "codec.columns is .*, a whole number from 139 to 139"
        )
        for name, value in {"fewer": 138, "more": 140, "huge": HUGE, "text": "139"}.items()
    },
    "wide-columns-fewer": of_cells(
        manifest(codec__wide_columns=0), "codec.columns is 139, a whole number from 86 to 86"
    ),
    "codec-of-another-digest": of_cells(manifest(codec__digest="0" * 64), "codec.digest is 0{16} in the manifest but"),
    "codec-digest-no-text": of_cells(manifest(codec__digest=7), "codec.digest is 7, a text needed"),
    "bins-of-another-number": of_cells(manifest(head__num_bins=[9] * 4), "head.num_bins is .*, a number for every box"),
    "bins-zero": of_cells(manifest(head__num_bins=[9, 9, 9, 9, 0]), "head.num_bins is 0"),
    "bins-no-number": of_cells(manifest(head__num_bins=[9, 9, 9, 9, "9"]), 'head.num_bins is "9"'),
    "bins-nested": of_cells(manifest(head__num_bins=[[9]] * 5), r"head.num_bins is \[9\]"),
    "bins-that-sum-up": of_cells(
        manifest(head__num_bins=[4096] * 5), "the basis of a cell would take .* bytes, at most 67,108,864 allowed"
    ),
    "priors-4096": of_cells(
        manifest(head__grid={"ratios": [1] * 64, "scales": [1] * 64}), "the basis of a cell would take .* bytes"
    ),
    "stride-zero": Hostile(manifest(head__grid={"strides": [0], "ratios": [1], "scales": [1]}), "head.grid.strides is"),
    "strides-100000": Hostile(manifest(head__grid={"strides": [8] * 100_000}), "head.grid.strides is"),
    "grid-no-object": Hostile(manifest(head__grid="retina"), "head.grid is .retina., an object needed"),
    "ratio-infinite": Hostile(manifest(head__grid={"ratios": [float("inf")]}), "head.grid.ratios is"),
    "bins-of-text": Hostile(manifest(head__bin_ranges=["0:9"] * 5), "head.bin_ranges is"),
    "teacher-without-a-digest": Hostile(
        manifest(teacher={"model": {}}), "teacher.weights_sha256 is null, a text needed"
    ),
    "manifest-steers-the-terminal": Hostile(
        manifest(teacher__weights_sha256="\x1b[2Jgood"), "holds control characters: '.x1b"
    ),
    "manifest-key-steers-the-terminal": Hostile(manifest(**{"region__\x9b2J": 1}), "holds control characters: '.x9b"),
    "manifest-right-to-left": Hostile(manifest(teacher__model={"a": ["\u202e"]}), "holds control characters: '.u202e"),
    # Metadata of arrays.
    "rows-huge": Hostile(rows_of_all(HUGE // 4096 * 4096), "prior_index: shape is .*, two sizes with a second"),
    "rows-of-a-block-of-100-GB": Hostile(
        rows_of_all(2**28), "a block of box_logits would take .* bytes, at most 4,294,967,296"
    ),
    "rows-of-one-array": Hostile(
        change_document("weight/zarr.json", lambda document: document["shape"].__setitem__(1, HUGE)),
        r"weight: shape\[1\] is 1000000000000000",
    ),
    "views-10-to-15": Hostile(views_of_all(HUGE), "the plan would take .* bytes, at most 1,073,741,824 allowed"),
    "record-of-800-MB": Hostile(
        rows_of_one_view(2**23), "a view of 8,388,608 rows would take .* bytes, at most 536,870,912 allowed"
    ),
    "record-of-800-MB-of-floats": of_cells(
        rows_of_one_view(2**21, "default"), "a decoded view would take 805,306,368 bytes, at most 536,870,912 allowed"
    ),
    "levels-huge": Hostile(metadata("plan/level_counts", shape=[24, HUGE]), "plan/level_counts: shape is"),
    "id-width-huge": Hostile(metadata("plan/patch_id", shape=[6, HUGE]), "plan/patch_id: shape is"),
    "chunk-of-100-TB": Hostile(
        metadata("weight", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 5 * 10**13]}}),
        "weight: chunk_grid",
    ),
    "rectilinear-chunks": Hostile(
        metadata(
            "weight",
            chunk_grid={
                "name": "rectilinear",
                "configuration": {"kind": "inline", "chunk_shapes": [[[1, 10**12]], [[1, 10**12]]]},
            },
        ),
        "weight: chunk_grid",
    ),
    "shape-no-list": Hostile(metadata("prior_index", shape={"0": 1}), "prior_index: shape is"),
    "shape-true": Hostile(metadata("prior_index", shape=[3, True]), "prior_index: shape"),
    "dtype-wider": Hostile(metadata("prior_index", data_type="uint64"), 'prior_index: data_type is "uint64"'),
    "dtype-text": Hostile(metadata("plan/patch_id", data_type="string"), 'plan/patch_id: data_type is "string"'),
    "dtype-bytes": Hostile(metadata("weight", data_type="variable_length_bytes"), "weight: data_type"),
    "dtype-object": Hostile(
        metadata("weight", data_type={"name": "object", "configuration": {"object_codec_id": "pickle"}}),
        "weight: data_type",
    ),
    "dtype-long": Hostile(
        metadata("weight", data_type={"name": "null_terminated_bytes", "configuration": {"length_bytes": HUGE}}),
        "weight: data_type",
    ),
    "codec-pickle": Hostile(codecs("plan/block", {"name": "numcodecs.pickle"}), "plan/block: codecs"),
    "codec-vlen": Hostile(codecs("plan/patch_id", {"name": "vlen-utf8"}), "plan/patch_id: codecs"),
    "codec-gzip-in-a-shard": Hostile(codecs("box_logits", {"name": "gzip"}, inner=True), "box_logits: codecs"),
    "codec-no-list": Hostile(metadata("weight", codecs={"name": "bytes"}), "weight: codecs"),
    "storage-transformer": Hostile(metadata("weight", storage_transformers=[{"name": "x"}]), "storage_transformers"),
    "fill-value-of-zeros": Hostile(metadata("prior_index", fill_value=0), "prior_index: fill_value is 0, 4294967295"),
    "keys-of-another-kind": Hostile(
        metadata("weight", chunk_key_encoding={"name": "default", "configuration": {"separator": "/../../"}}),
        "weight: chunk_key_encoding",
    ),
    "no-such-array": Hostile(lambda store: shutil.rmtree(store / "weight"), "weight/zarr.json is absent", "absent"),
    # Values of the plan.
    "row-start-above-stop": Hostile(plan_values("row_start", 7, 10**9), "plan/row_stop of view 7 is"),
    "row-stop-outside": Hostile(plan_values("row_stop", 7, 2**32 - 1), "plan/row_stop is 4294967295, below"),
    "rows-that-no-level-has": Hostile(plan_values("row_stop", 7, 500), "rows but .* in level_counts"),
    "level-counts-overflow": Hostile(
        plan_values("level_counts", 7, 2**32 - 1), "12,884,901,885 priors in level_counts"
    ),
    "block-outside": Hostile(plan_values("block", 7, 2**32 - 1), "plan/block is 4294967295, below 3 needed"),
    "patch-outside": Hostile(plan_values("view_patch", 23, 4000), "plan/view_patch is 4000, below 6 needed"),
    "patches-unsorted": Hostile(plan_values("view_patch", 23, 0), "plan/view_patch does not rise"),
    "draw-outside": Hostile(plan_values("view_draw", 7, 4), "plan/view_draw is 4, below 4 needed"),
    "draw-of-another-view": Hostile(plan_values("view_draw", 7, 2), "plan/view_draw names a draw that makes another"),
    "view-outside": Hostile(plan_values("draw_view", (3, 1), 2**32 - 1), "plan/draw_view is 4294967295, below 24"),
    "view-of-another-patch": Hostile(
        plan_values("draw_view", (3, 1), 3), "plan/draw_view names a view of another patch"
    ),
    "view-without-draw": Hostile(
        plan_values("draw_view", (3, 1), 12), "plan/view_draw names a draw that makes another"
    ),
    "cells-of-more-priors-than-they-have": of_cells(
        plan_values("level_counts", 7, 1000), "rows but 3,000 priors in level_counts"
    ),
    "cells-of-fewer-priors": of_cells(
        plan_values("level_counts", (7, slice(None)), 0), "rows but 0 priors in level_counts"
    ),
    "view-side": Hostile(plan_values("view_shape", (0, 1), 2**32 - 1), "plan/view_shape is 4294967295"),
    "id-climbs": Hostile(patch_id(b"../../../etc/passwd"), PATCH_ID),
    "id-absolute": Hostile(patch_id(b"/etc/passwd"), PATCH_ID),
    "id-windows": Hostile(patch_id(b"C:\\x"), PATCH_ID),
    "id-parent": Hostile(patch_id(b".."), PATCH_ID),
    "id-empty": Hostile(patch_id(b""), PATCH_ID),
    "id-nul": Hostile(patch_id(b"a\0b"), PATCH_ID),
    "id-newline": Hostile(patch_id(b"a\nerror: none"), PATCH_ID),
    "id-escape": Hostile(patch_id(b"\x1b[2Ja"), PATCH_ID),
    "id-right-to-left": Hostile(patch_id("a\u202egnp".encode()), PATCH_ID),
    "id-no-text": Hostile(patch_id(b"\xff\xfe"), "plan/patch_id is not UTF-8"),
    # Chunks that grow.
    "plan-bomb-declared": Hostile(
        content("plan/block/c/0", zstd_bomb(declared=131072 * 40_000)), "plan/block/c/0 has .* bytes; at most"
    ),
    "plan-small-bomb": Hostile(
        content("plan/block/c/0", zstd_bomb(declared=None, blocks=20)),
        "a compressed chunk does not say how large it is",
    ),
    "plan-claims-1-PB": Hostile(
        content("plan/block/c/0", zstd_bomb(declared=HUGE, blocks=1)), "says that it holds 1,000,000,000,000,000 bytes"
    ),
    "commit-claims-1-PB": Hostile(
        content("committed/c/0/0", zstd_bomb(declared=HUGE, blocks=1)), "says that it holds 1,?000,?000,?000"
    ),
    "zstd-bomb-in-a-shard": Hostile(
        content("weight/c/0/0", shard(zstd_bomb(declared=None, blocks=300))), "End of data expected|does not say"
    ),
    "blosc-bomb-in-a-shard": Hostile(
        content("prior_index/c/0/0", shard(blosc_bomb())), "prior_index/c/0/0:? has .* bytes; at most"
    ),
    "blosc-claims-2-GB": Hostile(
        content(
            "prior_index/c/0/0", shard(checked(b"\2\1\x21\4" + struct.pack("<III", 2**31 - 17, 2**20, 32) + b"x" * 16))
        ),
        "says that it holds 2,147,483,631 bytes",
    ),
    "shard-index-outside": Hostile(
        content("prior_index/c/0/0", shard(b"x" * 40, offset=2**62, size=2**61)), "the index of its chunks points to"
    ),
    "shard-index-wraps": Hostile(
        content("prior_index/c/0/0", shard(b"x" * 40, offset=2**64 - 8, size=16)), "the index of its chunks points to"
    ),
    "shard-too-short": Hostile(content("prior_index/c/0/0", b"x"), "1 bytes hold no index of its chunks"),
    # The basis, and records of cells.
    "basis-nan": of_cells(
        plan_values("codec/basis", (3, 4), float("nan")), "codec/basis holds values that are no numbers"
    ),
    "offset-infinite": of_cells(plan_values("codec/offset", 4, float("inf")), "codec/offset holds values that are no"),
    "basis-of-another": of_cells(
        plan_values("codec/basis", (3, 4), 1), "codec.digest is .* in the manifest but .* in codec/"
    ),
    "basis-huge": of_cells(metadata("codec/basis", shape=[HUGE, 96]), r"codec/basis: shape\[0\] is 1000000000000000"),
    "basis-bomb": of_cells(
        content("codec/basis/c/0/0", zstd_bomb(declared=None, blocks=20)), "chunk does not say how large it is"
    ),
    "basis-claims-1-PB": of_cells(
        content("codec/basis/c/0/0", zstd_bomb(declared=HUGE, blocks=1)),
        "says that it holds 1,000,000,000,000,000 bytes",
    ),
    "basis-of-1-TB": of_cells(sparse("codec/basis/c/0/0", 10**12), "codec/basis/c/0/0 has 1,000,000,000,000 bytes"),
    "linked-basis": of_cells(
        moved_and_linked("codec/basis/c"), "codec/basis/c is a symbolic link", "symbolic link|absent"
    ),
    "no-such-codec": of_cells(
        lambda store: shutil.rmtree(store / "codec"), "codec/zarr.json is absent", "codec/.*absent"
    ),
    "codes-as-int16": of_cells(metadata("coefficients", data_type="int16"), 'coefficients: data_type is "int16"'),
    "codes-filled-with-zeros": of_cells(metadata("coefficients", fill_value=0), "coefficients: fill_value is 0, -128"),
    "codes-of-more-columns": of_cells(
        change_document("coefficients/zarr.json", lambda document: document["shape"].__setitem__(1, HUGE)),
        r"coefficients: shape\[1\] is 1000000000000000, 139 needed",
    ),
    "codes-never-written": of_cells(
        block_values("coefficients", (slice(None), 0), -128),
        NOTHING,
        "coefficients/c/1/0/0: 139 values were never written",
    ),
    "cells-of-nothing": of_cells(block_values("cell_weight", (0,), 0), "the record is damaged", "weights outside"),
    "cell-weight-nan": of_cells(
        block_values("cell_weight", (0, 1), float("nan")), "the record is damaged", "weights outside"
    ),
    "cell-weight-negative": of_cells(
        block_values("cell_weight", (0, 0), -1), "the record is damaged", "weights outside"
    ),
    "cell-weight-of-a-prior-that-is-not-planned": of_cells(
        block_values("cell_weight", (slice(0, 8),), 0.5),
        "the record is damaged",
        r"cell_weight/c/1/0/0: view .*: \d+ priors, \d+ planned",
    ),
    "cells-unsorted": of_cells(block_values("cell_index", (1,), 0), "the record is damaged", "does not rise"),
    "cells-never-written": of_cells(
        block_values("cell_index", (0,), 2**32 - 1), "the record is damaged", "rows were never written"
    ),
    # Files that are none.
    "shard-of-1-TB": Hostile(sparse("box_logits/c/0/0/0", 10**12), "box_logits/c/0/0/0:? has 1,000,000,000,000 bytes"),
    "plan-chunk-of-1-TB": Hostile(sparse("plan/block/c/0", 10**12), "plan/block/c/0 has 1,000,000,000,000 bytes"),
    "linked-document": Hostile(moved_and_linked("weight/zarr.json"), "weight/zarr.json is a symbolic link"),
    "linked-array": Hostile(moved_and_linked("weight"), "weight is a symbolic link"),
    "linked-chunks": Hostile(
        moved_and_linked("plan/block/c"), "plan/block/c is a symbolic link", "symbolic link|absent"
    ),
    "linked-shard": Hostile(moved_and_linked("weight/c/0/0"), "weight/c/0/0 is a symbolic link"),
    "linked-block": Hostile(moved_and_linked("weight/c/0"), "weight/c/0 is a symbolic link"),
    "linked-commit": Hostile(moved_and_linked("committed/c/0/0"), "committed/c/0/0 is a symbolic link"),
    "endless-shard": Hostile(pipe("weight/c/0/0"), "weight/c/0/0:? is not a plain file"),
    "endless-plan": Hostile(pipe("plan/block/c/0"), "plan/block/c/0 is not a plain file", "not a plain file|absent"),
    "endless-document": Hostile(pipe("weight/zarr.json"), "weight/zarr.json is not a plain", "not a plain file|absent"),
}


def seal(store: Path, names: ArrayNames) -> None:
    """Make commits and documents agree with what the store holds, as far as they can be read: whoever changes a store
    changes its digests."""
    for commit in (store / "committed/c").glob("*/0"):
        files = [store / object_key(name, int(commit.parent.name)) for name in names.block]
        if commit.is_symlink() or any(not file.is_file() or file.stat().st_size > 2**24 for file in files):
            continue
        if int.from_bytes(commit.read_bytes()[:4], "little") and commit.stat().st_size == 45:
            write_chunk(commit, block_digest(file.read_bytes() for file in files))
    digests = []
    for key in names.documents:
        try:
            digests.append(stored_document_digest(locate(store), key))
        except (ValueError, OSError):
            digests.append(bytes(32))
    write_chunk(store / "documents/c/0/0", b"".join(digests))


def write_chunk(file: Path, data: bytes) -> None:
    file.write_bytes(checked(numcodecs.zstd.compress(data, 5)))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What one child under the address limit says of every store, and the memory that it has cost."""
    folder = tmp_path_factory.mktemp("hostile")
    for preset in KINDS:
        write_store(folder / preset, preset=preset)
    for name, case in CASES.items():
        shutil.copytree(folder / case.preset, folder / name)
        case.edit(folder / name)
        seal(folder / name, NAMES[case.preset])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.cache.test_hostile", str(folder), *KINDS, CONTROL, *CASES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("preset", KINDS)
def test_a_good_store_is_read_and_verified(outcomes, preset: str) -> None:
    assert outcomes[preset]["read"] == "nothing"
    assert outcomes[preset]["verify"] == "nothing"


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_store_is_refused_and_does_no_harm(outcomes, name: str) -> None:
    case, outcome = CASES[name], outcomes[name]
    for what, message in (("read", case.read), ("verify", case.verify or case.read)):
        if message == NOTHING:
            assert outcome[what] == "nothing"
            continue
        kind, _, text = outcome[what].partition(": ")
        # Findings are no errors; whatever is raised is an error for users.
        assert kind in ("ValueError", "findings"), outcome[what][:400]
        assert re.search(message, text), f"{what}: {text[:400]}"
    # Unpickling, starting processes and loading libraries are seen by the interpreter's audit.
    assert outcome["audit"] == []
    assert outcome["growth"] < ALLOWED_GROWTH


def test_what_no_store_may_do_is_seen(outcomes) -> None:
    """Else the test above would prove nothing."""
    assert outcomes[CONTROL]["growth"] > ALLOWED_GROWTH
    assert outcomes[CONTROL]["audit"] == ["pickle.find_class"]


@pytest.mark.parametrize("key", ["box_logits/c/1", "box_logits/c", "committed/c/1/0"])
def test_a_capture_does_not_write_through_links(tmp_path: Path, key: str) -> None:
    """A resumed capture removes `*.partial` files of its blocks, and replaces their objects."""
    store, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    plan = write_store(store)
    (store / "committed/c/1/0").unlink()
    if (store / key).is_dir():
        shutil.rmtree(store / key)
    elsewhere.mkdir()
    (elsewhere / "mine.partial").write_text("mine")
    (store / key).symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"{key} is a symbolic link"):
        open_writer(store, plan)
    assert [file.name for file in elsewhere.iterdir()] == ["mine.partial"]


def test_a_link_in_place_of_a_half_written_file_is_replaced(tmp_path: Path) -> None:
    """Objects are written under another name first: where that is a link, what it points to stays as it is."""
    store, elsewhere = tmp_path / "cache", tmp_path / "mine.txt"
    plan = write_store(store)
    elsewhere.write_text("mine")
    for key in ("committed/c/1/0", "weight/c/1/0"):
        (store / key).unlink()
        (store / f"{key}.partial").symlink_to(elsewhere)
    location = locate(store)
    with pytest.raises(FileExistsError):
        location.write({"weight/c/1/0": b"theirs"})
    with open_writer(store, plan) as writer:
        assert writer.write(1, block_fields(plan, 1), NO_ERROR) > 0
    assert elsewhere.read_text() == "mine"
    assert verify_block(Store(store), 1) == []


def test_ids_that_no_file_can_have_are_refused_when_planned() -> None:
    patches = [planned_patch(name, np.ones((1, 1), dtype=int)) for name in ("a", "../b")]
    with pytest.raises(ValueError, match=r"the training set: patch id '../b' cannot name a file"):
        make_plan(patches, FLIPS[:1])


def test_limits_leave_room() -> None:
    """A view of 2048 px with every prior in float32 and sixteen million views are allowed."""
    assert trust.MAX_RECORD_BYTES > 2048**2 // 64 * 12 * 250
    assert trust.MAX_PLAN_BYTES > 16_000_000 * (4 + 1 + 20 + 4 + 4 + 4) + 4_000_000 * 100


@pytest.mark.parametrize("size", [1, 255, 256, 300, 65_791, 65_792, 3_000_000])
@pytest.mark.parametrize("is_blosc", [False, True])
def test_headers_say_what_the_libraries_have_written(size: int, is_blosc: bool) -> None:
    data = np.random.default_rng(0).integers(0, 9, size, np.uint8)
    encoded = numcodecs.blosc.compress(data, b"zstd", 5, 1) if is_blosc else numcodecs.zstd.compress(data, 5)
    assert trust.content_bytes(encoded[: trust.HEADER_BYTES], is_blosc=is_blosc) == size
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    stored = numcodecs.blosc.compress(noise, b"zstd", 5, 1) if is_blosc else numcodecs.zstd.compress(noise, 5)
    assert len(stored) + 4 <= largest_encoded(size)


# What follows runs in the child.


def read_all(store: Path) -> None:
    """Everything that a student does."""
    reader = CacheReader(store)
    reader.missing_blocks()
    for index in range(reader.plan.num_views):
        view = reader.plan.view(index)
        reader.read(view.patch_id, view.draw)


def verify_all(path: Path) -> None:
    """Everything that a check and an inspection do.

    Raises:
        RuntimeError: with the findings.
    """
    found = verify_metadata(path)
    if not found:
        store = Store(path)
        found = [finding for block in range(store.num_blocks) for finding in verify_block(store, block)]
        for block in range(store.num_blocks if not found else 0):
            block_statistics(store, block)
    if found:
        raise RuntimeError(" | ".join(map(str, found)))


def take_memory(store: Path) -> None:
    """What no store may make its reader do."""
    assert not store.exists()
    pickle.loads(pickle.dumps(take_memory))
    np.ones(2 * ALLOWED_GROWTH, np.uint8).sum()


def outcome_of(function: Callable[[Path], None], store: Path) -> str:
    try:
        function(store)
    except RuntimeError as error:
        return f"findings: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def child(folder: Path, names: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT, ADDRESS_LIMIT))
    audited: list[str] = []
    sys.addaudithook(lambda event, _: audited.append(event) if event in RUNS else None)
    outcomes = {}
    for name in names:
        audited.clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        functions = {"control": take_memory} if name == CONTROL else {"read": read_all, "verify": verify_all}
        outcomes[name] = {what: outcome_of(function, folder / name) for what, function in functions.items()}
        outcomes[name] |= {"growth": memory("VmHWM") - before, "audit": list(audited)}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2:])
