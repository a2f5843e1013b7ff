"""Several students from one cache: a sweep file names them by what they change; one table and one plot at the end.

    python -m pipelines.sweep --sweep configs/sweep/demo.py

Started again after an interruption, it skips what is finished; an unfinished training goes on from its last checkpoint.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from cache.reader import CacheReader
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import load_config, require_keys
from pipelines.base.files import write_json, write_text
from pipelines.distill import point_to_cache
from pipelines.studies.students import (
    OUTPUT,
    Student,
    require_name,
    require_same_configs,
    require_trainable,
    run_students,
)
from pipelines.training.record import describe_code, kind_of, read_evaluation, read_record

AP_COLUMNS = ("AP", "AP50", "AP75")
BASELINE = "plain"
# Deletes what stands beside it, in mmengine's configs: below it, every key is new.
DELETE = "_delete_"


@dataclass(frozen=True)
class Sweep:
    """A sweep file: the base config, the students by name with what each changes, the config of a plain baseline."""

    file: Path
    base: str
    runs: dict[str, dict[str, Any]]
    baseline: str | None
    work_dir: Path


def main(arguments: argparse.Namespace) -> int:
    """Sweep file -> students, all checked -> trainings and evaluations -> table and plot."""
    sweep = load_sweep(arguments.sweep, arguments.work_dir)
    students = make_students(sweep, arguments.cache)
    require_same_configs(students)

    def write(_: Student | None = None) -> list[dict[str, Any]]:
        return write_results(sweep, students)

    failures = run_students(
        students, arguments.jobs, resume=True, description=f"sweep {sweep.file.stem}", finished=write
    )
    rows = write()
    if arguments.json:
        print(json.dumps({"sweep": str(sweep.file), "runs": rows, "failed": failures}, indent=2))
    else:
        print_table(sweep, rows)
    for name, failure in failures.items():
        print(f"sweep failed: {name}: {failure} (all of it: {sweep.work_dir / name / OUTPUT})", file=sys.stderr)
    return 1 if failures else 0


def load_sweep(path: str | Path, work_dir: str | None = None) -> Sweep:
    """Read a sweep file.

    Raises:
        ValueError: it is missing, has unknown or missing keys, or unusable names.
    """
    values = load_config(path).to_dict()
    known = {"base", "runs", "baseline", "work_dir"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"sweep {path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for key, kind in (("base", str), ("runs", dict)):
        if not isinstance(values.get(key), kind) or not values[key]:
            raise ValueError(f"sweep {path}: `{key}` is {values.get(key)!r}; a {kind.__name__} is needed, not empty")
    baseline = values.get("baseline")
    for name, options in values["runs"].items():
        require_name(name, f"sweep {path}")
        if name == BASELINE and baseline:
            raise ValueError(f"sweep {path}: {BASELINE!r} is the baseline's name. Rename that run")
        if not isinstance(options, dict):
            raise ValueError(f"sweep {path}: run {name} is {options!r}; a dict of config options is needed")
    folder = work_dir or values.get("work_dir") or f"work_dirs/sweep_{Path(path).stem}"
    return Sweep(Path(path), values["base"], values["runs"], baseline, Path(folder))


def make_students(sweep: Sweep, cache: str | None) -> list[Student]:
    """Every student of the sweep, checked: options, data, cache, model.

    Raises:
        ValueError: naming the run, and what is wrong with it.
    """
    base = load_config(sweep.base)
    require_keys(base, ("region", "classes", "cache"), sweep.base)
    configs = student_configs(sweep, base)
    reader = CacheReader(cache or base.cache)
    students = []
    for name, config in configs.items():
        if kind_of(config) == "cached":
            config.cache = str(reader.path)
            config.cache_fingerprint = reader.manifest.fingerprint
            point_to_cache(config)
        students.append(Student(name, config, sweep.work_dir, flatten(sweep.runs.get(name, {}))))
    for student in students:
        student.config.work_dir = str(student.folder)
        require_trainable(student, reader)
    return students


def student_configs(sweep: Sweep, base: Config) -> dict[str, Config]:
    """The config of every run by its name, the baseline first.

    Raises:
        ValueError: an option that the base does not have, a run that reads no cache or another one.
    """
    configs = {BASELINE: load_config(sweep.baseline)} if sweep.baseline else {}
    for name, options in sweep.runs.items():
        place = f"sweep {sweep.file}: run {name}"
        require_known_options(base, flatten(options), place)
        if "cache" in options:
            raise ValueError(f"{place} sets cache = {options['cache']!r}; a sweep reads one cache. Give CACHE= instead")
        configs[name] = load_config(sweep.base, options)
        if kind_of(configs[name]) != "cached":
            raise ValueError(
                f"{place}: model.type is {configs[name].model.type}; a CachedDistiller is needed. Take a base of "
                "configs/distill"
            )
    return configs


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level with dotted keys; an empty dict, or one that deletes its place, is a value."""
    flat = {}
    for key, value in options.items():
        if isinstance(value, Mapping) and value and DELETE not in value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def require_known_options(config: Config, settings: Mapping[str, Any], place: str) -> None:
    """Refuse an option that the base config does not have: it would change nothing.

    Raises:
        ValueError: naming the option, and what stands at its place.
    """
    for key in settings:
        value: Any = config.to_dict()
        for depth, part in enumerate(key.split(".")):
            if isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, Mapping) and part in value:
                value = value[part]
            else:
                above = ".".join(key.split(".")[:depth]) or "the config"
                there = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
                raise ValueError(
                    f"{place}: option {key} is not in the base config; {above} has: {there}. Correct it, or give it a "
                    "value in the base"
                )


def write_results(sweep: Sweep, students: Sequence[Student]) -> list[dict[str, Any]]:
    """`sweep.json`, `sweep.csv`, `sweep.md` and `sweep.svg` of what is finished; returns the rows."""
    rows = [result_row(student) for student in students if student.is_finished]
    write_json(
        sweep.work_dir / "sweep.json",
        {
            "sweep": str(sweep.file),
            "base": sweep.base,
            "students": [student.name for student in students],
            "code": describe_code(),
            "runs": rows,
        },
    )
    write_text(sweep.work_dir / "sweep.csv", as_csv(rows))
    write_text(sweep.work_dir / "sweep.md", as_markdown(sweep, rows, len(students)))
    if rows:
        base = load_config(sweep.base).to_dict()
        draw_ap(rows, base, sweep.file.stem).savefig(sweep.work_dir / "sweep.svg", metadata={"Date": None})
    return rows


def result_row(student: Student) -> dict[str, Any]:
    """What one run has recorded."""
    record = read_record(student.folder)
    assert record is not None
    return {
        "name": student.name,
        "kind": record["kind"],
        "settings": dict(student.settings),
        **{name: value for name, value in (read_evaluation(student.folder) or {}).items() if name in AP_COLUMNS},
        "seed": record["seed"],
        "steps": record["steps"],
        "resumed_at": record["resumed_at"],
        "training_seconds": record["seconds"],
        "step_seconds": record["step_seconds"],
        "peak_memory_bytes": record["peak_memory"]["process_bytes"],
        "cache_fingerprint": (record["cache"] or {}).get("fingerprint"),
        "config_sha256": record["config"]["sha256"],
        "code_version": record["code"]["version"],
        "commit": record["code"]["commit"],
        "folder": student.name,
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a run, one column a setting."""
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    fixed = [key for key in (rows[0] if rows else {}) if key != "settings"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fixed, *keys])
    for row in rows:
        settings = [_shown(row["settings"][key]) if key in row["settings"] else "" for key in keys]
        writer.writerow([*(row[key] for key in fixed), *settings])
    return text.getvalue()


def as_markdown(sweep: Sweep, rows: Sequence[Mapping[str, Any]], wanted: int) -> str:
    """The table for people: AP in percent."""
    columns = ("run", "changes", *AP_COLUMNS, "training s", "s a step", "peak MB")
    lines = [
        f"# Sweep {sweep.file.stem}",
        "",
        f"{len(rows)} of {wanted} runs finished. Base: `{sweep.base}`. "
        f"Cache: {_one_of(row['cache_fingerprint'] for row in rows)}. "
        f"Code: {_one_of(row['commit'] or row['code_version'] for row in rows)}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|---|---|{'---:|' * (len(columns) - 2)}",
        *(f"| {' | '.join(_escaped(cells(row)))} |" for row in rows),
    ]
    if any(row["resumed_at"] for row in rows):
        lines += ["", "\\* Resumed: the seconds are those of the last part."]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text."""
    resumed = "\\*" if row["resumed_at"] else ""
    return [
        row["name"],
        describe_settings(row["settings"]) or ("no distillation" if row["kind"] == "plain" else "the base"),
        *(f"{100 * row[name]:.1f}" for name in AP_COLUMNS),
        f"{row['training_seconds']:.0f}{resumed}",
        "" if row["step_seconds"] is None else f"{row['step_seconds']:.3f}",
        f"{row['peak_memory_bytes'] / 1e6:,.0f}",
    ]


def describe_settings(settings: Mapping[str, Any]) -> str:
    """`loss_ld.temperature = 2.0, seed = 1`: the last two names of each key."""
    return ", ".join(f"{short_key(key)} = {_shown(value)}" for key, value in settings.items())


def short_key(key: str) -> str:
    """The end of a dotted key that says what it is."""
    return ".".join(key.split(".")[-2:])


def _escaped(texts: Sequence[str]) -> list[str]:
    return [text.replace("|", "\\|") for text in texts]


def print_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> None:
    """The Markdown table for a terminal, and where everything is."""
    table = Table(title=f"Sweep {sweep.file.stem}: AP on the validation images", title_justify="left")
    for column in ("run", "changes", *AP_COLUMNS, "training s", "s a step", "peak MB"):
        table.add_column(column, justify="left" if column in ("run", "changes") else "right")
    for row in rows:
        table.add_row(*(cell.replace("\\*", "*") for cell in cells(row)))
    console = Console()
    console.print(table)
    console.print(f"Table and plot: {sweep.work_dir}/sweep.md, sweep.csv, sweep.svg", soft_wrap=True)


def draw_ap(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any], title: str) -> Figure:
    """AP, AP50 and AP75 of every run, and curves over each setting that has three values or more."""
    curves = list(numeric_curves(rows, base))
    style = {"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 10}
    with mpl.rc_context(style):
        height = max(2.6, 0.42 * len(rows) + 1.5)
        figure = Figure(figsize=(8 + 2.2 * len(curves), height), layout="constrained")
        panels = figure.subplots(1, 1 + len(curves), squeeze=False, width_ratios=[2.2] + [1] * len(curves))[0]
        _draw_runs(panels[0], rows)
        for axes, (key, points) in zip(panels[1:], curves, strict=True):
            _draw_curve(axes, key, points)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
    return figure


MARKERS = {"AP": ("#0072B2", "o"), "AP50": ("#E69F00", "s"), "AP75": ("#009E73", "^")}


def _draw_runs(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    for name, (colour, marker) in MARKERS.items():
        axes.plot([100 * row[name] for row in rows], places, marker, color=colour, label=name, markersize=7)
        for row in rows:
            if row["kind"] == "plain":
                axes.axvline(100 * row[name], color=colour, linestyle=":", linewidth=1)
    labels = [f"{row['name']}\n{describe_settings(row['settings'])}".rstrip() for row in rows]
    axes.set_yticks(places, [label if len(label) < 70 else f"{label[:69]}…" for label in labels])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", color="#80808040")
    axes.set_xlabel("percent" + (" (dotted: plain student)" if any(row["kind"] == "plain" for row in rows) else ""))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def numeric_curves(
    rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any]
) -> Iterator[tuple[str, list[tuple[float, Mapping[str, Any]]]]]:
    """(key, points) of every setting that takes three values or more in runs that differ from the base in it alone.

    A seed is no setting to draw a curve over.
    """
    keys = dict.fromkeys(key for row in rows if len(row["settings"]) == 1 for key in row["settings"])
    keys.pop("randomness.seed", None)
    for key in keys:
        points = {}
        for row in rows:
            if row["kind"] == "cached" and set(row["settings"]) <= {key}:
                value = row["settings"].get(key, _at(base, key))
                if isinstance(value, int | float) and not isinstance(value, bool):
                    points[float(value)] = row
        if len(points) >= 3:
            yield key, sorted(points.items())


def _draw_curve(axes: Any, key: str, points: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    for name, (colour, marker) in MARKERS.items():
        axes.plot([value for value, _ in points], [100 * row[name] for _, row in points], f"{marker}-", color=colour)
    axes.set(xlabel=short_key(key), ylabel="percent")


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list | tuple) else values[part]
    return values


def _shown(value: Any) -> str:
    return "off" if value is None else str(value)


def _one_of(values: Iterator[str | None]) -> str:
    """The value that all share, shortened; how many there are where they differ."""
    found = sorted({value for value in values if value})
    if len(found) > 1:
        return f"{len(found)} different ones ({', '.join(value[:12] for value in found)})"
    return f"`{found[0][:12]}`" if found else "none"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sweep",
        description="Train and evaluate several students from one cache; one table and one plot.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped sweep.",
    )
    parser.add_argument("--sweep", required=True, help="the sweep file (configs/sweep/...)")
    parser.add_argument("--cache", help="the teacher cache (default: the base config's cache)")
    parser.add_argument("--work-dir", help="holds one folder a run, and the results (default: the sweep's work_dir)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="how many at a time (default: one)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
