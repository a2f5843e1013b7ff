"""docs/architecture.md names every module with the first line of its docstring.

After a change of modules or of their first lines: `python -m tests.test_architecture` writes the map anew.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs/architecture.md"
PACKAGES = ("cache", "distill", "pipelines", "setup")
MAP = re.compile(r"(?<=<!-- map -->\n).*?(?=<!-- end of map -->)", flags=re.DOTALL)


def drawn_map() -> str:
    """A table for every package and room."""
    folders = [REPOSITORY / package for package in PACKAGES]
    rooms = sorted(path.parent for path in (REPOSITORY / "pipelines").glob("*/__init__.py"))
    return "\n".join(_table(folder) for folder in [*folders, *rooms])


def _table(folder: Path) -> str:
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    rows = [f"| [{path.name}](../{path.relative_to(REPOSITORY)}) | {_first_line(path)} |" for path in modules]
    title = f"### {folder.relative_to(REPOSITORY)}/"
    return "\n".join([title, "", "| module | what it is |", "|---|---|", *rows, ""])


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path} has no docstring"
    return text.splitlines()[0].replace("|", r"\|")


def test_the_map_is_that_of_the_tree() -> None:
    (stored,) = MAP.findall(PAGE.read_text(encoding="utf-8"))
    assert stored == f"\n{drawn_map()}\n", "write it anew: python -m tests.test_architecture"


if __name__ == "__main__":
    PAGE.write_text(MAP.sub(lambda _: f"\n{drawn_map()}\n", PAGE.read_text(encoding="utf-8")), encoding="utf-8")
