"""The report's page: HTML and style in one file, nothing loaded from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from pipelines.reporting.pictures import Picture

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a2230; --soft: #5c6879; --line: #e1e5eb; --accent: #0b63a5;
  --c0072b2: #0072b2; --ce69f00: #e69f00; --c009e73: #009e73; --ccc79a7: #c1659a; --cd55e00: #d55e00;
  --c56b4e9: #3d9fd6; --c999933: #999933; --c882255: #882255; --c7f8a99: #8792a2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #9aa7b8; --line: #2c3541; --accent: #6db5f0;
    --c0072b2: #4fa3e0; --ce69f00: #f0b232; --c009e73: #2fc597; --ccc79a7: #e093c0; --cd55e00: #f08a4b;
    --c56b4e9: #86cdf5; --c999933: #c5c562; --c882255: #cf6b9c; --c7f8a99: #7f8a99;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto,
  "Noto Sans", sans-serif; }
main, header > div { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { background: var(--card); border-bottom: 1px solid var(--line); padding: 34px 0 20px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 46px 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 4px 0 12px; max-width: 96ch; }
.soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-top: 12px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; border-top: 3px solid var(--mark, var(--line)); }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.card { padding: 16px 20px; margin: 14px 0; overflow-x: auto; }
.card > svg { display: block; width: 100%; min-width: 640px; height: auto; margin-top: 6px; }
svg, svg text { fill: var(--ink); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 6px; font-size: 14px; }
table { min-width: 50%; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 550; vertical-align: bottom; }
th:first-child, td:first-child, .text td { text-align: left; }
.text th, .named th:nth-child(2), .named td:nth-child(2) { text-align: left; }
.text td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { overflow: auto; max-height: 420px; margin: 8px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; margin: 8px auto 0; border-radius: 6px; background: #ffffff; }
figure.square img { max-width: 820px; }
.note { border-left: 3px solid var(--ce69f00); padding-left: 12px; }
ul { margin: 4px 0; padding-left: 20px; }
footer { color: var(--soft); font-size: 13px; padding: 34px 0 46px; }
@media print { .card, .tile { break-inside: avoid; } details { display: none; } }
"""


@dataclass
class Section:
    """A heading and what stands below it, as finished HTML."""

    title: str
    parts: list[str] = field(default_factory=list)


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """The whole file."""
    links = "".join(f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(sections))
    body = "\n".join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>\n' + "\n".join(section.parts) + "</section>"
        for number, section in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><div><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>\n'
        f"<nav>{links}</nav></div></header>\n"
        f"<main>\n{body}\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, style: str = "soft") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{escape(text)}</p>'


def card(title: str, content: str, caption: str = "") -> str:
    """A titled frame around finished HTML."""
    below = paragraph(caption) if caption else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{below}{content}</div>'


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Headline figures: (value, label, colour or '')."""
    made = "".join(
        f'<div class="tile"{_mark(colour)}><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label, colour in figures
    )
    return f'<div class="tiles">{made}</div>'


def _mark(colour: str) -> str:
    return f' style="--mark: var(--c{escape(colour[1:])})"' if colour else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """A table of plain texts: numbers after a name; 'named': after a name and a text; 'text': texts alone."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def facts(values: Mapping[str, str]) -> str:
    """Names and values below each other."""
    return table(("", ""), list(values.items()), "text").replace("<thead><tr><th></th><th></th></tr></thead>", "")


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def details(summary: str, text: str) -> str:
    """Long plain text behind a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def picture(shown: Picture) -> str:
    """A picture in a card; one that is about as high as wide does not fill it."""
    shape = ' class="square"' if shown.is_square else ""
    image = f'<figure{shape}><img src="{escape(shown.source)}" alt="{escape(shown.title)}"></figure>'
    return card(shown.title, image, shown.caption)
