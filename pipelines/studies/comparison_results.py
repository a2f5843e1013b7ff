"""What a comparison leaves: `compare.json` and `compare.md`, once every run is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.base.files import write_json, write_text
from pipelines.base.table import Table
from pipelines.studies.comparison import KINDS, TEACHER
from pipelines.studies.runs import FIGURE_COLUMNS, Run, run_figures
from pipelines.studies.statistics import CONFIDENCE, paired, spread, verdict
from pipelines.training.environment import describe_code
from pipelines.training.evaluation import AP_COLUMNS, read_evaluation
from pipelines.training.run_record import memory_caption, read_run_record

COSTS = ("training_seconds", "step_seconds", "peak_memory_bytes")
DIFFERENCES = (("cached", "live"), ("cached", "plain"), ("live", "plain"))

Figures = dict[str, Any]


def write_results(folder: Path, runs: Sequence[Run], jobs: int) -> Figures:
    """Both files; returns the figures of `compare.json`."""
    figures = summarise(runs, jobs)
    write_json(folder / "compare.json", figures)
    write_text(folder / "compare.md", as_markdown(figures))
    return figures


def summarise(runs: Sequence[Run], jobs: int) -> Figures:
    """Every figure of the comparison as plain values; the teacher is the first of the runs."""
    teacher, *students = runs
    assert teacher.checkpoint is not None
    evaluation = read_evaluation(teacher.folder)
    assert evaluation is not None
    rows = [result_row(run) for run in students]
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    return {
        "seeds": [row["seed"] for row in of["cached"]],
        "jobs": jobs,
        "code": describe_code(),
        "cache": of["cached"][0]["cache"],
        "teacher": {
            **{name: evaluation[name] for name in AP_COLUMNS},
            "checkpoint_bytes": teacher.checkpoint.stat().st_size,
        },
        "students": {
            kind: {
                **{name: spread([row[name] for row in of[kind]]) for name in (*AP_COLUMNS, *COSTS)},
                "checkpoint_bytes": of[kind][0]["checkpoint_bytes"],
            }
            for kind in KINDS
        },
        "differences": [
            {
                "name": f"{one} - {other}",
                **{
                    name: paired([row[name] for row in of[one]], [row[name] for row in of[other]])
                    for name in AP_COLUMNS
                },
            }
            for one, other in DIFFERENCES
        ],
        "confidence": CONFIDENCE,
        "unpaired": unpaired(of),
        "runs": rows,
    }


def result_row(run: Run) -> dict[str, Any]:
    """What one finished run has recorded."""
    run_record = read_run_record(run.folder)
    assert run_record is not None
    return {
        **run_figures(run, run_record),
        "checkpoint_bytes": (run.folder / run_record["checkpoint"]).stat().st_size,
        **{key: run_record[key] for key in ("cache", "initial_sha256", "order_sha256", "hardware")},
    }


def unpaired(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """In what the students of one seed began or saw something else; empty where each pair is one."""
    problems = []
    for plain, live, cached in zip(*(of[kind] for kind in KINDS), strict=True):
        for key, meaning in (("initial_sha256", "initial weights"), ("order_sha256", "views or their order")):
            problems += [
                f"{row['name']} and {plain['name']} differ in {meaning} ({row[key][:16]}… and {plain[key][:16]}…)"
                for row in (live, cached)
                if row[key] != plain[key]
            ]
    return problems


def as_markdown(figures: Figures) -> str:
    """The comparison for people: AP in percent."""
    code = (figures["code"]["commit"] or figures["code"]["version"])[:12]
    hardware = figures["runs"][0]["hardware"]
    paragraphs = [
        "# Plain, live and cached students",
        f"Seeds {', '.join(map(str, figures['seeds']))}; mean ± standard deviation of a run. {figures['jobs']} at a "
        f"time on {hardware['cpu']}, {hardware['cores']} cores, GPU {hardware['gpu'] or 'none'}. Code {code}, cache "
        f"{figures['cache']['fingerprint'][:12]}.",
        detector_table(figures).markdown(),
        memory_caption(row["cuda_memory_bytes"] for row in figures["runs"]),
        f"Paired by seed, with the {figures['confidence']:.0%} interval of the mean (Student's t):",
        "\n".join(f"- {verdict(found, name)}" for found in figures["differences"] for name in AP_COLUMNS),
        _seed_table(figures).markdown(),
        "The students of a seed began with the same weights and saw the same views in the same order: "
        + ("yes." if not figures["unpaired"] else "no. " + "; ".join(figures["unpaired"]) + "."),
        _size_table(figures).markdown(),
    ]
    return "\n\n".join(paragraphs) + "\n"


def detector_table(figures: Figures) -> Table:
    """AP, time and memory of the teacher and of every kind of student."""
    teacher = [TEACHER, *(f"{100 * figures[TEACHER][name]:.1f}" for name in AP_COLUMNS), *[""] * len(COSTS)]
    students = [[kind, *_cells(figures["students"][kind])] for kind in KINDS]
    return Table(("detector", *FIGURE_COLUMNS), [teacher, *students])


def _cells(student: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{100 * student[name]['mean']:.1f} ± {100 * student[name]['sd']:.1f}" for name in AP_COLUMNS),
        f"{student['training_seconds']['mean']:.0f} ± {student['training_seconds']['sd']:.0f}",
        f"{student['step_seconds']['mean']:.3f}",
        f"{student['peak_memory_bytes']['mean'] / 1e6:,.0f}",
    ]


def _seed_table(figures: Figures) -> Table:
    columns = [(name, kind) for name in AP_COLUMNS for kind in KINDS]
    rows = [
        [seed, *(f"{100 * figures['students'][kind][name]['values'][place]:.1f}" for name, kind in columns)]
        for place, seed in enumerate(figures["seeds"])
    ]
    return Table(("seed", *(f"{kind} {name}" for name, kind in columns)), rows, labels=0)


def _size_table(figures: Figures) -> Table:
    """Bytes on disk by what they are."""
    sizes = {
        "cache": figures["cache"]["bytes"],
        "teacher's checkpoint": figures[TEACHER]["checkpoint_bytes"],
        "student's checkpoint": figures["students"]["cached"]["checkpoint_bytes"],
    }
    return Table(("file", "MB"), [(name, f"{size / 1e6:,.1f}") for name, size in sizes.items() if size is not None])
