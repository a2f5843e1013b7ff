"""The closing lines of `make stress`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SUMMARY = pytest.StashKey[list[str]]()


@pytest.fixture
def summary(pytestconfig) -> Callable[[str], None]:
    """Says something at the end of the run."""
    return pytestconfig.stash.setdefault(SUMMARY, []).append


def pytest_terminal_summary(terminalreporter, config) -> None:
    for line in config.stash.get(SUMMARY, []):
        terminalreporter.write_line(f"stress: {line}")
