"""Files of commands: whole or not there, held by one process at a time, refused where they do not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace

import pytest

from pipelines.base.files import bytes_on_disk, exclusive, replacing, require_room, write_json, write_text

REPOSITORY = Path(__file__).parents[2]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"name": "größer"})

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        fail(partial)
    assert path.read_text(encoding="utf-8") == '{\n "name": "größer"\n}\n'


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lock_keeps_others_out_until_its_last_holder_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "run.lock"
    with exclusive(path, "busy") as descriptor:
        holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with pytest.raises(ValueError, match="busy"), exclusive(path, "busy"):
        pass
    holder.communicate(b"\n")
    with exclusive(path, "busy"):
        pass


def test_a_wait_for_a_lock_ends_with_it_or_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(tmp_path, "busy"):
        stop = Event()
        Timer(0, stop.set).start()
        with exclusive(tmp_path, "waiting for it", stop=stop):
            assert stop.is_set()
    assert capsys.readouterr().err == "warning: waiting for it\n"
    with exclusive(tmp_path, "waiting for it", stop=Event()):
        assert capsys.readouterr().err == ""


def test_what_does_not_fit_is_refused_before_its_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    require_room(tmp_path / "a/b", 2e6, "the copy", "Make room")
    with pytest.raises(ValueError, match=f"the copy needs 2.1 MB but {tmp_path} has 2.0 MB free. Make room"):
        require_room(tmp_path / "a/b", 2.1e6, "the copy", "Make room")


def test_bytes_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_text(tmp_path / "a.txt", "12")
    write_text(tmp_path / "deep/b.txt", "345")
    assert (bytes_on_disk(tmp_path / "a.txt"), bytes_on_disk(tmp_path)) == (2, 5)


def test_writing_a_record_imports_no_image_library() -> None:
    code = "import sys, pipelines.base.files; sys.exit(bool({'cv2', 'shapely', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
