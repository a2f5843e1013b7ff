"""Layout of rows in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.layout import decode_ids, encode_ids
from cache.plan import make_plan
from cache.view import FLIPS, View
from tests.cache.store_tools import HEAD, planned_patch, small_plan


@settings(max_examples=60, deadline=None)
@given(
    num_patches=st.integers(1, 30),
    per_block=st.sampled_from([4, 8, 64]),
    seed=st.integers(0, 50),
    as_cells=st.booleans(),
)
def test_rows_of_a_block_are_laid_end_to_end(num_patches, per_block, seed, as_cells) -> None:
    plan = small_plan(num_patches, seed=seed, views_per_block=per_block, as_cells=as_cells)
    rows = plan.row_stop.astype(int) - plan.row_start
    if as_cells:
        assert ((rows <= plan.priors_per_view) & (plan.priors_per_view <= HEAD.priors * rows)).all()
    else:
        np.testing.assert_array_equal(rows, plan.priors_per_view)
    for block in range(plan.num_blocks):
        members = plan.views_of_block(block)
        np.testing.assert_array_equal(members, np.flatnonzero(plan.block == block))
        assert 0 < len(members) <= per_block
        np.testing.assert_array_equal(plan.row_start[members], np.r_[0, plan.row_stop[members][:-1]])
        assert plan.row_stop[members][-1] == plan.rows_per_block()[block] == rows[members].sum()
        assert plan.priors_per_view[members].sum() == plan.priors_per_block[block]
    # All views of a patch share a block.
    for patch in range(num_patches):
        assert len(set(plan.block[plan.view_patch == patch])) == 1


def test_blocks_are_balanced() -> None:
    """256 patches of very different size: the fullest block is within 10 % of the mean."""
    random = np.random.default_rng(0)
    patches = [planned_patch(f"P{n}", random.lognormal(7, 1, (4, 5)).astype(int)) for n in range(256)]
    rows = make_plan(patches, FLIPS).priors_per_block
    assert rows.max() < 1.1 * rows.mean()


def test_large_patches_find_their_block_first() -> None:
    """4, 3, 3, 2, 2 and 2 rows make two blocks of 8; from the smallest on they would make 7 and 9."""
    rows = np.reshape([2, 3, 2, 4, 3, 2], (6, 1, 1))
    patches = [planned_patch(f"P{n}", counts) for n, counts in enumerate(rows)]
    plan = make_plan(patches, FLIPS[:1], views_per_block=3)
    assert plan.priors_per_block.tolist() == [8, 8]


def test_order_of_the_patches_does_not_matter() -> None:
    random = np.random.default_rng(3)
    patches = [planned_patch(f"P{n}", random.integers(0, 9, (4, 3)), bytes([n] * 32)) for n in range(20)]
    assert make_plan(patches, FLIPS).describe() == make_plan(patches[::-1], FLIPS).describe()


def test_views_are_sorted_by_patch_and_flip() -> None:
    plan = small_plan(2)
    assert plan.view(5) == View("P0001__a__128__0___0", "horizontal")
    assert plan.view_draw.tolist() == [0, 1, 2, 3] * 2
    assert plan.draw_view.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_draws_with_the_same_outcome_share_a_view() -> None:
    """Of four draws of A the second and the fourth make one view: A has three views, B four."""
    shared = planned_patch("A", np.ones((3, 1), dtype=int), draw_view=np.array([0, 1, 2, 1]))
    plan = make_plan([planned_patch("B", np.ones((4, 1), dtype=int)), shared], list("abcd"))
    assert plan.draw_view.tolist() == [[0, 1, 2, 1], [3, 4, 5, 6]]
    assert plan.view_patch.tolist() == [0] * 3 + [1] * 4
    assert plan.view_draw.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert plan.views_of_patch(1).tolist() == [3, 4, 5, 6]
    # The same views, drawn in another order: a capture of the one must not continue the other.
    other = planned_patch("A", np.ones((3, 1), dtype=int), draw_view=np.array([0, 1, 2, 2]))
    drawn = make_plan([planned_patch("B", np.ones((4, 1), dtype=int)), other], list("abcd")).describe()
    assert [name for name, value in plan.describe().items() if drawn[name] != value] == ["draw_digest"]


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        pytest.param([], "no patch", id="empty"),
        pytest.param([planned_patch("a", np.zeros((4, 1), dtype=int))] * 2, "share the id 'a'", id="twice"),
        pytest.param([planned_patch("a/b", np.zeros((4, 1), dtype=int))], "'a/b' cannot name a file", id="path"),
    ],
)
def test_unusable_plans_are_refused(patches, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(patches, FLIPS)


def test_ids_of_any_script_come_back() -> None:
    ids = ("P0003__1024__0___0", "été", "港口__1024__0___824")
    assert decode_ids(encode_ids(ids)) == ids
