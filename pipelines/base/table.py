"""One table value for every place that shows one: terminal, Markdown, CSV and the report's HTML."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import table as rich_table
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first `labels` columns are words, the others figures, flush right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    labels: int = 1

    def terminal(self, title: str) -> rich_table.Table:
        """For `rich.console.Console.print`; `[red]` in a cell is text, not markup."""
        table = rich_table.Table(title=Text(title), title_justify="left")
        for place, column in enumerate(self.columns):
            if place < self.labels:
                table.add_column(Text(column), overflow="fold")
            else:
                # Whole figures, under a head that is no wider than they, or than its longest word.
                cells = [str(row[place]) for row in self.rows]
                head = textwrap.fill(column, max(map(len, [*column.split(), *cells])), break_on_hyphens=False)
                table.add_column(Text(head), justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        return table

    def markdown(self) -> str:
        """A table in GitHub's Markdown, without a newline at its end."""
        rule = "|" + "---|" * self.labels + "---:|" * (len(self.columns) - self.labels)
        head, *lines = (f"| {' | '.join(map(_escaped, row))} |" for row in (self.columns, *self.rows))
        return "\n".join([head, rule, *lines])

    def csv(self) -> str:
        """One line a row below a line of column names; None is an empty cell."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


def _escaped(cell: Any) -> str:
    """A cell that Markdown shows as it is; underscores inside a word are no emphasis."""
    return re.sub(r"([\\|*<`])", r"\\\1", " ".join(str(cell).split()))
