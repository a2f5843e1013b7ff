"""The runs of a study: what each trains, where, and what must hold before the first one starts.

A study's folder holds `configs/<name>.py`, the resolved config of each run, `configs/<name>.lock`, which the process
that works on it holds as long as it lives, and `<name>/`, its work folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache.manifest import first_difference
from cache.reader import CacheReader
from pipelines.base.model_check import build_model
from pipelines.base.ready import require_training_images
from pipelines.training.evaluation import AP_COLUMNS, read_evaluation
from pipelines.training.kind import kind_of, point_to_cache
from pipelines.training.match import require_matching_cache
from pipelines.training.run_record import peak_bytes, read_run_record
from pipelines.training.start import require_pretrained

CONFIGS = "configs"
OUTPUT = "output.log"
FIGURE_COLUMNS = (*AP_COLUMNS, "training s", "s a step", "peak MB")
"""What tables show of a run, or of several as a mean."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")


@dataclass(frozen=True)
class Run:
    """A detector to train and evaluate.

    settings: what it changes in its base config, for tables. checkpoint: weights that exist already; it is evaluated
    only.
    """

    name: str
    config: Config
    root: Path
    settings: Mapping[str, Any]
    checkpoint: Path | None = None

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def config_file(self) -> Path:
        return self.root / CONFIGS / f"{self.name}.py"

    @property
    def lock_file(self) -> Path:
        return self.config_file.with_suffix(".lock")

    @property
    def is_trained(self) -> bool:
        return self.checkpoint is not None or read_run_record(self.folder) is not None

    @property
    def is_finished(self) -> bool:
        return self.is_trained and read_evaluation(self.folder) is not None


def make_run(name: str, config: Config, root: Path, settings: Mapping[str, Any], reader: CacheReader) -> Run:
    """A run whose config names its own work folder and, for a cached student, the store with its fingerprint."""
    run = Run(name, config, root, settings)
    config.work_dir = str(run.folder)
    if kind_of(config) == "cached":
        config.cache = str(reader.path)
        config.cache_fingerprint = reader.manifest.fingerprint
        point_to_cache(config)
    return run


def run_figures(run: Run, run_record: Mapping[str, Any]) -> dict[str, Any]:
    """What tables of every study show of a finished run: AP as fractions, seconds, bytes, and what identifies it."""
    evaluation = read_evaluation(run.folder)
    assert evaluation is not None
    return {
        "name": run.name,
        "folder": run.name,
        "kind": run_record["kind"],
        "seed": run_record["seed"],
        **{name: evaluation[name] for name in AP_COLUMNS},
        "training_seconds": run_record["seconds"],
        "step_seconds": run_record["step_seconds"],
        "steps": run_record["steps"],
        "resumed_at": run_record["resumed_at"],
        "peak_memory_bytes": peak_bytes(run_record),
        "loader_memory_bytes": run_record["peak_memory"]["loader_bytes"],
        "cuda_memory_bytes": run_record["peak_memory"]["cuda_bytes"],
        "config_sha256": run_record["config"]["sha256"],
        "code_version": run_record["code"]["version"],
        "commit": run_record["code"]["commit"],
    }


def require_name(name: str, place: str) -> None:
    """Refuse a name that cannot be a folder beside `configs`.

    Raises:
        ValueError: naming it.
    """
    if name == CONFIGS or not NAME.fullmatch(name):
        raise ValueError(
            f"{place}: {name!r} is no usable name. Take letters, digits, _ . + = -, beginning with a letter or digit, "
            f"and not {CONFIGS!r}"
        )


def require_trainable(run: Run, reader: CacheReader) -> None:
    """Refuse a run that would stop at its start: data, cache, pretrained backbone and model are tried.

    Raises:
        ValueError: naming the run, then as `make distill` and `make train` say it.
    """
    try:
        require_training_images(run.config)
        if kind_of(run.config) == "cached":
            require_matching_cache(run.config, reader)
        require_pretrained(run.config.model)
        build_model(run.config.model)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"{run.name}: {error}") from error


def require_same_configs(runs: Sequence[Run]) -> None:
    """Refuse a folder that holds work of the same name but from another config or cache.

    Raises:
        ValueError: naming the run, the first field that differs, both values and the cure.
    """
    for run in runs:
        cure = f"Give another WORK_DIR=, or remove {run.folder} and {run.config_file}"
        if not run.config_file.is_file():
            if run.folder.exists():
                raise ValueError(f"{run.folder} exists and is no run of this command. {cure}")
            continue
        stored = Config.fromfile(run.config_file)
        difference = first_difference(plain_values(run.config.to_dict()), plain_values(stored.to_dict()))
        if difference is not None:
            field, ours, theirs = difference
            raise ValueError(f"{run.folder}: {field} is {theirs!r} in that run but {ours!r} here. {cure}")


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values as `first_difference` compares them: tuples as lists, what JSON does not know as text."""
    return dict(json.loads(json.dumps(values, default=str)))
