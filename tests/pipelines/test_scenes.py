"""The built-in scenes: same bytes for the same seed, labels that obey DOTA's rules, boxes that sit on their objects."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.dota import DOTA_CLASSES, Labels, format_labels, parse_labels, read_labels
from pipelines.scenes import scene as scenes
from pipelines.scenes.kinds import KINDS, draw_object
from pipelines.scenes.pen import Pose, paint
from pipelines.scenes.scene import Scene, render_scene, write_scenes

REPOSITORY = Path(__file__).parents[2]
SMALL = (128, 128)


def digest(scene: Scene) -> str:
    """SHA-256 over pixels and label text."""
    return hashlib.sha256(scene.image.tobytes() + format_labels(scene.labels).encode()).hexdigest()


def share_inside(polygon: np.ndarray, size: tuple[int, int]) -> float:
    """Share of a polygon's area, (4, 2), in an image of (width, height)."""
    frame = np.array([(0, 0), (size[0] - 1, 0), (size[0] - 1, size[1] - 1), (0, size[1] - 1)], dtype=np.float32)
    area, _ = cv2.intersectConvexConvex(polygon.astype(np.float32), frame)
    return area / cv2.contourArea(polygon.astype(np.float32))


def assert_lawful(scene: Scene, size: tuple[int, int], classes: Sequence[str]) -> None:
    """What holds for every scene, whatever its seed and settings."""
    labels = scene.labels
    assert scene.image.shape == (size[1], size[0], 3)
    assert scene.image.dtype == np.uint8
    assert set(labels.class_names) <= set(classes)
    assert not labels.difficulty.any()
    for polygon in labels.polygons.reshape(-1, 4, 2):
        front, right, back, left = np.roll(polygon, -1, axis=0) - polygon
        # Corners are rounded to a tenth of a pixel, so sides agree to two tenths.
        np.testing.assert_allclose(front, -back, atol=0.21)
        np.testing.assert_allclose(right, -left, atol=0.21)
        assert abs(front @ right) <= 0.2 * (np.linalg.norm(front) + np.linalg.norm(right))
        # With y pointing down, front-left to front-right to back-right turns clockwise: a positive cross product.
        assert front[0] * right[1] - front[1] * right[0] > 0
        assert share_inside(polygon, size) >= 0.69
    assert_same_labels(parse_labels(format_labels(labels), "scene", classes), labels)


def assert_same_labels(first: Labels, second: Labels) -> None:
    """Equal to the last digit."""
    np.testing.assert_array_equal(first.polygons, second.polygons)
    np.testing.assert_array_equal(first.difficulty, second.difficulty)
    assert first.class_names == second.class_names


@pytest.mark.parametrize(("seed", "size", "scale"), [(11, (640, 512), 0.8), (12, SMALL, 0.5)], ids=["large", "small"])
def test_same_seed_gives_same_bytes_in_any_process(seed: int, size: tuple[int, int], scale: float) -> None:
    here = digest(render_scene(seed, size=size, scale=scale))
    assert here == digest(render_scene(seed, size=size, scale=scale))
    assert here != digest(render_scene(seed + 1, size=size, scale=scale))
    code = (
        "import cv2, hashlib; cv2.setNumThreads(1)\n"
        "from pipelines.scenes.scene import render_scene\n"
        "from distill.dota import format_labels\n"
        f"scene = render_scene({seed}, size={size}, scale={scale})\n"
        "print(hashlib.sha256(scene.image.tobytes() + format_labels(scene.labels).encode()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    size=st.tuples(st.integers(64, 420), st.integers(64, 420)),
    classes=st.lists(st.sampled_from(DOTA_CLASSES), unique=True),
    scale=st.floats(0.3, 2.5),
)
def test_every_scene_is_lawful(seed: int, size: tuple[int, int], classes: list[str], scale: float) -> None:
    assert_lawful(render_scene(seed, size=size, classes=classes, scale=scale), size, classes)


@pytest.mark.parametrize("seed", range(4))
def test_full_size_scenes_are_lawful_and_their_objects_apart(seed: int) -> None:
    size = (1024, 1024)
    scene = render_scene(seed)
    assert_lawful(scene, size, DOTA_CLASSES)
    # An image of five times the area that three to eight objects share.
    assert len(scene.labels) >= 10
    covered = np.zeros(size, dtype=np.uint8)
    for polygon in scene.labels.polygons.reshape(-1, 4, 2):
        middle = polygon.mean(axis=0)
        # Neighbours may touch; so the outermost pixel is left out.
        reach = np.linalg.norm(polygon - middle, axis=1, keepdims=True)
        core = middle + (polygon - middle) * np.maximum(1 - 2.0 / reach, 0.1)
        mask = np.zeros(size, dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(core).astype(np.int32)], 1)
        covered += mask
    assert covered.max() <= 1


@pytest.mark.parametrize("name", DOTA_CLASSES)
def test_every_class_can_stand_alone(name: str) -> None:
    size = (800, 800)
    found = (render_scene(seed, size=size, classes=(name,)).labels.class_names for seed in range(3))
    assert any(names and set(names) == {name} for names in found)


def test_small_scenes_hold_every_class_a_few_at_a_time() -> None:
    seen: set[str] = set()
    counts = []
    for seed in range(60):
        scene = render_scene(seed, size=SMALL, scale=0.5)
        assert_lawful(scene, SMALL, DOTA_CLASSES)
        sides = np.linalg.norm(np.diff(scene.labels.polygons.reshape(-1, 4, 2)[:, :3], axis=1), axis=2)
        # Nominal 16 to 52 px; in a crowded scene an object shrinks by up to 0.85 ** 3 until it finds a place.
        assert (sides.max(axis=1) >= 16 * 0.61).all()
        assert (sides.max(axis=1) <= 0.42 * 128 + 0.5).all()
        seen.update(scene.labels.class_names)
        counts.append(len(scene.labels))
    assert seen == set(DOTA_CLASSES)
    assert max(counts) <= 8
    assert min(counts) >= 1
    assert np.mean(counts) >= 3


def test_a_cut_object_keeps_its_label_only_if_mostly_inside() -> None:
    """A few objects may reach out of the image: some do, none by more than a quarter."""
    shares = [
        share_inside(polygon, (1024, 460))
        for seed in range(8)
        for polygon in render_scene(seed, size=(1024, 460)).labels.polygons.reshape(-1, 4, 2)
    ]
    assert min(shares) >= 0.74
    assert min(shares) < 0.99


def test_no_classes_means_no_labels() -> None:
    for size in (SMALL, (512, 512)):
        assert len(render_scene(5, size=size, classes=()).labels) == 0


# A class whose drawing depends on its shape stands here once for each shape.
DRAWINGS = [
    *[(name, float(np.mean(kind.aspect)), max(kind.longer_side)) for name, kind in KINDS.items()],
    ("plane", 1.2, 60),
    ("plane", 0.7, 80),
    ("ship", 0.18, 150),
    ("large-vehicle", 0.3, 34),
    ("small-vehicle", 0.45, 22),
    ("harbor", 0.12, 200),
    ("harbor", 0.25, 200),
    ("storage-tank", 1.0, 22),
    ("ground-track-field", 0.52, 600),
]


@pytest.mark.parametrize(
    ("name", "aspect", "length"), DRAWINGS, ids=lambda value: value if isinstance(value, str) else f"{value:.3g}"
)
def test_the_box_sits_on_the_object(name: str, aspect: float, length: float) -> None:
    """On flat ground without shadow: nothing painted outside the box, and all four sides reached."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        heading = float(rng.uniform(0, 2 * np.pi)) if seed % 2 else float(seed) * np.pi / 4
        side = int(1.6 * length) + 20
        pose = Pose(side / 2 + rng.uniform(-1, 1), side / 2 + rng.uniform(-1, 1), heading, length, length * aspect)
        background = np.full((side, side, 3), (255, 0, 255), dtype=np.uint8)
        image = background.copy()
        paint(image, draw_object(name, pose, rng, np.array([0.5, 0.3])))
        rows, columns = np.nonzero(np.abs(image.astype(int) - background).max(axis=2) > 70)
        offset = np.stack((columns - pose.x, rows - pose.y), axis=1)
        forward = offset @ (np.cos(heading), np.sin(heading))
        right = offset @ (-np.sin(heading), np.cos(heading))
        for place, extent in ((forward, pose.length), (right, pose.width)):
            # A pixel reaches half a pixel past its centre; what may remain is its antialiased rim.
            slack = max(1.5, 0.01 * extent)
            assert abs(place.max() + 0.5 - extent / 2) <= slack, seed
            assert abs(place.min() - 0.5 + extent / 2) <= slack, seed


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(folder: Path, count: int = 3, *, seed: int = 4, scale: float = 0.5) -> None:
    write_scenes(folder, count, seed=seed, sizes=[SMALL], classes=("plane", "ship"), scale=scale)


def test_written_scenes_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"S0000.png", "S0001.png", "S0002.png"}
    images = [cv2.imread(str(path)) for path in sorted((tmp_path / "images").iterdir())]
    for path in sorted((tmp_path / "labelTxt").iterdir()):
        assert len(read_labels(path, ("plane", "ship"))) >= 1
    assert all(image.shape == (128, 128, 3) for image in images)
    assert not np.array_equal(images[0], images[1])


def test_right_files_are_kept_and_wrong_ones_rewritten(tmp_path: Path) -> None:
    write(tmp_path)
    whole = folder_bytes(tmp_path)
    kept = tmp_path / "images" / "S0001.png"
    written_at = kept.stat().st_mtime_ns
    (tmp_path / "images" / "S0000.png").write_bytes(b"torn")
    (tmp_path / "labelTxt" / "S0002.txt").unlink()
    write(tmp_path)
    assert folder_bytes(tmp_path) == whole
    assert kept.stat().st_mtime_ns == written_at


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole")
    calls = []

    def failing_render(*arguments: object, **options: object) -> Scene:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render_scene(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scenes, "render_scene", failing_render)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "resumed")
    write(tmp_path / "resumed")
    # Two scenes were done, the third failed once: four calls, not five.
    assert len(calls) == 4
    assert folder_bytes(tmp_path / "resumed") == folder_bytes(tmp_path / "whole")


def test_other_settings_or_fewer_scenes_leave_no_stale_files(tmp_path: Path) -> None:
    write(tmp_path / "first", seed=5, count=2)
    write(tmp_path / "second", seed=4, count=4)
    write(tmp_path / "second", seed=5, count=2)
    assert folder_bytes(tmp_path / "second") == folder_bytes(tmp_path / "first")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("plane", "submarine")}, "no scenes for class 'submarine'"),
        ({"size": (1024, 32)}, "scene size 1024 x 32: each side needs at least 64 px"),
        ({"scale": 0.0}, "scene scale 0.0: must be above 0"),
    ],
    ids=["class", "size", "scale"],
)
def test_unusable_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_scene(0, **arguments)  # type: ignore[arg-type]
