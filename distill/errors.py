"""Errors that another command mends: they say what is missing; a command that reports one adds how it is made."""

from __future__ import annotations


class DataNeeded(ValueError):
    """Images, labels or annotations that have not been prepared."""


class ViewsUnknown(ValueError):
    """A training pipeline whose views no cache can hold: a teacher in the training step can answer to them."""


class TeacherNeeded(ValueError):
    """A teacher that is missing, or cannot be one; `config` is its config file, where that is known."""

    def __init__(self, problem: str, config: str | None = None) -> None:
        super().__init__(problem)
        self.config = config
