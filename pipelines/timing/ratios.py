"""Figures of steps that were timed side by side: paired ratios with their interval, medians of stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.timing.stages import STAGES

COVERAGE = 0.95


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Median of the ratios of paired steps, with the rank interval of the median.

    The interval lies between two order statistics of the ratios and assumes nothing of their distribution. Its
    coverage is at least 0.95 from six pairs on; with fewer it is the whole range, and `coverage` says what that is.
    """
    ratios = np.sort(np.asarray(seconds) / np.asarray(baseline))
    count = len(ratios)
    outside = 0
    while outside + 1 < (count + 1) // 2 and rank_coverage(count, outside + 1) >= COVERAGE:
        outside += 1
    return {
        "median": float(np.median(ratios)),
        "low": float(ratios[outside]),
        "high": float(ratios[count - 1 - outside]),
        "coverage": rank_coverage(count, outside),
        "pairs": count,
    }


def rank_coverage(count: int, outside: int) -> float:
    """Chance that the median lies within `count` ordered samples without the `outside` lowest and highest ones."""
    return 1 - 2 * sum(math.comb(count, k) for k in range(outside + 1)) / 2**count


def stage_medians(profiles: Sequence[Mapping[str, float]], seconds: Sequence[float], wait: float) -> dict[str, float]:
    """Median seconds of every stage over the profiled steps; `other` is what no stage has taken."""
    rest = [total - sum(profile.values()) for profile, total in zip(profiles, seconds, strict=True)]
    measured = {name: [profile.get(name, 0.0) for profile in profiles] for name in STAGES}
    return {name: float(np.median(values)) for name, values in measured.items()} | {
        "data": wait,
        "other": float(np.median(rest)),
    }
