"""Comparison of manifests: the first field that differs, both values, the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

import cache
from cache.manifest import ManifestMismatch, first_difference, require_equal
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("wanted", "stored", "expected"),
    [
        pytest.param({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]}, None, id="equal"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ("a.c", 2, 3), id="nested"),
        pytest.param({"a": [1, 2]}, {"a": [1, 5]}, ("a[1]", 2, 5), id="list"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, ("a", [1, 2], [1]), id="length"),
        pytest.param({"a": 1}, {}, ("a", 1, "(absent)"), id="absent"),
        pytest.param({"b": 2, "a": 2}, {"b": 1, "a": 1}, ("a", 2, 1), id="first-in-key-order"),
    ],
)
def test_first_difference(wanted, stored, expected) -> None:
    assert first_difference(wanted, stored) == expected


def test_the_error_names_field_values_and_cure() -> None:
    with pytest.raises(ManifestMismatch) as caught:
        require_equal(
            {"head": {"num_bins": 9}},
            {"head": {"num_bins": 17}},
            place="cache c.zarr",
            cure="Rebuild it.",
            sections=["head"],
        )
    assert str(caught.value) == "cache c.zarr: head.num_bins is 17 in the cache but 9 here. Rebuild it."


def test_sections_that_are_not_named_may_differ() -> None:
    require_equal({"a": 1, "b": 2}, {"a": 1, "b": 3}, place="", cure="", sections=["a"])


def test_the_package_is_this_repositorys() -> None:
    assert Path(cache.__file__).parent == REPOSITORY / "cache"


def test_one_version() -> None:
    assert f'version = "{cache.__version__}"' in (REPOSITORY / "pyproject.toml").read_text()
