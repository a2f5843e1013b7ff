"""A stored record beside the teacher's answer: the comparison of the live audit and of verify-cache."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cache.cells import CellRows, HeadShape
from cache.codec import RowCodec
from cache.reader import CodedRecord, TargetRecord
from distill.arithmetic import REPEAT_TOLERANCE
from distill.audit import Comparison, TeacherAudit, compare_record
from tests.cache.store_tools import HEAD, small_codec

TOLERANCE = REPEAT_TOLERANCE["float32"]
EXACT, HALF = RowCodec("float32"), RowCodec("float16")
HEAD_OF_ROWS = HeadShape(1, 4, (9,) * 5)


@pytest.fixture
def teacher_record() -> TargetRecord:
    random = np.random.default_rng(3)
    box_logits = random.uniform(-20, 0, (3, 5, 9)).astype(np.float32)
    return TargetRecord(
        prior_index=np.array([2, 5, 9]),
        weight=np.array([0.25, 0.5, 1.0], dtype=np.float32),
        cls_logits=random.uniform(-20, 20, (3, 4)).astype(np.float32),
        box_logits=box_logits - box_logits.max(axis=-1, keepdims=True),
    )


def changed(record: TargetRecord, field: str, place: tuple[int, ...], value: float) -> TargetRecord:
    array = getattr(record, field).copy()
    array[place] = value
    return dataclasses.replace(record, **{field: array})


def compare_rows(
    stored: TargetRecord, teacher: TargetRecord, codec: RowCodec, tolerance: float = TOLERANCE
) -> Comparison:
    coded = CodedRecord(
        stored.prior_index, stored.weight, stored.cls_logits, stored.box_logits.reshape(len(stored), -1)
    )
    return compare_record(coded, teacher, codec, HEAD_OF_ROWS, tolerance)


def test_a_record_within_the_bound_has_no_problem(teacher_record) -> None:
    rounded = teacher_record.cls_logits.astype(np.float16).astype(np.float32)
    compared = compare_rows(dataclasses.replace(teacher_record, cls_logits=rounded), teacher_record, HALF)
    assert compared.problem is None
    largest = float(np.abs(teacher_record.cls_logits).max())
    classes = compared.found["cls_logits"]
    assert 0 < classes.max_abs_error <= classes.codec_bound == largest * 2**-11
    assert classes.repeat_tolerance == TOLERANCE * largest
    assert compared.found["box_logits"].max_abs_error == 0
    assert set(compared.found) == {"cls_logits", "box_logits"}


@pytest.mark.parametrize("tolerance", REPEAT_TOLERANCE.values())
def test_the_bound_is_the_codecs_and_the_tolerance(teacher_record, tolerance: float) -> None:
    """float32 is stored without error: the bound is the tolerance times the largest logit, here below 20."""
    largest = float(np.abs(teacher_record.box_logits).max())
    value = float(teacher_record.box_logits[1, 2, 3])
    for factor, passes in ((0.9, True), (1.1, False)):
        stored = changed(teacher_record, "box_logits", (1, 2, 3), value + factor * tolerance * largest)
        assert (compare_rows(stored, teacher_record, EXACT, tolerance).problem is None) is passes


PROBLEMS = [
    pytest.param("cls_logits", (2, 1), 25.5, r"cls_logits differ by .*bound 0\.010.*at prior 9 25\.5 is", id="logit"),
    pytest.param("box_logits", (0, 0, 0), np.nan, "box_logits differ by nan.*at prior 2 nan is", id="not-a-number"),
    pytest.param("weight", (1,), 0.6, "its weights differ by 0.1", id="weight"),
    pytest.param("prior_index", (0,), 3, "its 3 priors are not the region", id="prior"),
]


@pytest.mark.parametrize(("field", "place", "value", "message"), PROBLEMS)
def test_what_is_wrong_is_named(teacher_record, field, place, value, message) -> None:
    stored = changed(teacher_record, field, place, value)
    problem = compare_rows(stored, teacher_record, HALF).problem
    assert re.match(message, problem), problem
    if field.endswith("logits"):
        assert f"{getattr(teacher_record, field)[place]:.6g} is the teacher's" in problem


CELLS = small_codec("default")


def answer_of_cells(seed: int = 0, count: int = 40) -> tuple[TargetRecord, CellRows]:
    """A teacher's answer at some of the priors of `count` cells, such that the made-up codec holds it."""
    random = np.random.default_rng(seed)
    prior = np.flatnonzero(random.random(count * HEAD.priors) < 0.7)
    box = random.uniform(-4, 0, (len(prior), 5, 9)).astype(np.float32)
    weight = random.uniform(0.1, 1, len(prior)).astype(np.float32)
    cls_logits = random.uniform(-4, 2, (len(prior), HEAD.classes)).astype(np.float32)
    return TargetRecord(prior, weight, cls_logits, box), CellRows.of(prior, np.asarray([len(prior)]), HEAD.priors)


def stored_cells(teacher: TargetRecord, cells: CellRows) -> CodedRecord:
    logits = np.concatenate([teacher.cls_logits, teacher.box_logits.reshape(len(teacher), -1)], axis=1)
    codes = CELLS.encode(cells.scatter(logits), cells.is_stored)
    return CodedRecord(teacher.prior_index, teacher.weight, coefficients=codes, cell_row=cells.row)


def test_stored_cells_are_within_half_a_step() -> None:
    teacher, cells = answer_of_cells()
    compared = compare_record(stored_cells(teacher, cells), teacher, CELLS, HEAD, TOLERANCE)
    assert compared.problem is None
    found = compared.found["coefficients"]
    assert 0.9 * 0.25 < found.max_abs_error <= found.codec_bound == 0.5 * CELLS.step == 0.25


def test_half_a_logit_more_is_found_where_the_bound_of_a_logit_is_wider() -> None:
    teacher, cells = answer_of_cells()
    assert CELLS.max_abs_error[0] > 1
    changed_logits = teacher.cls_logits.copy()
    changed_logits[:, 0] += 0.5
    other = dataclasses.replace(teacher, cls_logits=changed_logits)
    stored = stored_cells(teacher, cells)
    problem = compare_record(stored, other, CELLS, HEAD, TOLERANCE).problem
    assert problem is not None
    assert re.match(r"coefficients differ by 0\.\d+ from the teacher's, bound 0\.2", problem), problem
    # Codes that follow from more priors than these say nothing about them.
    assert compare_record(stored, other, CELLS, HEAD, TOLERANCE, own_codes=False).problem is None


def test_a_code_that_is_one_off_is_found_and_named() -> None:
    teacher, cells = answer_of_cells()
    stored = stored_cells(teacher, cells)
    codes = stored.coefficients.copy()
    column, cell = CELLS.wide + 5, 17
    codes[column, cell] += 1
    damaged = dataclasses.replace(stored, coefficients=codes)
    problem = compare_record(damaged, teacher, CELLS, HEAD, TOLERANCE).problem
    first = int(teacher.prior_index[np.flatnonzero(cells.row // HEAD.priors == cell)[0]])
    assert problem is not None
    assert f"of the cell of prior {first}, column {column}, " in problem, problem


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TeacherAudit\.interval is 0; at least 1 step is needed"):
        TeacherAudit(interval=0)
