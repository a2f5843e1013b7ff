"""The codecs' laws: bounded error, NumPy equals torch, nothing wraps, KL within the stated bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.quantize import PRESETS, FieldCodec, ValueRange, choose_codecs, subtract_row_max

steps = st.floats(2**-10, 4) | st.sampled_from([2.0**exponent for exponent in range(-10, 3)])
offsets = st.floats(-50, 50, width=32)


@settings(max_examples=200, deadline=None)
@given(step=steps, offset=offsets, codes=hnp.arrays(np.float32, 40, elements=st.floats(0, 255, width=32)))
def test_decoded_values_stay_within_the_bound(step, offset, codes) -> None:
    codec = FieldCodec("uint8", step, offset)
    values = (codes.astype(np.float64) * step + offset).astype(np.float32)
    decoded = codec.decode(codec.encode(values).astype(np.uint8))
    # Beside the codec's own bound, float32 cannot place values of this size more exactly.
    spacing = np.spacing(np.float32(np.abs(values).max() + step))
    assert np.abs(decoded.astype(np.float64) - values).max() <= codec.max_abs_error() + 2 * spacing


@settings(max_examples=200, deadline=None)
@given(step=steps, offset=offsets, values=hnp.arrays(np.float32, (6, 9), elements=st.floats(-300, 300, width=32)))
def test_numpy_and_torch_give_the_same_codes(step, offset, values) -> None:
    codec = FieldCodec("uint8", step, offset)
    ours = codec.encode(subtract_row_max(values))
    theirs = codec.encode(subtract_row_max(torch.from_numpy(values.copy()))).numpy()
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=100, deadline=None)
@given(
    logits=hnp.arrays(np.float64, (5, 9), elements=st.floats(-15, 15)),
    step=st.floats(0.01, 2),
    temperature=st.sampled_from([1.0, 2.0, 5.0, 10.0]),
    seed=st.integers(0, 99),
)
def test_kl_of_every_row_is_within_hoeffdings_bound(logits, step, temperature, seed) -> None:
    """|error| <= s/2 on each logit keeps the KL of a softmax row within s^2 / (8 T^2)."""
    error = np.random.default_rng(seed).uniform(-step / 2, step / 2, logits.shape)
    teacher, stored = log_softmax(logits / temperature), log_softmax((logits + error) / temperature)
    divergence = (np.exp(teacher) * (teacher - stored)).sum(axis=-1)
    assert divergence.max() <= step**2 / (8 * temperature**2) + 1e-12


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@settings(max_examples=100, deadline=None)
@given(low=st.floats(-40, 5), span=st.floats(0, 60), preset=st.sampled_from(PRESETS))
def test_chosen_codecs_hold_twice_the_probed_range(low, span, preset) -> None:
    ranges = {"cls_logits": ValueRange(low, low + span), "box_logits": ValueRange(-span, 0.0)}
    codecs = choose_codecs(preset, ranges)
    codecs["cls_logits"].check_range(low - span / 2, low + 1.5 * span, "cls_logits", "view")
    codecs["box_logits"].check_range(-2 * span, 0.0, "box_logits", "view")
    # The maximum of a box row is 0 and stays exactly 0.
    zero = np.zeros(1, np.float32)
    code = codecs["box_logits"].encode(zero).astype(codecs["box_logits"].dtype)
    assert codecs["box_logits"].decode(code)[0] == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(9.0, r"patch P1: cls_logits value 9 lies outside \[-8\.0.*'half' or 'exact'", id="above"),
        pytest.param(float("nan"), "cls_logits holds nan", id="nan"),
        pytest.param(float("inf"), "cls_logits holds inf", id="infinite"),
    ],
)
def test_values_without_a_code_are_refused(value: float, message: str) -> None:
    codec = FieldCodec("uint8", 0.0625, -8.0)
    with pytest.raises(ValueError, match=message):
        codec.check_range(min(value, 0.0), value, "cls_logits", "patch P1")


@pytest.mark.parametrize("arguments", [("int8",), ("uint8", 0.0), ("uint8", float("nan")), ("float16", 0.5)], ids=str)
def test_unusable_codecs_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match=r"codec|scale"):
        FieldCodec(*arguments)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="'tiny' is unknown; one of exact, half, default"):
        choose_codecs("tiny", {})


def test_json_round_trip() -> None:
    codec = FieldCodec("uint8", 0.125, -31.875)
    assert FieldCodec.from_json(codec.to_json()) == codec
