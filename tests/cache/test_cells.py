"""The laws of the cells codec, on made-up heads: with one prior a cell and nine, with few classes, without bins."""

from __future__ import annotations

import functools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from cache.cells import (
    CLASS_MEAN_SCALE,
    LARGEST_CODE,
    NUMBER_SCALE,
    Basis,
    CellCodec,
    CellRows,
    HeadShape,
    count_cells,
    fit_basis,
)
from cache.layout import POISON_CODE

HEADS = {
    "a number": HeadShape(1, 1, (1,)),
    "numbers": HeadShape(9, 1, (1, 1, 1, 1)),
    "an angle of 180 bins": HeadShape(1, 2, (1, 1, 1, 1, 180)),
    "every number of bins": HeadShape(9, 2, (2, 1, 5)),
    "GFL": HeadShape(1, 80, (17, 17, 17, 17)),
}
STEPS = (1.0, 1 / 16, 1 / 256)


def made_up_cells(head: HeadShape, count: int, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, A, P) of few directions with a little noise, and which priors are stored: one of four patterns."""
    values = head.priors * head.values
    random = np.random.default_rng([3, seed])
    teacher = np.random.default_rng(11)
    directions = teacher.normal(size=(min(6, values), values))
    logits = teacher.normal(size=values) + scale * random.normal(size=(count, len(directions))) @ directions
    logits += 0.05 * random.normal(size=logits.shape)
    patterns = teacher.random((4, head.priors)) < 0.5
    patterns[:, 0] = patterns[0] = True
    return logits.astype(np.float32).reshape(count, head.priors, head.values), patterns[random.integers(4, size=count)]


@functools.cache
def made_up_codec(name: str, step: float) -> CellCodec:
    """Fitted on other cells than those that it is tried on."""
    head = HEADS[name]
    values, is_stored = made_up_cells(head, 500, seed=0)
    basis = fit_basis(head, values, is_stored)
    return CellCodec.of_basis(basis, step, np.abs(basis.coefficients(values, is_stored)).max(axis=0))


def centred(head: HeadShape, values: np.ndarray) -> np.ndarray:
    """Logits without the mean of each group of bins, which no codec of cells holds."""
    values = values.astype(np.float64)
    for group in head.box_groups():
        if group.stop - group.start > 1:
            box = values[..., head.classes :][..., group]
            box -= box.mean(axis=-1, keepdims=True)
    return values


def encoded(codec: CellCodec, values: np.ndarray, is_stored: np.ndarray) -> np.ndarray:
    """Codes of cells that the codec holds; others it refuses."""
    with suppress(ValueError):
        return codec.encode(values, is_stored)
    return reject()


cells = st.builds(
    lambda name, step, count, seed, scale: (
        made_up_codec(name, step),
        *made_up_cells(HEADS[name], count, seed, scale),
    ),
    st.sampled_from(list(HEADS)),
    st.sampled_from(STEPS),
    st.integers(0, 12),
    st.integers(1, 10**6),
    st.floats(0, 2),
)


@settings(max_examples=120, deadline=None)
@given(cells)
def test_logits_come_back_within_the_bound(given_cells) -> None:
    """Of every stored prior; beside the bound, float32 cannot place logits and products of this size more exactly."""
    codec, values, is_stored = given_cells
    wanted, found = (centred(codec.head, part) for part in (values, codec.decode(encoded(codec, values, is_stored))))
    rounding = 2.0**-19 * np.abs(wanted).max(initial=0)
    assert (np.abs(found - wanted) <= codec.max_abs_error + rounding)[is_stored].all()


@settings(max_examples=60, deadline=None)
@given(cells)
def test_a_coefficient_is_off_by_half_a_step_at_most(given_cells) -> None:
    """Whatever is stored; so the squared error of a cell, over all of its stored logits, is at most N (s / 2)^2."""
    codec, values, is_stored = given_cells
    codes = encoded(codec, values, is_stored)
    wanted, allowed = codec.expected(values, is_stored, tolerance=0.0)
    assert (allowed == 0.5 * codec.step).all()
    rounding = 1e-9 * np.abs(wanted).max(initial=0)
    assert (np.abs(codec.coefficients(codes) - wanted) <= allowed + rounding).all()
    away = codec.head.reduce(codec.decode(codes)) - codec.head.reduce(values)
    squared = np.where(np.repeat(is_stored, len(codec.head.reduction[0]), axis=1), away, 0.0) ** 2
    rounding = 2.0**-19 * np.abs(values).max(initial=0)
    length = (codec.head.coordinates**0.5) * (0.5 * codec.step + rounding)
    assert (squared.sum(axis=1) <= length**2).all()


@settings(max_examples=60, deadline=None)
@given(cells)
def test_coefficients_are_products_with_the_basis(given_cells) -> None:
    """Where every prior is stored: of what the cell says, with each direction."""
    codec, values, is_stored = given_cells
    rows = codec.basis[codec.wide :].astype(np.float64)
    offset = codec.offset.astype(np.float64).reshape(1, codec.head.priors, -1)
    directions = codec.head.reduce(rows.reshape(len(rows), codec.head.priors, -1))
    wanted = (codec.head.reduce(values) - codec.head.reduce(offset)) @ directions.T
    found, _ = codec.expected(values, np.ones_like(is_stored), tolerance=0.0)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * max(1.0, np.abs(wanted).max(initial=0)))


@settings(max_examples=60, deadline=None)
@given(cells, st.floats(0, 0.1), st.integers(0, 10**6))
def test_a_change_of_logits_moves_coefficients_no_further_than_expected(given_cells, change: float, seed: int) -> None:
    codec, values, is_stored = given_cells
    moved = values + change * np.random.default_rng(seed).choice([-1.0, 1.0], values.shape)
    before, _ = codec.expected(values, is_stored, tolerance=0.0)
    after, allowed = codec.expected(moved, is_stored, tolerance=change)
    room = allowed - 0.5 * codec.step
    assert (np.abs(after - before) <= room * (1 + 1e-6) + 1e-9 * (1 + np.abs(before))).all()


@settings(max_examples=60, deadline=None)
@given(cells, st.sampled_from([np.nan, 1e30, 0.0]))
def test_codes_depend_on_the_stored_priors_alone(given_cells, other: float) -> None:
    codec, values, is_stored = given_cells
    changed = np.where(is_stored[..., None], values, np.float32(other))
    assert encoded(codec, values, is_stored).tobytes() == codec.encode(changed, is_stored).tobytes()


@settings(max_examples=60, deadline=None)
@given(cells)
def test_decoding_is_one_line(given_cells) -> None:
    """That of cache/FORMAT.md, in float64; and no code is the one that poison reads back as."""
    codec, values, is_stored = given_cells
    codes = encoded(codec, values, is_stored)
    assert codes.shape == (codec.columns, len(values))
    assert codes.dtype == np.int8
    assert (codes != POISON_CODE).all()
    logits = (codes.T * codec.step) @ codec.basis.astype(np.float64) + codec.offset
    decoded = codec.decode(codes)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded.reshape(logits.shape), logits, rtol=0, atol=2e-6 * np.abs(logits).max(initial=0))


@settings(max_examples=60, deadline=None)
@given(cells)
def test_a_codec_read_back_makes_the_same_bytes(given_cells) -> None:
    """A fresh capture and one that is resumed, which knows the float32 arrays of the store."""
    codec, values, is_stored = given_cells
    arrays = {
        name: np.frombuffer(array.tobytes(), "<f4").reshape(array.shape) for name, array in codec.arrays().items()
    }
    stored = CellCodec(codec.head, codec.step, codec.wide, **arrays)
    assert encoded(codec, values, is_stored).tobytes() == stored.encode(values, is_stored).tobytes()
    assert stored.describe() == codec.describe()


@pytest.mark.parametrize("array", ["basis", "offset", "variance"])
def test_the_digest_covers_every_array_and_the_step(array: str) -> None:
    codec = made_up_codec("numbers", 1 / 16)
    arrays = {name: values.copy() for name, values in codec.arrays().items()}
    arrays[array].flat[-1] = np.nextafter(arrays[array].flat[-1], np.float32(np.inf))
    assert CellCodec(codec.head, codec.step, codec.wide, **arrays).digest != codec.digest
    assert CellCodec(codec.head, 2 * codec.step, codec.wide, **codec.arrays()).digest != codec.digest


def along_axes(step: float = 0.5, wide: int = 1) -> CellCodec:
    """One class logit and one number a cell, a quarter and five times of which are its coordinates."""
    head = HeadShape(1, 1, (1,))
    basis = Basis(head, mean=np.zeros(2), directions=np.eye(2)[::-1], variance=np.array([4.0, 1.0]))
    return CellCodec.of_basis(basis, step, np.array([1000.0 if wide else 0.0, 1000.0 if wide == 2 else 0.0]))


@pytest.mark.parametrize(
    ("number", "codes"),
    [
        # 5 x number / 0.5 steps; wide columns have 255 of them.
        pytest.param(0.1, (0, 1), id="one step"),
        pytest.param(12.7, (0, 127), id="as many as one column holds"),
        pytest.param(12.8, (1, -127), id="one more"),
        pytest.param(-12.8, (-1, 127), id="and below"),
        pytest.param(25.5, (1, 0), id="a wide step"),
        pytest.param(3251.2, (127, 127), id="the most"),
        pytest.param(-3251.2, (-127, -127), id="the least"),
    ],
)
def test_wide_columns_by_hand(number: float, codes: tuple[int, int]) -> None:
    codec = along_axes()
    assert (codec.wide, codec.columns, LARGEST_CODE) == (1, 3, 127)
    np.testing.assert_allclose(codec.basis, [[0, 255 / NUMBER_SCALE], [0, 1 / NUMBER_SCALE], [1 / CLASS_MEAN_SCALE, 0]])
    assert codec.variance.tolist() == [0, 4, 1]
    # A class logit of 7 is a coordinate of 1.75, three and a half steps: to the even one.
    values = np.array([[[7.0, number]]], dtype=np.float32)
    found = codec.encode(values, np.ones((1, 1), dtype=bool))
    assert found[:, 0].tolist() == [*codes, 4]
    np.testing.assert_allclose(codec.decode(found), [[[8.0, number]]], rtol=1e-6)
    # Half a step of the number and of the class, as logits.
    np.testing.assert_allclose(codec.max_abs_error, [0.25 * 4, 0.25 / 5], rtol=1e-3)


def test_columns_are_wide_up_to_the_last_that_needs_it() -> None:
    """With room for coefficients four times as large as any that was seen: 4 x 15.9 steps of 0.5 are 127.2."""
    basis = Basis(HeadShape(1, 2, (1,)), np.zeros(3), np.eye(3), np.array([1.0, 1.0, 1.0]))
    for largest, wide in (([15.8, 15.8, 15.8], 0), ([1.0, 15.9, 1.0], 2), ([15.9, 1.0, 1.0], 1)):
        assert CellCodec.of_basis(basis, 0.5, np.array(largest)).wide == wide


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            (0, 3252), r"block 4: coefficient 0 is 1\.626e\+04, the codes of its cache reach ±1\.626", id="wide"
        ),
        pytest.param((600, 0), r"block 4: coefficient 1 is 150, the codes of its cache reach ±63\.5", id="narrow"),
        pytest.param((0, np.nan), "coefficient 0 is nan", id="nan"),
    ],
)
def test_a_coefficient_that_its_columns_do_not_hold(values: tuple[float, float], message: str) -> None:
    stored = np.ones((1, 1), dtype=bool)
    with pytest.raises(ValueError, match=f"{message}.*Capture into a new cache with codec 'half', or with a coarser"):
        along_axes().encode(np.array([[values]], dtype=np.float32), stored, "block 4")


def test_a_covariance_of_few_directions_is_found_again() -> None:
    """Three directions and a little noise over four priors, of each of which a third of the cells stores nothing."""
    head, random = HeadShape(4, 2, (1, 3)), np.random.default_rng(1)
    count = head.coordinates
    directions = np.linalg.qr(random.normal(size=(count, count)))[0][:3]
    coordinates = random.normal(size=(20_000, 3)) * [8, 4, 2] @ directions + 2
    coordinates += 0.01 * random.normal(size=coordinates.shape)
    values = head.expand(coordinates).reshape(-1, head.priors, head.values)
    is_stored = random.random((len(values), head.priors)) < 0.67
    is_stored[np.arange(len(values)), random.integers(head.priors, size=len(values))] = True
    # Nobody looks at what is not stored.
    basis = fit_basis(head, np.where(is_stored[..., None], values, np.nan), is_stored, rounds=30)
    truth = (directions.T * [64, 16, 4]) @ directions
    found = (basis.directions.T * basis.variance) @ basis.directions
    assert np.linalg.norm(found - truth) < 0.05 * np.linalg.norm(truth)
    np.testing.assert_allclose(basis.variance[:3], [64, 16, 4], rtol=0.1)
    assert basis.variance[3:].max() < 0.2
    np.testing.assert_allclose(basis.mean, 2, atol=0.2)
    np.testing.assert_allclose(basis.directions @ basis.directions.T, np.eye(count), atol=1e-9)


def test_what_is_not_stored_is_what_the_stored_leads_to_expect() -> None:
    """By hand: two priors of one number each with variances 1 and 4 and covariance 1; the second follows the first."""
    head = HeadShape(2, 1, (1,))
    covariance = np.diag([1e-3, 1.0, 1e-3, 4.0])
    covariance[1, 3] = covariance[3, 1] = 1.0
    variance, directions = np.linalg.eigh(covariance)
    basis = Basis(head, np.array([0.0, 10.0, 0.0, 20.0]), directions.T, variance)
    values = np.zeros((2, 2, 2))
    # In coordinates 13 and 22, 3 and 2 above their means. A number's coordinate is five times it.
    values[..., 1] = np.array([13.0, 22.0]) / NUMBER_SCALE
    only_first = np.array([[True, False], [True, True]])
    found = basis.coefficients(values, only_first) @ basis.directions + basis.mean
    np.testing.assert_allclose(found, [[0, 13, 0, 20 + 3 * 1 / 1], [0, 13, 0, 22]], atol=1e-3)


def test_no_cell_has_no_basis() -> None:
    with pytest.raises(ValueError, match=r"no basis can be found. Use codec 'exact' or 'half'"):
        fit_basis(HEADS["a number"], np.zeros((0, 1, 2)), np.zeros((0, 1), dtype=bool))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_coordinates_hold_all_but_the_means_of_bins(head: HeadShape) -> None:
    values = np.random.default_rng(2).normal(size=(5, head.priors, head.values))
    coordinates = head.reduce(values)
    assert coordinates.shape == (5, head.coordinates)
    without_means = sum(count > 1 for count in head.bins)
    assert head.coordinates == head.priors * (head.values - without_means)
    again = head.expand(coordinates).reshape(values.shape)
    np.testing.assert_allclose(again, centred(head, values), atol=1e-12)
    # Rows that act on coordinates: products with directions are the same before and after.
    np.testing.assert_allclose(head.reduce(again), coordinates, atol=1e-12)


def test_an_error_counts_as_its_kind_moves_a_loss() -> None:
    """Two classes, a number and two bins: the classes' mean for a quarter, a number five times, bins as they are."""
    head = HeadShape(1, 2, (1, 2))
    lengths = np.linalg.norm(head.reduce(np.array([[[1, 1, 0, 0, 0]], [[1, -1, 0, 0, 0]], [[0, 0, 1, 0, 0]]])), axis=1)
    np.testing.assert_allclose(lengths, [2**0.5 / 4, 2**0.5, 5])
    np.testing.assert_allclose(head.reduce(np.array([[[0, 0, 0, 1, 1]], [[0, 0, 0, 1, -1]]]))[:, -1], [0, 2**0.5])


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        pytest.param(
            {"classes": ["a", "b"], "box_parameters": list("xywha"), "num_bins": 9, "grid": {"ratios": [1, 2]}},
            HeadShape(2, 2, (9,) * 5),
            id="ratios alone",
        ),
        pytest.param(
            {"classes": ["a"], "box_parameters": list("xya"), "num_bins": [1, 1, 180]},
            HeadShape(1, 1, (1, 1, 180)),
            id="bins by parameter, no grid",
        ),
        pytest.param(
            {"classes": ["a"], "box_parameters": ["x"], "num_bins": 1, "grid": {"ratios": [1] * 3, "scales": [1] * 3}},
            HeadShape(9, 1, (1,)),
            id="nine priors",
        ),
    ],
)
def test_the_shape_of_a_manifests_head(section: dict, expected: HeadShape) -> None:
    assert HeadShape.of(section) == expected


def test_box_logits_have_an_axis_of_parameters_where_these_are_alike() -> None:
    assert HeadShape(1, 2, (9, 9)).box_shape == (2, 9)
    assert HeadShape(1, 2, (1, 180)).box_shape == (181,)
    assert list(HeadShape(1, 2, (1, 180)).box_groups()) == [slice(0, 1), slice(1, 181)]


@settings(max_examples=60, deadline=None)
@given(
    views=st.lists(st.sets(st.integers(0, 30), max_size=12), min_size=1, max_size=4),
    priors=st.integers(1, 9),
    most=st.integers(1, 5),
)
def test_cells_of_views_hold_each_prior_once(views: list[set[int]], priors: int, most: int) -> None:
    """Neighbouring views that store priors of the same cell have a row for it each."""
    prior_index = np.array([prior for view in views for prior in sorted(view)], dtype=np.int64)
    rows = CellRows.of(prior_index, np.array([len(view) for view in views]), priors)
    expected = [sorted({prior // priors for prior in view}) for view in views]
    assert rows.cell_index.tolist() == [cell for view in expected for cell in view]
    assert rows.cells.tolist() == [len(view) for view in expected]
    assert rows.cells.tolist() == [count_cells(np.array(sorted(view), dtype=int), priors) for view in views]
    values = np.arange(2 * len(prior_index)).reshape(-1, 2) + 1
    dense = rows.scatter(values)
    assert dense.shape == (len(rows.cell_index), priors, 2)
    np.testing.assert_array_equal(rows.gather(dense), values)
    np.testing.assert_array_equal(rows.is_stored, dense[..., 0] > 0)
    np.testing.assert_array_equal(rows.cell_index[rows.row // priors] * priors + rows.row % priors, prior_index)
    pieces = [(part.scatter(values[some]), part.gather(part.scatter(values[some]))) for some, part in rows.parts(most)]
    assert all(len(piece) <= most for piece, _ in pieces)
    np.testing.assert_array_equal(np.concatenate([np.zeros_like(dense[:0]), *(piece for piece, _ in pieces)]), dense)
    np.testing.assert_array_equal(np.concatenate([values[:0], *(piece for _, piece in pieces)]), values)
