"""One table, three texts: nothing that a cell holds becomes markup or another cell."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipelines.base.table import Table

TABLE = Table(("run", "changes", "AP50"), [("a|b", "x = [red]", "51.9"), ("c", "two\nlines", "7*")], labels=2)


def test_markdown_by_hand() -> None:
    assert TABLE.markdown().splitlines() == [
        "| run | changes | AP50 |",
        "|---|---|---:|",
        r"| a\|b | x = [red] | 51.9 |",
        r"| c | two lines | 7\* |",
    ]


def test_a_terminal_shows_markup_as_text() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(TABLE.terminal("[bold]title"))
    lines = console.file.getvalue().splitlines()
    assert lines[0].strip() == "[bold]title"
    assert any("x = [red]" in line and line.rstrip("│ ").endswith(" 51.9") for line in lines)


# The csv module leaves a bare carriage return unquoted.
WORDS = st.text(st.characters(exclude_characters="\r"))


@given(st.lists(st.tuples(WORDS, st.integers(), st.none()), max_size=5))
def test_csv_comes_back(rows: list[tuple[str, int, None]]) -> None:
    written = Table(("name", "number", "nothing"), rows).csv()
    read = list(csv.reader(io.StringIO(written, newline="")))
    assert read == [["name", "number", "nothing"], *([name, str(number), ""] for name, number, _ in rows)]


def test_a_narrow_terminal_cuts_nothing() -> None:
    changes = "distillation.loss_kd.temperature = 2.0, randomness.seed = 1"
    table = Table(("run", "changes", "AP50", "training s"), [("warm_and_long", changes, "51.9", "1,234")], labels=2)
    console = Console(file=io.StringIO(), width=50)
    console.print(table.terminal("Sweep"))
    text = console.file.getvalue()
    assert "…" not in text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    run, words, ap, seconds = ("".join(column) for column in zip(*cells, strict=True))
    assert (run, words.replace(" ", ""), ap, seconds) == ("warm_and_long", changes.replace(" ", ""), "51.9", "1,234")
