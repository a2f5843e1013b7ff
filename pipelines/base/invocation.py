"""What this command was given, and other commands as its user would type them: the cures in messages.

`run_command` notes the command line. `make("distill")` then is `make distill CONFIG=my/distill.py CACHE=caches/a.zarr`
where this run was given both.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

# What each target of the Makefile takes, and what each variable means to it; `weights` are the teacher's.
_RUN = {"DATA_ROOT": "data_root", "WORK_DIR": "work_dir", "RESUME": "resume"}
_STUDENT = {"CONFIG": "config", "DATA_ROOT": "data_root"}
_TEACHER = {"TEACHER": "teacher", "CHECKPOINT": "weights"}
TARGETS: Mapping[str, Mapping[str, str]] = {
    "data": {**_STUDENT, "DOTA_ROOT": "dota_root"},
    "teacher": {"TEACHER": "teacher", **_RUN},
    "train": {"CONFIG": "config", **_RUN},
    "plan": {**_STUDENT, **_TEACHER},
    "cache-teacher": {**_STUDENT, **_TEACHER, "CACHE": "cache"},
    "verify-cache": {**_STUDENT, **_TEACHER, "CACHE": "cache"},
    "inspect-cache": {**_STUDENT, "CACHE": "cache", "CHECKPOINT": "checkpoint", "WORK_DIR": "work_dir"},
    "fetch-cache": {"CACHE": "cache"},
    "recode-cache": {**_STUDENT, "CACHE": "cache"},
    "caches": {"CACHE": "folder"},
    "config": _STUDENT,
    "distill": {"CONFIG": "config", "CACHE": "cache", **_RUN},
    "sweep": {"SWEEP": "sweep", "CACHE": "cache", "WORK_DIR": "work_dir"},
    "compare": {**_STUDENT, **_TEACHER, "CACHE": "cache", "WORK_DIR": "work_dir"},
    "evaluate": {**_STUDENT, "CHECKPOINT": "checkpoint", "WORK_DIR": "work_dir"},
    "publish": {"CHECKPOINT": "checkpoint"},
    "report": {"WORK_DIR": "work_dir"},
}
# What a command that was given no config says in its place: the cure is for people to complete.
ITS_CONFIG = "<the config of its students>"
# What is a run's own, and no other command's.
OWN = ("work_dir", "resume")
# The variable behind each option, the first of those that the target takes.
VARIABLES = {
    "--config": ("CONFIG", "TEACHER"),
    "--teacher": ("TEACHER",),
    "--checkpoint": ("CHECKPOINT",),
    "--cache": ("CACHE",),
    "--folder": ("CACHE",),
    "--dota-root": ("DOTA_ROOT",),
    "--sweep": ("SWEEP",),
    "--work-dir": ("WORK_DIR",),
    "--out": ("WORK_DIR",),
    "--resume": ("RESUME",),
}
CONFIG_OPTIONS = "--cfg-options"
DATA_ROOT = "data_root="


@dataclass(frozen=True)
class Invocation:
    """A command line.

    known: what it names, by meaning. options: its `--cfg-options` but for the data root. rest: its other arguments.
    """

    target: str = ""
    known: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()


_current = Invocation()


@contextmanager
def running(target: str, argv: Sequence[str]) -> Iterator[None]:
    """While the context is open, this process is at the work of a command line."""
    global _current
    outer, _current = _current, _parse(target, argv)
    try:
        yield
    finally:
        _current = outer


def note(**known: object) -> None:
    """What the command has found out, such as the base config of a sweep; what it was given goes before."""
    _current.known.update({meaning: str(value) for meaning, value in known.items() if meaning not in _current.known})


def given(meaning: str) -> str | None:
    """What the command line, or a note, says."""
    return _current.known.get(meaning)


def make(target: str, *, options: Sequence[str] = (), arguments: Sequence[str] = (), **meanings: object) -> str:
    """Another command, with what this one was given; `meanings` go before, and None leaves one out.

    options: further `--cfg-options`; those of this command go with its config. arguments: what else it takes.
    """
    known = {meaning: value for meaning, value in _current.known.items() if meaning not in OWN}
    values: dict[str, object] = {**known, **meanings}
    same_config = "config" in TARGETS[target].values() and values.get("config") == _current.known.get("config")
    return _line(target, values, [*(_current.options if same_config else ()), *options], arguments)


def again(*, options: Sequence[str] = (), arguments: Sequence[str] = (), **meanings: object) -> str:
    """This command once more, with all its arguments; `meanings` go before, `options` and `arguments` behind."""
    if _current.target not in TARGETS:
        return "the same command"
    values = {**_current.known, **meanings}
    return _line(_current.target, values, [*_current.options, *options], [*_current.rest, *arguments])


def _line(target: str, values: Mapping[str, object], options: Sequence[str], arguments: Sequence[str]) -> str:
    arguments = [*([CONFIG_OPTIONS, *options] if options else []), *arguments]
    named = [
        f"{variable}={_quoted(values[meaning])}"
        for variable, meaning in TARGETS[target].items()
        if values.get(meaning) is not None
    ]
    return " ".join(["make", target, *named, *([f"ARGS={_quoted(shlex.join(arguments))}"] if arguments else [])])


def _quoted(value: object) -> str:
    """For the shell, and for make, to which $ is special."""
    return shlex.quote(str(value).replace("$", "$$"))


def _parse(target: str, argv: Sequence[str]) -> Invocation:
    meanings = TARGETS.get(target, {})
    known: dict[str, str] = {}
    options: list[str] = []
    rest: list[str] = []
    for name, values in _groups(argv):
        variable = next((one for one in VARIABLES.get(name, ()) if one in meanings), None)
        if name == CONFIG_OPTIONS:
            roots = [value for value in values if value.startswith(DATA_ROOT)]
            known |= {"data_root": roots[-1].removeprefix(DATA_ROOT)} if roots else {}
            options += [value for value in values if value not in roots]
        elif variable is not None and len(values) <= 1:
            known[meanings[variable]] = values[0] if values else "1"
        else:
            rest += [name, *values]
    return Invocation(target, known, tuple(options), tuple(rest))


def _groups(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with the values behind it."""
    group: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            if group is not None:
                yield group[0], group[1:]
            name, is_joined, value = word.partition("=")
            group = [name, value] if is_joined else [name]
        elif group is not None:
            group.append(word)
    if group is not None:
        yield group[0], group[1:]
