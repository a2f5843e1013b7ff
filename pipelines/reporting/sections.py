"""What the report says of the runs of a folder: AP, losses, time and memory, and what every run was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.base.experiment import load_config
from pipelines.base.invocation import make
from pipelines.base.table import Table
from pipelines.reporting.charts import (
    AP_PANELS,
    COST_PANELS,
    Bar,
    Curve,
    Panel,
    draw_bars,
    draw_differences,
    draw_losses,
)
from pipelines.reporting.page import Card, Section, Tile
from pipelines.reporting.plotting import COLOURS, NEUTRAL, PALETTE
from pipelines.reporting.work_folders import KINDS, FinishedRun, Group
from pipelines.studies.comparison_results import detector_table
from pipelines.studies.statistics import verdict
from pipelines.studies.sweep_chart import draw_sweep
from pipelines.studies.sweep_results import results_table
from pipelines.training.evaluation import AP_COLUMNS, EVALUATION
from pipelines.training.run_record import memory_caption, peak_bytes

AP_TITLE = "AP on the validation images, percent"
LOSSES = "Means of the logging window. The total of a distilled student holds LD and KD, a plain one's does not."


def group_section(group: Group) -> Section:
    """Headline figures, AP, losses, time, memory and sizes of one group."""
    compare, sweep, demo = (group.studies.get(study) for study in ("compare", "sweep", "demo"))
    if compare:
        section = comparison_section(group.title, compare)
    elif sweep:
        section = sweep_section(group.title, sweep)
    else:
        section = runs_section(group)
    logged = [run for run in group.runs if run.losses and (run.kind != "teacher" or len(group.runs) == 1)]
    if logged:
        section.cards.append(Card("Training losses", LOSSES, draw_losses(loss_curves(logged, by_run=bool(sweep)))))
    if group.runs and not compare:
        section.cards.append(cost_card(group))
    if demo:
        section.cards.append(stage_card(demo))
    return section


def runs_section(group: Group) -> Section:
    """AP of the runs that were evaluated."""
    evaluated = [(group.label(run), run.colour, run.ap) for run in group.runs if run.ap]
    if not evaluated:
        run = group.runs[0]
        weights = run.folder / (run.record["checkpoint"] or "<checkpoint>")
        evaluate = make("evaluate", checkpoint=weights, work_dir=run.folder / EVALUATION)
        return Section(group.title, notes=[f"None of these runs has been evaluated yet: {evaluate}"])
    chart = draw_bars(
        AP_PANELS, [Bar(label, colour, {name: [ap[name]] for name in AP_COLUMNS}) for label, colour, ap in evaluated]
    )
    names = list(evaluated[0][2])
    table = Table(
        ("run", *names), [[label, *(f"{100 * ap[name]:.1f}" for name in names)] for label, _, ap in evaluated]
    )
    tiles = [Tile(f"{100 * ap['AP50']:.1f}", f"AP50, {label}", colour) for label, colour, ap in evaluated[:5]]
    return Section(group.title, tiles, cards=[Card(AP_TITLE, figure=chart, table=table)])


def comparison_section(title: str, compare: dict[str, Any]) -> Section:
    """The comparison's own figures, with spread."""
    students = {kind: compare["students"][kind] for kind in KINDS if kind in compare["students"]}
    ap50 = {"teacher": compare["teacher"]["AP50"]} | {kind: one["AP50"]["mean"] for kind, one in students.items()}
    step = {kind: one["step_seconds"]["mean"] for kind, one in students.items()}
    figures = [panel.figure for panel in (*AP_PANELS, *COST_PANELS)]
    bars = [Bar(kind, COLOURS[kind], {name: one[name]["values"] for name in figures}) for kind, one in students.items()]
    teacher = Bar("teacher", COLOURS["teacher"], {name: [compare["teacher"][name]] for name in AP_COLUMNS})
    paired = (
        "The students of a seed began with the same weights and saw the same views in the same order."
        if not compare["unpaired"]
        else "Not paired: " + "; ".join(compare["unpaired"]) + "."
    )
    seeds = f"{len(compare['seeds'])} seeds: bars are means, dots the seeds, ± the standard deviation of a run."
    memory = memory_caption(row["cuda_memory_bytes"] for row in compare["runs"])
    jobs = "" if compare["jobs"] == 1 else f" {compare['jobs']} runs shared the machine: times are not comparable."
    return Section(
        title,
        [
            *(Tile(f"{100 * value:.1f}", f"AP50, {kind}", COLOURS[kind]) for kind, value in ap50.items()),
            Tile(f"{step['live'] / step['cached']:.2f} ×", "live step / cached step"),
            Tile(f"{step['cached'] / step['plain']:.2f} ×", "cached step / plain step"),
        ],
        cards=[
            Card(AP_TITLE, seeds, draw_bars(AP_PANELS, [teacher, *bars]), table=detector_table(compare)),
            Card(
                "Paired differences of AP",
                paired,
                draw_differences(compare["differences"], compare["confidence"]),
                lines=[verdict(difference, name) for difference in compare["differences"] for name in AP_COLUMNS],
            ),
            Card("Time and memory", memory + jobs, draw_bars(COST_PANELS, bars)),
        ],
    )


def sweep_section(title: str, sweep: Mapping[str, Any]) -> Section:
    """The sweep's table and plot."""
    rows, wanted = sweep["runs"], len(sweep["students"])
    if not rows:
        return Section(title, notes=["No run of this sweep has finished yet."])
    base = Path(sweep["base"])
    plot = draw_sweep(rows, load_config(base).to_dict() if base.is_file() else {}, "sweep")
    best = max(rows, key=lambda row: row["AP"])
    plain = [row for row in rows if row["kind"] == "plain"]
    left = wanted - len(rows)
    return Section(
        title,
        [
            Tile(f"{100 * best['AP']:.1f}", f"best AP: {best['name']}", COLOURS["cached"]),
            *(Tile(f"{100 * row['AP']:.1f}", f"AP of {row['name']}", COLOURS["plain"]) for row in plain),
            Tile(f"{len(rows)} of {wanted}", "runs finished"),
        ],
        [f"Not finished: {left} of {wanted}. The same command goes on with them."] if left else [],
        [Card("AP against settings, percent", figure=plot), Card("All runs", table=results_table(rows))],
    )


def loss_curves(runs: Sequence[FinishedRun], *, by_run: bool) -> list[Curve]:
    """A curve a run: coloured by kind, or each in a colour of its own."""
    kinds = [run.kind for run in runs]
    if by_run or any(kinds.count(kind) > 1 and len({run.record["seed"] for run in runs}) == 1 for kind in kinds):
        return [Curve(run.name, PALETTE[place % len(PALETTE)], run.losses) for place, run in enumerate(runs)]
    return [Curve(run.kind, run.colour, run.losses) for run in runs]


def cost_card(group: Group) -> Card:
    """Seconds a step, training time and peak memory of every run."""
    measured = [run for run in group.runs if run.record["step_seconds"]]
    bars = [
        Bar(
            group.label(run),
            run.colour,
            {
                "step_seconds": [run.record["step_seconds"]],
                "training_seconds": [run.record["seconds"]],
                "peak_memory_bytes": [peak_bytes(run.record)],
            },
        )
        for run in measured
    ]
    resumed = [group.label(run) for run in measured if run.record["resumed_at"]]
    memory = memory_caption(run.record["peak_memory"]["cuda_bytes"] for run in measured)
    caption = memory + (f" Resumed, with the time of the last part only: {', '.join(resumed)}." if resumed else "")
    return Card("Time and memory", caption, draw_bars(COST_PANELS, bars))


def stage_card(demo: Mapping[str, Any]) -> Card:
    """Seconds and bytes of the demo's stages."""
    stages = demo["stages"]
    bars = [Bar(one["stage"], NEUTRAL, {name: [one[name]] for name in ("seconds", "bytes")}) for one in stages]
    minutes = sum(stage["seconds"] for stage in stages) / 60
    chart = draw_bars((Panel("seconds", "seconds", decimals=0), Panel("MB left on disk", "bytes", 1e-6)), bars)
    return Card("Stages", f"Seed {demo['seed']}, {minutes:.1f} minutes in all.", chart)


def environment_section(groups: Sequence[Group]) -> Section:
    """What every run was: config, code, cache, seed; and the machine and packages."""
    runs = [run for group in groups for run in group.runs]
    columns = ("run", "kind", "seed", "steps", "config", "cache", "code", "overrides")
    rows = [
        (
            run.folder,
            run.kind,
            run.record["seed"],
            run.record["steps"],
            run.record["config"]["sha256"][:12],
            (run.record["cache"] or {}).get("fingerprint", "")[:12],
            code_text(run.record["code"]),
            json.dumps(run.record["overrides"]) if run.record["overrides"] else "",
        )
        for run in runs
    ]
    cards = [Card("Runs", "SHA-256, the first twelve digits.", table=Table(columns, rows, labels=len(columns)))]
    for title, key in (("Hardware", "hardware"), ("Packages", "versions")):
        folders: dict[str, list[str]] = {}
        for run in runs:
            folders.setdefault(json.dumps(run.record[key]), []).append(str(run.folder))
        for text, of in folders.items():
            known = [(name, "none" if value is None else value) for name, value in json.loads(text).items()]
            facts = Table(("", ""), known, labels=2)
            cards.append(Card(title, ", ".join(of) if len(folders) > 1 else "", table=facts))
    return Section("Environment and fingerprints", cards=cards)


def code_text(code: Mapping[str, Any]) -> str:
    """Version and commit in a few characters; `+` where tracked files differed from the commit."""
    if not code["commit"]:
        return f"version {code['version']}"
    return f"version {code['version']}, {code['commit'][:12]}{'+' if code['changed'] else ''}"
