"""Every command that a message tells the user to run can be pasted, with what this run was given."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.base.command import run_command
from pipelines.base.invocation import TARGETS, again, given, make, note, running
from tests.conftest import REPOSITORY

# A value for everything that a command line can name, with what shells and make take apart.
# Make in make says where it is.
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
VALUES = {
    "config": "my configs/a student's $x.py",
    "teacher": "my configs/teacher.py",
    "weights": "work_dirs/teacher/epoch_24.pth",
    "checkpoint": "work_dirs/a b/iter_4.pth",
    "cache": "caches/a, b.zarr",
    "data_root": "/data/three, four/",
    "dota_root": "/data/DO TA",
    "sweep": "configs/sweep/demo.py",
    "work_dir": "work_dirs/x",
    "resume": "1",
    "folder": "my caches",
}


def argv_of(line: str) -> tuple[str, list[str]]:
    """What make would run for a line that a user pastes: the command and its arguments."""
    ran = subprocess.run(
        ["bash", "-c", line.replace("make ", "make -n -o .venv/.ready ", 1)],
        cwd=REPOSITORY,
        env=OUTSIDE_MAKE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{line}: {ran.stderr}"
    words = shlex.split(ran.stdout)
    place = words.index("-m")
    return words[place + 1].removeprefix("pipelines."), words[place + 2 :]


def parse(line: str, monkeypatch: pytest.MonkeyPatch):
    """The namespace that the command of a line makes of it."""
    command, argv = argv_of(line)
    module = importlib.import_module(command if "." in command else f"pipelines.{command}")
    # The files that values name need not exist.
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    return module.make_parser().parse_args(argv)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_variable_arrives_through_the_shell_make_and_argparse(target: str, monkeypatch) -> None:
    with running("", []):
        meanings = {meaning: VALUES[meaning] for meaning in TARGETS[target].values()}
        needed = {"fetch-cache": ["--to", "x"], "recode-cache": ["--to", "x", "--codec", "small"]}
        arguments = needed.get(target, [])
        line = make(target, arguments=arguments, **meanings)
    found = vars(parse(line, monkeypatch))
    for variable, meaning in TARGETS[target].items():
        assert f"{variable}=" in line
        if meaning == "data_root":
            assert found["cfg_options"]["data_root"] == VALUES[meaning]
        elif meaning == "resume":
            assert found["resume"] is True
        else:
            places = {"config": ("config",), "teacher": ("teacher", "config"), "weights": ("checkpoint",)}
            places |= {"work_dir": ("work_dir", "out")}
            value = next(found[place] for place in places.get(meaning, (meaning,)) if place in found)
            assert (value[0] if isinstance(value, list) else str(value)) == VALUES[meaning]


def test_a_command_names_itself_with_all_that_it_was_given(monkeypatch) -> None:
    argv = [
        "--config",
        VALUES["config"],
        "--cfg-options",
        "data_root=/d/",
        "model.x=[1,2]",
        "model.y=a 'b",
        "--cache",
        "c.zarr",
    ]
    argv += ["--allow", "region", "label_sha256", "--resume"]
    with running("distill", argv):
        line = again(cache="other.zarr", options=["randomness.seed=1"])
    command, found = argv_of(line)
    assert command == "distill"
    parsed = parse(line, monkeypatch)
    assert parsed.config == VALUES["config"]
    assert parsed.cache == "other.zarr"
    assert list(parsed.allow) == ["region", "label_sha256"]
    assert parsed.resume
    assert parsed.cfg_options == {"data_root": "/d/", "model.x": [1, 2], "model.y": "a 'b", "randomness.seed": 1}
    assert "--cache" in found


def test_another_command_gets_what_it_takes_of_this_ones() -> None:
    argv = ["--config=my.py", "--cache", "c.zarr", "--cfg-options", "codec=exact", "--work-dir", "w", "--resume"]
    with running("distill", argv):
        assert make("cache-teacher") == "make cache-teacher CONFIG=my.py CACHE=c.zarr ARGS='--cfg-options codec=exact'"
        # Options of a config are those of this one.
        assert make("train", config="live.py") == "make train CONFIG=live.py"
        assert make("teacher", teacher="t.py") == "make teacher TEACHER=t.py"
        assert make("data") == "make data CONFIG=my.py ARGS='--cfg-options codec=exact'"
        note(config="other.py", sweep="s.py")
        assert given("config") == "my.py"
        assert given("sweep") == "s.py"
    with running("teacher", ["--config", "t.py"]):
        assert again() == "make teacher TEACHER=t.py"
        assert make("cache-teacher") == "make cache-teacher TEACHER=t.py"
    # A detector's checkpoint is no teacher's.
    with running("inspect-cache", ["--cache", "c.zarr", "--checkpoint", "student.pth"]):
        assert make("cache-teacher") == "make cache-teacher CACHE=c.zarr"
        assert make("verify-cache") == "make verify-cache CACHE=c.zarr"


def sources() -> list[Path]:
    return [
        path for package in ("cache", "distill", "pipelines") for path in sorted((REPOSITORY / package).rglob("*.py"))
    ]


def composed() -> Iterator[tuple[str, str]]:
    """(module, target) of every command that a message composes."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "make":
                (target,) = node.args
                assert isinstance(target, ast.Constant)
                assert {keyword.arg for keyword in node.keywords} <= {
                    *TARGETS[target.value].values(),
                    "options",
                    "arguments",
                }
                yield path.name, target.value


def literal() -> set[str]:
    """Commands that stand in a message as they are; a value becomes X."""
    found = set()
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if node in documentation or not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)
            found.update(re.findall(r"make [a-z-]+(?: [A-Z_]+=\S+)*", text))
    return {line.rstrip(".,;:") for line in found}


def test_every_command_in_a_message_is_one(monkeypatch) -> None:
    assert len({target for _, target in composed()}) > 5
    lines = {line for line in literal() if line.split()[1] in targets()}
    assert "make verify-cache CACHE=X" in lines
    for line in sorted(lines):
        if line.startswith("make setup"):
            continue
        argv_of(line) if line.startswith("make demo") else parse(line, monkeypatch)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


def test_the_makefile_takes_what_messages_give() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    takes = {
        target: set(names.split()) for target, names in re.findall(r"^takes_([a-z-]+) :=(.*)$", text, re.MULTILINE)
    }
    for target, variables in TARGETS.items():
        assert takes[target] - {"ARGS", "GPUS"} == set(variables), target


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("make distill", "CONFIG= is not given: configs/distill/gwd_r18_1x_dota.py\n"),
        ("make teacher WORK_DIR=w", "TEACHER= is not given: configs/teacher/gwd_r34_2x_dota.py\n"),
        ("make train RESUME=1 WORK_DIR=w", ""),
        ("make plan CONFIG=my.py", ""),
        ("make verify-cache CACHE=x", ""),
    ],
)
def test_a_default_config_is_named(line: str, said: str) -> None:
    """Whoever has forgotten the variable sees which config is taken for it."""
    ran = subprocess.run(
        [*line.replace("make", "make -n -o .venv/.ready").split()],
        cwd=REPOSITORY,
        env=OUTSIDE_MAKE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("make distill CONFIGS=my.py", "make distill has no CONFIGS=. It takes ARGS= CACHE= CONFIG="),
        ("make teacher CONFIG=my.py", "make teacher has no CONFIG=. It takes ARGS= DATA_ROOT= GPUS= RESUME= TEACHER="),
        ("make publish CONFIG=my.py CHECKPOINT=x", "make publish has no CONFIG=. It takes ARGS= CHECKPOINT="),
        ("make CACHE=x", "make help has no CACHE=. It takes no variables"),
        ("make cache-teacher distill GPU=2", "make cache-teacher distill has no GPU=. It takes"),
        ("make evaluate", "CHECKPOINT= is needed"),
        ("make fetch-cache", "CACHE= is needed"),
        ("make distil", "No rule to make target 'distil'"),
    ],
)
def test_a_misspelt_variable_is_no_variable(line: str, said: str) -> None:
    words = shlex.split(line)
    ran = subprocess.run(
        [words[0], "-n", *words[1:]], cwd=REPOSITORY, env=OUTSIDE_MAKE, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_variables_of_the_environment_may_stand_on_the_line() -> None:
    line = ["make", "-n", "demo", "OMP_NUM_THREADS=1", "TRACEBACK=1", "OPS=all", "CUDA=0", "CUDA_VISIBLE_DEVICES="]
    assert subprocess.run(line, cwd=REPOSITORY, env=OUTSIDE_MAKE, capture_output=True, check=False).returncode == 0


def next_line(capfd) -> str:
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("next: "))
    return line.removeprefix("next: ")


@pytest.mark.slow
def test_every_command_names_the_next_and_that_one_runs(make_project, capfd) -> None:
    """From data to report by what each command says; only a student's config has to be filled in."""
    project = make_project()
    project_of = {"<the config of its students>": project.config("distill")}

    def follow(line: str, *more: str) -> None:
        command, argv = argv_of(line)
        module = importlib.import_module(f"pipelines.{command}")
        words = [project_of.get(word, word) for word in argv]
        assert run_command(module.main, module.make_parser(), [*words, *more]) == 0, line

    follow(f"make data CONFIG={project.config('distill')}", "--workers", "1")
    line = next_line(capfd)
    assert line == f"make teacher TEACHER={project.config('teacher')}"
    follow(line)
    evaluate, plan = next_line(capfd).split(", or ")
    assert evaluate == (
        f"make evaluate CHECKPOINT={project.checkpoint} WORK_DIR={project.checkpoint.parent}/evaluation"
    )
    follow(evaluate)
    assert next_line(capfd) == f"make publish CHECKPOINT={project.checkpoint}"
    # Of a cache that does not pay, none is made.
    follow(plan, "--loaders", "0", "--students", "1000")
    cache = project.folder / "named.zarr"
    follow(f"{next_line(capfd)} CACHE={cache}", "--loaders", "0")
    line = next_line(capfd)
    assert line == f"make distill CONFIG={project.config('distill')} CACHE={cache}"
    follow(line)
    follow(next_line(capfd))
    follow(next_line(capfd))
    assert list((project.folder / "distill").glob("distill_iter_4-*.pth"))
