"""The grid's flat order and anchors."""

from __future__ import annotations

import numpy as np
import pytest

from cache.grid import AnchorGrid


def test_published_values() -> None:
    """The figures of ld_spec 8."""
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
