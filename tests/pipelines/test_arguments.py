"""Every command has a working example in its `--help`."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

COMMANDS = sorted(path.stem for path in (REPOSITORY / "pipelines").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_every_help_works(name: str) -> None:
    """Its arguments parse, and the repository's files that it names exist."""
    parser = importlib.import_module(f"pipelines.{name}").make_parser()
    program = f"python -m pipelines.{name}"
    assert parser.prog == program
    help_lines = [line.strip() for line in parser.format_help().splitlines()]
    (example,) = (line for line in help_lines[help_lines.index("example:") :] if line.startswith(program))
    words = shlex.split(example.removeprefix(program))
    parser.parse_args(words)
    for word in words:
        assert not word.startswith("configs/") or Path(REPOSITORY, word).is_file(), word
