"""What a run's folder holds, and which config file is meant where none is named: the one in it, or a sibling's."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from pipelines.base.invocation import again, note

RUN_RECORD = "run.json"
"""What a finished training leaves in its folder, beside the config that it ran with."""
# What a config that mmengine has written consists of: names and values.
_VALUES = (
    *(ast.Module, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Constant, ast.UnaryOp, ast.USub),
    *(ast.List, ast.Tuple, ast.Dict, ast.Call, ast.keyword),
)


def config_of_run(folder: str | Path) -> str:
    """The config file that a training has written into its folder, for a command that was given none.

    Raises:
        ValueError: there is none, there are several, or it holds code, which a folder from elsewhere could bring.
    """
    folder = Path(folder)
    give = again(config="<its config>")
    found = _recorded(folder) or sorted(folder.glob("*.py"))
    if len(found) != 1:
        there = f"{len(found)} configs ({', '.join(path.name for path in found)})" if found else "no config"
        raise ValueError(f"{folder} holds {there}, and CONFIG= is not given. Give it: {give}")
    (path,) = found
    if not holds_values_alone(path.read_text(encoding="utf-8")):
        raise ValueError(f"{path} is no config as a training writes it: it would be run, not read. Give it: {give}")
    note(config=path)
    return str(path)


def last_checkpoint(folder: Path) -> str | None:
    """Name of the newest checkpoint that mmengine has noted in a work folder."""
    noted = folder / "last_checkpoint"
    return Path(noted.read_text().strip()).name if noted.is_file() else None


def sibling(config: str | Path, kind: str) -> Path:
    """Where the config of another kind lies beside a student's: configs/demo/plain.py, configs/plain/<name>.py."""
    path = Path(config)
    kinds = ("distill", "plain", "live")
    return path.with_name(f"{kind}.py") if path.stem in kinds else path.parent.with_name(kind) / path.name


def _recorded(folder: Path) -> list[Path]:
    """The file that `run.json` names, where it is there."""
    try:
        name = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))["config"]["text_file"]
        path = folder / Path(str(name)).name
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path] if path.is_file() else []


def holds_values_alone(text: str) -> bool:
    """Whether a config assigns lists, tuples, dictionaries (`dict(a=1)`) of plain values to names, and nothing else."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    # A base would be run.
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    has_code = any(not (isinstance(call, ast.Name) and call.id == "dict") for call in calls)
    return all(isinstance(node, _VALUES) for node in nodes) and not has_code and "_base_" not in names
