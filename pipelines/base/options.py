"""The options of a config's parts, compared with what the classes that they name take, before any of them is built."""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS, LOG_PROCESSORS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, Registry
from mmrotate import registry as mmrotate_registry
from torch.utils.data import DataLoader

from distill.settings import did_you_mean

# Where a `type` of a config may be registered, in the order of looking.
REGISTRIES: tuple[Registry, ...] = (
    *(
        getattr(mmrotate_registry, name)
        for name in (
            *("MODELS", "TASK_UTILS", "DATASETS", "TRANSFORMS", "HOOKS", "METRICS", "PARAM_SCHEDULERS", "VISUALIZERS"),
            *("VISBACKENDS", "OPTIM_WRAPPER_CONSTRUCTORS"),
        )
    ),
    *(LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, LOG_PROCESSORS, DATA_SAMPLERS, FUNCTIONS),
)
# Parts whose builders take options apart before a class sees them, or that name functions.
UNCHECKED = ("norm_cfg", "conv_cfg", "act_cfg", "init_cfg", "plugins", "dcn", "upsample_cfg", "metainfo", "meta")
# Options that mmengine itself takes out of a part.
TAKEN_OUT = {
    "default_hooks": ("priority",),
    "custom_hooks": ("priority",),
    "param_scheduler": ("convert_to_iter_based",),
}
# Among known options: others are taken too. And how alike two names are of which one is a misspelt one.
ANY = "**"
ALIKE = 0.85
# Parts without a type, and what is read of them: a plain value of some type, or (None) anything.
PLAIN_PARTS: dict[str, dict[str, Any]] = {
    "model.train_cfg": {"assigner": None, "sampler": None, "allowed_border": int, "pos_weight": float, "debug": bool},
    "model.test_cfg": {"nms_pre": int, "min_bbox_size": float, "score_thr": float, "nms": None, "max_per_img": int},
    "model.test_cfg.nms": {"type": str, "iou_threshold": float, "class_agnostic": bool, "split_thr": int, ANY: None},
    "randomness": {"seed": int, "diff_rank_seed": bool, "deterministic": bool},
    "env_cfg": {"cudnn_benchmark": bool, "mp_cfg": None, "dist_cfg": None, "resource_limit": int},
    "auto_scale_lr": {"enable": bool, "base_batch_size": int},
    "region": {"rule": str, "factor": float, "topk": int, "box_form": str},
    "teacher": {"config": str, "checkpoint": str},
    "views": {"draws": int, "seed": int},
}
DEFAULT_TYPES = {"optim_wrapper": "OptimWrapper"}
CHECKED = (
    *("model", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg"),
    *("optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator", "default_hooks", "custom_hooks"),
    *("visualizer", "vis_backends", "log_processor", "randomness", "env_cfg", "auto_scale_lr", "region", "teacher"),
    "views",
)


def require_known_options(config: Config, source: str) -> None:
    """Refuse an option that nothing takes, a value of another type than is taken, and a type that is not registered.

    Raises:
        ValueError: naming the place, the option, and the nearest known one.
    """
    values = config.to_dict()
    for name in CHECKED:
        for path, part in _parts(values.get(name), name):
            known = _options_of(path, part)
            is_open = ANY in known
            for key, value in part.items():
                if key in known and key != "type":
                    _require_type(known[key], value, f"{source}: {path}.{key}")
                # Where others are taken as well, one that is spelt almost like a known one is a misspelt one.
                elif key != "type" and (not is_open or get_close_matches(key, known, 1, cutoff=ALIKE)):
                    raise ValueError(f"{source}: {path} has no option {key!r}.{_nearest(key, known)}")


def _parts(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part of a config that a class, or something that reads a fixed set of options, is made from."""
    # A built head has the detector's settings as well: the config of a run that was started holds both.
    path = path.replace("model.bbox_head.t", "model.t")
    if isinstance(value, Mapping):
        is_loader = path.endswith("_dataloader")
        if "type" in value or path in PLAIN_PARTS or path in DEFAULT_TYPES or is_loader:
            yield path, value
        for key, inner in value.items():
            if key not in UNCHECKED:
                yield from _parts(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _parts(inner, f"{path}.{index}")


def _options_of(path: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the options that a part may have, with their annotations; `ANY` among them where it takes others."""
    if path in PLAIN_PARTS:
        return dict(PLAIN_PARTS[path])
    if path.endswith("_dataloader") and "type" not in part:
        return {**_parameters(DataLoader), "num_batch_per_epoch": None}
    kind = part.get("type", DEFAULT_TYPES.get(path))
    made = _registered(kind) if isinstance(kind, str) else kind
    if made is None:
        raise ValueError(f"{path}.type is {kind!r}, which is not registered.{_nearest(str(kind), _names())}")
    known = _parameters(made)
    if path == "optim_wrapper":
        known = {**known, "optimizer": None, "constructor": None, "paramwise_cfg": None}
    return {**known, **dict.fromkeys(TAKEN_OUT.get(path.partition(".")[0], ()))}


def _registered(name: str) -> Any:
    """The class or function of a name with or without scope; None where there is none."""
    scope, _, bare = name.rpartition(".")
    # What a scope does not have itself, it inherits from the root.
    for is_inherited in (False, True):
        for registry in REGISTRIES:
            for one in (registry, *_relatives(registry)):
                module = one.module_dict.get(bare)
                if module is not None and (one.parent is None if is_inherited else scope in ("", one.scope)):
                    return module
    return None


@cache
def _relatives(registry: Registry) -> tuple[Registry, ...]:
    """The other registries of a registry's tree, filled: a name of any scope is found in one of them."""
    root = registry
    while root.parent is not None:
        root = root.parent
    found, waiting = [], [root]
    while waiting:
        one = waiting.pop(0)
        one.import_from_location()
        found.append(one)
        waiting += [child for children in one.children.values() for child in _as_list(children)]
    return tuple(one for one in found if one is not registry)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@cache
def _parameters(made: Any) -> dict[str, Any]:
    """Parameters by name, with their annotations where these resolve; `ANY` among them where any option is taken.

    A class that hands keyword arguments on takes those of the classes behind it as well.
    """
    kinds = made.__mro__ if isinstance(made, type) else ()
    functions = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [made]
    known: dict[str, Any] = {}
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return {ANY: None}
        for name, parameter in parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                known.setdefault(name, _annotation(function, parameter))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return known
    return {**known, ANY: None}


def _annotation(function: Any, parameter: inspect.Parameter) -> Any:
    """What a parameter is annotated with; None where that is nothing, or a name for type checkers alone."""
    if parameter.annotation is parameter.empty:
        return None
    try:
        holder = types.SimpleNamespace(__annotations__={"value": parameter.annotation})
        return typing.get_type_hints(holder, vars(inspect.getmodule(function)))["value"]
    except (NameError, TypeError, SyntaxError, AttributeError):
        return None


def _require_type(annotation: Any, value: Any, place: str) -> None:
    """Refuse a value where plain types are taken and it is of none of them; anything else is left to the class."""
    if annotation is None or value is None or isinstance(value, Mapping | list | tuple):
        return
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if not all(isinstance(member, type) and not typing.get_args(member) for member in members):
        return
    wanted = tuple(member for member in members if member is not types.NoneType)
    allowed = (*wanted, *((int,) if float in wanted else ()))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in wanted and object not in wanted):
        raise ValueError(f"{place} is {value!r}; {' or '.join(member.__name__ for member in wanted)} is needed")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted({name for one in REGISTRIES for each in (one, *_relatives(one)) for name in each.module_dict}))


def _nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    meant = did_you_mean(name.rpartition(".")[2], known, cutoff=0.5)
    return meant or (f" It has: {', '.join(sorted(known))}" if len(known) < 40 else "")
