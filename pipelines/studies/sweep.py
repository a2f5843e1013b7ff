"""A sweep file: runs named by what they change in one base config, and all of them read one cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache.reader import CacheReader
from distill.settings import parse_config
from pipelines.base.experiment import load_config
from pipelines.base.ready import require_keys
from pipelines.base.stores import tell_store
from pipelines.studies.runs import Run, make_run, require_name, require_trainable
from pipelines.training.kind import kind_of

BASELINE = "plain"
# Deletes what stands beside it, in mmengine's configs: below it, every key is new.
DELETE = "_delete_"


@dataclass(frozen=True)
class Sweep:
    """A sweep file: the base config, what each run changes by its name, the config of a plain baseline."""

    file: Path
    base: str
    changes: Mapping[str, Mapping[str, Any]]
    baseline: str | None
    work_dir: Path


def load_sweep(path: str | Path, work_dir: str | None = None) -> Sweep:
    """Read a sweep file; `work_dir` goes before its own, and names that begin with _ are its own affair.

    Raises:
        ValueError: it is missing, has unknown or missing keys, or unusable names.
    """
    values = {name: value for name, value in parse_config(path).to_dict().items() if not name.startswith("_")}
    known = {"base", "runs", "baseline", "work_dir"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"sweep {path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}. Begin a name of your "
            "own with _"
        )
    for key, kind in (("base", str), ("runs", dict)):
        if not isinstance(values.get(key), kind) or not values[key]:
            raise ValueError(f"sweep {path}: `{key}` is {values.get(key)!r}; a {kind.__name__} is needed, not empty")
    baseline = values.get("baseline")
    for name, options in values["runs"].items():
        require_name(name, f"sweep {path}")
        if name == BASELINE and baseline:
            raise ValueError(f"sweep {path}: {BASELINE!r} is the baseline's name. Rename that run")
        if not isinstance(options, dict):
            raise ValueError(f"sweep {path}: run {name} is {options!r}; a dict of config options is needed")
    folder = work_dir or values.get("work_dir") or f"work_dirs/sweep_{Path(path).stem}"
    return Sweep(Path(path), values["base"], values["runs"], baseline, Path(folder))


def sweep_runs(sweep: Sweep, cache: str | None) -> list[Run]:
    """Every run of the sweep, checked: options, data, cache, model; `cache` goes before the base's.

    Raises:
        ValueError: naming the run, and what is wrong with it.
    """
    base = load_config(sweep.base)
    require_keys(base, ("region", "classes", "cache"), sweep.base)
    configs = run_configs(sweep)
    reader = CacheReader(cache or base.cache)
    tell_store(reader.store, (base.get("teacher") or {}).get("checkpoint"))
    runs = [
        make_run(name, config, sweep.work_dir, flatten(sweep.changes.get(name, {})), reader)
        for name, config in configs.items()
    ]
    for run in runs:
        require_trainable(run, reader)
    return runs


def run_configs(sweep: Sweep) -> dict[str, Config]:
    """The config of every run by its name, the baseline first.

    Raises:
        ValueError: an option that the base does not have, a run that reads no cache or another one.
    """
    configs = {BASELINE: load_config(sweep.baseline)} if sweep.baseline else {}
    for name, options in sweep.changes.items():
        place = f"sweep {sweep.file}: run {name}"
        if "cache" in options:
            raise ValueError(f"{place} sets cache = {options['cache']!r}; a sweep reads one cache. Give CACHE= instead")
        configs[name] = load_config(sweep.base, flatten(options), source=place)
        if kind_of(configs[name]) != "cached":
            raise ValueError(
                f"{place}: model.type is {configs[name].model.type}; a CachedDistiller is needed. Take a base of "
                "configs/distill"
            )
    return configs


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level with dotted keys; an empty dict, or one that deletes its place, is a value."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping) and value and DELETE not in value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for part in key.split("."):
        try:
            value = _step_into(value, part)
        except LookupError:
            return None
    return value


def _step_into(value: Any, part: str) -> Any:
    """The item of a mapping, or of a list where `part` is a number; a LookupError where there is none."""
    if isinstance(value, list | tuple) and part.isdecimal():
        return value[int(part)]
    if isinstance(value, Mapping):
        return value[part]
    raise LookupError(part)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """`loss_ld.temperature = 2.0, seed = 1`: the last two names of each key."""
    return ", ".join(f"{short_key(key)} = {shown(value)}" for key, value in settings.items())


def short_key(key: str) -> str:
    """The end of a dotted key that says what it is."""
    return ".".join(key.split(".")[-2:])


def shown(value: Any) -> str:
    """A setting's value as text."""
    return "off" if value is None else str(value)
