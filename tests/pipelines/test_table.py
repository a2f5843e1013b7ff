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


def test_a_terminal_of_80_columns_cuts_nothing() -> None:
    """The table of a sweep: long names, and settings of several keys."""
    changes = "distillation.loss_kd.temperature = 2.0, randomness.seed = 1"
    row = ("a_name_of_twenty_one_x", changes, "21.4", "51.9", "20.1", "12,345*", "0.123", "12,345")
    columns = ("run", "changes", "AP", "AP50", "AP75", "training s", "s a step", "peak MB")
    console = Console(file=io.StringIO(), width=80)
    console.print(Table(columns, [row], labels=2).terminal("Sweep"))
    text = console.file.getvalue()
    assert "…" not in text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    shown = ["".join(column).replace(" ", "") for column in zip(*cells, strict=True)]
    assert shown == [cell.replace(" ", "") for cell in row]
    # Figures are whole.
    assert cells[0][2:] == list(row[2:])
