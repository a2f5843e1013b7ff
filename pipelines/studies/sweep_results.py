"""What a sweep leaves: `sweep.json`, `sweep.csv`, `sweep.md` and `sweep.svg` of the runs that are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.base.experiment import load_config
from pipelines.base.files import write_json, write_text
from pipelines.base.table import Table
from pipelines.studies.runs import FIGURE_COLUMNS, Run, run_figures
from pipelines.studies.sweep import Sweep, describe_settings, shown
from pipelines.studies.sweep_chart import draw_sweep
from pipelines.training.environment import describe_code
from pipelines.training.evaluation import AP_COLUMNS
from pipelines.training.run_record import memory_caption, read_run_record

Row = Mapping[str, Any]


def write_results(sweep: Sweep, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The four files of what is finished; returns the rows."""
    rows = [result_row(run) for run in runs if run.is_finished]
    write_json(
        sweep.work_dir / "sweep.json",
        {
            "sweep": str(sweep.file),
            "base": sweep.base,
            "students": [run.name for run in runs],
            "code": describe_code(),
            "runs": rows,
        },
    )
    write_text(sweep.work_dir / "sweep.csv", settings_table(rows).csv())
    write_text(sweep.work_dir / "sweep.md", as_markdown(sweep, rows, len(runs)))
    if rows:
        base = load_config(sweep.base).to_dict()
        draw_sweep(rows, base, sweep.file.stem).savefig(sweep.work_dir / "sweep.svg", metadata={"Date": None})
    return rows


def result_row(run: Run) -> dict[str, Any]:
    """What one finished run has recorded."""
    run_record = read_run_record(run.folder)
    assert run_record is not None
    cache = run_record["cache"] or {}
    return {
        **run_figures(run, run_record),
        "settings": dict(run.settings),
        "cache_fingerprint": cache.get("fingerprint"),
    }


def settings_table(rows: Sequence[Row]) -> Table:
    """Every figure as it is, one column a setting: for programs."""
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    fixed = [key for key in (rows[0] if rows else {}) if key != "settings"]
    cells = [
        [*(row[key] for key in fixed), *(shown(row["settings"][key]) if key in row["settings"] else "" for key in keys)]
        for row in rows
    ]
    return Table([*fixed, *keys], cells)


def results_table(rows: Sequence[Row]) -> Table:
    """What each run changes and reaches, for people: AP in percent, a star at the seconds of a resumed training."""
    return Table(("run", "changes", *FIGURE_COLUMNS), [_cells(row) for row in rows], labels=2)


def _cells(row: Row) -> list[str]:
    return [
        row["name"],
        describe_settings(row["settings"]) or ("no distillation" if row["kind"] == "plain" else "the base"),
        *(f"{100 * row[name]:.1f}" for name in AP_COLUMNS),
        f"{row['training_seconds']:.0f}{'*' if row['resumed_at'] else ''}",
        "" if row["step_seconds"] is None else f"{row['step_seconds']:.3f}",
        f"{row['peak_memory_bytes'] / 1e6:,.0f}",
    ]


def as_markdown(sweep: Sweep, rows: Sequence[Row], wanted: int) -> str:
    """The table with what all runs share."""
    lines = [
        f"# Sweep {sweep.file.stem}",
        "",
        f"{len(rows)} of {wanted} runs finished. Base: `{sweep.base}`. "
        f"Cache: {_one_of(row['cache_fingerprint'] for row in rows)}. "
        f"Code: {_one_of(row['commit'] or row['code_version'] for row in rows)}.",
        "",
        results_table(rows).markdown(),
    ]
    if rows:
        lines += ["", memory_caption(row["cuda_memory_bytes"] for row in rows)]
    if any(row["resumed_at"] for row in rows):
        lines += ["", "\\* Resumed: the seconds are those of the last part."]
    return "\n".join(lines) + "\n"


def _one_of(values: Iterator[str | None]) -> str:
    """The value that all share, shortened; how many there are where they differ."""
    found = sorted({value for value in values if value})
    if len(found) > 1:
        return f"{len(found)} different ones ({', '.join(value[:12] for value in found)})"
    return f"`{found[0][:12]}`" if found else "none"
