"""`run.json`: what every training leaves."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from cache import __version__
from cache.reader import CacheReader
from distill.checkpoint import load_checkpoint, weights_digest
from pipelines import distill, train
from pipelines.base.experiment import load_config
from pipelines.training.evaluation import read_evaluation
from pipelines.training.run_record import RUN_RECORD, config_digest, read_losses, read_run_record
from pipelines.training.watch import LoaderMemory, own_memory
from tests.pipelines.conftest import Project, call


def train_cached(project: Project, folder: Path, *options: str, resume: bool = False) -> dict:
    arguments = ["--config", project.config("distill"), "--work-dir", folder, *(["--resume"] if resume else [])]
    assert call(distill, *arguments, *(["--cfg-options", *options] if options else [])) == 0
    run_record = read_run_record(folder)
    assert run_record is not None
    return run_record


def test_a_training_says_what_it_was(project: Project, tmp_path) -> None:
    run_record = train_cached(project, tmp_path, "randomness.seed=3")
    manifest = CacheReader(project.cache).manifest
    text = json.dumps(manifest.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert run_record["cache"]["fingerprint"] == manifest.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert run_record["cache"]["rows"] == manifest.plan["num_priors"]
    stored = sum(file.stat().st_size for file in project.cache.rglob("*") if file.is_file())
    assert run_record["cache"]["bytes"] == stored
    assert run_record["kind"] == "cached"
    assert (run_record["seed"], run_record["steps"], run_record["resumed_at"]) == (3, 4, 0)
    assert run_record["code"]["version"] == __version__
    assert run_record["seconds"] >= run_record["step_seconds"] > 0
    assert run_record["peak_memory"]["process_bytes"] > 1e8
    assert (tmp_path / run_record["config"]["text_file"]).is_file()
    state = load_checkpoint(tmp_path / run_record["checkpoint"])["state_dict"]
    assert weights_digest(state) == run_record["weights_sha256"] != run_record["initial_sha256"]
    losses = read_losses(tmp_path, run_record)
    assert set(losses) == {"loss", "loss_cls", "loss_bbox", "loss_ld", "loss_kd"}
    assert [step for step, _ in losses["loss_ld"]] == [1, 2, 3, 4]


@pytest.mark.slow
def test_students_of_one_seed_begin_alike_and_see_the_same_views(project: Project, tmp_path) -> None:
    cached = train_cached(project, tmp_path / "cached")
    teacher = [f"teacher.config={project.config('teacher')}", f"teacher.checkpoint={project.checkpoint}"]
    for kind, options in (("plain", []), ("live", ["--cfg-options", *teacher])):
        assert call(train, "--config", project.config(kind), "--work-dir", tmp_path / kind, *options) == 0
        run_record = read_run_record(tmp_path / kind)
        assert run_record["kind"] == kind
        assert run_record["cache"] is None
        assert run_record["initial_sha256"] == cached["initial_sha256"]
        assert run_record["order_sha256"] == cached["order_sha256"]
    other = train_cached(project, tmp_path / "other", "randomness.seed=1")
    assert other["initial_sha256"] != cached["initial_sha256"]
    assert other["order_sha256"] != cached["order_sha256"]


@pytest.mark.slow
def test_a_resumed_training_says_so_and_keeps_its_curve(project: Project, tmp_path) -> None:
    whole = train_cached(project, tmp_path, "train_cfg.max_iters=2")
    run_record = train_cached(project, tmp_path, resume=True)
    assert (run_record["steps"], run_record["resumed_at"]) == (4, 2)
    assert run_record["logs"][0] == whole["logs"][0]
    assert [step for step, _ in read_losses(tmp_path, run_record)["loss"]] == [1, 2, 3, 4]


def test_a_failed_training_leaves_no_record_of_the_one_before(project: Project, tmp_path) -> None:
    train_cached(project, tmp_path)
    broken = ["--resume", "--cfg-options", "train_cfg.max_iters=6", "optim_wrapper.optimizer.lr=-1.0"]
    assert call(distill, "--config", project.config("distill"), "--work-dir", tmp_path, *broken) == 1
    assert read_run_record(tmp_path) is None


def test_the_digest_is_of_what_is_trained(project: Project) -> None:
    path = project.config("distill")
    digest = config_digest(load_config(path))
    assert config_digest(load_config(path, {"work_dir": "elsewhere", "resume": True})) == digest
    assert config_digest(load_config(path, {"randomness.seed": 1})) != digest


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / RUN_RECORD).write_text("[]")
    with pytest.raises(ValueError, match="is not the record of a training"):
        read_run_record(tmp_path)
    (tmp_path / RUN_RECORD).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format is 99 but 1 is read here"):
        read_run_record(tmp_path)


def test_a_half_written_evaluation_is_none(tmp_path) -> None:
    (tmp_path / "evaluation").mkdir()
    file = tmp_path / "evaluation/evaluation.json"
    text = json.dumps({"AP": 0.25, "thresholds": [0.5, 0.75], "mean_ap_per_threshold": [0.4, 0.1]})
    file.write_text(text[:-1])
    assert read_evaluation(tmp_path) is None
    file.write_text(text)
    assert read_evaluation(tmp_path) == {"AP": 0.25, "AP50": 0.4, "AP75": 0.1}


def test_the_memory_of_loaders_is_their_own(project: Project, tmp_path) -> None:
    """A forked loader shares what the training had loaded before: that is counted once, with the training."""
    found = []
    for loaders in (0, 1):
        options = ["--cfg-options", f"train_dataloader.num_workers={loaders}"]
        folder = tmp_path / str(loaders)
        assert call(train, "--config", project.config("plain"), "--work-dir", folder, *options) == 0
        found.append(read_run_record(folder)["peak_memory"])
    without, with_one = found
    assert without["loader_bytes"] is None
    assert 1e6 < with_one["loader_bytes"] < with_one["process_bytes"] / 2


def test_a_loaders_own_memory_is_seen() -> None:
    """What a loader shares with the process that it was forked from, and copies of it that any would have, aside."""
    assert own_memory_of_loader(50_000_000) - own_memory_of_loader(0) == pytest.approx(50e6, abs=5e6)


def own_memory_of_loader(held: int) -> int:
    """What is seen of a forked process that holds so many bytes."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def load() -> None:
        # Without a copy, which an allocator may keep when it is freed.
        values = np.full(held, 1, dtype=np.uint8)
        ready.set()
        done.wait()
        assert len(values) == held

    # A collection in the loader would copy all pages with objects of this process.
    gc.disable()
    loader = context.Process(target=load, daemon=True)
    loader.start()
    ready.wait()
    own, memory = own_memory(loader.pid), LoaderMemory()
    memory.after_train_iter(None, 0)
    done.set()
    loader.join()
    gc.enable()
    # Loaders that other tests have left may be larger.
    assert own is not None
    assert memory.peak is not None
    assert memory.peak >= own
    return own
