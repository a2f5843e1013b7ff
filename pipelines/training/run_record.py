"""What a training leaves beside its weights: `run.json`, written when the training ends.

It says what was trained (config, seed, order of the views), from which cache, by which code, on what, and what it took.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from distill.checkpoint import weights_digest
from pipelines.base.config_files import RUN_RECORD, last_checkpoint
from pipelines.base.files import write_json
from pipelines.training.environment import describe_code, hardware, versions
from pipelines.training.kind import kind_of
from pipelines.training.watch import TrainingWatch, bare_model, peak_memory

FORMAT = 1
# What says where and how a run happens, not what is trained.
RUN_KEYS = ("work_dir", "resume", "launcher", "model_wrapper_cfg", "log_level")


def write_run_record(config: Config, runner: Runner, watch: TrainingWatch) -> None:
    """Write `run.json` into the work folder, whole or not at all; of several processes, the first does."""
    if runner.rank != 0:
        return
    folder = Path(runner.work_dir)
    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    own = folder / runner.timestamp / "vis_data/scalars.json"
    run_record = {
        "format": FORMAT,
        "kind": kind_of(config),
        "config": {
            "file": str(config.filename),
            "text_file": Path(config.filename).name if config.filename else f"{runner.timestamp}.py",
            "sha256": config_digest(config),
        },
        "code": describe_code(),
        "cache": watch.cache,
        # As JSON holds it: a config's lists and dicts have types of their own.
        "overrides": json.loads(json.dumps(config.get("overrides"), default=str)),
        "seed": runner.seed,
        "steps": runner.iter,
        "resumed_at": watch.resumed_at,
        "seconds": watch.seconds,
        "step_seconds": watch.step_seconds,
        "peak_memory": peak_memory(watch),
        "checkpoint": last_checkpoint(folder),
        # A resumed training goes on in a log of its own.
        "logs": [str(log.relative_to(folder)) for log in logs if log == own or (watch.resumed_at and log < own)],
        "initial_sha256": watch.initial_sha256,
        "order_sha256": watch.order_sha256,
        "weights_sha256": weights_digest(bare_model(runner).state_dict()),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(folder / RUN_RECORD, run_record)


def read_run_record(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a finished training; None where there is none.

    Raises:
        ValueError: the file is not one of ours.
    """
    path = folder / RUN_RECORD
    if not path.is_file():
        return None
    try:
        run_record = json.loads(path.read_text(encoding="utf-8"))
        found = run_record["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the record of a training. Remove it, and train again") from None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r} but {FORMAT} is read here. Train again with this version")
    return dict(run_record)


def peak_bytes(run_record: Mapping[str, Any]) -> int:
    """What a training has needed of the memory that decides what fits: the GPU's where it had one, else the process's.

    A live teacher is in both.
    """
    memory = run_record["peak_memory"]
    return int(memory["process_bytes"] if memory["cuda_bytes"] is None else memory["cuda_bytes"])


def memory_caption(cuda_bytes: Iterable[int | None]) -> str:
    """Whose memory `peak_bytes` of some trainings is, by what each had of a GPU."""
    on_gpu = {found is not None for found in cuda_bytes}
    texts = {True: "of the GPU's tensors", False: "of the training process without its loaders, imports included"}
    return f"Memory {'; without a GPU '.join(texts[place] for place in (True, False) if place in on_gpu)}."


def forget_run_record(folder: Path) -> None:
    """Remove the `run.json` of an earlier training, which the one that starts now makes untrue."""
    (folder / RUN_RECORD).unlink(missing_ok=True)


def config_digest(config: Config) -> str:
    """SHA-256 over the resolved config without what says where a run happens (work folder, launcher, resume)."""
    values = {key: value for key, value in config.to_dict().items() if key not in RUN_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def read_losses(folder: Path, run_record: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every loss in the training's logs, by name."""
    curves: dict[str, dict[int, float]] = {}
    for log in run_record["logs"]:
        for line in (folder / log).read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            for name, value in values.items():
                if "loss" in name:
                    curves.setdefault(name, {})[int(values["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}
