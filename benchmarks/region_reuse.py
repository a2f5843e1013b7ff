"""Is it worth keeping the regions of a plan for its capture? Computing them again against reading them back.

    python -m benchmarks.region_reuse --config configs/demo/dota_distill.py

For every view: loading and drawing it, its region, its assignment, and the same two written to a file and read back,
each file synced. Bytes are those of uint32 priors and float32 weights, plain.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from pipelines.base.arguments import add_config
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import load_config
from pipelines.base.progress import progress
from pipelines.capture.views import TrainingViews


def main(arguments: argparse.Namespace) -> None:
    """Views -> seconds and bytes of both ways."""
    # As in a loader process.
    torch.set_num_threads(1)
    views = TrainingViews(load_config(arguments.config, arguments.cfg_options), pixels=True)
    random = np.random.default_rng(0)
    count = min(arguments.patches, len(views.patch_ids))
    chosen = [views.patch_ids[index] for index in random.choice(len(views.patch_ids), count, replace=False)]
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes, rows = [], []

    def timed(name: str, since: float) -> float:
        now = time.perf_counter()
        seconds[name].append(now - since)
        return now

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, progress("views", count, "patches") as advance:
        for patch_id in chosen:
            for flip in views.flips:
                now = time.perf_counter()
                sample = views.sample(patch_id, flip)
                now = timed("load and draw the view", now)
                prior_index, weight = views.region(sample)
                now = timed("compute its region", now)
                prior, matched = views.assignment(sample) or (np.empty(0), np.empty(0))
                now = timed("compute its assignment", now)
                path = Path(folder) / "view.npz"
                arrays = [array.astype(np.uint32) for array in (prior_index, prior)], weight, matched.astype(np.int32)
                with path.open("wb") as file:
                    np.savez(file, prior_index=arrays[0][0], prior=arrays[0][1], weight=arrays[1], matched=arrays[2])
                    file.flush()
                    os.fsync(file.fileno())
                now = timed("write both", now)
                with np.load(path) as stored:
                    found = {name: stored[name] for name in stored.files}
                timed("read both", now)
                assert np.array_equal(found["prior_index"], prior_index)
                sizes.append(path.stat().st_size)
                rows.append(len(prior_index))
            advance(1)
    figures = {
        "views": len(rows),
        "rows_per_view": float(np.mean(rows)),
        "bytes_per_view": float(np.mean(sizes)),
        "milliseconds_per_view": {
            name: {"mean": 1e3 * float(np.mean(values)), "max": 1e3 * max(values)} for name, values in seconds.items()
        },
    }
    print(json.dumps(figures, indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.region_reuse",
        description="Regions and assignments computed again, against written and read back.",
    )
    add_config(parser, "a cached student's config")
    parser.add_argument("--patches", type=positive_int, default=64, help="patches, chosen at random (default: 64)")
    parser.add_argument("--folder", help="where files are written (default: the system's temporary folder)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
