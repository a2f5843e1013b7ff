"""A stored record beside the teacher's answer: the comparison of the live audit and of verify-cache."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cache.codec import RowCodec
from cache.reader import TargetRecord
from distill.arithmetic import REPEAT_TOLERANCE
from distill.audit import TeacherAudit, compare_record

TOLERANCE = REPEAT_TOLERANCE["float32"]
EXACT, HALF = RowCodec("float32"), RowCodec("float16")


@pytest.fixture
def teacher_record() -> TargetRecord:
    random = np.random.default_rng(3)
    return TargetRecord(
        prior_index=np.array([2, 5, 9]),
        weight=np.array([0.25, 0.5, 1.0], dtype=np.float32),
        cls_logits=random.uniform(-20, 20, (3, 4)).astype(np.float32),
        box_logits=random.uniform(-20, 0, (3, 5, 9)).astype(np.float32),
    )


def changed(record: TargetRecord, field: str, place: tuple[int, ...], value: float) -> TargetRecord:
    array = getattr(record, field).copy()
    array[place] = value
    return dataclasses.replace(record, **{field: array})


def test_a_record_within_the_bound_has_no_problem(teacher_record) -> None:
    rounded = teacher_record.cls_logits.astype(np.float16).astype(np.float32)
    compared = compare_record(dataclasses.replace(teacher_record, cls_logits=rounded), teacher_record, HALF, TOLERANCE)
    assert compared.problem is None
    assert 0 < compared.error["cls_logits"] <= 20 * 2**-11
    assert compared.error["box_logits"] == 0
    assert compared.largest["cls_logits"] == np.abs(teacher_record.cls_logits).max()


@pytest.mark.parametrize("tolerance", REPEAT_TOLERANCE.values())
def test_the_bound_is_the_codecs_and_the_tolerance(teacher_record, tolerance: float) -> None:
    """float32 is stored without error: the bound is the tolerance times the largest logit, here below 20."""
    largest = float(np.abs(teacher_record.box_logits).max())
    value = float(teacher_record.box_logits[1, 2, 3])
    for factor, passes in ((0.9, True), (1.1, False)):
        stored = changed(teacher_record, "box_logits", (1, 2, 3), value + factor * tolerance * largest)
        assert (compare_record(stored, teacher_record, EXACT, tolerance).problem is None) is passes


PROBLEMS = [
    pytest.param("cls_logits", (2, 1), 25.5, r"cls_logits differ by .*bound 0\.009.*at prior 9 25\.5 is", id="logit"),
    pytest.param("box_logits", (0, 0, 0), np.nan, "box_logits differ by nan.*at prior 2 nan is", id="not-a-number"),
    pytest.param("weight", (1,), 0.6, "its weights differ by 0.1", id="weight"),
    pytest.param("prior_index", (0,), 3, "its 3 priors are not the region", id="prior"),
]


@pytest.mark.parametrize(("field", "place", "value", "message"), PROBLEMS)
def test_what_is_wrong_is_named(teacher_record, field, place, value, message) -> None:
    stored = changed(teacher_record, field, place, value)
    problem = compare_record(stored, teacher_record, HALF, TOLERANCE).problem
    assert re.match(message, problem), problem
    if field.endswith("logits"):
        assert f"{getattr(teacher_record, field)[place]:.6g} is the teacher's" in problem


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TeacherAudit\.interval is 0; at least 1 step is needed"):
        TeacherAudit(interval=0)
