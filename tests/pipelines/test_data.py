"""`make data` as a user meets it: the command, its files, its refusals, its recovery."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distill.dota import read_labels
from pipelines.base.command import run_command
from pipelines.data import main, make_parser
from pipelines.prepare.data_folder import open_data_folder
from pipelines.scenes.scene import write_scenes

REPOSITORY = Path(__file__).parents[2]
PLANE = "1 1 9 1 9 9 1 9 plane 0\n"


def write_config(folder: Path, **changes: object) -> Path:
    """A config of small patches; `changes` replaces keys, None leaves one out."""
    keys = {
        "data_root": str(folder / "out"),
        "classes": ("plane", "ship"),
        "patch_size": 16,
        "patch_overlap": 4,
        "scenes": {"train": 2, "val": 1, "image_size": (64, 64), "scale": 0.25, "seed": 1},
        **changes,
    }
    path = folder / "config.py"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in keys.items() if value is not None))
    return path


def write_image(root: Path, split: str, image_id: str, labels: str = PLANE, size: tuple[int, int] = (20, 16)) -> Path:
    """One noise image (width, height) and its labels, in DOTA's folders."""
    for folder in ("images", "labelTxt"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(image_id)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path = root / split / "images" / f"{image_id}.png"
    cv2.imwrite(str(path), pixels)
    (root / split / "labelTxt" / f"{image_id}.txt").write_text(labels)
    return path


def write_dota(root: Path) -> Path:
    """A DOTA folder of two train images and one val image."""
    write_image(root, "train", "P1")
    write_image(root, "train", "P2__x", labels="")
    write_image(root, "val", "P3")
    return root


@pytest.fixture
def dota(tmp_path: Path) -> Path:
    return write_dota(tmp_path / "dota")


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run(write_config(folder), write_dota(folder / "dota")) == 0
    return folder


@pytest.fixture
def finished(tmp_path: Path, finished_once: Path) -> Path:
    """A folder with dota/ and the patches of it in out/; copied, for nothing in there knows where it lies."""
    return Path(shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True))


def run(config: Path, dota_root: Path | None = None, *arguments: str) -> int:
    """The command in this process; its exit status."""
    root = ("--dota-root", str(dota_root)) if dota_root else ()
    return run_command(main, make_parser(), ["--config", str(config), "--workers", "1", *root, *arguments])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_dota_becomes_patches_with_a_record(tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(tmp_path), dota, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    num_bytes = sum(len(data) for name, data in tree(tmp_path / "out/train").items() if name[:4] in ("imag", "annf"))
    # 20 columns give two windows; the 8 x 8 plane lies in the first whole, in the second with 5 of 8 columns.
    assert summary["splits"]["train"] == {
        "images": 2,
        "objects": 1,
        "patches": 4,
        "empty_patches": 3,
        "objects_in_patches": 1,
        "bytes": num_bytes,
    }
    assert summary["splits"]["val"]["patches"] == 2
    assert summary["seconds"] > 0

    record = json.loads((tmp_path / "out/source.json").read_text())
    assert record["complete"] is True
    assert record["source"] == "DOTA"
    assert record["splits"]["train"]["images"] == 2
    assert (record["patch_size"], record["patch_overlap"], record["keep_ratio"]) == (16, 4, 0.7)
    assert record["classes"] == ["plane", "ship"]
    assert str(tmp_path) not in (tmp_path / "out/source.json").read_text(), "nothing of this machine"
    for split in ("train", "val"):
        assert tree(tmp_path / "out" / split / "labelTxt") == tree(dota / split / "labelTxt")


def test_other_folder_same_bytes_whatever_the_workers(tmp_path: Path, dota: Path) -> None:
    for name, workers in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        assert run(write_config(tmp_path / name), dota, "--workers", workers) == 0
    assert tree(tmp_path / "a/out") == tree(tmp_path / "b/out")


def test_summary_is_a_table(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(finished), finished / "dota") == 0
    table = capsys.readouterr().out
    for text in ("split", "images", "patches", "empty", "objects", "bytes", "train", "val"):
        assert text in table


def test_second_run_touches_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "out").rglob("*") if path.is_file()}
    assert run(write_config(finished), finished / "dota") == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "out").rglob("*") if path.is_file()} == before


def test_lost_patch_is_made_again(finished: Path) -> None:
    before = tree(finished / "out")
    (finished / "out/train/images/P1__16__4___0.png").unlink()
    assert run(write_config(finished), finished / "dota") == 0
    assert tree(finished / "out") == before


def test_synthetic_scenes_of_patch_size_give_one_patch_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, patch_size=64, patch_overlap=16)
    assert run(config, None, "--json") == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert (splits["train"]["patches"], splits["val"]["patches"]) == (2, 1)
    out = tmp_path / "out"
    scene, patch = (
        cv2.imread(str(out / name)) for name in ("scenes/train/images/S0000.png", "train/images/S0000__64__0___0.png")
    )
    assert (scene == patch).all()
    assert read_labels(out / "scenes/train/labelTxt/S0000.txt", ("plane", "ship")) is not None
    train, val = (cv2.imread(str(out / f"scenes/{split}/images/S0000.png")) for split in ("train", "val"))
    assert (train != val).any(), "the splits are different scenes"
    before = tree(out)
    assert run(config) == 0
    assert tree(out) == before


def test_scenes_stopped_while_rendering_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    assert run(write_config(tmp_path / "whole")) == 0

    def stop_at_val(folder: Path, count: int, **settings: Any) -> None:
        if folder.name == "val":
            raise OSError("no space left")
        write_scenes(folder, count, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.prepare.data_config.write_scenes", stop_at_val)
        assert run(write_config(tmp_path / "stopped")) == 1
    assert run(write_config(tmp_path / "stopped")) == 0
    assert tree(tmp_path / "stopped/out") == tree(tmp_path / "whole/out")


def test_other_scenes_are_refused_before_they_are_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(tmp_path)) == 0
    before = tree(tmp_path / "out")
    scenes = {"train": 2, "val": 1, "image_size": (64, 64), "scale": 0.25, "seed": 2}
    assert run(write_config(tmp_path, scenes=scenes)) == 1
    assert "scenes.seed is 1 there, 2 here" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


@dataclass(frozen=True)
class Refusal:
    """A change after which the command must fail with status 1 and this one line."""

    id: str
    change: Callable[[Path], object]
    message: str


BAD_INPUTS = [
    Refusal("no folder", lambda root: (root / "val/images").rename(root / "val/pictures"), "val/images does not exist"),
    Refusal("no labels", lambda root: (root / "train/labelTxt/P1.txt").unlink(), "P1.txt does not exist; every image"),
    Refusal(
        "unknown class",
        lambda root: (root / "train/labelTxt/P1.txt").write_text(PLANE.replace("plane", "zeppelin")),
        "P1.txt, line 1: unknown class 'zeppelin'; the config knows plane, ship. Add it to the config's `classes`",
    ),
    Refusal(
        "few fields",
        lambda root: (root / "train/labelTxt/P1.txt").write_text(PLANE + "1 2 3 4 plane 0\n"),
        "P1.txt, line 2: 6 fields, at least 9 needed",
    ),
]


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.id)
def test_bad_source_is_named_before_anything_is_written(
    tmp_path: Path, dota: Path, case: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    case.change(dota)
    assert run(write_config(tmp_path), dota) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert case.message in error
    assert tree(tmp_path / "out") == {}


def test_objects_are_counted_once_and_once_more_in_every_patch_that_holds_them(
    tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Columns 5 to 15 of 20: inside both windows, which share columns 4 to 16. The first image's plane is in one alone.
    (dota / "train/labelTxt/P2__x.txt").write_text("5 1 15 1 15 9 5 9 ship 0\n")
    assert run(write_config(tmp_path), dota, "--json") == 0
    train = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert (train["objects"], train["objects_in_patches"]) == (2, 3)


def test_ignored_classes_are_left_out_of_patches_and_kept_for_the_evaluation(
    tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = dota / "train/labelTxt/P1.txt"
    labels.write_text(PLANE + PLANE.replace("plane", "zeppelin"))
    # All classes of both splits that the config does not name are told at once, so that one line ends it.
    other = dota / "val/labelTxt/P3.txt"
    other.write_text(PLANE.replace("plane", "planes") + PLANE.replace("plane", "balloon"))
    assert run(write_config(tmp_path), dota) == 1
    said = capsys.readouterr().err
    assert "unknown class 'zeppelin'; the config knows plane, ship. Unknown as well: planes, balloon." in said
    assert " planes: Did you mean plane? Add them to the config's `classes`, or leave such objects out: " in said
    assert said.endswith("ignore_classes = ('zeppelin', 'planes', 'balloon')\n")
    assert run(write_config(tmp_path, ignore_classes=("zeppelin", "planes", "balloon")), dota) == 0
    assert (tmp_path / "out/train/annfiles/P1__16__0___0.txt").read_text().split()[8:] == ["plane", "0"]
    assert (tmp_path / "out/train/labelTxt/P1.txt").read_bytes() == labels.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_of_sixteen_bits_are_refused_not_crushed(
    tmp_path: Path, dota: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (dota / "val/images/P3.png").unlink()
    image = dota / f"val/images/P3{suffix}"
    cv2.imwrite(str(image), np.full((16, 20, 3), 2000, np.uint16))
    assert run(write_config(tmp_path), dota) == 1
    assert f"{image}: 16 bits a channel; 8 are needed. Convert the data set first" in capsys.readouterr().err


def test_damaged_image_is_named_and_the_run_goes_on_once_it_is_replaced(
    tmp_path: Path, dota: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    image = dota / "val/images/P3.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    assert run(config, dota) == 1
    error = capfd.readouterr().err
    assert f"{image}: not a readable image" in error
    assert error.splitlines()[-1].startswith("error: ")
    assert "libpng" not in error
    assert json.loads((tmp_path / "out/source.json").read_text())["complete"] is False
    assert sorted(path.name for path in (tmp_path / "out/train/done").iterdir()) == ["P1.json", "P2__x.json"]

    image.write_bytes(whole)
    assert run(config, dota) == 0
    (tmp_path / "whole").mkdir()
    assert run(write_config(tmp_path / "whole"), dota) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole/out")


OTHER_SOURCES = [
    Refusal("more images", lambda root: write_image(root, "val", "P4"), "splits.val.images is 1 there, 2 here"),
    Refusal("other labels", lambda root: (root / "val/labelTxt/P3.txt").write_text(""), "val: P3.label_sha256 is"),
    Refusal("other image", lambda root: write_image(root, "val", "P3", size=(16, 16)), "val: P3.image_bytes is"),
    Refusal(
        "other file type",
        lambda root: (root / "val/images/P3.png").rename(root / "val/images/P3.bmp"),
        'val: P3.image is "P3.png" there, "P3.bmp" here',
    ),
]


@pytest.mark.parametrize("case", OTHER_SOURCES, ids=lambda case: case.id)
def test_another_source_is_refused(finished: Path, case: Refusal, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(finished / "out")
    case.change(finished / "dota")
    assert run(write_config(finished), finished / "dota") == 1
    error = capsys.readouterr().err
    assert case.message in error
    assert f"Use another data_root in the config, or delete {finished / 'out'} and run again" in error
    assert error.count("\n") == 1
    assert tree(finished / "out") == before


@pytest.mark.parametrize(
    ("changes", "synthetic", "message"),
    [
        ({"patch_size": 32}, False, "patch_size is 16 there, 32 here"),
        ({"patch_overlap": 6}, False, "patch_overlap is 4 there, 6 here"),
        ({"classes": ("plane", "boat")}, False, 'classes[1] is "ship" there, "boat" here'),
        ({}, True, "scenes is null there"),
    ],
    ids=["patch size", "overlap", "classes", "scenes instead of DOTA"],
)
def test_other_parameters_are_refused(
    finished: Path, changes: dict[str, object], synthetic: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(finished / "out")
    assert run(write_config(finished, **changes), None if synthetic else finished / "dota") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Use another data_root" in error
    assert error.count("\n") == 1
    assert tree(finished / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_overlap": None}, "has no `patch_overlap`"),
        ({"classes": "plane"}, '`classes` is "plane"; a list of names is needed'),
        ({"patch_overlap": 16}, "patches of 16 pixels cannot overlap by 16"),
        ({"patch_size": "big"}, '`patch_size` is "big"; a whole number is needed'),
        ({"scenes": {"train": 1}}, "scenes has train; it needs train, val, image_size"),
        ({"ignore_classes": ("ship",)}, "class 'ship' is in both classes and ignore_classes"),
        ({"scenes": None}, "the config has no `scenes`"),
    ],
)
def test_unusable_configs(
    tmp_path: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_config(tmp_path, **changes)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_config_with_a_syntax_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.py"
    config.write_text("data_root = (\n")
    assert run(config) == 1
    assert capsys.readouterr().err.startswith(f"error: config {config} cannot be read: ")


@pytest.mark.parametrize(
    "arguments", [[], ["--config", __file__, "--workers", "0"], ["--dota-rot", "x"]], ids=lambda a: " ".join(a)
)
def test_unusable_arguments_are_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(main, make_parser(), arguments)
    assert exit_info.value.code == 2


def test_folder_of_other_files_is_refused(tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, data_root=str(dota))
    before = tree(dota)
    assert run(config, dota) == 1
    assert "so they are not this command's. Use another data_root" in capsys.readouterr().err
    assert tree(dota) == before


def test_second_run_at_the_same_time_is_refused(tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_data_folder(tmp_path / "out", {}, []):
        assert run(write_config(tmp_path), dota) == 1
    assert "another run is writing into" in capsys.readouterr().err


def test_label_files_without_image_are_reported(tmp_path: Path, dota: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dota / "train/labelTxt/P7.txt").write_text(PLANE)
    assert run(write_config(tmp_path), dota) == 0
    assert "warning: train: label files without an image are left out: P7 (1 in all)" in capsys.readouterr().err


def test_labels_in_the_folder_of_the_published_archive(tmp_path: Path, dota: Path) -> None:
    for split in ("train", "val"):
        (dota / split / "labelTxt-v1.0").mkdir()
        (dota / split / "labelTxt").rename(dota / split / "labelTxt-v1.0" / "labelTxt")
    assert run(write_config(tmp_path), dota) == 0
    assert (tmp_path / "out/val/labelTxt/P3.txt").read_text() == PLANE


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(main, make_parser(), ["--help"])
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    assert "--dota-root" in shown
    assert "exit status" in shown


def test_torch_is_not_needed(tmp_path: Path, dota: Path) -> None:
    code = (
        "import sys; from pipelines.data import *; "
        f"status = run_command(main, make_parser(), ['--config', {str(write_config(tmp_path))!r}, "
        f"'--dota-root', {str(dota)!r}]); "
        "sys.exit(status or bool({'torch', 'mmdet', 'mmrotate'} & set(sys.modules)))"
    )
    script = tmp_path / "script.py"
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, str(script)], env=environment, check=True, capture_output=True)


def children(process_id: int) -> set[int]:
    return {int(text) for text in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()}


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, only not yet collected by its new parent


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.002)


def kill_command(folder: Path, dota_root: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    config = write_config(folder, patch_size=256, patch_overlap=56)
    arguments = ["--config", str(config), "--dota-root", str(dota_root), "--workers", "2"]
    return [sys.executable, "-m", "pipelines.data", *arguments]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 14 source images and what a run that nobody disturbed made of them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for number in range(13):
        write_image(folder / "dota", "train", f"P{'x' * number}", size=(600, 600))
    write_image(folder / "dota", "val", "P3")
    subprocess.run(kill_command(folder, folder / "dota"), cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resume_after_sigkill_gives_the_same_bytes(tmp_path: Path, uninterrupted: Path) -> None:
    command = kill_command(tmp_path, uninterrupted / "dota")
    train = tmp_path / "out/train"
    silent = subprocess.DEVNULL
    for first in ("images/*.png", "done/*.json"):  # inside the first image, then once more after one is finished
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=silent, stderr=silent) as process:
            wait_until(lambda first=first: any(train.glob(first)), f"there was a file {first}")
            workers = children(process.pid)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        wait_until(lambda workers=workers: not any(map(is_running, workers)), "the workers ended")
        assert len(list(train.glob("done/*.json"))) < 13, "killed before the end"

    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    assert tree(tmp_path / "out") == tree(uninterrupted / "out")
