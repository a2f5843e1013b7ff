"""The grid's flat order and anchors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.grid import AnchorGrid, padded_shape


def test_published_values() -> None:
    """The figures of the published code."""
    grid = AnchorGrid.retina(1024, 1024)
    assert grid.num_priors == 196_416
    assert grid.level_sizes == (147_456, 36_864, 9_216, 2_304, 576)
    np.testing.assert_allclose(grid.anchors[0], [0, 0, 32, 32], rtol=1e-6)
    np.testing.assert_allclose(grid.anchors[147_456], [0, 0, 64, 64], rtol=1e-6)
    np.testing.assert_allclose(grid.anchors[-1], [896, 896, 574.701, 1149.401], rtol=1e-6)


def test_flat_index_is_row_then_column_then_anchor() -> None:
    grid = AnchorGrid.retina(64, 96)
    # Level 0 has 12 columns of 9 anchors: cell (y 2, x 5), anchor 4 (ratio 0.5, second scale).
    anchor = grid.anchors[(2 * 12 + 5) * 9 + 4]
    side = 8 * 4 * 2 ** (1 / 3)
    np.testing.assert_allclose(anchor, [40, 16, side * 2**0.5, side / 2**0.5], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (127, 64), (100, 333)])
def test_feature_sizes_round_up(height: int, width: int) -> None:
    grid = AnchorGrid.retina(height, width)
    assert grid.feature_sizes[1] == (-(-height // 16), -(-width // 16))
    assert len(grid.anchors) == grid.num_priors == sum(grid.level_sizes)


def test_level_counts() -> None:
    grid = AnchorGrid.retina(1024, 1024)
    counts = grid.level_counts(np.array([0, 147_455, 147_456, 196_415]))
    assert counts.tolist() == [2, 1, 0, 0, 1]


def test_levels_begin_at_their_first_prior() -> None:
    grid = AnchorGrid.retina(1024, 1024)
    assert grid.levels(grid.level_offsets[:-1]).tolist() == [0, 1, 2, 3, 4]
    assert grid.levels(grid.level_offsets[1:] - 1).tolist() == [0, 1, 2, 3, 4]


SIDE = st.integers(1, 300)


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([(1.0,), (1.0, 0.5, 2.0)]))
def test_reindexed_priors_are_the_same_anchors(height, width, more_height, more_width, ratios) -> None:
    """On the grid of a larger image, and back by looking the anchors up; arrays and tensors alike."""
    strides = (8, 16, 32)
    own = AnchorGrid.retina(height, width, strides=strides, ratios=ratios)
    batch = AnchorGrid.retina(height + more_height, width + more_width, strides=strides, ratios=ratios)
    index = np.arange(own.num_priors)
    moved = own.reindex(index, batch)
    np.testing.assert_array_equal(batch.anchors[moved], own.anchors)
    np.testing.assert_array_equal(batch.levels(moved), own.levels(index))
    assert (np.diff(moved) > 0).all()
    np.testing.assert_array_equal(own.reindex(torch.from_numpy(index), batch).numpy(), moved)
    assert own.reindex(index, own) is index


@pytest.mark.parametrize(
    "target",
    [
        AnchorGrid.retina(64, 95),
        AnchorGrid.retina(63, 96),
        AnchorGrid.retina(64, 96, strides=(8, 16, 32)),
        AnchorGrid.retina(64, 96, ratios=(1.0,)),
    ],
    ids=["narrower", "lower", "levels", "ratios"],
)
def test_priors_do_not_move_onto_another_kind_of_grid(target: AnchorGrid) -> None:
    with pytest.raises(ValueError, match="do not lie on"):
        AnchorGrid.retina(64, 96).reindex(np.arange(3), target)


def test_padded_shape_by_hand() -> None:
    assert padded_shape((1, 33, 3), 32) == (32, 64)
    assert padded_shape((64, 96), 32) == (64, 96)
    assert padded_shape((100, 7), 1) == (100, 7)
