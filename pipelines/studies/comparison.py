"""What a comparison trains: a plain, a live and a cached student for every seed, which differ in the teacher alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache.manifest import first_difference, require_equal
from cache.reader import CacheReader
from distill.settings import parse_config, settings_of
from distill.teacher import FrozenTeacher
from pipelines.base.config_files import sibling
from pipelines.base.experiment import load_config, view_pipeline
from pipelines.base.invocation import again
from pipelines.base.ready import require_keys
from pipelines.base.stores import tell_store
from pipelines.studies.runs import Run, make_run, plain_values, require_trainable
from pipelines.training.kind import kind_of

KINDS = ("plain", "live", "cached")
TEACHER = "teacher"
# What must be equal for the teacher to be the only difference.
SHARED_MODEL_KEYS = ("data_preprocessor", "backbone", "neck", "bbox_head", "train_cfg", "test_cfg")
SHARED_KEYS = ("classes", "optim_wrapper", "param_scheduler", "train_cfg", "test_dataloader", "test_evaluator")


@dataclass(frozen=True)
class ComparisonOptions:
    """What a command line says about a comparison; None where a config or its place says it.

    config: the cached student's. plain, live: the other students' (those beside `config`). teacher, checkpoint: the
    teacher's config and weights (those of the live student).
    """

    config: str
    seeds: Sequence[int]
    plain: str | None = None
    live: str | None = None
    teacher: str | None = None
    checkpoint: str | None = None
    cache: str | None = None
    work_dir: str | None = None
    cfg_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < max(2, len(self.seeds)):
            raise ValueError(f"--seeds are {self.seeds}; at least two different ones are needed for a spread")

    @property
    def folder(self) -> Path:
        """Holds one folder a run, and the results."""
        config = Path(self.config)
        label = config.parent.name if config.stem == "distill" else config.stem
        return Path(self.work_dir or f"work_dirs/compare_{label}")


def comparison_runs(options: ComparisonOptions) -> list[Run]:
    """The teacher, and every kind of student with every seed, checked.

    Raises:
        ValueError: the configs do not compare, the cache is of another teacher than the live one, or a student would
            stop at its start.
    """
    configs = _load_configs(options)
    reader = CacheReader(options.cache or configs["cached"].cache)
    tell_store(reader.store, configs["live"].model.teacher.checkpoint)
    runs = [_teacher_run(configs["live"], reader, options.folder)]
    for seed in options.seeds:
        for kind in KINDS:
            config = Config(configs[kind].to_dict())
            config.randomness = {**config.get("randomness", {}), "seed": seed}
            runs.append(make_run(f"{kind}_seed{seed}", config, options.folder, {"kind": kind, "seed": seed}, reader))
    # The other seeds differ in nothing that could stop one.
    for run in runs[1 : 1 + len(KINDS)]:
        require_trainable(run, reader)
    return runs


def _teacher_run(live: Config, reader: CacheReader, root: Path) -> Run:
    """The teacher that the live student asks, which the cache must be of: evaluated, not trained."""
    teacher = live.model.teacher
    described = FrozenTeacher.load(teacher.config, teacher.checkpoint).describe()
    cure = "Compare with the teacher that the cache was captured from: give CHECKPOINT= and TEACHER=, or CACHE="
    require_equal({"teacher": described}, reader.manifest, place=f"cache {reader.path}", cure=cure)
    config = load_config(teacher.config)
    config.weights_sha256 = described["weights_sha256"]
    return Run(TEACHER, config, root, {}, checkpoint=Path(teacher.checkpoint))


def _load_configs(options: ComparisonOptions) -> dict[str, Config]:
    """The three configs, with the command line's teacher and options."""
    files = {
        "plain": options.plain or _beside(options.config, "plain"),
        "live": options.live or _beside(options.config, "live"),
        "cached": options.config,
    }
    teacher = {"teacher.config": options.teacher, "teacher.checkpoint": options.checkpoint}
    changes = {**(options.cfg_options or {}), **{key: value for key, value in teacher.items() if value}}
    configs = {kind: load_config(file, settings_of(parse_config(file), changes)) for kind, file in files.items()}
    for kind, config in configs.items():
        if kind_of(config) != kind:
            raise ValueError(f"model.type is {config.model.type} in {files[kind]}; a {kind} student is needed there")
    require_keys(configs["cached"], ("region", "classes", "cache"), options.config)
    _require_one_recipe(configs, files)
    return configs


def _beside(config: str, kind: str) -> str:
    """The config of another kind beside a cached student's."""
    path = sibling(config, kind)
    if not path.is_file():
        cure = again(arguments=(f"--{kind}", "<file>"))
        raise ValueError(f"no {kind} config beside {config} ({path} does not exist). Give it: {cure}")
    return str(path)


def _require_one_recipe(configs: Mapping[str, Config], files: Mapping[str, str]) -> None:
    """Refuse configs that differ in more than where the teacher is."""
    described = {kind: _recipe(config) for kind, config in configs.items()}
    for kind in ("plain", "live"):
        ours = {key: value for key, value in described[kind].items() if key in described["cached"]}
        theirs = {key: value for key, value in described["cached"].items() if key in ours}
        difference = first_difference(ours, theirs)
        if difference is not None:
            field, first, second = difference
            raise ValueError(
                f"{field} is {first!r} in {files[kind]} but {second!r} in {files['cached']}. Plain, live and cached "
                "student must differ in the teacher alone: make them equal"
            )


def _recipe(config: Config) -> dict[str, Any]:
    values = config.to_dict()
    model, loader = values["model"], values["train_dataloader"]
    recipe = {
        "model": {key: model.get(key) for key in SHARED_MODEL_KEYS},
        **{key: values.get(key) for key in SHARED_KEYS},
        "train_dataloader": {
            **loader,
            "dataset": {key: value for key, value in loader["dataset"].items() if key != "pipeline"},
        },
        "views": view_pipeline(config),
    }
    if "distillation" in model:
        recipe |= {"distillation": model["distillation"], "region": model.get("region") or values["region"]}
    return plain_values(recipe)
