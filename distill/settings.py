"""Reading of configs: each setting has one place, and none is without effect.

What several parts of a config need is written once, at the top level, and filled in wherever it is used:

    data_root       every dataset and evaluator
    views           the training set
    classes         every dataset, and the number of classes of the head
    distillation    the distiller; one with a live teacher also gets `teacher`, and `FindRegion` its `region`
    vis_backends    the visualizer, beside the local backend, which holds the log that reports read
    val_dataloader, val_evaluator    test_dataloader, test_evaluator, under what a config says of these
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.manifest import shown

if TYPE_CHECKING:
    from mmengine.config import Config

# Names at the top level that a command of this project reads, and the kinds of models for which it does.
DISTILLERS = ("CachedDistiller", "LiveDistiller")
STUDENT_SETTINGS = {
    "cache": ("CachedDistiller",),
    "allow": ("CachedDistiller",),
    "codec": ("CachedDistiller",),
    "plan_assignment": ("CachedDistiller",),
    "teacher": DISTILLERS,
    "region": DISTILLERS,
    "distillation": DISTILLERS,
}
# How the training set draws the views of its patches.
VIEW_SETTINGS = ("views",)
DATA_SETTINGS = (
    *("data_format", "data_root", "classes", "patch_size", "patch_overlap", "patch_rates", "scenes", "ignore_classes"),
)
# What mmengine's runner reads; a test compares them with its signature.
RUNNER_SETTINGS = (
    *("model", "work_dir", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg"),
    *("auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator", "default_hooks"),
    *("custom_hooks", "data_preprocessor", "load_from", "resume", "launcher", "env_cfg", "log_processor", "log_level"),
    *("visualizer", "default_scope", "randomness", "experiment_name", "compile", "model_wrapper_cfg", "custom_imports"),
)
# What a training, an evaluation and a capture compute in.
ARITHMETIC_SETTINGS = ("tf32",)
# How a training lays out and runs its own network, whatever its teacher's answers were captured in.
NETWORK_SETTINGS = ("channels_last", "compiled")
# Written by commands into the configs of runs.
RUN_SETTINGS = ("cache_fingerprint", "weights_sha256", "overrides")
KNOWN = (
    *(*STUDENT_SETTINGS, *DATA_SETTINGS, *RUNNER_SETTINGS, *ARITHMETIC_SETTINGS, *NETWORK_SETTINGS, *RUN_SETTINGS),
    *(*VIEW_SETTINGS, "vis_backends"),
)
# What a setting is, where another kind of value would end in an error of whatever reads it.
FORMS: Mapping[str, tuple[str, ...]] = {
    "a dictionary": (
        *("model", "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"),
        *("train_cfg", "val_cfg", "test_cfg", "optim_wrapper", "default_hooks", "visualizer", "log_processor"),
        *("env_cfg", "randomness", "auto_scale_lr", "custom_imports", "scenes", "region", "distillation", "teacher"),
        "views",
    ),
    "a list of dictionaries": ("vis_backends", "custom_hooks"),
    "a dictionary or a list of dictionaries": ("param_scheduler",),
    "a list of names": ("classes", "ignore_classes", "allow"),
    "a text": ("data_root", "data_format", "cache", "work_dir", "load_from", "log_level", "default_scope"),
    "a text or a dictionary": ("codec",),
    "a list of numbers": ("patch_rates",),
    "a whole number": ("patch_size", "patch_overlap"),
    "True or False": ("resume", "plan_assignment", "tf32", "channels_last", "compiled"),
}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
EVALUATORS = ("val_evaluator", "test_evaluator")
# Where files of this name lie, names are a stock that other files choose from.
FRAGMENTS = "_base_"
LOCAL_BACKEND = "LocalVisBackend"


@dataclass(frozen=True)
class Place:
    """Where a setting is used: `owner[key]`, which a reader of the config knows as `path`."""

    setting: str
    path: str
    owner: dict[str, Any]
    key: str
    value: Any

    def fill(self) -> None:
        self.owner[self.key] = deepcopy(self.value)


def no_such_config(path: str | Path) -> str:
    """What to say of a config that is not there: with the nearest file beside it."""
    beside = [str(file) for file in Path(path).parent.glob("*.py")]
    meant = did_you_mean(str(path), beside) or " Those that come with the project are in configs/"
    return f"config {path} does not exist.{meant}"


def parse_config(path: str | Path, *, imports: bool = True) -> Config:
    """A config file as it is written.

    Args:
        imports: import the modules that the config names; data preparation needs none of them.

    Raises:
        ValueError: no such file, or it cannot be read.
    """
    from mmengine.config import Config

    if not Path(path).is_file():
        raise ValueError(no_such_config(path))
    try:
        return Config.fromfile(str(path), import_custom_modules=imports)
    except (SyntaxError, KeyError, AttributeError, TypeError, NameError, ImportError, OSError, ValueError) as error:
        raise ValueError(f"config {path} cannot be read: {error}") from error


def read_config(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    source: str = "--cfg-options",
    imports: bool = True,
) -> Config:
    """A config file with options applied, and every setting filled in where it is used.

    Args:
        options: dotted keys and their values; `source` says in messages where they come from.
        imports: as `parse_config`.

    Raises:
        ValueError: as `parse_config`; a name or option that nothing reads; or a value that contradicts the setting it
            follows from.
    """
    config = parse_config(path, imports=imports)
    require_read(Path(path))
    # Of the file itself: what it inherits may have been meant for another kind of model.
    require_reader(config, set(next(_chain(Path(path))).assigned) if Path(path).suffix == ".py" else set(), str(path))
    require_forms(config, f"config {path}")
    # Names that the file has used up, and settings of other kinds of models: what is left is what commands read.
    kind = _kind_of(config)
    unread = {name for name, kinds in STUDENT_SETTINGS.items() if kind is not None and kind not in kinds}
    for name in set(config) - (set(KNOWN) - unread):
        config.pop(name)
    complete(config)
    for place in places(config):
        _require_following(place, str(path))
        place.fill()
    if options:
        apply_options(config, options, source)
    return config


def apply_options(config: Config, options: Mapping[str, Any], source: str) -> None:
    """Change a config in place, and fill in anew what follows from the settings that change.

    Args:
        options: dotted keys and their values.
        source: where they come from, for messages.

    Raises:
        ValueError: an option at a place that follows from a setting, at one that does not exist, or that nothing reads.
    """
    for key, value in options.items():
        for place in places(config):
            if f"{key}.".startswith(f"{place.path}."):
                rest = key.removeprefix(place.path)
                wanted = "classes=<names>" if place.key == "num_classes" else f"{place.setting}{rest}={value}"
                raise ValueError(f"{source} {key}: it follows from `{place.setting}`. Give {wanted} instead")
        _require_branch(config, key, source)
    changed = {key.partition(".")[0] for key in options}
    for name in sorted(changed - set(KNOWN)):
        raise ValueError(f"{source} {name}: nothing reads it. {_meant(name, config)}")
    require_reader(config, changed, source, options)
    config.merge_from_dict(dict(options))
    require_forms(config, source)
    complete(config)
    for place in places(config):
        if place.setting in changed:
            place.fill()


def settings_of(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a config's kind of model reads, of those that are meant for several kinds at once."""
    kind = _bare(config.model.type)
    readers = {key: STUDENT_SETTINGS.get(key.partition(".")[0], (kind,)) for key in options}
    return {key: value for key, value in options.items() if kind in readers[key]}


def complete(config: Config) -> None:
    """Testing is validation, but for what a config says of it; and the local log is always written."""
    for name in ("dataloader", "evaluator"):
        if config.get(f"val_{name}") is not None:
            config[f"test_{name}"] = _merged(config.get(f"test_{name}") or {}, config[f"val_{name}"])
    backends = config.get("vis_backends")
    if backends is not None and LOCAL_BACKEND not in [backend["type"] for backend in backends]:
        config.vis_backends = [{"type": LOCAL_BACKEND}, *backends]


def places(config: Config) -> Iterator[Place]:
    """Every place that a setting of this config is filled in at."""
    for name in LOADERS:
        for path, dataset in _datasets(config.get(name), name):
            yield from _places(config, path, dataset, "data_root", *(VIEW_SETTINGS if name == LOADERS[0] else ()))
            if "classes" in config:
                if "metainfo" not in dataset:
                    dataset["metainfo"] = type(dataset)()
                yield Place("classes", f"{path}.metainfo.classes", dataset["metainfo"], "classes", config.classes)
    for name in EVALUATORS:
        if config.get(name) is not None:
            yield from _places(config, name, config[name], "data_root")
    model = config.get("model") or {}
    if "classes" in config and "bbox_head" in model:
        head = model["bbox_head"]
        yield Place("classes", "model.bbox_head.num_classes", head, "num_classes", len(config.classes))
    kind = _bare(model.get("type"))
    if kind in DISTILLERS:
        yield from _places(config, "model", model, "distillation")
    if kind == "LiveDistiller":
        yield from _places(config, "model", model, "teacher")
        for index, step in enumerate(config.train_dataloader.dataset.pipeline):
            if _bare(step["type"]) == "FindRegion":
                yield from _places(config, f"train_dataloader.dataset.pipeline.{index}", step, "region")
    if config.get("visualizer") is not None:
        yield from _places(config, "visualizer", config.visualizer, "vis_backends")


def require_forms(config: Config, source: str) -> None:
    """Refuse a setting that is another kind of value than is read; what it holds, `pipelines.base.options` compares.

    Raises:
        ValueError: naming the setting, its value and what is needed.
    """
    for form, names in FORMS.items():
        for name in names:
            value = config.get(name)
            if value is not None and not _has_form(value, form):
                raise ValueError(f"{source}: `{name}` is {shown(_lists(value))}; {form} is needed")
    for name in LOADERS:
        dataset = (config.get(name) or {}).get("dataset")
        pipeline = dataset.get("pipeline") if isinstance(dataset, Mapping) else None
        for key, value, form in (
            ("dataset", dataset, "a dictionary"),
            ("dataset.pipeline", pipeline, "a list of dictionaries"),
        ):
            if value is not None and not _has_form(value, form):
                raise ValueError(f"{source}: `{name}.{key}` is {shown(_lists(value))}; {form} is needed")


def _has_form(value: Any, form: str) -> bool:
    if isinstance(value, list | tuple):
        inner = {"a list of names": str, "a list of numbers": int | float}
        return "list" in form and all(isinstance(item, inner.get(form, Mapping)) for item in value)
    if isinstance(value, bool):
        return form == "True or False"
    kinds = {"dictionary": Mapping, "text": str, "whole number": int}
    return any(f"a {word}" in form.replace("a list of", "") and isinstance(value, kind) for word, kind in kinds.items())


def require_reader(config: Config, names: set[str], source: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse names that nothing reads, and settings that the config's kind of model does not.

    options: what sets the names, where that is not the config itself.

    Raises:
        ValueError: naming the setting and what could be meant.
    """
    kind = _kind_of(config)
    for name in sorted(names):
        if name in STUDENT_SETTINGS and kind is not None and kind not in STUDENT_SETTINGS[name]:
            value = shown((options or config).get(name))
            raise ValueError(
                f"{source}: `{name}` is {value}, which has no effect: model.type is {kind!r}, and it is "
                f"read for {' or '.join(STUDENT_SETTINGS[name])} alone. Leave it out, or give a config of "
                "configs/distill or configs/live"
            )


def require_read(path: Path) -> None:
    """Refuse a name of a config file that neither a command nor another part of the config reads.

    A base may have copied its own value of that name before: then it is read there, but no longer here.

    Raises:
        ValueError: naming file, name, and what would have an effect.
    """
    chain = list(_chain(path))
    for index, module in enumerate(chain):
        if FRAGMENTS in module.path.parts:
            continue
        read_below = {name for other in chain[:index] for name in other.base_reads}
        for name in sorted(module.assigned - set(KNOWN) - module.reads - read_below):
            if name.startswith("_"):
                continue
            for base in chain[index + 1 :]:
                if name in base.copies:
                    raise ValueError(
                        f"config {module.path}: `{name}` has no effect: {base.path} has already copied its own value "
                        f"into `{base.copies[name]}`. Set what you need of `{base.copies[name]}` in {module.path}"
                    )
            raise ValueError(f"config {module.path}: nothing reads `{name}`. {_meant(name)}")


@dataclass(frozen=True)
class _Module:
    """What a config file says about names.

    copies: names that it reads while it sets another one, which then holds their value. base_reads: those that it takes
    from its bases by `{{_base_.name}}`.
    """

    path: Path
    assigned: frozenset[str]
    reads: frozenset[str]
    base_reads: frozenset[str]
    copies: Mapping[str, str]


def _chain(path: Path) -> Iterator[_Module]:
    """A config file and all it inherits, nearest first; other formats than Python have no names to look at."""
    if path.suffix != ".py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned, reads, base_reads = set(), set(), set()
    copies: dict[str, str] = {}
    bases: list[str] = []
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if names == [FRAGMENTS]:
            value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            bases = [value] if isinstance(value, str) else list(value)
            continue
        assigned.update(names)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                reads.add(node.id)
                copies |= dict.fromkeys([node.id], names[0]) if names else {}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == FRAGMENTS:
                base_reads.add(node.attr)
                copies |= dict.fromkeys([node.attr], names[0]) if names else {}
    yield _Module(path, frozenset(assigned), frozenset(reads), frozenset(base_reads), copies)
    for base in bases:
        if "::" not in base:
            yield from _chain(path.parent / base)


def _datasets(loader: Mapping[str, Any] | None, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The data sets of a loader, those inside wrappers too, each with its path."""
    if loader is None or loader.get("dataset") is None:
        return
    inner, path = loader["dataset"], f"{path}.dataset"
    if "dataset" in inner:
        yield from _datasets(inner, path)
    elif "datasets" in inner:
        for index, one in enumerate(inner["datasets"]):
            yield from _datasets({"dataset": one}, f"{path}.datasets.{index}")
    else:
        yield path, inner


def _places(config: Config, path: str, owner: dict[str, Any], *settings: str) -> Iterator[Place]:
    for name in settings:
        if name in config:
            yield Place(name, f"{path}.{name}", owner, name, config[name])


def _require_following(place: Place, source: str) -> None:
    found = place.owner.get(place.key)
    if found is not None and _lists(found) != _lists(place.value):
        raise ValueError(
            f"config {source}: {place.path} is {shown(_lists(found))} but `{place.setting}` says "
            f"{shown(_lists(place.value))}. Leave {place.path} out: it follows from `{place.setting}`"
        )


def _require_branch(config: Config, key: str, source: str) -> None:
    """An option may add a value to a part of the config, but the part must be there."""
    *parents, _ = key.split(".")
    value: Any = config.to_dict()
    for depth, part in enumerate(parents):
        if isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        elif depth == 0 or not isinstance(value, Mapping):
            above = ".".join(parents[:depth]) or "the config"
            known = [*map(str, value)] if isinstance(value, Mapping) else []
            meant = did_you_mean(part, known) or f" It has: {', '.join(known) or repr(value)}"
            raise ValueError(f"{source} {key}: {above} has no {part!r}.{meant}")
        else:
            return
    if not isinstance(value, Mapping | list | tuple):
        place = ".".join(parents)
        raise ValueError(f"{source} {key}: `{place}` is {shown(value)}, which has no parts. Give {place}=<value>")


def _merged(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """One part of a config on top of another, as inherited configs merge."""
    from mmengine.config import Config

    both = Config({"part": deepcopy(dict(below))})
    both.merge_from_dict({"part": deepcopy(dict(above))})
    return dict(both.part)


def _kind_of(config: Config) -> str | None:
    model = config.get("model")
    return _bare(model.get("type")) if isinstance(model, Mapping) else None


def _bare(model_type: Any) -> str | None:
    """The name of a model's type without its scope."""
    return None if model_type is None else str(model_type).rpartition(".")[2]


def _lists(value: Any) -> Any:
    """Tuples as lists, so that a config compares equal with one that went through a file."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _meant(name: str, config: Config | None = None) -> str:
    """What a name could stand for: a setting, or an option inside one."""
    inside: dict[str, str] = {}
    for path in _paths(config.to_dict() if config is not None else {}):
        inside.setdefault(path.rpartition(".")[2], path)
    close = get_close_matches(name, {**dict.fromkeys(KNOWN), **inside}, 1, cutoff=0.7)
    if not close:
        return "Leave it out, or begin its name with _ if other parts shall not read it"
    return f"Did you mean {close[0] if close[0] in KNOWN else inside[close[0]]}?"


def _paths(value: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted paths of all options inside dictionaries, the highest last."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _paths(inner, f"{above}{key}.")
    yield from (f"{above}{key}" for key in value)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A sentence, with a space before it, that names the known name nearest to one that is not; empty if none is."""
    close = get_close_matches(name, list(known), 1, cutoff=cutoff)
    return f" Did you mean {close[0]}?" if close else ""
