"""Comparison of manifests: the first field that differs, both values, the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cache
from cache.manifest import Manifest, ManifestMismatch, first_difference, require_equal
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
            manifest_of(head={"num_bins": 17}),
            place="cache c.zarr",
            cure="Rebuild it.",
        )
    assert str(caught.value) == "cache c.zarr: head.num_bins is 17 in the cache but 9 here. Rebuild it."


def test_sections_that_are_not_wanted_may_differ() -> None:
    require_equal({"head": {}}, manifest_of(region={"topk": 9}), place="", cure="")


def manifest_of(**sections: Any) -> Manifest:
    names = ("teacher", "head", "views", "preprocessing", "numeric", "region", "plan", "codec")
    return Manifest(**{name: sections.get(name, {}) for name in names})


def test_a_manifest_is_what_its_store_gives_back() -> None:
    fresh = manifest_of(head={"classes": ("ship", "plane")}, region={"factor": 0.25})
    stored = Manifest.from_json(json.loads(json.dumps(fresh.to_json())) | {"of_a_later_version": 1})
    assert stored == fresh
    assert stored.fingerprint == fresh.fingerprint != manifest_of().fingerprint
    assert list(fresh.to_json())[:3] == ["format", "code_version", "teacher"]


def test_what_json_cannot_hold_is_no_manifest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest_of(region={"factor": float("nan")})


def test_the_package_is_this_repositorys() -> None:
    assert Path(cache.__file__).parent == REPOSITORY / "cache"


def test_one_version() -> None:
    assert f'version = "{cache.__version__}"' in (REPOSITORY / "pyproject.toml").read_text()
