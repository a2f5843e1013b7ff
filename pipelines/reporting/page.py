"""The report's page: what a section holds, and one file of it with nothing loaded from elsewhere.

`templates/page.html.j2` is the page; jinja2 escapes every text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from pipelines.base.table import Table
from pipelines.reporting.plotting import data_uri


@dataclass(frozen=True)
class Tile:
    """A headline figure; the colour is that of a kind of run."""

    value: str
    label: str
    colour: str = ""


@dataclass(frozen=True)
class Card:
    """A titled frame; what it holds stands in the order of the fields.

    lines: a list. fold: long text behind a click, after its summary.
    """

    title: str
    caption: str = ""
    figure: Figure | None = None
    table: Table | None = None
    lines: Sequence[str] = ()
    fold: tuple[str, str] | None = None


@dataclass
class Section:
    """A heading, then headline figures, remarks and cards."""

    title: str
    tiles: list[Tile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """The whole file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    template = environment.get_template("page.html.j2")
    return template.render(title=title, subtitle=subtitle, sections=sections, footer=footer)
