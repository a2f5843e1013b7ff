"""One self-contained HTML file: what it shows, that it loads nothing and that no text becomes markup."""

from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cache.grid import AnchorGrid
from cache.manifest import Manifest
from cache.reader import CacheReader
from pipelines import distill, evaluate, report, train
from pipelines.reporting.pictures import weight_maps
from tests.pipelines.conftest import Project, call

SVG = "data:image/svg+xml;base64,"
HOSTILE = "</pre></td><script>alert(1)</script>$x$"


class Page(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def runs(project: Project, tmp_path_factory) -> Path:
    """A plain and a cached student, trained; the cached one evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    assert call(train, "--config", project.config("plain"), "--work-dir", folder / "plain") == 0
    assert call(distill, "--config", project.config("distill"), "--work-dir", folder / "cached") == 0
    options = ["--checkpoint", folder / "cached/iter_4.pth", "--out", folder / "cached/evaluation"]
    work_dir = ["--cfg-options", f"work_dir={folder / 'cached/evaluation'}"]
    assert call(evaluate, "--config", project.config("distill"), *options, *work_dir) == 0
    capture = {
        "cache": str(project.cache),
        "bytes": 1_050_000,
        "seconds": 3.0,
        "predicted": {"bytes": 1e6, "seconds": 2},
    }
    (folder / "capture.json").write_text(json.dumps(capture))
    return folder


def make(folder: Path, *options: object) -> Page:
    assert call(report, "--work-dir", folder, *options) == 0
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def charts(page: Page) -> list[str]:
    """The page's charts as XML."""
    return [base64.b64decode(link.removeprefix(SVG)).decode() for link in page.links if link.startswith(SVG)]


@pytest.mark.slow
def test_everything_is_in_one_file(project: Project, runs: Path, capfd) -> None:
    page = make(runs)
    assert capfd.readouterr().out == f"Report: {runs / 'report.html'}\n"
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.links
    assert all(link.startswith(("data:image/webp;base64,", SVG, "#")) for link in page.links)
    assert [link[:15] for link in page.links].count("data:image/webp") == 3
    assert "loss_ld" in "".join(charts(page))
    identity = CacheReader(project.cache).manifest.fingerprint
    for text in (identity[:12], "AP50, cached", "Region", "Distributions", "+5.0 %", "+50.0 %", "torch"):
        assert text in page.text, text


def test_the_same_runs_give_the_same_charts(runs: Path) -> None:
    first, again = (charts(make(runs, "--no-pictures")) for _ in range(2))
    assert first == again
    assert len(first) == 4
    for chart in first:
        assert ElementTree.fromstring(chart).tag.endswith("svg")


def test_texts_stay_texts(copy: Project, runs: Path, tmp_path) -> None:
    """Manifest, overrides, folders and file names are anybody's."""
    folder = tmp_path / "a<b>&c"
    shutil.copytree(runs, folder)
    root = copy.cache / "zarr.json"
    stored = json.loads(root.read_text())
    stored["attributes"]["head"]["classes"][0] = HOSTILE
    root.write_text(json.dumps(stored))
    record = json.loads((folder / "cached/run.json").read_text())
    record["cache"] |= {
        "path": str(copy.cache),
        "fingerprint": Manifest.from_json(stored["attributes"]).fingerprint,
        "preset": HOSTILE,
    }
    record["overrides"] = {"why": HOSTILE}
    record["hardware"]["cpu"] = HOSTILE
    (folder / "cached/run.json").write_text(json.dumps(record))
    capture = {"cache": str(copy.cache), "bytes": 1, "predicted": {"bytes": 1, HOSTILE: 2}, HOSTILE: 3}
    (folder / "capture.json").write_text(json.dumps(capture))
    page = make(folder, "--no-pictures")
    assert "script" not in page.tags
    # Manifest, preset, overrides, processor, predicted figure.
    assert page.text.count(HOSTILE) == 5
    assert str(folder) in page.text


def test_what_is_gone_is_said(runs: Path, copy: Project, tmp_path, capfd) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    record = json.loads((folder / "cached/run.json").read_text())
    record["cache"]["path"] = str(copy.cache)
    (folder / "cached/run.json").write_text(json.dumps(record))
    (folder / "capture.json").unlink()
    page = make(folder)
    assert "reads another cache" in page.text
    assert "No capture.json of this cache was found" in page.text
    assert "no pictures of" in capfd.readouterr().err
    shutil.rmtree(copy.cache)
    assert "The store is not at" in make(folder).text


def test_a_folder_without_runs_is_refused(tmp_path, capfd) -> None:
    assert call(report, "--work-dir", tmp_path) == 1
    assert "no run.json of a finished training below" in capfd.readouterr().err
    assert call(report, "--work-dir", tmp_path / "absent") == 1
    assert f"WORK_DIR {tmp_path}/absent is no folder that exists" in capfd.readouterr().err


def test_weights_lie_in_their_cells(project: Project) -> None:
    grid = AnchorGrid.retina(32, 64, strides=(16, 32))
    # Level 0 has 2 x 4 cells of 9 anchors: cell (1, 2), anchors 0 and 5; level 1 one row: cell (0, 1), anchor 8.
    prior_index = np.array([(1 * 4 + 2) * 9, (1 * 4 + 2) * 9 + 5, 8 * 9 + 1 * 9 + 8])
    first, second = weight_maps(grid, prior_index, np.array([0.25, 0.5, 0.75], dtype=np.float32))
    assert first.tolist() == [[0, 0, 0, 0], [0, 0, 0.5, 0]]
    assert second.tolist() == [[0, 0.75]]
