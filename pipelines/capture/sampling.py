"""Which patches a probe asks about: few are dense, but they make most of the bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.cells import HeadShape
from cache.codec import CodecRequest
from cache.plan import Plan

# Seed of the sample; the codec's steps depend on it.
PROBE_SEED = 0
PROBE_VIEWS = 32
# Cells that a basis is fitted on, for every coefficient of a cell.
CELLS_PER_COEFFICIENT = 20


def probe_patches(plan: Plan, request: CodecRequest, head: HeadShape) -> tuple[list[int], list[int]]:
    """The patches that a probe measures, and others that it fits a basis on; none where there are no others."""
    views = plan.num_views / len(plan.patch_ids)
    sample = choose_patches(plan, max(1, int(PROBE_VIEWS / views)))
    if not request.is_cells:
        return sample, []
    cells = int(plan.rows_per_block().sum()) / len(plan.patch_ids)
    wanted = max(len(sample), int(np.ceil(CELLS_PER_COEFFICIENT * head.coordinates / max(1.0, cells))))
    others = choose_patches(plan, wanted, without=sample)
    if not others and len(sample) > 1:
        # So few patches that all of them were to be measured.
        sample, others = sample[::2], sample[1::2]
    return sample, others


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
