"""Codecs by name: what a config may ask for, floats, and what the manifest says of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.cells import HeadShape
from cache.codec import CodecRequest, RowCodec, describe_codec, stores_cells, subtract_row_max
from cache.reader import subtract_bin_max
from tests.cache.store_tools import small_codec


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("exact", {"preset": "exact", "kl": None, "stored": "rows", "dtype": "float32"}),
        ("half", {"preset": "half", "kl": None, "stored": "rows", "dtype": "float16"}),
        ("default", {"preset": "default", "kl": 6e-6, "stored": "cells", "step": 0.5}),
        ("small", {"preset": "small", "kl": 1e-4, "stored": "cells", "step": 1.0}),
        ({"kl": 1}, {"preset": "free", "kl": 1.0, "stored": "cells"}),
        ({"kl": 1e-9}, {"preset": "free", "kl": 1e-9, "stored": "cells"}),
    ],
    ids=str,
)
def test_what_a_config_may_ask_for(codec, expected: dict) -> None:
    request = CodecRequest.of(codec)
    said = describe_codec(request, small_codec(codec)) if isinstance(codec, str) else request.describe()
    assert expected.items() <= said.items()
    assert stores_cells(said) == request.is_cells == (request.dtype is None)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        pytest.param("tiny", r"preset 'tiny' is unknown; one of exact, half, default, small.*dict\(kl=", id="preset"),
        pytest.param({}, r"codec is {}; one of exact, half, default, small needed", id="nothing"),
        pytest.param({"step": 0.5}, r"codec is {'step': 0\.5}; one of exact", id="step"),
        pytest.param({"kl": 1e-5, "preset": "small"}, r"codec is {'kl'", id="two things"),
        pytest.param({"kl": 0}, "codec.kl is 0; a number of nats from 1e-9 to 1 needed", id="zero"),
        pytest.param({"kl": -1e-5}, "codec.kl is -1e-05", id="negative"),
        pytest.param({"kl": 2}, "codec.kl is 2", id="large"),
        pytest.param({"kl": float("nan")}, "codec.kl is nan", id="nan"),
        pytest.param({"kl": True}, "codec.kl is True", id="truth"),
        pytest.param({"kl": "1e-5"}, "codec.kl is '1e-5'", id="text"),
    ],
)
def test_what_no_codec_is(codec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecRequest.of(codec)


@settings(max_examples=100, deadline=None)
@given(values=hnp.arrays(np.float32, 20, elements=st.floats(-65504, 65504, width=32)))
def test_floats_stay_within_their_bound(values: np.ndarray) -> None:
    for dtype in ("float32", "float16"):
        codec = RowCodec(dtype)
        codec.require_range(float(values.min()), float(values.max()), "cls_logits", "block 1")
        error = np.abs(values.astype(dtype).astype(np.float64) - values).max()
        assert error <= codec.max_abs_error(float(np.abs(values).max()))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 7e4, r"block 1: cls_logits value 7e\+04 lies outside ±65504.*codec 'exact', which holds it"),
        ("float16", -7e4, r"block 1: cls_logits value -7e\+04 lies outside ±65504"),
        ("float16", float("nan"), "block 1: cls_logits holds nan; the teacher's output must be finite"),
        ("float32", float("-inf"), "block 1: cls_logits holds -inf"),
    ],
)
def test_values_that_floats_do_not_hold(dtype: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowCodec(dtype).require_range(min(value, 0.0), max(value, 0.0), "cls_logits", "block 1")


def test_the_largest_of_a_row_becomes_zero() -> None:
    rows = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(subtract_row_max(rows), [[-2, 0, -1]])
    # Of every parameter with bins; a number stays.
    np.testing.assert_array_equal(subtract_bin_max(rows, HeadShape(1, 1, (1, 2))), [[1, 0, -1]])
    np.testing.assert_array_equal(subtract_bin_max(rows, HeadShape(1, 1, (3,))), [[[-2, 0, -1]]])
    np.testing.assert_array_equal(subtract_bin_max(rows, HeadShape(1, 1, (1, 1, 1))), [[[1], [3], [2]]])
