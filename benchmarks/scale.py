"""A store with the shape of DOTA train: how long planning, writing, opening, reading and verifying it takes.

    python -m benchmarks.scale --folder /tmp

9,734 patches under four flips, their row counts drawn from the percentiles that were measured on real labels
(docs/benchmarks.md), planned with `make_plan` and written with `CacheWriter`. Two stores are made one after the other.
`shape` holds all views, its cells repeat every few hundred, so that 60 GB of codes take a few GB of disk: what depends
on counts is measured there. `bytes` holds a few blocks whose cells do not repeat and take as many bytes as real ones:
rates are measured there. Every stage runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_up import GRID, PRIORS_PER_CELL, MadeUpTeacher, block_fields, plan_cells
from cache.cells import CellCodec
from cache.layout import ERROR_COLUMNS
from cache.reader import CacheReader
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from cache.view import FLIPS
from cache.writer import CacheWriter
from pipelines.base.command import available_cores, positive_int, run_command
from pipelines.base.files import bytes_on_disk, require_room
from pipelines.base.parallel import map_and_add

DOTA_PATCHES = 9_734
# Rows of a view on 128 real patches (docs/benchmarks.md), straight lines between the percentiles. The ends are the
# smallest region of one object and the largest that was seen.
PERCENTS = (0, 5, 25, 50, 75, 90, 95, 99, 100)
ROWS_AT_PERCENT = (430, 1_362, 3_351, 8_634, 19_290, 41_631, 61_206, 106_615, 110_440)
SAMPLE_MEAN = 17_581
# That sample is skewed to dense scenes (36 objects a patch); DOTA train has about 14, by the fit of rows to objects.
TRAIN_MEAN = 12_600
LEVEL_SHARES = np.asarray([11_641, 4_632, 1_095, 205, 9]) / 17_582
# Regions of the four flips differ by a few per cent.
FLIP_SPREAD = 0.04

PRESET = "default"
# Bytes of a prior of 15 classes and 5 x 9 bins as floats, and as measured on teachers with a 256-channel head: the
# demo's and one of real crops (docs/benchmarks.md).
FLOAT_BYTES = {"exact": 8 + 4 * 60, "half": 6 + 2 * 60}
STORED_BYTES = {"default": (26.3, 38.8), "small": (10.0, 19.8)}

# Twice what the stores take with the defaults.
NEEDED_BYTES = 12e9

# Views a second of a teacher on one GPU: assumptions, no GPU was measured.
ASSUMED_RATES = (50, 100, 200)
ASSUMED_GPUS = (1, 4, 8)
# Loading, regions and assignment of a view, core-seconds an object (docs/benchmarks.md), and objects a patch.
OBJECT_SECONDS, OBJECTS_PER_PATCH = 0.005, 14
# Core-seconds of a prior: coefficients, codes, and logits again; their errors are measured where the teacher is.
ENCODE_SECONDS = 3.3e-6


def main(arguments: argparse.Namespace) -> None:
    """Plan -> two stores -> figures -> tables."""
    with tempfile.TemporaryDirectory(dir=arguments.folder, delete=not arguments.keep) as name:
        folder = Path(name)
        require_room(folder, NEEDED_BYTES, "the benchmark", "Give another --folder")
        figures: dict[str, Any] = {"cores": available_cores(), "nothing": stage(nothing)}
        figures["plan"] = stage(plan_figures, arguments.patches, arguments.mean_rows)
        shapes = {
            "small": (25, 4096),
            "shape": (arguments.patches, arguments.period),
            "bytes": (16 * arguments.byte_blocks, 65536),
        }
        for store, (patches, period) in shapes.items():
            figures[store] = measure_store(folder / f"{store}.zarr", patches, period, arguments)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print_figures(figures)


def measure_store(path: Path, patches: int, period: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All stages of one store."""
    figures = {"write": stage(write_store, path, patches, arguments.mean_rows, period)}
    figures["open"] = stage(opening, path)
    figures["check_at_start"] = stage(start_of_a_student, path)
    figures["first_reads"] = stage(random_reads, path, arguments.reads, False)
    figures["warm_reads"] = stage(random_reads, path, arguments.reads, True)
    figures["verify"] = stage(verify_store, path, arguments.workers)
    return figures


def stage(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns, with the seconds it took and the peak memory of the process that ran nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    figures = function(*arguments)
    seconds, core_seconds = time.perf_counter() - began, time.process_time() - cpu
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return {**figures, "seconds": seconds, "core_seconds": core_seconds, "peak_mb": int(peak) / 1024}


def nothing() -> dict[str, Any]:
    """The memory that the imports alone take."""
    return {}


def plan_figures(num_patches: int, mean_rows: int) -> dict[str, Any]:
    """The layout of all views."""
    cells = draw_cells(num_patches, mean_rows)
    began = time.perf_counter()
    plan = plan_cells(cells)
    seconds = time.perf_counter() - began
    rows, blocks = plan.priors_per_view, plan.priors_per_block
    return {
        "make_plan_seconds": seconds,
        "views": plan.num_views,
        "rows": plan.num_priors,
        "rows_per_view": {"mean": rows.mean(), **{f"p{p}": np.percentile(rows, p) for p in (5, 50, 90, 99)}},
        "blocks": plan.num_blocks,
        "rows_per_block": {"min": int(blocks.min()), "mean": blocks.mean(), "max": int(blocks.max())},
    }


def draw_cells(num_patches: int, mean_rows: int) -> np.ndarray:
    """(P, F, L) cells with stored priors: patches follow the measured percentiles, scaled to another mean."""
    random = np.random.default_rng(0)
    of_patch = np.interp(random.uniform(0, 100, num_patches), PERCENTS, ROWS_AT_PERCENT) * mean_rows / SAMPLE_MEAN
    spread = random.uniform(1 - FLIP_SPREAD, 1 + FLIP_SPREAD, (num_patches, len(FLIPS), 1))
    cells = of_patch[:, None, None] * spread * LEVEL_SHARES / PRIORS_PER_CELL
    return cells.round().astype(np.int64).clip(max=np.asarray(GRID.level_sizes) // GRID.anchors_per_cell)


def write_store(path: Path, num_patches: int, mean_rows: int, period: int) -> dict[str, Any]:
    """Write a whole store of made-up cells that repeat after `period`; making them is not timed."""
    plan = plan_cells(draw_cells(num_patches, mean_rows))
    teacher = MadeUpTeacher.of(PRESET)
    pool = code_pool(teacher, period, int(plan.rows_per_block().max()))
    began = time.perf_counter()
    writer = CacheWriter(path, teacher.manifest(plan), plan, teacher.codec)
    layout_seconds = time.perf_counter() - began
    write_seconds = write_core_seconds = 0.0
    with writer:
        for block in writer.missing_blocks():
            # Another part of the pool for every block.
            begin = 97 * block % period
            fields = block_fields(plan, block, pool[:, begin : begin + int(plan.rows_per_block()[block])])
            began, cpu = time.perf_counter(), time.process_time()
            writer.write(block, fields, dict.fromkeys(ERROR_COLUMNS, 0.0))
            write_seconds += time.perf_counter() - began
            write_core_seconds += time.process_time() - cpu
    return {
        "views": plan.num_views,
        "blocks": plan.num_blocks,
        "rows": plan.num_priors,
        "code_bytes": int(plan.rows_per_block().sum()) * cell_bytes(teacher.codec),
        "disk_bytes": bytes_on_disk(path),
        "objects": sum(file.is_file() for file in path.rglob("*")),
        "layout_seconds": layout_seconds,
        "write_seconds": write_seconds,
        "write_core_seconds": write_core_seconds,
    }


def cell_bytes(codec: CellCodec) -> int:
    """Bytes of a cell before compression: codes, weights, index."""
    return codec.columns + 2 * GRID.anchors_per_cell + 4


def code_pool(teacher: MadeUpTeacher, period: int, cells: int) -> np.ndarray:
    """Codes of `period` made-up cells, one after the other until a block can begin anywhere in the first of them."""
    distinct = teacher.codes(period, np.random.default_rng(1))
    return np.tile(distinct, -(-(cells + period) // period))


def opening(path: Path) -> dict[str, Any]:
    """The first opening of a process, later ones (median), the plan, the first record."""
    began = time.perf_counter()
    CacheReader(path)
    first = time.perf_counter() - began
    again = []
    for _ in range(20):
        began = time.perf_counter()
        reader = CacheReader(path)
        again.append(time.perf_counter() - began)
    began = time.perf_counter()
    plan = reader.plan
    plan_seconds = time.perf_counter() - began
    view = plan.view(0)
    began = time.perf_counter()
    reader.read_found(reader.find(view.patch_id, view.draw))
    return {
        "first_ms": 1e3 * first,
        "again_ms": 1e3 * float(np.median(again)),
        "plan_ms": 1e3 * plan_seconds,
        "first_record_ms": 1e3 * (time.perf_counter() - began),
    }


def start_of_a_student(path: Path) -> dict[str, Any]:
    """What a training checks once: documents, plan, commits."""
    CacheReader(path).require_complete()
    return {}


def random_reads(path: Path, count: int, warm: bool) -> dict[str, Any]:
    """Records, as codes, of views in a random order: the first time from disk, or later from the page cache."""
    reader = CacheReader(path)
    plan = reader.plan
    views = np.random.default_rng(3).choice(plan.num_views, min(count, plan.num_views), replace=False)
    named = [plan.view(int(view)) for view in views]
    found = [reader.find(view.patch_id, view.draw) for view in named]
    if warm:
        for stored in found:
            reader.read_found(stored)
    else:
        forget(path)
    seconds = []
    for stored in found:
        began = time.perf_counter()
        reader.read_found(stored)
        seconds.append(time.perf_counter() - began)
    rows = plan.priors_per_view[views]
    return {
        "records": len(found),
        "median_ms": 1e3 * float(np.median(seconds)),
        "p90_ms": 1e3 * float(np.percentile(seconds, 90)),
        "max_ms": 1e3 * max(seconds),
        "rows_mean": float(rows.mean()),
        "rows_per_second": float(rows.sum() / sum(seconds)),
    }


def forget(path: Path) -> None:
    """Take a store's files out of the page cache; what was not yet written to disk is written first."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def verify_store(path: Path, workers: int) -> dict[str, Any]:
    """What `verify-cache` does with a store alone."""
    began = time.perf_counter()
    findings = verify_metadata(path)
    metadata_seconds = time.perf_counter() - began
    store = Store(path)
    blocks = list(range(store.num_blocks))
    findings += map_and_add(
        lambda block: verify_block(store, block), blocks, [], workers=workers, description="verify", unit="blocks"
    )
    assert not findings, findings[0]
    return {"metadata_seconds": metadata_seconds, "workers": workers}


def print_figures(figures: dict[str, Any]) -> None:
    """Markdown tables."""
    plan = figures["plan"]
    rows, blocks = plan["rows_per_view"], plan["rows_per_block"]
    print(
        f"{plan['views']:,} views, {plan['rows']:,} rows; a view: mean {rows['mean']:,.0f}, median {rows['p50']:,.0f}, "
        f"p90 {rows['p90']:,.0f}, p99 {rows['p99']:,.0f}. {plan['blocks']} blocks of {blocks['min']:,} to "
        f"{blocks['max']:,} rows, mean {blocks['mean']:,.0f}. make_plan {plan['make_plan_seconds']:.3f} s, "
        f"{plan['peak_mb']:.0f} MB (imports alone {figures['nothing']['peak_mb']:.0f} MB).\n"
    )
    print("| preset | GB |\n|---|---:|")
    for preset, size in FLOAT_BYTES.items():
        print(f"| {preset}, before compression | {size * plan['rows'] / 1e9:.1f} |")
    for preset, (low, high) in STORED_BYTES.items():
        print(f"| {preset} | {low * plan['rows'] / 1e9:.1f} to {high * plan['rows'] / 1e9:.1f} |")
    stores = {name: figures[name] for name in ("small", "shape", "bytes")}
    print("\n| | " + " | ".join(f"`{name}`" for name in stores) + " |\n|---" + "|---:" * len(stores) + "|")
    for label, text in STORE_ROWS.items():
        print(f"| {label} | " + " | ".join(text(store) for store in stores.values()) + " |")
    print("\n| stage | " + " | ".join(f"`{name}`, MB" for name in stores) + " |\n|---" + "|---:" * len(stores) + "|")
    for name in ("write", "open", "check_at_start", "first_reads", "warm_reads", "verify"):
        print(f"| {name} | " + " | ".join(f"{store[name]['peak_mb']:,.0f}" for store in stores.values()) + " |")
    print()
    print_prediction(plan, stores["bytes"])


def _rate(store: dict[str, Any], name: str, amount: str, seconds: str) -> float:
    return store["write"][amount] / store[name][seconds] / 1e6


STORE_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "views": lambda store: f"{store['write']['views']:,}",
    "blocks": lambda store: f"{store['write']['blocks']:,}",
    "objects (files)": lambda store: f"{store['write']['objects']:,}",
    "codes before compression, GB": lambda store: f"{store['write']['code_bytes'] / 1e9:.2f}",
    "on disk, GB": lambda store: f"{store['write']['disk_bytes'] / 1e9:.2f}",
    "bytes a row": lambda store: f"{store['write']['disk_bytes'] / store['write']['rows']:.1f}",
    "laying out, s": lambda store: f"{store['write']['layout_seconds']:.2f}",
    "writing, s": lambda store: f"{store['write']['write_seconds']:.1f}",
    "writing, MB of codes a second": lambda store: f"{_rate(store, 'write', 'code_bytes', 'write_seconds'):.0f}",
    "writing, MB on disk a second": lambda store: f"{_rate(store, 'write', 'disk_bytes', 'write_seconds'):.0f}",
    "writing, core-seconds a GB of codes": lambda store: _core_seconds(store["write"]["write_core_seconds"], store),
    "opening: first of a process, ms": lambda store: f"{store['open']['first_ms']:.1f}",
    "opening again, ms": lambda store: f"{store['open']['again_ms']:.2f}",
    "plan, ms": lambda store: f"{store['open']['plan_ms']:.1f}",
    "first record, ms": lambda store: f"{store['open']['first_record_ms']:.1f}",
    "checks at a student's start, s": lambda store: f"{store['check_at_start']['seconds']:.2f}",
    "record from disk: median / p90, ms": lambda store: _spread(store["first_reads"]),
    "record warm: median / p90, ms": lambda store: _spread(store["warm_reads"]),
    "rows read a second, warm": lambda store: f"{store['warm_reads']['rows_per_second'] / 1e6:.1f} M",
    "verify, s": lambda store: f"{store['verify']['seconds']:.1f}",
    "verify, core-seconds a GB of codes": lambda store: _core_seconds(store["verify"]["core_seconds"], store),
    "of it metadata, s": lambda store: f"{store['verify']['metadata_seconds']:.2f}",
    "verify, MB on disk a second": lambda store: f"{_rate(store, 'verify', 'disk_bytes', 'seconds'):.0f}",
}


def _core_seconds(seconds: float, store: dict[str, Any]) -> str:
    return f"{seconds / (store['write']['code_bytes'] / 1e9):.1f}"


def _spread(reads: dict[str, Any]) -> str:
    return f"{reads['median_ms']:.1f} / {reads['p90_ms']:.1f}"


def print_prediction(plan: dict[str, Any], store: dict[str, Any]) -> None:
    """A capture on GPUs, from assumed teacher rates and what was measured here."""
    rows = plan["rows_per_view"]["mean"]
    disk_bytes = store["write"]["disk_bytes"] / store["write"]["rows"]
    core_seconds = store["write"]["write_core_seconds"] / store["write"]["rows"]
    print("| GPUs | views/s a GPU (assumed) | capture, min | MB/s to disk | cores that encode / write / load |")
    print("|---:|---:|---:|---:|---|")
    for gpus in ASSUMED_GPUS:
        for rate in ASSUMED_RATES:
            views = gpus * rate
            print(
                f"| {gpus} | {rate} | {plan['views'] / views / 60:.1f} | {views * rows * disk_bytes / 1e6:,.0f} | "
                f"{views * rows * ENCODE_SECONDS:.1f} / {views * rows * core_seconds:.1f} / "
                f"{views * OBJECTS_PER_PATCH * OBJECT_SECONDS:.1f} |"
            )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description="Plan, write, open, read and verify a store of DOTA train's shape.",
    )
    parser.add_argument(
        "--patches", type=positive_int, default=DOTA_PATCHES, help="patches of four views (default: DOTA)"
    )
    parser.add_argument(
        "--mean-rows",
        type=positive_int,
        default=SAMPLE_MEAN,
        help=f"rows a view that the drawn counts are scaled to (default: {SAMPLE_MEAN}, the sample's; DOTA train's "
        f"estimate: {TRAIN_MEAN})",
    )
    parser.add_argument(
        "--period", type=positive_int, default=256, help="distinct rows of the large store (default: 256)"
    )
    parser.add_argument(
        "--byte-blocks", type=positive_int, default=8, help="blocks of the store of real bytes (default: 8)"
    )
    parser.add_argument("--reads", type=positive_int, default=400, help="records read in a random order (default: 400)")
    parser.add_argument("--workers", type=positive_int, default=available_cores(), help="threads that verify")
    parser.add_argument("--folder", help="where the stores are written (default: the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
