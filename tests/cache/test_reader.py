"""Reading rows that look like none, and reading in forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cache.layout import POISON_OBJECT
from cache.reader import CacheReader
from cache.view import FLIPS
from tests.cache.store_tools import NO_ERROR, block_fields, open_writer, small_plan, write_store
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "cache.zarr"
    write_store(path)
    return path


def test_rows_that_equal_the_fill_value_are_rows(tmp_path: Path) -> None:
    """Absent chunks are read as errors: one of nothing but fill values must be written all the same."""
    plan = small_plan(assigned=True)
    block = int(plan.rows_per_block("assigned").argmax())
    fields = block_fields(plan, block)
    fields["assigned_object"][:] = POISON_OBJECT
    with open_writer(tmp_path / "cache.zarr", plan) as writer:
        writer.write(block, fields, NO_ERROR)
    view = plan.view(int(plan.views_of_block(block)[-1]))
    record = CacheReader(tmp_path / "cache.zarr").read(view.patch_id, view.draw)
    assert record.assigned_object is not None
    assert set(record.assigned_object.tolist()) == {POISON_OBJECT}


def test_draws_have_numbers_and_names(store: Path) -> None:
    reader = CacheReader(store)
    for number, name in enumerate(FLIPS):
        assert reader.find("P0003__a__128__0___0", number) == reader.find("P0003__a__128__0___0", name)
    for unknown in (4, -1, "sideways"):
        with pytest.raises(ValueError, match="holds no view P0003__a__128__0___0/"):
            reader.find("P0003__a__128__0___0", unknown)


def test_other_pixels_are_refused(store: Path) -> None:
    reader = CacheReader(store)
    stored = reader.find("P0003__a__128__0___0", 1)
    reader.require_pixels(stored, 301)
    with pytest.raises(ValueError, match="CRC-32C of its pixels is 0000012d in the cache but 0000012e here"):
        reader.require_pixels(stored, 302)


def test_a_lost_chunk_of_the_plan_is_refused(tmp_path: Path) -> None:
    """Read as zeros it would say that views have no rows."""
    write_store(tmp_path / "cache.zarr")
    (tmp_path / "cache.zarr/plan/row_stop/c/0").unlink()
    with pytest.raises(ValueError, match=r"plan/row_stop cannot be read: 1 chunk\(s\) not found.*make verify-cache"):
        CacheReader(tmp_path / "cache.zarr").read("P0003__a__128__0___0", "none")


PARENT = """
import multiprocessing, os, sys
from cache.reader import CacheReader
reader = CacheReader(sys.argv[1])
view = ("P0003__a__128__0___0", "none")
def child(number=0):
    return len(reader.read(*view))
if __name__ == "__main__":
    reader.read(*view)
"""
FORKS = {
    "os.fork": """
    process = os.fork()
    if process == 0:
        child()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
""",
    "Process": """
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)
""",
    "Pool": """
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(child, range(4))
""",
    "DataLoader": """
    import torch
    class Records(torch.utils.data.Dataset):
        def __len__(self): return 4
        def __getitem__(self, index): return child()
    list(torch.utils.data.DataLoader(Records(), num_workers=2, multiprocessing_context="fork"))
""",
}


@pytest.mark.parametrize("fork", FORKS)
def test_reading_after_a_fork_says_what_to_do(store: Path, tmp_path: Path, fork: str) -> None:
    """The parent has read: the child raises one sentence instead of being aborted, and the parent does not hang."""
    done = run_script(tmp_path, PARENT + FORKS[fork], store)
    assert done.returncode == 1
    assert "cannot be read in a process forked from one that has read some" in done.stderr.strip().splitlines()[-1]
    assert "multiprocessing_context='forkserver'" in done.stderr
    assert "aborting" not in done.stderr


def test_a_forked_process_that_reads_nothing_is_left_alone(store: Path, tmp_path: Path) -> None:
    script = PARENT + FORKS["Process"].replace("target=child", "target=os.getpid")
    assert run_script(tmp_path, script, store).returncode == 0


def run_script(folder: Path, text: str, store: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(folder / "script.py"), str(store)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
