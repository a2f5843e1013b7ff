"""Whether a cache pays, in words: figures by hand."""

from __future__ import annotations

from pipelines.capture.break_even import BreakEven


def said(epochs_to_pay: float, epochs_planned: float, students: int = 1) -> str:
    """A live teacher takes 10 s an epoch."""
    return str(BreakEven(epochs_to_pay, epochs_planned, students, 10 * epochs_planned, 10 * epochs_to_pay, 4))


def test_one_student_that_does_not_repay_it() -> None:
    # 4.1 / 1.1 = 3.7: four students. A draw costs 4.1 / 4 epochs: one is repaid by 1.1.
    assert said(4.1, 1.1) == (
        "The capture takes as long as a live teacher in 4.1 epochs of training; a student of this config trains 1.1. "
        "Each sees every one of 4 draws of a patch 0.3 times; up to 1 would pay. "
        "Do not cache: a live teacher is 30 s cheaper. From 4 students on that share it, the cache pays."
    )


def test_students_that_repay_it() -> None:
    assert said(4.0, 24.0, students=2) == (
        "The capture takes as long as a live teacher in 4.0 epochs of training; 2 students of this config train 24.0. "
        "Each sees every one of 4 draws of a patch 3.0 times; up to 23 would pay. "
        "Cache: it saves 200 s of teacher."
    )


def test_as_many_as_it_costs_do_not_repay_it() -> None:
    assert said(4.0, 4.0, students=4).endswith("From 5 students on that share it, the cache pays.")
