"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

# Two OpenMP threads beside another busy process turn short steps into long ones.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

if sys.dont_write_bytecode and sys.pycache_prefix is None:
    # Else each of the processes that tests start would compile OpenMMLab anew, ten seconds of a core.
    compiled = REPOSITORY / ".pytest_cache/bytecode"
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(compiled)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(compiled)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs before torch looks for them: else a capture would run on one, and its bytes would be others."""
    if not runs_on_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first: started last, one of them would keep a single process busy at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    lack = lack_of_gpu(config)
    for item in items:
        if lack and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=lack))


def runs_on_gpu(config: pytest.Config) -> bool:
    """Whether this run is of the tests for GPUs: `pytest -m gpu`."""
    return config.getoption("markexpr") == "gpu"


def lack_of_gpu(config: pytest.Config) -> str:
    """Why tests for GPUs are skipped; empty where they run."""
    if not runs_on_gpu(config):
        return "GPUs are hidden from all other tests: run it with pytest -m gpu"
    # Imported here: before GPUs are hidden, torch may not look for them.
    import torch

    return "" if torch.cuda.is_available() else "no GPU is visible"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The values printed by the published implementation; they lie beside the repository."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden values at {folder}")
    return folder


@pytest.fixture(scope="session")
def synthetic_golden() -> Path:
    """Values that the published implementation prints for made-up boxes: the part that the project carries itself."""
    return REPOSITORY / "tests/golden/synthetic"


@pytest.fixture(scope="session")
def dota_sample() -> Path:
    """Real DOTA images; they lie beside the repository and never in it."""
    folder = SHARED / "dota_sample"
    if not folder.is_dir():
        pytest.skip(f"no DOTA sample at {folder}")
    return folder
