"""What a capture saves by keeping the regions of its plan: finding them again against reading them back.

    python -m benchmarks.region_reuse --config configs/demo/dota_distill.py

Milliseconds and bytes of a patch with all its views, in one process and with one thread, as a loader works.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict

import numpy as np
import torch

from pipelines.base.arguments import add_config
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import load_config
from pipelines.base.progress import progress
from pipelines.capture.kept import KeptRegions, PatchRegions
from pipelines.capture.views import TrainingViews


def main(arguments: argparse.Namespace) -> None:
    """Patches -> milliseconds and bytes of both ways."""
    torch.set_num_threads(1)
    views = TrainingViews(load_config(arguments.config, arguments.cfg_options))
    count = min(arguments.patches, len(views.patch_ids))
    chosen = np.random.default_rng(0).choice(views.patch_ids, count, replace=False).tolist()
    kept = KeptRegions()
    seconds: dict[str, list[float]] = defaultdict(list)
    rows = []

    def timed(name: str, since: float) -> float:
        now = time.perf_counter()
        seconds[name].append(now - since)
        return now

    with progress("regions", count, "patches") as advance:
        for patch_id in chosen:
            now = time.perf_counter()
            samples, _ = views.samples(patch_id)
            now = timed("load and draw the views", now)
            found = [views.region(sample) for sample in samples]
            now = timed("find their regions", now)
            assigned = [pair for pair in map(views.assignment, samples) if pair is not None]
            regions = PatchRegions([index for index, _ in found], [weight for _, weight in found], assigned)
            now = timed("find their assignments", now)
            kept.keep(patch_id, regions)
            now = timed("keep both", now)
            again = kept.find(patch_id)
            timed("read both back", now)
            assert again is not None
            rows.append(sum(map(len, again.prior_index)))
            advance(1)
    figures = {
        "patches": count,
        "views": count * len(views.draws),
        "rows": float(np.mean(rows)),
        "bytes": kept.size / count,
        "milliseconds": {
            name: {"mean": 1e3 * float(np.mean(values)), "median": 1e3 * float(np.median(values))}
            for name, values in seconds.items()
        },
    }
    print(json.dumps(figures, indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.region_reuse",
        description="Regions and assignments found again, against kept and read back.",
    )
    add_config(parser, "a cached student's config, its patches made")
    parser.add_argument("--patches", type=positive_int, default=64, help="patches, chosen at random (default: 64)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
