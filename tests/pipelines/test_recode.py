"""A cache of another codec without the teacher: the bytes of a capture, or the errors of both steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache.codec import BLOCK_ALLOWANCE, PRESETS
from cache.layout import commit_key, error_columns
from cache.reader import CacheReader
from pipelines import cache_teacher, recode_cache, verify_cache
from tests.cache.store_tools import contents
from tests.pipelines.conftest import Project, call

BLOCKS = ("--views-per-block", 16)


@pytest.fixture(scope="module")
def captured(project: Project, tmp_path_factory) -> Callable[[str], Path]:
    """Stores of the project's teacher by codec, in blocks of four patches."""
    folder = tmp_path_factory.mktemp("captured")

    def capture(codec: str) -> Path:
        path = folder / f"{codec}.zarr"
        if not path.exists():
            options = "--cfg-options", f"codec={codec}", "--loaders", 0, "--cache", path
            assert call(cache_teacher, "--config", project.config("distill"), *BLOCKS, *options) == 0
        return path

    return capture


def recode(project: Project, source: Path, to: Path, codec: str) -> int:
    arguments = "--cache", source, "--to", to, "--codec", codec
    return call(recode_cache, "--config", project.config("distill"), *arguments)


@pytest.mark.parametrize("codec", ["small", "half"])
def test_from_an_exact_cache_come_the_bytes_of_a_capture(project: Project, captured, tmp_path, codec: str) -> None:
    assert recode(project, captured("exact"), tmp_path / "made.zarr", codec) == 0
    assert contents(tmp_path / "made.zarr") == contents(captured(codec))


def test_a_stopped_run_is_continued_to_the_same_bytes(project: Project, captured, tmp_path) -> None:
    made = tmp_path / "made.zarr"
    assert recode(project, captured("exact"), made, "small") == 0
    (made / commit_key(1)).unlink()
    assert CacheReader(made).missing_blocks() == [1]
    assert recode(project, captured("exact"), made, "small") == 0
    assert contents(made) == contents(captured("small"))


def test_the_errors_of_both_steps_are_kept(project: Project, captured, tmp_path) -> None:
    """From 6e-6 to 1e-4: each step keeps its bound, and the store says what it was made from."""
    made, source = tmp_path / "made.zarr", CacheReader(captured("default"))
    assert recode(project, captured("default"), made, "small") == 0
    reader = CacheReader(made)
    assert reader.manifest.codec["source"] == source.manifest.codec
    columns = error_columns(reader.manifest)
    errors = np.asarray(reader.store.array("capture_error"))
    for prefix, preset in (("", "small"), ("source_", "default")):
        found = errors[:, columns.index(f"{prefix}box_mean_kl_t5")]
        assert (found > 0).all()
        assert (found <= BLOCK_ALLOWANCE * float(PRESETS[preset])).all()
    kept = [columns.index(f"source_{column}") for column in error_columns(source.manifest)]
    np.testing.assert_array_equal(errors[:, kept], np.asarray(source.store.array("capture_error")))
    assert call(verify_cache, "--config", project.config("distill"), "--cache", made) == 0


def test_what_cannot_be_recoded_is_refused(project: Project, captured, tmp_path, capfd) -> None:
    source, made = captured("exact"), tmp_path / "made.zarr"
    with pytest.raises(SystemExit) as stop:
        recode(project, source, made, "smaller")
    assert stop.value.code == 2
    assert "exact, half, default, small, or a bound of mean KL" in capfd.readouterr().err
    options = "--cfg-options", "model.bbox_head.anchor_generator.octave_base_scale=2"
    arguments = "--cache", source, "--to", made, "--codec", "small"
    assert call(recode_cache, "--config", project.config("distill"), *options, *arguments) == 1
    assert "head.grid.scales" in capfd.readouterr().err
    assert recode(project, source, made, "half") == 0
    assert recode(project, source, made, "small") == 1
    assert "codec.preset is 'half' in the cache but 'small'" in capfd.readouterr().err
    assert not (tmp_path / "other.zarr").exists()
