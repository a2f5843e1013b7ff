"""Regions kept from planning to capture: the same again, in loader processes as well, and within the limit."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from pipelines.capture.kept import KeptRegions, PatchRegions
from pipelines.capture.loading import unchanged


def regions(seed: int, *, views: int = 4, planned: bool = True) -> PatchRegions:
    """Regions of some sizes, the first of them empty, as labels and assigner give them."""
    random = np.random.default_rng(seed)
    sizes = [0, *random.integers(1, 50, views - 1)]
    prior_index = [np.sort(random.choice(2**31, size, replace=False)) for size in sizes]
    weight = [random.random(size, dtype=np.float32) for size in sizes]
    assigned = [(np.arange(size), random.integers(-1, 9, size)) for size in sizes]
    return PatchRegions(prior_index, weight, assigned if planned else ())


def assert_same(found: PatchRegions | None, wanted: PatchRegions) -> None:
    assert found is not None
    assert len(found.assigned) == len(wanted.assigned)
    pairs = [*zip(found.prior_index, wanted.prior_index, strict=True), *zip(found.weight, wanted.weight, strict=True)]
    for ours, theirs in zip(found.assigned, wanted.assigned, strict=True):
        pairs += zip(ours, theirs, strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


class Kept(Dataset):
    """Found in a loader process."""

    def __init__(self, kept: KeptRegions, count: int) -> None:
        self.kept, self.count = kept, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> PatchRegions | None:
        return self.kept.find(f"patch{index}")


@pytest.mark.parametrize("loaders", [0, 2])
@pytest.mark.parametrize("planned", [True, False])
def test_what_is_kept_is_found(loaders: int, planned: bool) -> None:
    wanted = [regions(seed, planned=planned) for seed in range(6)]
    kept = KeptRegions()
    for index, one in enumerate(wanted):
        kept.keep(f"patch{index}", one)
    found = DataLoader(Kept(kept, 6), batch_size=None, num_workers=loaders, collate_fn=unchanged)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours, theirs)
    assert kept.find("absent") is None


def test_no_more_than_the_limit() -> None:
    """A patch that does not fit is found again by the capture; a smaller one after it is kept."""
    kept = KeptRegions(limit=6000)
    small, large = regions(0), PatchRegions([np.arange(10_000)], [np.ones(10_000, dtype=np.float32)])
    kept.keep("large", large)
    kept.keep("small", small)
    assert kept.find("large") is None
    assert_same(kept.find("small"), small)
