"""The codecs' laws: bounded error, NumPy equals torch, nothing wraps, KL within the stated bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cache.quantize import (
    LOGIT_FIELDS,
    PRESETS,
    FieldCodec,
    ValueRange,
    choose_codecs,
    resolve_codec,
    subtract_row_max,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

steps = st.floats(2**-10, 4) | st.sampled_from([2.0**exponent for exponent in range(-10, 3)])
dtypes = st.sampled_from(["uint8", "uint16"])
offsets = st.floats(-50, 50, width=32)


@settings(max_examples=200, deadline=None)
@given(dtype=dtypes, step=steps, offset=offsets, shares=hnp.arrays(np.float32, 40, elements=st.floats(0, 1, width=32)))
def test_decoded_values_stay_within_the_bound(dtype, step, offset, shares) -> None:
    codec = FieldCodec(dtype, step, offset)
    codes = shares * codec.largest_code
    values = (codes.astype(np.float64) * step + offset).astype(np.float32)
    decoded = codec.decode(codec.encode(values).astype(dtype))
    # Beside the codec's own bound, float32 cannot place values of this size more exactly.
    spacing = np.spacing(np.float32(np.abs(values).max() + step))
    assert np.abs(decoded.astype(np.float64) - values).max() <= codec.max_abs_error() + 2 * spacing


@settings(max_examples=200, deadline=None)
@given(
    dtype=dtypes,
    step=steps,
    offset=offsets,
    values=hnp.arrays(np.float32, (6, 9), elements=st.floats(-300, 300, width=32)),
)
def test_numpy_and_torch_give_the_same_codes(dtype, step, offset, values) -> None:
    codec = FieldCodec(dtype, step, offset)
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
@given(low=st.floats(-40, 5), span=st.floats(0, 60), codec=st.sampled_from(list(PRESETS)) | st.floats(0.01, 3))
def test_chosen_codecs_hold_twice_the_probed_range(low, span, codec) -> None:
    ranges = {"cls_logits": ValueRange(low, low + span), "box_logits": ValueRange(-span, 0.0)}
    codecs = choose_codecs(codec if isinstance(codec, str) else dict.fromkeys(LOGIT_FIELDS, codec), ranges)
    codecs["cls_logits"].check_range(low - span / 2, low + 1.5 * span, "cls_logits", "view")
    codecs["box_logits"].check_range(-2 * span, 0.0, "box_logits", "view")
    # The maximum of a box row is 0 and stays exactly 0.
    zero = np.zeros(1, np.float32)
    box = codecs["box_logits"]
    # A free step that is no power of two leaves a rounding error of float32 there, in units of what is added up.
    allowed = 0 if isinstance(codec, str) else 2**-22 * abs(box.add_offset)
    assert abs(box.decode(box.encode(zero).astype(box.dtype))[0]) <= allowed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            9.0, r"patch P1: cls_logits value 9 lies outside \[-8\.0.*codec 'half', which holds it", id="above"
        ),
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


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        pytest.param("tiny", "'tiny' is unknown; one of exact, half, default, small", id="preset"),
        pytest.param({"preset": "tiny"}, "'tiny' is unknown", id="preset in a mapping"),
        pytest.param({"box": 0.5}, "codec.box: no such field", id="field"),
        pytest.param({"weight": 0.5}, "codec.weight is 0.5; float16 or float32 needed", id="weights have no step"),
        pytest.param({"cls_logits": 0}, "codec.cls_logits is 0; float16 or float32, or a step above 0", id="step"),
        pytest.param({"cls_logits": "int8"}, "codec.cls_logits is 'int8'", id="dtype"),
        pytest.param({"box_logits": 1e-4}, "65536 codes of step 0.0001 do not reach from -20 to 0", id="fine step"),
    ],
)
def test_unusable_choices_are_refused(codec, message: str) -> None:
    ranges = {"cls_logits": ValueRange(-5, 5), "box_logits": ValueRange(-10, 0)}
    with pytest.raises(ValueError, match=message):
        choose_codecs(codec, ranges)


def test_fields_choose_for_themselves() -> None:
    ranges = {"cls_logits": ValueRange(-9.0, 2.0), "box_logits": ValueRange(-14.0, 0.0)}
    assert resolve_codec("small")["preset"] == "small"
    chosen = {"preset": "small", "box_logits": 0.2, "cls_logits": "float16"}
    assert resolve_codec(chosen) == {"preset": "free", "weight": "float16", "cls_logits": "float16", "box_logits": 0.2}
    codecs = choose_codecs(chosen, ranges)
    assert codecs["cls_logits"] == FieldCodec("float16")
    assert codecs["box_logits"] == FieldCodec("uint8", 0.2, -255 * 0.2)
    # 28 / 0.0625 steps are more than a byte counts.
    assert choose_codecs("default", ranges)["box_logits"] == FieldCodec("uint16", 0.0625, -65535 * 0.0625)


def test_only_float32_holds_what_half_cannot() -> None:
    with pytest.raises(ValueError, match="codec 'exact', which holds it"):
        FieldCodec("float16").check_range(0.0, 70000.0, "cls_logits", "patch P1")
    with pytest.raises(ValueError, match="codec 'exact', which holds it"):
        FieldCodec("uint8", 0.25, -8.0).check_range(0.0, 70000.0, "cls_logits", "patch P1")


def test_json_round_trip() -> None:
    codec = FieldCodec("uint8", 0.125, -31.875)
    assert FieldCodec.from_json(codec.to_json()) == codec
