"""How long one warm record of 10,000 stored priors takes to read, by reader and by chunk: Markdown tables.

    python -m benchmarks.read

Made-up cells of 15 classes and 5 x 9 bins with 6 of 9 priors stored, in a store of each preset; every reader returns
the stored fields (the planned assignment included), all in turn in one run, views in a random order. Floors: a copy of
the fields in memory; `np.load` of each from a file without compression; and the bytes of their chunks, read at places
known before, with zstd, checksums and the copy of the wanted rows, one after the other in one thread: what no reader
of these files can spare. Core milliseconds are those that all threads of the process had. Making logits of codes is
timed apart, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr

from benchmarks.made_up import GRID, PRIORS_PER_CELL, MadeUpTeacher, plan_cells, write_store
from cache import layout
from cache.layout import object_key, row_kind
from cache.reader import CacheReader, StoredView
from cache.view import FLIPS
from pipelines.base.files import bytes_on_disk

CELLS = 1_667
LEVEL_SHARES = np.asarray([0.66, 0.26, 0.06, 0.015, 0.005])
OPENED_VIEWS = (100, 100_000)
CHUNKS = (512, 1024, 2048, 4096)
FUSED = "FusedCodecPipeline"

Record = dict[str, np.ndarray]
Times = dict[str, list[tuple[float, float]]]


def main(arguments: argparse.Namespace) -> None:
    """Stores -> readers -> times -> tables."""
    cells = (CELLS * LEVEL_SHARES).astype(np.int64)
    cells[0] += CELLS - cells.sum()
    plan = plan_cells([np.tile(cells, (len(FLIPS), 1))] * arguments.patches)
    figures: dict[str, Any] = {"priors": PRIORS_PER_CELL * CELLS, "repeats": arguments.repeats}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for preset in ("default", "small"):
            teacher = MadeUpTeacher.of(preset)
            write_store(folder / f"{preset}.zarr", plan, teacher)
            figures[preset] = reader_figures(folder / f"{preset}.zarr", arguments.repeats)
            figures[f"{preset}_by_chunk"] = {}
            for count in CHUNKS:
                path = folder / f"{preset}_{count}.zarr"
                layout.CELLS_PER_CHUNK, kept = count, layout.CELLS_PER_CHUNK
                write_store(path, plan, teacher)
                figures[f"{preset}_by_chunk"][count] = chunk_figures(path, arguments.repeats)
                layout.CELLS_PER_CHUNK = kept
        figures["opening_ms"] = {count: opening_figures(folder / f"{count}.zarr", count) for count in OPENED_VIEWS}
    print(json.dumps(figures, indent=2) if arguments.json else as_tables(figures))


def reader_figures(path: Path, repeats: int) -> dict[str, Any]:
    """All readers of one store, and decoding."""
    cache = CacheReader(path)
    found = stored_views(cache)
    readers = make_readers(cache, found)
    for stored in found:
        # This warms them as well.
        records = {name: reader(stored) for name, reader in readers.items()}
        for name, record in records.items():
            for field in cache.store.names.record:
                assert np.array_equal(record[field], records["copy in memory"][field]), f"{name}: {field} differs"
    readers["`CacheReader.read_found`"] = cache.read_found
    record = cache.read_found(found[0])
    decoders = {
        "cells to logits": lambda _: cache.codec.decode(record.coefficients),
        "record to its stored priors' logits": lambda _: record.decode(cache.codec, cache.head),
    }
    return {
        "readers": milliseconds(in_turn(readers, found, repeats)),
        "decoding": milliseconds(in_turn(decoders, found, max(10, repeats // 5))),
    }


def stored_views(cache: CacheReader) -> list[StoredView]:
    views = [cache.plan.view(index) for index in range(cache.plan.num_views)]
    return [cache.find(view.patch_id, view.draw) for view in views]


def make_readers(cache: CacheReader, found: list[StoredView]) -> dict[str, Callable[[StoredView], Record]]:
    """Every way to get the fields of a view, by the name that the table shows."""
    floor = KnownChunks(cache)
    fields = {stored.index: floor.read(stored) for stored in found}
    folder = Path(cache.path)
    for index, record in fields.items():
        for name, values in record.items():
            np.save(folder / f"{name}_{index}.npy", values)

    def through_zarr() -> Callable[[StoredView], Record]:
        arrays = {name: zarr.open_array(folder / name, mode="r") for name in cache.store.names.record}
        return lambda stored: {name: np.asarray(array[floor.place(name, stored)]) for name, array in arrays.items()}

    cache.read_found(found[0])
    readers = {
        "copy in memory": lambda stored: {name: values.copy() for name, values in fields[stored.index].items()},
        "`np.load`, uncompressed": lambda stored: {
            name: np.load(folder / f"{name}_{stored.index}.npy") for name in cache.store.names.record
        },
        "chunks' bytes, zstd, checksum, copy": floor.read,
        "TensorStore": lambda stored: cache._read_rows(int(cache.plan.block[stored.index]), stored),
        "zarr-python, default": through_zarr(),
    }
    if hasattr(zarr.core.codec_pipeline, FUSED):
        with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{FUSED}"}):
            readers[f"zarr-python, `{FUSED}`"] = through_zarr()
    return readers


class KnownChunks:
    """Reads the fields of a store whose shard indices it has kept."""

    def __init__(self, cache: CacheReader) -> None:
        self.cache, self.plan, self.specs = cache, cache.plan, cache.store.specs
        self._opened: dict[tuple[str, int], tuple[int, np.ndarray]] = {}

    def place(self, name: str, stored: StoredView) -> tuple[int | slice, ...]:
        start, stop = self.plan.row_ranges[row_kind(name)]
        rows = slice(int(start[stored.index]), int(stop[stored.index]))
        return self.specs[name].rows_of(int(self.plan.block[stored.index]), rows)

    def read(self, stored: StoredView) -> Record:
        return {name: self._field(name, stored) for name in self.cache.store.names.record}

    def _field(self, name: str, stored: StoredView) -> np.ndarray:
        spec = self.specs[name]
        block, rows = int(self.plan.block[stored.index]), self.place(name, stored)[spec.row_axis]
        descriptor, index = self._shard(name, block)
        per_chunk, axis = spec.chunks[spec.row_axis], spec.row_axis - 1
        decompress = numcodecs.blosc.decompress if spec.byte_shuffle else numcodecs.zstd.decompress
        parts = []
        for chunk in range(rows.start // per_chunk, -(-rows.stop // per_chunk)):
            offset, size = index[chunk].tolist()
            data = os.pread(descriptor, size, offset)
            assert google_crc32c.value(data[:-4]) == struct.unpack("<I", data[-4:])[0]
            values = np.frombuffer(decompress(data[:-4]), spec.dtype).reshape(spec.block_shape(per_chunk))
            wanted = slice(max(0, rows.start - chunk * per_chunk), min(per_chunk, rows.stop - chunk * per_chunk))
            parts.append(values[(*[slice(None)] * axis, wanted)])
        return np.concatenate(parts, axis=axis)

    def _shard(self, name: str, block: int) -> tuple[int, np.ndarray]:
        """Descriptor of a block's object, and where its chunks lie."""
        if (name, block) not in self._opened:
            descriptor = os.open(Path(self.cache.path) / object_key(name, block), os.O_RDONLY)
            size = 16 * self.specs[name].chunks_per_object
            index = os.pread(descriptor, size, os.fstat(descriptor).st_size - size - 4)
            self._opened[name, block] = descriptor, np.frombuffer(index, "<u8").reshape(-1, 2)
        return self._opened[name, block]


def chunk_figures(path: Path, repeats: int) -> dict[str, float]:
    """Bytes of a stored prior, and milliseconds of a record."""
    cache = CacheReader(path)
    found = stored_views(cache)
    for stored in found:
        cache.read_found(stored)
    times = milliseconds(in_turn({"read": cache.read_found}, found, repeats))["read"]
    size = sum(bytes_on_disk(path / name) for name in cache.store.names.record)
    return {"bytes": size / cache.plan.num_priors, **times}


def in_turn(readers: dict[str, Callable[[Any], Any]], found: list[StoredView], repeats: int) -> Times:
    """Seconds and core-seconds of every call; readers in turn, so that a busy moment hits all of them."""
    random = np.random.default_rng(1)
    times: Times = {name: [] for name in readers}
    for _ in range(repeats):
        for name, read in readers.items():
            stored = found[int(random.integers(len(found)))]
            cores, began = time.process_time(), time.perf_counter()
            read(stored)
            times[name].append((time.perf_counter() - began, time.process_time() - cores))
    return times


def milliseconds(times: Times) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": 1e3 * float(np.median([wall for wall, _ in pairs])),
            "p10": 1e3 * float(np.percentile([wall for wall, _ in pairs], 10)),
            "p90": 1e3 * float(np.percentile([wall for wall, _ in pairs], 90)),
            "core": 1e3 * float(np.median([core for _, core in pairs])),
        }
        for name, pairs in times.items()
    }


def opening_figures(path: Path, views: int) -> dict[str, float]:
    """Milliseconds to open a store, and from there to its first record; medians."""
    few = np.full((len(FLIPS), GRID.num_levels), 1)
    plan = plan_cells([few] * (views // len(FLIPS)))
    write_store(path, plan, MadeUpTeacher.of("small"), blocks=1)
    view = plan.view(int(plan.views_of_block(0)[0]))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        reader = CacheReader(path)
        opened = time.perf_counter()
        reader.read_found(reader.find(view.patch_id, view.draw))
        times.append((opened - began, time.perf_counter() - opened))
    opening, first = np.median(times, axis=0)
    return {"open": 1e3 * float(opening), "first_record": 1e3 * float(first)}


def as_tables(figures: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    for preset in ("default", "small"):
        for kind in ("readers", "decoding"):
            times = figures[preset][kind]
            lines += ["", f"| `{preset}`, {kind} | median, ms | p10 to p90 | core ms |", "|---|---:|---:|---:|"]
            lines += [
                f"| {name} | {entry['median']:.2f} | {entry['p10']:.2f} to {entry['p90']:.2f} | {entry['core']:.2f} |"
                for name, entry in times.items()
            ]
    lines += ["", "| cells a chunk | `default`, bytes a prior | ms: p10 / median | `small`, bytes a prior | ms |"]
    lines += ["|---:|---:|---:|---:|---:|"]
    for count in CHUNKS:
        pair = [figures[f"{preset}_by_chunk"][count] for preset in ("default", "small")]
        cells = " | ".join(f"{one['bytes']:.2f} | {one['p10']:.2f} / {one['median']:.2f}" for one in pair)
        lines.append(f"| {count:,} | {cells} |")
    lines += ["", "| store | open, ms | then the first record, ms |", "|---|---:|---:|"]
    for count, entry in figures["opening_ms"].items():
        lines.append(f"| {count:,} views | {entry['open']:.1f} | {entry['first_record']:.1f} |")
    lines += [
        "",
        f"{figures['priors']:,} priors a record, {figures['repeats']} repeats, warm; {len(os.sched_getaffinity(0))} "
        f"cores, Python {platform.python_version()}, zarr {version('zarr')}, tensorstore {version('tensorstore')}.",
    ]
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.read", description="Time one warm record by reader and by chunk."
    )
    parser.add_argument("--patches", type=int, default=16, help="patches of the store, four views each (default: 16)")
    parser.add_argument("--repeats", type=int, default=100, help="reads of every reader (default: 100)")
    parser.add_argument("--folder", help="where the stores are written for the run (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
