"""One HTML file about finished runs: losses, AP, time, sizes, what the cache holds, predictions, fingerprints.

    python -m pipelines.report --work-dir work_dirs/demo/1

It reads what the commands have left in the work folders: `run.json`, logs, `evaluation/`, `demo.json`, `compare.json`,
`sweep.json`, and `capture.json` (the closing figures of `cache-teacher --json`). Nothing is trained or evaluated.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache.grid import AnchorGrid
from cache.manifest import Manifest
from cache.reader import CacheReader
from pipelines.base.command import run_command, warn
from pipelines.base.experiment import load_config
from pipelines.base.files import bytes_on_disk, write_text
from pipelines.reporting import charts
from pipelines.reporting.charts import AP_COLUMNS, COLOURS, NEUTRAL, PALETTE, Bar, Curve, inline_svg
from pipelines.reporting.page import Section, bullets, card, details, facts, page, paragraph, picture, table, tiles
from pipelines.reporting.pictures import draw_pictures
from pipelines.studies.statistics import verdict
from pipelines.studies.sweep_chart import draw_sweep
from pipelines.studies.sweep_results import results_table
from pipelines.training.environment import describe_code
from pipelines.training.evaluation import EVALUATION, read_evaluation
from pipelines.training.kind import cache_path
from pipelines.training.run_record import RUN_RECORD, read_losses, read_run_record

TITLE = "Localization Distillation from a teacher cache"
STUDIES = ("demo", "compare", "sweep")
KINDS = ("teacher", "plain", "live", "cached")


@dataclass(frozen=True)
class Run:
    """A finished training. kind: plain, live, cached, or teacher where a cache was captured from its weights."""

    folder: Path
    kind: str
    record: Mapping[str, Any]
    ap: Mapping[str, float] | None
    losses: Mapping[str, Sequence[tuple[int, float]]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def colour(self) -> str:
        return COLOURS[self.kind]

    @property
    def seconds_per_step(self) -> float | None:
        return self.record["step_seconds"]


@dataclass(frozen=True)
class Group:
    """The runs of one folder, and what a command has written about them together."""

    folder: Path
    runs: Sequence[Run]
    studies: Mapping[str, Mapping[str, Any]]
    capture: Mapping[str, Any] | None

    def label(self, run: Run) -> str:
        """The run's kind where no other has it, else its name."""
        kinds = [other.kind for other in self.runs]
        return run.kind if kinds.count(run.kind) == 1 else run.name

    @property
    def title(self) -> str:
        names = {"demo": "Demo", "compare": "Plain, live and cached", "sweep": "Sweep"}
        kind = next((names[study] for study in STUDIES if study in self.studies), "Runs")
        return f"{kind}: {self.folder}"


def main(arguments: argparse.Namespace) -> None:
    """Work folders -> groups of runs -> sections -> one file."""
    folders = [Path(folder) for folder in arguments.work_dir]
    groups = find_groups(folders)
    sections = [group_section(group) for group in groups]
    sections += cache_sections(groups, pictures=not arguments.no_pictures)
    sections.append(environment_section(groups))
    out = Path(arguments.out) if arguments.out else folders[0] / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    runs = sum(len(group.runs) for group in groups)
    subtitle = f"{runs} training runs in {', '.join(map(str, folders))}"
    made = f"Made by python -m pipelines.report, {code_text(describe_code())}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    write_text(out, page(TITLE, subtitle, sections, made))
    print(f"Report: {out}")


def find_groups(folders: Sequence[Path]) -> list[Group]:
    """All runs below the folders, by the folder that holds them.

    Raises:
        ValueError: a folder is missing, or there is no finished run.
    """
    found: dict[Path, list[Path]] = {}
    captures: dict[Path, Any] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"work folder {folder} does not exist. Give another with WORK_DIR=")
        for place, children, files in os.walk(folder):
            children[:] = sorted(c for c in children if not c.endswith(".zarr") and c not in ("vis_data", EVALUATION))
            here = Path(place)
            if RUN_RECORD in files:
                found.setdefault(here.parent, []).append(here)
            if any(f"{study}.json" in files for study in STUDIES):
                found.setdefault(here, [])
            if "capture.json" in files:
                captures[here] = read_json(here / "capture.json")
    records = {run: read_run_record(run) for runs in found.values() for run in runs}
    if not records:
        raise ValueError(
            f"no {RUN_RECORD} of a finished training below {', '.join(map(str, folders))}. Train first: make demo, "
            "train, distill, sweep or compare; or give another WORK_DIR="
        )
    teachers = {record["cache"]["teacher_sha256"] for record in records.values() if record and record["cache"]}
    groups = []
    for parent, runs in found.items():
        studies = {
            study: read_json(parent / f"{study}.json") for study in STUDIES if (parent / f"{study}.json").is_file()
        }
        order = _order(studies)
        read = [read_run(run, records[run] or {}, teachers) for run in dict.fromkeys(runs)]
        read.sort(key=lambda run: (order.get(run.name, len(order)), KINDS.index(run.kind), run.name))
        groups.append(Group(parent, read, studies, captures.get(parent)))
    return groups


def _order(studies: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    names = [row["name"] for study in ("compare", "sweep") for row in studies.get(study, {}).get("runs", [])]
    return {name: place for place, name in enumerate(names)}


def read_run(folder: Path, record: Mapping[str, Any], teachers: set[str]) -> Run:
    """What a run's folder holds."""
    kind = "teacher" if record["weights_sha256"] in teachers else record["kind"]
    return Run(folder, kind, record, read_evaluation(folder), read_losses(folder, record))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object. Remove it, or run the command that writes it again")
    return found


def group_section(group: Group) -> Section:
    """Headline figures, AP, losses, time, memory and sizes of one group."""
    section = Section(group.title)
    compare, sweep, demo = (group.studies.get(study) for study in ("compare", "sweep", "demo"))
    if compare:
        section.parts += compare_parts(compare)
    elif sweep:
        section.parts += sweep_parts(sweep)
    else:
        section.parts += ap_parts(group)
    curves = [run for run in group.runs if run.losses and (run.kind != "teacher" or len(group.runs) == 1)]
    if curves:
        caption = (
            "Means of the logging window. The total of a distilled student holds LD and KD, a plain one's does not."
        )
        drawn = charts.draw_losses(loss_curves(curves, by_run=bool(sweep)))
        section.parts.append(card("Training losses", inline_svg(drawn, f"losses {group.folder}"), caption))
    if group.runs and not compare:
        section.parts.append(cost_card(group))
    if demo:
        section.parts.append(stage_card(demo, group.folder))
    return section


def loss_curves(runs: Sequence[Run], *, by_run: bool) -> list[Curve]:
    """A curve a run: coloured by kind, or each by itself."""
    kinds = [run.kind for run in runs]
    if by_run or any(kinds.count(kind) > 1 and len({run.record["seed"] for run in runs}) == 1 for kind in kinds):
        return [Curve(run.name, PALETTE[place % len(PALETTE)], run.losses) for place, run in enumerate(runs)]
    return [Curve(run.kind, run.colour, run.losses) for run in runs]


def ap_parts(group: Group) -> list[str]:
    """Tiles, and AP as bars and as a table, of runs that were evaluated."""
    evaluated = [(group.label(run), run, run.ap) for run in group.runs if run.ap]
    if not evaluated:
        return [paragraph(f"None of these runs has an {EVALUATION}/ yet: make evaluate WORK_DIR=<run>/{EVALUATION}.")]
    panels = {name: [Bar(label, run.colour, [100 * ap[name]]) for label, run, ap in evaluated] for name in AP_COLUMNS}
    names = list(evaluated[0][2])
    rows = [[label, *(f"{100 * ap[name]:.1f}" for name in names)] for label, _, ap in evaluated]
    chart = inline_svg(charts.draw_bars(panels, (1, 1, 1)), f"AP {group.folder}")
    return [
        tiles([(f"{100 * ap['AP50']:.1f}", f"AP50, {label}", run.colour) for label, run, ap in evaluated[:5]]),
        card("AP on the validation images, percent", chart + table(("run", *names), rows)),
    ]


def compare_parts(compare: Mapping[str, Any]) -> list[str]:
    """The comparison's own figures, with spread."""
    students = compare["students"]
    kinds = [kind for kind in KINDS if kind in students]
    step = {kind: students[kind]["step_seconds"]["mean"] for kind in kinds}
    found = [(f"{100 * compare['teacher']['AP50']:.1f}", "AP50, teacher", COLOURS["teacher"])]
    found += [(f"{100 * students[kind]['AP50']['mean']:.1f}", f"AP50, {kind}", COLOURS[kind]) for kind in kinds]
    found += [(f"{step['live'] / step['cached']:.2f} ×", "live step / cached step", "")]
    found += [(f"{step['cached'] / step['plain']:.2f} ×", "cached step / plain step", "")]
    panels = {
        name: [
            Bar("teacher", COLOURS["teacher"], [100 * compare["teacher"][name]]),
            *(Bar(kind, COLOURS[kind], [100 * value for value in students[kind][name]["values"]]) for kind in kinds),
        ]
        for name in AP_COLUMNS
    }
    seeds = f"{len(compare['seeds'])} seeds: bars are means, dots the seeds, ± the standard deviation of a run."
    paired = (
        "The students of a seed began with the same weights and saw the same views in the same order."
        if not compare["unpaired"]
        else "Not paired: " + "; ".join(compare["unpaired"]) + "."
    )
    columns = ("detector", *(f"{name} {suffix}" for name in AP_COLUMNS for suffix in ("mean", "sd")))
    rows = [["teacher", *(cell for name in AP_COLUMNS for cell in (f"{100 * compare['teacher'][name]:.1f}", ""))]]
    rows += [
        [kind, *(f"{100 * students[kind][name][key]:.1f}" for name in AP_COLUMNS for key in ("mean", "sd"))]
        for kind in kinds
    ]
    costs = {
        "seconds a step": [Bar(kind, COLOURS[kind], students[kind]["step_seconds"]["values"]) for kind in kinds],
        "training, minutes": [
            Bar(kind, COLOURS[kind], [value / 60 for value in students[kind]["training_seconds"]["values"]])
            for kind in kinds
        ],
        "peak memory, MB": [
            Bar(kind, COLOURS[kind], [value / 1e6 for value in students[kind]["peak_memory_bytes"]["values"]])
            for kind in kinds
        ],
    }
    differences = inline_svg(charts.draw_differences(compare["differences"], compare["confidence"]), "differences")
    words = [verdict(difference, name) for difference in compare["differences"] for name in AP_COLUMNS]
    jobs = "" if compare["jobs"] == 1 else f" {compare['jobs']} runs shared the machine: times are not comparable."
    return [
        tiles(found),
        card(
            "AP on the validation images, percent",
            inline_svg(charts.draw_bars(panels, (1, 1, 1)), "AP") + table(columns, rows),
            seeds,
        ),
        card("Paired differences of AP", differences + bullets(words), paired),
        card(
            "Time and memory",
            inline_svg(charts.draw_bars(costs, (3, 1, 0)), "costs"),
            f"Memory of the training process without its loaders, imports included.{jobs}",
        ),
    ]


def sweep_parts(sweep: Mapping[str, Any]) -> list[str]:
    """The sweep's table and plot."""
    rows = sweep["runs"]
    if not rows:
        return [paragraph("No run of this sweep has finished yet.")]
    base = Path(sweep["base"])
    values = load_config(base).to_dict() if base.is_file() else {}
    plot = inline_svg(draw_sweep(rows, values, "sweep"), "AP against settings")
    results = results_table(rows)
    best = max(rows, key=lambda row: row["AP"])
    left = len(sweep["students"]) - len(rows)
    found = [(f"{100 * best['AP']:.1f}", f"best AP: {best['name']}", COLOURS["cached"])]
    found += [
        (f"{100 * row['AP']:.1f}", f"AP of {row['name']}", COLOURS["plain"]) for row in rows if row["kind"] == "plain"
    ]
    found += [(f"{len(rows)} of {len(sweep['students'])}", "runs finished", "")]
    note = [paragraph(f"{left} runs are not finished; the same command goes on with them.", "note")] if left else []
    return [
        tiles(found),
        *note,
        card("AP against settings, percent", plot),
        card("All runs", table(results.columns, results.rows, "named")),
    ]


def cost_card(group: Group) -> str:
    """Seconds a step, training time and peak memory of every run."""
    runs = [(group.label(run), run) for run in group.runs if run.seconds_per_step]
    panels = {
        "seconds a step": [Bar(label, run.colour, [run.seconds_per_step or 0]) for label, run in runs],
        "training, minutes": [Bar(label, run.colour, [run.record["seconds"] / 60]) for label, run in runs],
        "peak memory, MB": [
            Bar(label, run.colour, [run.record["peak_memory"]["process_bytes"] / 1e6]) for label, run in runs
        ],
    }
    resumed = [label for label, run in runs if run.record["resumed_at"]]
    caption = "Memory of the training process without its loaders, imports included."
    if resumed:
        caption += f" Resumed, with the time of the last part only: {', '.join(resumed)}."
    return card("Time and memory", inline_svg(charts.draw_bars(panels, (3, 1, 0)), f"costs {group.folder}"), caption)


def stage_card(demo: Mapping[str, Any], folder: Path) -> str:
    """Seconds and bytes of the demo's stages."""
    stages = demo["stages"]
    panels = {
        "seconds": [Bar(stage["stage"], NEUTRAL, [stage["seconds"]]) for stage in stages],
        "MB left on disk": [Bar(stage["stage"], NEUTRAL, [stage["bytes"] / 1e6]) for stage in stages],
    }
    total = sum(stage["seconds"] for stage in stages)
    chart = inline_svg(charts.draw_bars(panels, (0, 1)), f"stages {folder}")
    return card("Stages", chart, f"Seed {demo['seed']}, {total / 60:.1f} minutes in all.")


def cache_sections(groups: Sequence[Group], *, pictures: bool) -> list[Section]:
    """One section a cache that a run has read: size, prediction, pictures."""
    sections = []
    runs: dict[str, list[Run]] = {}
    for run in (run for group in groups for run in group.runs):
        if run.record["cache"]:
            runs.setdefault(run.record["cache"]["fingerprint"], []).append(run)
    for identity, readers in runs.items():
        described = readers[0].record["cache"]
        section = Section(f"Cache: {described['path']}")
        manifest = stored_manifest(described["path"], identity)
        section.parts.append(tiles(cache_tiles(described, len(readers))))
        if manifest is None:
            section.parts.append(
                paragraph(f"The store is not at {described['path']} any more: no sizes, no pictures.", "note")
            )
        else:
            section.parts.append(size_card(described, manifest))
        captures = [group.capture for group in groups if group.capture]
        made = [capture for capture in captures if same_path(capture.get("cache"), described["path"])]
        section.parts += [prediction_card(capture) for capture in made]
        if not made:
            section.parts.append(
                paragraph(
                    "No capture.json of this cache was found: without it, predictions cannot be compared with what "
                    "happened. Keep it with: make cache-teacher ARGS=--json > <work folder>/capture.json"
                )
            )
        if manifest is not None and pictures:
            section.parts += picture_cards(readers, CacheReader(described["path"]))
        if manifest is not None:
            text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False)
            section.parts.append(card("Manifest", details("Everything that the cache was made from", text)))
        sections.append(section)
    return sections


def stored_manifest(path: str, identity: str) -> Manifest | None:
    """The manifest of a store, where it is still the one that the runs have read."""
    try:
        manifest = CacheReader(path).manifest
    except (ValueError, OSError):
        return None
    return manifest if manifest.fingerprint == identity else None


def same_path(one: Any, other: Any) -> bool:
    """Whether two texts name one place."""
    return isinstance(one, str) and isinstance(other, str) and Path(one).absolute() == Path(other).absolute()


def cache_tiles(described: Mapping[str, Any], students: int) -> list[tuple[str, str, str]]:
    """Headline figures of a cache."""
    size = described["bytes"]
    found = [(f"{size / 1e6:,.1f} MB", f"on disk, preset {described['preset']}", COLOURS["cached"])] if size else []
    found += [(f"{described['views']:,}", "views", ""), (f"{described['rows']:,}", "stored priors (rows)", "")]
    found += [(f"{size / described['rows']:.1f}", "bytes a row", "")] if size and described["rows"] else []
    return [*found, (str(students), "students of this report read it", "")]


def size_card(described: Mapping[str, Any], manifest: Manifest) -> str:
    """The store beside what it replaces."""
    head = manifest.head
    logits = len(head["classes"]) + len(head["box_parameters"]) * head["num_bins"]
    rows = described["rows"]
    bars = [Bar("this cache", COLOURS["cached"], [bytes_on_disk(described["path"]) / 1e6])]
    bars.append(Bar("its rows as float32", NEUTRAL, [rows * (8 + 4 * logits) / 1e6]))
    priors = dense_priors(CacheReader(described["path"]))
    if priors is not None:
        bars.append(Bar("every prior as float16", NEUTRAL, [priors * 2 * logits / 1e6]))
    share = "" if priors is None else f" The region is {rows / priors:.1%} of all priors."
    chart = inline_svg(charts.draw_bars({"MB": bars}, (1,)), "sizes")
    return card("Size", chart, f"A row has {logits} logits, an index and a weight.{share}")


def dense_priors(reader: CacheReader) -> int | None:
    """How many priors the views have, stored or not; None for a head without an anchor grid."""
    grid = reader.manifest.head.get("grid") or {}
    if not {"strides", "ratios", "scales"} <= set(grid):
        return None
    shapes = [tuple(map(int, shape)) for shape in reader.plan.patch_shape]
    of_shape = {
        shape: AnchorGrid(*shape, tuple(grid["strides"]), tuple(grid["ratios"]), tuple(grid["scales"])).num_priors
        for shape in set(shapes)
    }
    return sum(of_shape[shapes[int(patch)]] for patch in reader.plan.view_patch)


def prediction_card(capture: Mapping[str, Any]) -> str:
    """What the probe had predicted, and what the capture then took."""
    predicted = capture.get("predicted")
    if not isinstance(predicted, dict):
        text = "This capture predicted nothing: it was a resumed one, or one part of several."
        return card("Prediction and what happened", paragraph(text))
    rows = []
    for name, expected in predicted.items():
        found = capture.get(name)
        if isinstance(expected, int | float) and isinstance(found, int | float):
            unit, scale = ("MB", 1e6) if "bytes" in name else ("s", 1.0)
            off = f"{100 * (found / expected - 1):+.1f} %" if expected else ""
            label = {"bytes": "size", "seconds": "time"}.get(name, name)
            rows.append([f"{label}, {unit}", f"{expected / scale:,.1f}", f"{found / scale:,.1f}", off])
    caption = "A short run of the teacher before the capture (the probe) predicts size and time."
    return card("Prediction and what happened", table(("", "predicted", "happened", "difference"), rows), caption)


def picture_cards(runs: Sequence[Run], reader: CacheReader) -> list[str]:
    """Region, detections and distributions; a note where the data to draw them is gone."""
    run = runs[0]
    file = run.folder / run.record["config"]["text_file"]
    checkpoint = run.folder / run.record["checkpoint"] if run.record["checkpoint"] else None
    try:
        config = load_config(file)
        if not same_path(cache_path(config), str(reader.path)):
            raise ValueError(f"{file} reads another cache")
        drawn = draw_pictures(config, reader, checkpoint if checkpoint and checkpoint.is_file() else None)
    except (ValueError, OSError) as error:
        warn(f"no pictures of {reader.path}: {error}")
        return [paragraph(f"No pictures: {error}", "note")]
    return [picture(one) for one in drawn]


def environment_section(groups: Sequence[Group]) -> Section:
    """What every run was: config, code, cache, seed; and the machine and packages."""
    section = Section("Environment and fingerprints")
    runs = [run for group in groups for run in group.runs]
    rows = [
        [
            str(run.folder),
            run.kind,
            str(run.record["seed"]),
            str(run.record["steps"]),
            run.record["config"]["sha256"][:12],
            (run.record["cache"] or {}).get("fingerprint", "")[:12],
            code_text(run.record["code"]),
            json.dumps(run.record["overrides"]) if run.record["overrides"] else "",
        ]
        for run in runs
    ]
    columns = ["run", "kind", "seed", "steps", "config", "cache", "code", "overrides"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    section.parts.append(card("Runs", table(columns, rows, "text"), "SHA-256, the first twelve digits."))
    for title, key in (("Hardware", "hardware"), ("Packages", "versions")):
        found = [run.record[key] for run in runs]
        distinct = [value for place, value in enumerate(found) if value not in found[:place]]
        for value in distinct:
            of = "" if len(distinct) == 1 else ", ".join(str(run.folder) for run in runs if run.record[key] == value)
            section.parts.append(card(title, facts({name: str(item) for name, item in value.items()}), of))
    return section


def code_text(code: Mapping[str, Any]) -> str:
    """Version and commit in a few characters; `+` where tracked files differed from the commit."""
    if not code["commit"]:
        return f"version {code['version']}"
    return f"version {code['version']}, {code['commit'][:12]}{'+' if code['changed'] else ''}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.report",
        description="One self-contained HTML file about the finished runs of some work folders.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments.",
    )
    parser.add_argument("--work-dir", nargs="+", default=["work_dirs"], help="folders with runs (default: work_dirs)")
    parser.add_argument("--out", help="the file to write (default: report.html in the first folder)")
    parser.add_argument("--no-pictures", action="store_true", help="no pictures of regions, boxes and distributions")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
