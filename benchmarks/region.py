"""Time and memory of the region search at 1024 x 1024, by number and size of the objects.

python -m benchmarks.region
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np

from cache.grid import AnchorGrid
from cache.region import region_weights

REPEATS = 5


def main() -> None:
    """Made-up objects of one size -> milliseconds an object and peak megabytes."""
    grid = AnchorGrid.retina(1024, 1024)
    random = np.random.default_rng(0)
    print("| objects | side, px | ms an object (median) | peak MB |\n|---|---|---|---|")
    for count, side in ((1, 1000), (1, 64), (20, 64), (500, 20), (2000, 20), (500, 200)):
        boxes = np.hstack([random.uniform(0, 1024, (count, 2)), np.full((count, 2), side)]).astype(np.float32)
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            region_weights(boxes, grid)
            seconds.append(time.perf_counter() - started)
        tracemalloc.start()
        region_weights(boxes, grid)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"| {count} | {side} | {1e3 * np.median(seconds) / count:.2f} | {peak / 1e6:.1f} |")


if __name__ == "__main__":
    main()
