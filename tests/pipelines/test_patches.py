"""Patches: windows, labels and pixels by hand-computed numbers; files that survive a crash at every step."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import mmrotate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.dota import Labels, format_labels, list_images, parse_labels, parse_patch_name, read_labels
from pipelines.prepare.images import read_image
from pipelines.prepare.sources import SourceImage, read_sources
from pipelines.prepare.split_folder import SplitFolder, write_patches
from pipelines.prepare.windows import SplitRule, Window, crop_image, crop_labels, inside_ratios, split_image, windows

SAMPLE = Path(__file__).parents[3] / "shared" / "dota_sample"
CLASSES = ("plane", "ship")
SMALL = SplitRule(size=16, overlap=4, classes=CLASSES)


def labels_of(*lines: str) -> Labels:
    return parse_labels("\n".join(lines), "test")


def box(left: float, top: float, right: float, bottom: float, rest: str = "plane 0") -> str:
    return f"{left} {top} {right} {top} {right} {bottom} {left} {bottom} {rest}"


@dataclass(frozen=True)
class Expect:
    id: str
    image: tuple[int, int]
    patch: tuple[int, int]
    corners: list[tuple[int, int]]


@pytest.mark.parametrize(
    "case",
    [
        Expect("exactly one patch", (1024, 1024), (1024, 200), [(0, 0)]),
        Expect("last window moved back", (2048, 1024), (1024, 200), [(0, 0), (824, 0), (1024, 0)]),
        Expect("last window fits", (1848, 1024), (1024, 200), [(0, 0), (824, 0)]),
        Expect("one pixel more", (1849, 1024), (1024, 200), [(0, 0), (824, 0), (825, 0)]),
        Expect("narrow and tall", (594, 1104), (1024, 200), [(0, 0), (0, 80)]),
        Expect("share 0.38, below the threshold, but nothing better", (712, 557), (1024, 200), [(0, 0)]),
        Expect("column by column", (20, 20), (16, 4), [(0, 0), (0, 4), (4, 0), (4, 4)]),
        Expect("no overlap", (20, 8), (8, 0), [(0, 0), (8, 0), (12, 0)]),
    ],
    ids=lambda case: case.id,
)
def test_windows(case: Expect) -> None:
    found = windows(*case.image, *case.patch)
    assert [(window.x, window.y) for window in found] == case.corners
    assert {window.size for window in found} == {case.patch[0]}


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.data())
def test_windows_cover_every_pixel(width: int, height: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    found = windows(width, height, size, overlap)
    covered = np.zeros((height, width), dtype=bool)
    for window in found:
        covered[window.y : window.y + size, window.x : window.x + size] = True
        assert window.x == 0 or window.x + size <= width
        assert window.y == 0 or window.y + size <= height
    assert covered.all()
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("size", "overlap"), [(16, 16), (16, -1), (0, 0)])
def test_unusable_windows_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"patches of {size} pixels cannot overlap by {overlap}"):
        windows(100, 100, size, overlap)
    with pytest.raises(ValueError, match="0 <= overlap < size"):
        SplitRule(size=size, overlap=overlap)


def test_rule_names_the_value_outside_its_range() -> None:
    with pytest.raises(ValueError, match=r"keep_ratio is 1\.5"):
        SplitRule(keep_ratio=1.5)
    with pytest.raises(ValueError, match="image_rate_threshold is 1"):
        SplitRule(image_rate_threshold=1)


def test_small_image_is_padded_right_and_below_in_bgr() -> None:
    image = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 3)
    patch = crop_image(image, Window(0, 0, 4), SplitRule().padding_bgr)
    assert patch.shape == (4, 4, 3)
    assert (patch[:3, :2] == image).all()
    assert (patch[3:] == (104, 116, 124)).all()
    assert (patch[:, 2:] == (104, 116, 124)).all()


def test_object_is_kept_from_seventy_percent_on() -> None:
    # Ten columns wide, the window ends at x = 100: 7 of 10 columns inside are kept, 6.9 are not.
    labels = labels_of(box(93, 0, 103, 10), box(93.1, 0, 103.1, 10))
    assert inside_ratios(labels.polygons, Window(0, 0, 100)) == pytest.approx([0.7, 0.69])
    kept = crop_labels(labels, Window(0, 0, 100), keep_ratio=0.7)
    assert kept.polygons.tolist() == [[93, 0, 103, 0, 103, 10, 93, 10]], "translated by 0, and not clipped at 100"


def test_area_counts_not_the_bounding_box() -> None:
    # A diamond |x - cx| + |y - cy| <= 10 has area 200; the border at distance d from its centre cuts off (10 - d)^2.
    def diamond(cx: float) -> str:
        return f"{cx - 10} 50 {cx} 40 {cx + 10} 50 {cx} 60 plane 0"

    labels = labels_of(diamond(97), diamond(98))
    assert inside_ratios(labels.polygons, Window(0, 0, 100)) == pytest.approx([1 - 49 / 200, 1 - 64 / 200])
    assert len(crop_labels(labels, Window(0, 0, 100), keep_ratio=0.7)) == 1


def test_cut_objects_become_difficulty_2_and_others_keep_theirs() -> None:
    labels = labels_of(
        box(90, 10, 100, 20, "plane 0"),  # touches the border: not cut
        box(90, 10, 100.1, 20, "plane 0"),  # reaches out by a tenth of a pixel
        box(90, 10, 101, 20, "ship 1"),
        box(50, 50, 60, 60, "ship 1"),
        box(200, 0, 210, 10, "ship 0"),
    )
    kept = crop_labels(labels, Window(0, 0, 100))
    assert kept.class_names == ("plane", "plane", "ship", "ship")
    assert kept.difficulty.tolist() == [0, 2, 2, 1]


def test_coordinates_are_relative_to_the_window() -> None:
    kept = crop_labels(labels_of(box(830, 1000, 840, 1010)), Window(824, 648, 1024))
    assert kept.polygons.tolist() == [[6, 352, 16, 352, 16, 362, 6, 362]]


def test_crossed_corners_and_zero_areas_do_not_stop_the_run() -> None:
    # A bow tie of two triangles with area 25 each, then a line.
    labels = labels_of("0 0 10 10 10 0 0 10 ship 0", "5 5 9 9 9 9 5 5 ship 0")
    assert inside_ratios(labels.polygons, Window(0, 0, 100)).tolist() == [1, 0]
    assert inside_ratios(labels.polygons, Window(5, 0, 100)).tolist() == [0.5, 0]


def test_image_without_objects_gives_patches_with_empty_labels() -> None:
    patches = list(split_image(np.zeros((20, 20, 3), np.uint8), labels_of(), "P1", SMALL))
    assert [len(patch.labels) for patch in patches] == [0, 0, 0, 0]
    assert {format_labels(patch.labels) for patch in patches} == {""}


def test_patch_names_hold_image_ids_that_look_like_patches() -> None:
    image = np.zeros((16, 20, 3), np.uint8)
    names = [str(patch.name) for patch in split_image(image, labels_of(), "P0019__1__0___768", SMALL)]
    assert names == ["P0019__1__0___768__16__0___0", "P0019__1__0___768__16__4___0"]
    parsed = parse_patch_name(names[1])
    assert parsed is not None
    assert (parsed.image_id, parsed.x, parsed.y) == ("P0019__1__0___768", 4, 0)


@pytest.mark.parametrize("content", [b"", b"no image", "cut short"], ids=["empty", "text", "cut short"])
def test_undecodable_image_is_named_with_the_cure(
    tmp_path: Path, content: bytes | str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "P0001.png"
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"P0001\.png: not a readable image.*Fetch it again, or remove it"):
        read_image(path)
    assert capfd.readouterr().err == "", "the decoder's own complaints are kept away"


def write_pair(root: Path, image_id: str, size: tuple[int, int], label_text: str) -> SourceImage:
    """Write `<root>/train/{images,labelTxt}/<image_id>.*` of a noise image (width, height); its source entry."""
    for folder in ("images", "labelTxt"):
        (root / "train" / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(image_id)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    cv2.imwrite(str(root / "train" / "images" / f"{image_id}.png"), pixels)
    (root / "train" / "labelTxt" / f"{image_id}.txt").write_text(label_text)
    return next(image for image in read_sources(root, ["train"], SMALL)["train"].images if image.image_id == image_id)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class KilledError(Exception):
    """Stands for the process dying."""


def replace_until(steps: int) -> Callable[[Path, Path], None]:
    """An os.replace that works `steps` times and then dies."""
    left = steps

    def replace(old: Path, new: Path) -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1
        os.rename(old, new)

    return replace


HEADER = "imagesource:GoogleEarth\ngsd:0.115726939386\n"


def test_files_of_one_image(tmp_path: Path) -> None:
    source = write_pair(
        tmp_path, "a__b", (20, 16), HEADER + box(1, 1, 5, 5) + "\n" + box(12, 1, 20, 9, "ship 1") + "\n"
    )
    folder = SplitFolder(tmp_path / "out")
    folder.make()
    record = write_patches(source, folder, SMALL)
    files = tree(folder.root)
    assert sorted(files) == [
        "annfiles/a__b__16__0___0.txt",
        "annfiles/a__b__16__4___0.txt",
        "done/a__b.json",
        "images/a__b__16__0___0.png",
        "images/a__b__16__4___0.png",
        "labelTxt/a__b.txt",
    ]
    # Of the ship, columns 12 to 16 of 12 to 20 lie in the first window: half, dropped. Of the plane, columns 4 to 5
    # of 1 to 5 lie in the second: a quarter, dropped.
    assert files["annfiles/a__b__16__0___0.txt"] == b"1.0 1.0 5.0 1.0 5.0 5.0 1.0 5.0 plane 0\n"
    assert files["annfiles/a__b__16__4___0.txt"] == b"8.0 1.0 16.0 1.0 16.0 9.0 8.0 9.0 ship 1\n"
    assert files["labelTxt/a__b.txt"].decode().startswith(HEADER)
    pixels = read_image(source.image)
    assert (read_image(folder.images / "a__b__16__4___0.png") == pixels[:, 4:]).all()
    assert record.patches == {"a__b__16__0___0": 1, "a__b__16__4___0": 1}
    assert folder.records() == {"a__b": record}


def test_crash_at_every_step_leaves_an_image_finished_or_to_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_pair(tmp_path, "first", (20, 20), box(1, 1, 5, 5))
    second = write_pair(tmp_path, "second", (20, 20), box(1, 1, 5, 5))
    whole = SplitFolder(tmp_path / "whole")
    whole.make()
    for source in (first, second):
        write_patches(source, whole, SMALL)
    num_files = 2 * 4 + 2  # four pictures, four label files, the whole labels, the record

    for step in range(num_files):
        folder = SplitFolder(tmp_path / f"killed{step}")
        folder.make()
        write_patches(first, folder, SMALL)
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.base.files.os.replace", replace_until(step))
            with pytest.raises(KilledError):
                write_patches(second, folder, SMALL)
        assert list(folder.records()) == ["first"]
        folder.remove_unfinished()
        assert tree(folder.root).keys() == {name for name in tree(whole.root) if "second" not in name}
        write_patches(second, folder, SMALL)
        assert tree(folder.root) == tree(whole.root)


@pytest.mark.parametrize("lost", ["images/a__16__0___0.png", "annfiles/a__16__4___0.txt", "labelTxt/a.txt"])
def test_an_image_with_a_lost_file_is_not_finished(tmp_path: Path, lost: str) -> None:
    source = write_pair(tmp_path, "a", (20, 16), "")
    folder = SplitFolder(tmp_path / "out")
    folder.make()
    write_patches(source, folder, SMALL)
    (folder.root / lost).unlink()
    assert folder.records() == {}


def test_removing_leftovers_spares_files_of_others(tmp_path: Path) -> None:
    folder = SplitFolder(tmp_path / "out")
    folder.make()
    (folder.images / "notes.md").write_text("mine")
    (folder.images / "gone__16__0___0.png").write_bytes(b"of a killed run")
    folder.remove_unfinished()
    assert tree(folder.root) == {"images/notes.md": b"mine"}


needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DOTA sample is not on this machine")


def area_inside(polygon: np.ndarray, size: int) -> float:
    """Share of a convex polygon (8,) inside [0, size]^2, by OpenCV."""
    corners = polygon.reshape(4, 2).astype(np.float32)
    frame = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float32)
    return float(cv2.intersectConvexConvex(corners, frame)[0] / cv2.contourArea(corners))


@needs_sample
@pytest.mark.parametrize(
    ("image_id", "expected"),
    [
        # 1147 x 1023 pixels: 123 columns are left for the second window.
        ("P0003", {"P0003__1024__0___0": 50, "P0003__1024__123___0": 46}),
        # 824 x 1464 pixels: one column of windows, 200 columns of padding.
        ("P0004", {"P0004__1024__0___0": 85, "P0004__1024__0___440": 64}),
    ],
)
def test_sample_patches_hold_the_source_objects(image_id: str, expected: dict[str, int]) -> None:
    labels = read_labels(SAMPLE / "train" / "labelTxt" / f"{image_id}.txt")
    image = read_image(SAMPLE / "train" / "images" / f"{image_id}.png")
    patches = list(split_image(image, labels, image_id, SplitRule()))
    assert {str(patch.name): len(patch.labels) for patch in patches} == expected
    for patch in patches:
        shifted = labels.polygons - np.tile((patch.name.x, patch.name.y), 4)
        inside = np.array([area_inside(polygon, 1024) for polygon in shifted])
        np.testing.assert_array_equal(patch.labels.polygons, shifted[inside >= 0.7])
        cut = inside[inside >= 0.7] < 1 - 1e-6
        assert (patch.labels.difficulty[cut] == 2).all()
        np.testing.assert_array_equal(patch.labels.difficulty[~cut], labels.difficulty[inside >= 0.7][~cut])


def test_windows_of_several_rates() -> None:
    """At rate 0.5 a window has twice the pixels; at 1.5 682 of them, rounded down, which share 333."""
    found = windows(2048, 1024, 1024, 500, rates=(0.5, 1.0, 1.5))
    # Of the window of 2048 x 2048 half is image, not above 0.6.
    assert [(window.x, window.y, window.size) for window in found] == [
        *[(x, 0, 1024) for x in (0, 524, 1024)],
        *[(x, y, 682) for x in (0, 349, 698, 1047, 1366) for y in (0, 342)],
    ]


@pytest.mark.parametrize("rates", [(), (0,), (1.0, 1.0), (-1,), (True,)])
def test_rates_that_no_split_can_have(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rates are"):
        SplitRule(rates=rates)


@needs_sample
@pytest.mark.parametrize(("rates", "overlap"), [((1.0,), 200), ((0.5, 1.0, 1.5), 500)], ids=["ss", "ms"])
def test_windows_and_labels_are_those_of_img_split(rates: tuple[float, ...], overlap: int) -> None:
    """mmrotate's own tool, which comes with its package, on every image of the sample."""
    img_split = load_img_split()
    sizes, gaps = ([int(number / rate) for rate in rates] for number in (1024, overlap))
    patches = 0
    for image_id, path in list_images(SAMPLE / "train/images").items():
        labels = read_labels(SAMPLE / f"train/labelTxt/{image_id}.txt")
        height, width = read_image(path).shape[:2]
        theirs = img_split.get_sliding_window({"width": width, "height": height}, sizes, gaps, 0.6)
        ours = windows(width, height, 1024, overlap, rates=rates)
        assert [(one.x, one.y, one.x + one.size, one.y + one.size) for one in ours] == [tuple(row) for row in theirs]
        if len(labels):
            annotations = {"bboxes": labels.polygons.astype(np.float32), "name": np.asarray(labels.class_names)}
            found = img_split.get_window_obj({"ann": annotations}, theirs, 0.7)
            for window, wanted in zip(ours, found, strict=True):
                assert crop_labels(labels, window).class_names == tuple(wanted["name"])
        patches += len(ours)
    assert patches > (28 if len(rates) == 1 else 90)


def load_img_split() -> ModuleType:
    """A script, not a module of the package."""
    assert mmrotate.__file__ is not None
    path = Path(mmrotate.__file__).parent / ".mim/tools/data/dota/split/img_split.py"
    specification = importlib.util.spec_from_file_location("img_split", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@needs_sample
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_kept_object_of_the_sample_lies_in_its_patch(split: str) -> None:
    kept = 0
    for image_id, path in list_images(SAMPLE / split / "images").items():
        labels = read_labels(SAMPLE / split / "labelTxt" / f"{image_id}.txt")
        height, width = read_image(path).shape[:2]
        seen = set()
        for window in windows(width, height, 1024, 200):
            crop = crop_labels(labels, window)
            kept += len(crop)
            assert all(area_inside(polygon, 1024) > 0.69 for polygon in crop.polygons)
            seen |= {tuple(polygon) for polygon in crop.polygons + np.tile((window.x, window.y), 4)}
        # Only what reaches out of the image itself, or over both borders of an overlap, is in no patch.
        assert len(seen) >= 0.9 * len({tuple(polygon) for polygon in labels.polygons})
    # The counts of mmrotate's img_split on the same images.
    assert kept == {"train": 2875, "val": 456}[split]
