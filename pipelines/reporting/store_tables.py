"""Figures of a store as tables, each said against what it is to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.base.command import printable
from pipelines.base.table import Table

SPREAD = ("mean", "min", "p5", "p50", "p90", "p99", "max")


def store_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """By title; `figures` as `store_figures` gives them, `student` among them where one was asked."""
    tables = {
        "Size": size_table(figures),
        "Rows a view": rows_table(figures),
        "Values": values_table(figures),
        "Measured errors, stored against teacher": errors_table(figures),
    }
    if "student" in figures:
        tables["Mean KL from the teacher at T = 5, nats"] = student_table(figures["student"])
    tables["Most expensive views"] = Table(
        ("view", "rows", "kB"),
        [(one["view"], f"{one['rows']:,}", f"{one['bytes'] / 1e3:,.1f}") for one in figures["expensive_views"]],
    )
    return tables


def headline(figures: Mapping[str, Any]) -> str:
    """The store in one line."""
    missing = figures["blocks"] - figures["blocks_captured"]
    return (
        f"{figures['cache']}: {figures['patches']:,} patches x {len(figures['draws'])} draws = {figures['views']:,} "
        f"views, {figures['rows']:,} rows in {figures['blocks_captured']} blocks, preset {figures['preset']}; "
        f"{figures['views_without_rows']} views have no rows"
        + (f"; {missing} blocks are not captured and left out" if missing else "")
    )


def size_table(figures: Mapping[str, Any]) -> Table:
    """Bytes of every array."""
    sizes = [*figures["arrays"].items(), ("total", figures)]
    rows = [(printable(name), f"{one['bytes'] / 1e6:,.3f}", f"{one['bytes_per_row']:.2f}") for name, one in sizes]
    return Table(("array", "MB", "bytes a row"), rows)


def rows_table(figures: Mapping[str, Any]) -> Table:
    """Rows of a view by level."""
    levels = [(f"stride {level['stride']}", level) for level in figures["levels"]]
    rows = [
        (name, *(f"{spread[key]:,.0f}" for key in SPREAD))
        for name, spread in [*levels, ("all", figures["rows_per_view"])]
    ]
    return Table(("level", *SPREAD), rows)


def values_table(figures: Mapping[str, Any]) -> Table:
    """Range of weights and logits, how they are stored, and how far a logit may be off."""
    codec = figures["codec"]
    stored = codec.get("dtype") or f"cells of {codec['columns']} columns, step {codec['step']:.4g}"
    rows = [
        (name, f"{one['low']:.4g}", f"{one['high']:.4g}", stored, f"{one['bound']:.3g}" if "bound" in one else "")
        for name, one in figures["values"].items()
    ]
    return Table(("field", "lowest", "highest", "stored as", "bound of a logit's error"), rows)


def errors_table(figures: Mapping[str, Any]) -> Table:
    """What the codec has done to the teacher's answers; with the mean over rows where a mean was measured."""
    rows = [
        (
            name,
            _measure_of(name, figures),
            "" if "max" in name else f"{error['mean']:.3g}",
            f"{error['largest_block']:.3g}",
        )
        for name, error in figures["errors"].items()
    ]
    return Table(("error", "measured against", "mean over rows", "largest block"), rows, labels=2)


def _measure_of(name: str, figures: Mapping[str, Any]) -> str:
    """The unit of a measured error, and what a reader compares it with."""
    kind, _, measure = name.partition("_")
    if measure == "max_abs_error":
        values = figures["values"].get(f"{kind}_logits", {})
        return f"codec's bound {values.get('bound', 0):.3g}"
    if measure.startswith("mean_kl_t"):
        return "nats, 0 = equal"
    sides = figures["anchor_sides"]
    pixels = "pixels" if sides is None else f"anchors {sides[0]:,.0f}-{sides[1]:,.0f} px"
    return {"max_pixels": pixels, "max_degrees": "of 90 degrees"}.get(measure, "1 - IoU, 0 = equal")


def student_table(student: Mapping[str, Any]) -> Table:
    """The codec's error beside what a student still has to learn."""
    keys = ("stored", "student", "ratio")
    rows = [
        (name, *("-" if student[name][key] is None else f"{student[name][key]:.3g}" for key in keys))
        for name in ("cls", "box")
    ]
    return Table(("", "stored", "student", "stored / student"), rows)
