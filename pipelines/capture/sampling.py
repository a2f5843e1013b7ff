"""Which patches a probe asks about: few are dense, but they make most of the bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.plan import Plan

# Seed of the sample; the codec's steps depend on it.
PROBE_SEED = 0


def choose_patches(plan: Plan, count: int, without: Sequence[int] = ()) -> list[int]:
    """A seeded sample of patches, one from each of `count` strata that hold equal shares of the stored priors."""
    rows = np.bincount(plan.view_patch, weights=plan.priors_per_view, minlength=len(plan.patch_ids))
    order = np.argsort(rows, kind="stable")
    order = order[~np.isin(order, without)]
    if not len(order):
        return []
    strata = _strata(rows, order, min(count, len(order)))
    random = np.random.default_rng(PROBE_SEED)
    return [int(random.choice(stratum)) for stratum in strata]


def _strata(rows: np.ndarray, order: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` runs of the sorted patches, none empty, with about equal rows."""
    filled = np.cumsum(rows[order] + 1e-9)
    ends = np.searchsorted(filled, filled[-1] * np.arange(1, count) / count) + 1
    # None empty: every run keeps a patch for each run after it.
    places = np.arange(1, count)
    ends = np.minimum(np.maximum.accumulate(np.maximum(ends, places)), len(order) - count + places)
    ends = np.maximum.accumulate(ends - places) + places
    return np.split(order, ends)
