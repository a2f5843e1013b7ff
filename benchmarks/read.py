"""How long one warm record takes to read, by library: a Markdown table.

    python -m benchmarks.read

Records of 10,000 rows in one store: 15 classes, 5 x 9 bins, preset `default`. Every reader returns the same thing, the
four fields with the logits decoded to float32. All are timed in one run, in turn, on views in a random order; the floor
is a copy of the codes from a `.npy` file a field. LMDB needs its package (`uv run --with lmdb`); without it the row is
left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numcodecs.zstd
import numpy as np
import zarr

from cache.layout import ERROR_COLUMNS, RECORD_FIELDS
from cache.manifest import Manifest
from cache.plan import Plan, PlannedPatch, make_plan
from cache.quantize import CODED_FIELDS, LOGIT_FIELDS, ValueRange, choose_codecs, codecs_of, subtract_row_max
from cache.reader import CacheReader
from cache.store import Store
from cache.view import FLIPS
from cache.writer import CacheWriter

ROWS, CLASSES, BOX_SHAPE, NUM_PRIORS = 10_000, 15, (5, 9), 196_416
RANGES = {"cls_logits": ValueRange(-9.0, 3.0), "box_logits": ValueRange(-15.0, 0.0)}
CODECS = choose_codecs("default", RANGES)
OPENED_VIEWS = (100, 100_000)
FUSED = "FusedCodecPipeline"

Record = dict[str, np.ndarray]
Reader = Callable[[Sequence[int]], list[Record]]


def main(arguments: argparse.Namespace) -> None:
    """Store -> readers -> times -> table."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        plan, manifest = write_store(Path(folder) / "cache.zarr", arguments.patches)
        readers = make_readers(Path(folder), plan, manifest)
        check(readers, plan)
        seconds = measure(readers, plan, arguments.repeats)
        opening = measure_opening(Path(folder))
    figures = {
        "opening_ms": opening,
        "rows": ROWS,
        "repeats": arguments.repeats,
        "decode_ms": 1e3 * decode_seconds(manifest),
        "milliseconds": {
            name: {"median": 1e3 * float(np.median(times)), "p90": 1e3 * float(np.percentile(times, 90))}
            for name, times in seconds.items()
        },
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_table(figures)


def write_store(path: Path, num_patches: int) -> tuple[Plan, Manifest]:
    """A cache of made-up records that compress about as real ones do."""
    shares = np.asarray([0.72, 0.2, 0.06, 0.015, 0.005])
    counts = np.tile((ROWS * shares).astype(int), (len(FLIPS), 1))
    patches = [PlannedPatch(f"P{n:04d}", bytes(32), bytes(32), (1024, 1024), counts) for n in range(num_patches)]
    plan = make_plan(patches, FLIPS)
    manifest = make_store_manifest(plan)
    random = np.random.default_rng(0)
    with CacheWriter(path, manifest, plan) as writer:
        for block in writer.missing_blocks():
            write_block(writer, block, random)
    return plan, manifest


def make_store_manifest(plan: Plan) -> Manifest:
    """A manifest with what the layout needs."""
    head = {"classes": [str(n) for n in range(CLASSES)], "box_parameters": list("xywha"), "num_bins": BOX_SHAPE[1]}
    return Manifest(
        teacher={},
        head=head,
        views={"flips": list(FLIPS)},
        preprocessing={},
        numeric={},
        region={},
        plan=plan.describe(),
        codec={"preset": "default", **{name: codec.to_json() for name, codec in CODECS.items()}},
    )


def write_block(writer: CacheWriter, block: int, random: np.random.Generator) -> None:
    """Made-up rows for the views of a block."""
    counts = writer.plan.priors_per_view[writer.plan.views_of_block(block)]
    total = int(counts.sum())
    logits = {
        "weight": random.uniform(0.05, 1, total),
        "cls_logits": random.normal(-4, 1.2, (total, CLASSES)).clip(-9, 3).astype(np.float32),
        "box_logits": subtract_row_max(random.normal(-3, 1.5, (total, *BOX_SHAPE)).clip(-8, 6).astype(np.float32)),
    }
    index = [np.sort(random.choice(NUM_PRIORS, int(count), replace=False)) for count in counts]
    fields = {name: CODECS[name].encode(values).astype(CODECS[name].dtype) for name, values in logits.items()}
    fields["prior_index"] = np.concatenate(index).astype(np.uint32)
    writer.write(block, fields, np.zeros(len(ERROR_COLUMNS)))


def make_readers(folder: Path, plan: Plan, manifest: Manifest) -> dict[str, Reader]:
    """Every way of reading, by the name that the table shows."""
    path = folder / "cache.zarr"
    codecs = codecs_of(manifest.codec)
    cache = CacheReader(path)
    views = [plan.view(index) for index in range(plan.num_views)]

    def decoded(codes: Record) -> Record:
        return {
            "prior_index": codes["prior_index"].astype(np.int64),
            **{name: codecs[name].decode(codes[name]) for name in CODED_FIELDS},
        }

    def through_cache_reader(indices: Sequence[int]) -> list[Record]:
        records = [cache.read(views[index].patch_id, views[index].draw) for index in indices]
        return [{name: getattr(record, name) for name in RECORD_FIELDS} for record in records]

    def through_zarr(arrays: dict[str, Any]) -> Reader:
        def codes(index: int) -> Record:
            block, rows = int(plan.block[index]), slice(int(plan.row_start[index]), int(plan.row_stop[index]))
            return {name: np.asarray(array[block, rows]) for name, array in arrays.items()}

        return lambda indices: [decoded(codes(index)) for index in indices]

    readers: dict[str, Reader] = {
        "raw copy (`np.load`)": _raw_copies(folder / "raw", plan, path, decoded),
        "TensorStore, `CacheReader.read`": through_cache_reader,
        "zarr-python, default": through_zarr(_zarr_arrays(path)),
    }
    if hasattr(zarr.core.codec_pipeline, FUSED):
        with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{FUSED}"}):
            readers[f"zarr-python, `{FUSED}`"] = through_zarr(_zarr_arrays(path))
    else:
        print(f"left out: this zarr has no {FUSED}", file=sys.stderr)
    try:
        readers["LMDB + zstd blobs"] = _lmdb_blobs(folder / "lmdb", plan, path, decoded)
    except ModuleNotFoundError:
        print("left out: LMDB (its package is not installed: uv run --with lmdb ...)", file=sys.stderr)
    return readers


def _zarr_arrays(path: Path) -> dict[str, Any]:
    store = Store(path)
    return {name: store.array(name) for name in RECORD_FIELDS}


def _stored_codes(path: Path, plan: Plan, index: int) -> Record:
    block, rows = int(plan.block[index]), slice(int(plan.row_start[index]), int(plan.row_stop[index]))
    return {name: np.asarray(array[block, rows]) for name, array in _zarr_arrays(path).items()}


def _raw_copies(folder: Path, plan: Plan, path: Path, decoded: Callable[[Record], Record]) -> Reader:
    """The codes of every field in a file of its own."""
    folder.mkdir()
    for index in range(plan.num_views):
        for name, codes in _stored_codes(path, plan, index).items():
            np.save(folder / f"{index}_{name}.npy", codes)
    return lambda indices: [
        decoded({name: np.load(folder / f"{index}_{name}.npy") for name in RECORD_FIELDS}) for index in indices
    ]


def _lmdb_blobs(folder: Path, plan: Plan, path: Path, decoded: Callable[[Record], Record]) -> Reader:
    """One value a record: its four fields one after the other, zstd level 5 with a checksum."""
    import lmdb

    environment = lmdb.open(str(folder), map_size=2**32, readahead=False)
    layouts: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    with environment.begin(write=True) as transaction:
        for index in range(plan.num_views):
            blob = io.BytesIO()
            for name, codes in _stored_codes(path, plan, index).items():
                layouts[name] = codes.dtype, codes.shape[1:]
                blob.write(np.ascontiguousarray(codes).tobytes())
            transaction.put(str(index).encode(), numcodecs.zstd.compress(blob.getvalue(), 5, checksum=True))

    def codes(index: int) -> Record:
        with environment.begin(buffers=True) as transaction:
            blob = numcodecs.zstd.decompress(bytes(transaction.get(str(index).encode())))
        record, offset = {}, 0
        rows = int(plan.priors_per_view[index])
        for name, (dtype, tail) in layouts.items():
            count = rows * int(np.prod(tail, dtype=int))
            record[name] = np.frombuffer(blob, dtype, count, offset).reshape(rows, *tail)
            offset += count * dtype.itemsize
        return record

    return lambda indices: [decoded(codes(index)) for index in indices]


def check(readers: dict[str, Reader], plan: Plan) -> None:
    """All readers return the same record; this also warms them."""
    for index in range(plan.num_views):
        records = {name: reader([index])[0] for name, reader in readers.items()}
        first = next(iter(records.values()))
        for name, record in records.items():
            for field in RECORD_FIELDS:
                assert np.array_equal(record[field], first[field]), f"{name} differs in {field} of view {index}"


def measure(readers: dict[str, Reader], plan: Plan, repeats: int) -> dict[str, list[float]]:
    """Seconds a record, `repeats` times, readers in turn so that a busy moment hits all of them."""
    random = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, reader in readers.items():
            index = int(random.integers(plan.num_views))
            began = time.perf_counter()
            reader([index])
            seconds[name].append(time.perf_counter() - began)
    return seconds


def measure_opening(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds to open a store, and from there to its first record, by its number of views; medians."""
    found = {}
    for views in OPENED_VIEWS:
        counts = np.full((len(FLIPS), 1), 10)
        patches = [
            PlannedPatch(f"P{n:06d}", bytes(32), bytes(32), (64, 64), counts) for n in range(views // len(FLIPS))
        ]
        plan = make_plan(patches, FLIPS)
        path = folder / f"{views}.zarr"
        with CacheWriter(path, make_store_manifest(plan), plan) as writer:
            write_block(writer, 0, np.random.default_rng(0))
        view = plan.view(int(plan.views_of_block(0)[0]))
        times = []
        for _ in range(20):
            began = time.perf_counter()
            reader = CacheReader(path)
            opened = time.perf_counter()
            reader.read(view.patch_id, view.draw)
            times.append((opened - began, time.perf_counter() - opened))
        opening, first = np.median(times, axis=0)
        found[f"{views:,} views"] = {"open": 1e3 * float(opening), "first_record": 1e3 * float(first)}
    return found


def decode_seconds(manifest: Manifest) -> float:
    """Median time of turning one record's codes into float32: a part of every row of the table."""
    codecs = codecs_of(manifest.codec)
    shapes = {"cls_logits": (ROWS, CLASSES), "box_logits": (ROWS, *BOX_SHAPE)}
    codes = {name: np.zeros(shape, codecs[name].dtype) for name, shape in shapes.items()}
    times = []
    for _ in range(50):
        began = time.perf_counter()
        for name in LOGIT_FIELDS:
            codecs[name].decode(codes[name])
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def print_table(figures: dict[str, Any]) -> None:
    """Fastest first."""
    times = figures["milliseconds"]
    floor = next(iter(times.values()))["median"]
    slowest = times["zarr-python, default"]["median"]
    print("| reader | median, ms | 90th percentile, ms | x raw copy | x faster than zarr-python's default |")
    print("|---|---:|---:|---:|---:|")
    for name, entry in sorted(times.items(), key=lambda item: item[1]["median"]):
        median = entry["median"]
        print(f"| {name} | {median:.2f} | {entry['p90']:.2f} | {median / floor:.1f} | {slowest / median:.1f} |")
    print("\n| store | open, ms | then the first record, ms |\n|---|---:|---:|")
    for name, entry in figures["opening_ms"].items():
        print(f"| {name} | {entry['open']:.1f} | {entry['first_record']:.1f} |")
    print(
        f"\n{figures['rows']:,} rows a record, {figures['repeats']} repeats, warm; decoding to float32 takes "
        f"{figures['decode_ms']:.2f} ms of every row. {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, zarr {version('zarr')}, tensorstore {version('tensorstore')}."
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.read", description="Time one warm record by library; prints a Markdown table."
    )
    parser.add_argument("--patches", type=int, default=4, help="patches of the store, four views each (default: 4)")
    parser.add_argument("--repeats", type=int, default=100, help="reads of every reader (default: 100)")
    parser.add_argument("--folder", help="where the store is written for the run (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
