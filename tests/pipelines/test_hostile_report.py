"""Texts of a foreign store stay texts: in the terminal, in pictures and in the report."""

from __future__ import annotations

import argparse
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cache.plan import Plan, make_plan
from cache.reader import CacheReader
from cache.view import FLIPS
from cache.writer import CacheWriter
from pipelines import inspect_cache, verify_cache
from pipelines.base.command import printable, run_command
from pipelines.reporting.cache_sections import cache_sections
from pipelines.reporting.page import page
from pipelines.reporting.work_folders import FinishedRun, Group
from tests.cache.store_tools import HALF, planned_patch, small_manifest, write_blocks
from tests.pipelines.conftest import call

MARKUP = ("[red]P1", "[link=file:a]P2", ":smile:", "[bold red]P4", "$x^{$")
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m"
SCRIPT = "</pre></td><script>alert(1)</script><img src=x onerror=alert(1)>'\"&"


def plan_of(ids: tuple[str, ...]) -> Plan:
    """A plan of patches with these ids, the first ones with the most rows."""
    counts = [np.full((1, 3), 50 - 5 * place) for place in range(len(ids))]
    patches = [planned_patch(patch_id, rows) for patch_id, rows in zip(ids, counts, strict=True)]
    return make_plan(patches, FLIPS[:1], views_per_block=2)


def write_store(path: Path, ids: tuple[str, ...] = ("P0",), **sections: object) -> None:
    plan = plan_of(ids)
    with CacheWriter(path, small_manifest(plan, **sections), plan, HALF) as writer:
        write_blocks(writer)


def test_markup_of_a_patch_id_is_shown_not_followed(tmp_path: Path, capfd) -> None:
    write_store(tmp_path / "cache.zarr", MARKUP)
    assert call(inspect_cache, "--cache", tmp_path / "cache.zarr", "--workers", 1) == 0
    shown = capfd.readouterr().out
    for patch_id in MARKUP:
        assert f"{patch_id}/none" in shown, patch_id
    assert "\x1b" not in shown


def test_file_names_cannot_forge_findings(tmp_path: Path, capfd) -> None:
    """Two files that do not belong, whose names clear the screen and say that nothing is wrong."""
    path = tmp_path / "cache.zarr"
    write_store(path)
    (path / f"{ESCAPES}.txt").touch()
    (path / "x\nwrong: forged").touch()
    assert call(verify_cache, "--cache", path, "--workers", 1) == 1
    shown = capfd.readouterr().out
    assert "\\x1b[2J\\x1b]0;title\\x07\\x9b31m.txt: does not belong to a cache" in shown
    assert not set("\x1b\x07\x9b") & set(shown)
    assert "x\\nwrong: forged: does not belong to a cache" in shown
    assert sum(line.startswith("wrong: ") for line in shown.splitlines()) == 2


def test_array_names_cannot_steer_the_terminal(tmp_path: Path, capfd) -> None:
    path = tmp_path / "cache.zarr"
    write_store(path)
    (path / ESCAPES).mkdir()
    (path / ESCAPES / "file").write_bytes(b"x")
    assert call(inspect_cache, "--cache", path, "--workers", 1) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_errors_cannot_steer_the_terminal(capfd) -> None:
    def main(arguments: argparse.Namespace) -> None:
        raise ValueError(f"cache holds {ESCAPES}\u202e")

    assert run_command(main, argparse.ArgumentParser(), []) == 1
    assert capfd.readouterr().err == "error: cache holds \\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202e\n"
    assert printable("港口 é [red]") == "港口 é [red]"


def test_a_manifest_that_steers_the_terminal_is_refused(tmp_path: Path, capfd) -> None:
    path = tmp_path / "cache.zarr"
    write_store(path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["codec"]["preset"] = ESCAPES
    (path / "zarr.json").write_text(json.dumps(root))
    assert call(inspect_cache, "--cache", path) == 1
    shown = capfd.readouterr()
    assert "the manifest holds control characters: '\\x1b[2J" in shown.err
    assert "\x1b" not in shown.err + shown.out


class Tags(HTMLParser):
    """Tags, their attributes and their sources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attributes)
        self.sources += [value for name, value in attributes if name == "src"]


@pytest.mark.parametrize("place", ["teacher", "numeric", "preprocessing", "region"])
def test_the_report_escapes_a_manifest(tmp_path: Path, place: str) -> None:
    """Keys as well as values."""
    path = tmp_path / "cache.zarr"
    needed = {"weights_sha256": 64 * "0"} if place == "teacher" else {}
    write_store(path, **{place: {SCRIPT: [SCRIPT], **needed}})
    reader = CacheReader(path)
    described = {
        "path": str(path),
        "fingerprint": reader.manifest.fingerprint,
        "bytes": 1,
        "preset": SCRIPT,
        "views": 4,
        "rows": 1,
    }
    record = {"cache": described, "config": {"file": "my.py"}}
    run = FinishedRun(tmp_path, "cached", record, None, {})
    sections = cache_sections([Group(tmp_path, [run], {}, None)], pictures=False)
    text = page("title", "subtitle", sections, "footer")
    found = Tags(text)
    assert "script" not in found.found
    assert all(source.startswith("data:image/svg+xml;base64,") for source in found.sources)
    assert not {name for name in found.attributes if name.startswith("on")}
    # Once as a key and once as a value of the manifest, once as the preset.
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


@pytest.mark.slow
def test_pictures_have_fixed_names_and_no_formulas(tmp_path: Path) -> None:
    """Neither an id nor the store's own name is part of a path or is read as mathematics."""
    path = tmp_path / r"a$\frac{$.zarr"
    write_store(path, MARKUP)
    out = tmp_path / "out"
    assert call(inspect_cache, "--cache", path, "--out", out, "--workers", 1) == 0
    assert [file.name for file in out.iterdir()] == ["statistics.png"]


@pytest.mark.parametrize("patch_id", ["../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "..", ""])
def test_ids_that_are_no_file_names_are_never_planned(patch_id: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        plan_of((patch_id,))
