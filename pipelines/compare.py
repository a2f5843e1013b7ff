"""Plain, live and cached students on the same data, seeds and order: AP, time, memory, and their paired differences.

    python -m pipelines.compare --config configs/demo/distill.py

Started again after an interruption, it skips what is finished. An unfinished training starts anew: every student sees
the views in the order of an uninterrupted run.
"""

from __future__ import annotations

import pipelines.base.openmmlab  # noqa: F401  isort: skip

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table
from scipy import stats

from cache.manifest import first_difference, require_equal
from cache.reader import CacheReader
from distill.teacher import FrozenTeacher
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import load_config, require_keys, view_pipeline
from pipelines.base.files import write_json, write_text
from pipelines.distill import point_to_cache
from pipelines.studies.students import (
    OUTPUT,
    Student,
    require_same_configs,
    require_trainable,
    run_students,
)
from pipelines.training.record import describe_code, kind_of, read_evaluation, read_record

KINDS = ("plain", "live", "cached")
TEACHER = "teacher"
AP_COLUMNS = ("AP", "AP50", "AP75")
COSTS = ("training_seconds", "step_seconds", "peak_memory_bytes")
DIFFERENCES = (("cached", "live"), ("cached", "plain"), ("live", "plain"))
CONFIDENCE = 0.95
# What must be equal for the teacher to be the only difference.
SHARED_MODEL_KEYS = ("data_preprocessor", "backbone", "neck", "bbox_head", "train_cfg", "test_cfg")
SHARED_KEYS = ("classes", "optim_wrapper", "param_scheduler", "train_cfg", "test_dataloader", "test_evaluator")


def main(arguments: argparse.Namespace) -> int:
    """Three configs, checked -> every kind with every seed -> figures with spread, and what they differ by."""
    if len(set(arguments.seeds)) < max(2, len(arguments.seeds)):
        raise ValueError(f"--seeds are {arguments.seeds}; at least two different ones are needed for a spread")
    work_dir = Path(arguments.work_dir or f"work_dirs/compare_{_label(arguments.config)}")
    configs = load_configs(arguments)
    reader = CacheReader(arguments.cache or configs["cached"].cache)
    students = make_students(configs, reader, arguments, work_dir)
    require_same_configs(students)
    failures = run_students(students, arguments.jobs, resume=False, description="compare")
    for name, failure in failures.items():
        print(f"compare failed: {name}: {failure} (all of it: {work_dir / name / OUTPUT})", file=sys.stderr)
    if failures:
        return 1

    report = summarise(students, arguments.seeds, arguments.jobs)
    write_json(work_dir / "compare.json", report)
    write_text(work_dir / "compare.md", as_markdown(report))
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report, work_dir)
    for problem in report["unpaired"]:
        print(f"compare failed: {problem}", file=sys.stderr)
    return 1 if report["unpaired"] else 0


def load_configs(arguments: argparse.Namespace) -> dict[str, Config]:
    """The three configs, with the command line's teacher and options.

    Raises:
        ValueError: one is missing, of another kind, or differs from the others in more than the teacher.
    """
    files = {
        "plain": arguments.plain or sibling(arguments.config, "plain"),
        "live": arguments.live or sibling(arguments.config, "live"),
        "cached": arguments.config,
    }
    configs = {kind: load_config(file, arguments.cfg_options) for kind, file in files.items()}
    for kind, config in configs.items():
        if kind_of(config) != kind:
            raise ValueError(f"model.type is {config.model.type} in {files[kind]}; a {kind} student is needed there")
    require_keys(configs["cached"], ("region", "classes", "cache"), arguments.config)
    teacher = configs["live"].model.teacher
    teacher.config = arguments.teacher or teacher.config
    teacher.checkpoint = arguments.checkpoint or teacher.checkpoint
    require_one_recipe(configs, files)
    return configs


def sibling(config: str, kind: str) -> str:
    """The config of another kind beside a cached student's: configs/demo/plain.py, configs/plain/<name>.py.

    Raises:
        ValueError: there is none.
    """
    path = Path(config)
    beside = path.with_name(f"{kind}.py") if path.stem == "distill" else path.parent.with_name(kind) / path.name
    if not beside.is_file():
        raise ValueError(f"no {kind} config beside {config} ({beside} does not exist). Give it: ARGS='--{kind} <file>'")
    return str(beside)


def require_one_recipe(configs: Mapping[str, Config], files: Mapping[str, str]) -> None:
    """Refuse configs that differ in more than where the teacher is.

    Raises:
        ValueError: naming the first field that differs, and both values.
    """
    described = {kind: _recipe(config) for kind, config in configs.items()}
    for kind in ("plain", "live"):
        ours = {key: value for key, value in described[kind].items() if key in described["cached"]}
        theirs = {key: value for key, value in described["cached"].items() if key in ours}
        difference = first_difference(ours, theirs)
        if difference is not None:
            field, first, second = difference
            raise ValueError(
                f"{field} is {first!r} in {files[kind]} but {second!r} in {files['cached']}. Plain, live and cached "
                "student must differ in the teacher alone: make them equal"
            )


def _recipe(config: Config) -> dict[str, Any]:
    values = config.to_dict()
    model, loader = values["model"], values["train_dataloader"]
    recipe = {
        "model": {key: model.get(key) for key in SHARED_MODEL_KEYS},
        **{key: values.get(key) for key in SHARED_KEYS},
        "train_dataloader": {
            **loader,
            "dataset": {key: value for key, value in loader["dataset"].items() if key != "pipeline"},
        },
        "views": view_pipeline(config),
    }
    if "distillation" in model:
        recipe |= {"distillation": model["distillation"], "region": model.get("region") or values["region"]}
    # Tuples and lists alike.
    return json.loads(json.dumps(recipe, default=str))


def make_students(
    configs: Mapping[str, Config], reader: CacheReader, arguments: argparse.Namespace, work_dir: Path
) -> list[Student]:
    """The teacher, and every kind with every seed, checked.

    Raises:
        ValueError: the cache is of another teacher than the live one, or a student would stop at its start.
    """
    live = configs["live"].model.teacher
    teacher = FrozenTeacher.load(live.config, live.checkpoint, classes=list(configs["live"].classes)).describe()
    cure = "Compare with the teacher that the cache was captured from: give CHECKPOINT= and TEACHER=, or CACHE="
    require_equal({"teacher": teacher}, reader.manifest, place=f"cache {reader.path}", cure=cure)
    teacher_config = load_config(live.config)
    teacher_config.weights_sha256 = teacher["weights_sha256"]
    students = [Student(TEACHER, teacher_config, work_dir, {}, checkpoint=Path(live.checkpoint))]
    for seed in arguments.seeds:
        for kind in KINDS:
            config = Config(configs[kind].to_dict())
            config.randomness = {**config.get("randomness", {}), "seed": seed}
            if kind == "cached":
                config.cache = str(reader.path)
                config.cache_fingerprint = reader.manifest.fingerprint
                point_to_cache(config)
            student = Student(run_name(kind, seed), config, work_dir, {"kind": kind, "seed": seed})
            config.work_dir = str(student.folder)
            students.append(student)
    # The other seeds differ in nothing that could stop one.
    for student in students[1 : 1 + len(KINDS)]:
        require_trainable(student, reader)
    return students


def run_name(kind: str, seed: int) -> str:
    """The folder of a run."""
    return f"{kind}_seed{seed}"


def summarise(students: Sequence[Student], seeds: Sequence[int], jobs: int) -> dict[str, Any]:
    """Every figure of the comparison as plain values."""
    runs = [run_figures(student) for student in students if student.checkpoint is None]
    of = {kind: [run for run in runs if run["kind"] == kind] for kind in KINDS}
    cached = of["cached"][0]
    teacher = students[0]
    assert teacher.checkpoint is not None
    return {
        "seeds": list(seeds),
        "jobs": jobs,
        "code": describe_code(),
        "cache": cached["cache"],
        "teacher": {
            **_ap(read_evaluation(teacher.folder)),
            "checkpoint_bytes": teacher.checkpoint.stat().st_size,
        },
        "students": {
            kind: {
                **{name: spread([run[name] for run in of[kind]]) for name in (*AP_COLUMNS, *COSTS)},
                "checkpoint_bytes": of[kind][0]["checkpoint_bytes"],
            }
            for kind in KINDS
        },
        "differences": [
            {
                "name": f"{one} - {other}",
                **{
                    name: paired([run[name] for run in of[one]], [run[name] for run in of[other]])
                    for name in AP_COLUMNS
                },
            }
            for one, other in DIFFERENCES
        ],
        "confidence": CONFIDENCE,
        "unpaired": unpaired(of),
        "runs": runs,
    }


def run_figures(student: Student) -> dict[str, Any]:
    """What one run has recorded."""
    record = read_record(student.folder)
    assert record is not None
    return {
        "name": student.name,
        "folder": student.name,
        **student.settings,
        **_ap(read_evaluation(student.folder)),
        "training_seconds": record["seconds"],
        "step_seconds": record["step_seconds"],
        "steps": record["steps"],
        "peak_memory_bytes": record["peak_memory"]["process_bytes"],
        "loader_memory_bytes": record["peak_memory"]["loader_bytes"],
        "cuda_memory_bytes": record["peak_memory"]["cuda_bytes"],
        "checkpoint_bytes": (student.folder / record["checkpoint"]).stat().st_size,
        "cache": record["cache"],
        "config_sha256": record["config"]["sha256"],
        "commit": record["code"]["commit"],
        "initial_sha256": record["initial_sha256"],
        "order_sha256": record["order_sha256"],
        "hardware": record["hardware"],
    }


def _ap(evaluation: Mapping[str, float] | None) -> dict[str, float]:
    assert evaluation is not None
    return {name: evaluation[name] for name in AP_COLUMNS}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation of a single run (n - 1), and the values in the order of the seeds."""
    return {"mean": fmean(values), "sd": stdev(values), "values": list(values)}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Differences seed by seed: `spread`, and Student's interval of their mean."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    summary = spread(differences)
    margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * summary["sd"] / len(differences) ** 0.5
    return {**summary, "low": summary["mean"] - margin, "high": summary["mean"] + margin}


def unpaired(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """In what the students of one seed began or saw something else; empty where each pair is one."""
    problems = []
    for plain, live, cached in zip(*(of[kind] for kind in KINDS), strict=True):
        for key, meaning in (("initial_sha256", "initial weights"), ("order_sha256", "views or their order")):
            problems += [
                f"{run['name']} and {plain['name']} differ in {meaning} ({run[key][:16]}… and {plain[key][:16]}…)"
                for run in (live, cached)
                if run[key] != plain[key]
            ]
    return problems


def verdict(difference: Mapping[str, Any], name: str) -> str:
    """One difference in words."""
    figures = difference[name]
    low, high = (100 * figures[end] for end in ("low", "high"))
    sense = "above 0" if low > 0 else "below 0" if high < 0 else "not distinguishable from 0"
    mean, low, high = (f"{round(100 * figures[end], 1) + 0.0:+.1f}" for end in ("mean", "low", "high"))
    return f"{difference['name']}, {name}: {mean} [{low}, {high}] points, {sense}"


def as_markdown(report: Mapping[str, Any]) -> str:
    """The comparison for people: AP in percent."""
    seeds = ", ".join(map(str, report["seeds"]))
    code = (report["code"]["commit"] or report["code"]["version"])[:12]
    hardware = report["runs"][0]["hardware"]
    lines = [
        "# Plain, live and cached students",
        "",
        f"Seeds {seeds}; mean ± standard deviation of a run. {report['jobs']} at a time on "
        f"{hardware['cpu']}, {hardware['cores']} cores, GPU {hardware['gpu'] or 'none'}. Code {code}, cache "
        f"{report['cache']['fingerprint'][:12]}.",
        "",
        f"| detector | {' | '.join((*AP_COLUMNS, 'training s', 's a step', 'peak MB'))} |",
        f"|---|{'---:|' * (len(AP_COLUMNS) + len(COSTS))}",
        f"| teacher | {' | '.join(f'{100 * report[TEACHER][name]:.1f}' for name in AP_COLUMNS)} | | | |",
        *(f"| {kind} | {' | '.join(student_cells(report['students'][kind]))} |" for kind in KINDS),
        "",
        f"Paired by seed, with the {report['confidence']:.0%} interval of the mean (Student's t):",
        "",
        *(f"- {verdict(difference, name)}" for difference in report["differences"] for name in AP_COLUMNS),
        "",
        "| seed | " + " | ".join(f"{kind} {name}" for name in AP_COLUMNS for kind in KINDS) + " |",
        "|---:|" + "---:|" * (len(KINDS) * len(AP_COLUMNS)),
    ]
    for position, seed in enumerate(report["seeds"]):
        values = (
            f"{100 * report['students'][kind][name]['values'][position]:.1f}" for name in AP_COLUMNS for kind in KINDS
        )
        lines.append(f"| {seed} | {' | '.join(values)} |")
    lines += [
        "",
        "The students of a seed began with the same weights and saw the same views in the same order: "
        + ("yes." if not report["unpaired"] else "no. " + "; ".join(report["unpaired"]) + "."),
        "",
        "| file | MB |",
        "|---|---:|",
        *(f"| {name} | {size / 1e6:,.1f} |" for name, size in sizes(report).items()),
    ]
    return "\n".join(lines) + "\n"


def student_cells(student: Mapping[str, Any]) -> list[str]:
    """AP, time and memory of a kind as text."""
    return [
        *(f"{100 * student[name]['mean']:.1f} ± {100 * student[name]['sd']:.1f}" for name in AP_COLUMNS),
        f"{student['training_seconds']['mean']:.0f} ± {student['training_seconds']['sd']:.0f}",
        f"{student['step_seconds']['mean']:.3f}",
        f"{student['peak_memory_bytes']['mean'] / 1e6:,.0f}",
    ]


def sizes(report: Mapping[str, Any]) -> dict[str, int]:
    """Bytes on disk by what they are."""
    found = {
        "cache": report["cache"]["bytes"],
        "teacher's checkpoint": report[TEACHER]["checkpoint_bytes"],
        "student's checkpoint": report["students"]["cached"]["checkpoint_bytes"],
    }
    return {name: size for name, size in found.items() if size is not None}


def print_report(report: Mapping[str, Any], work_dir: Path) -> None:
    """The tables for a terminal."""
    table = Table(title=f"Mean ± standard deviation of {len(report['seeds'])} seeds", title_justify="left")
    for column in ("detector", *AP_COLUMNS, "training s", "s a step", "peak MB"):
        table.add_column(column, justify="left" if column == "detector" else "right")
    table.add_row(TEACHER, *(f"{100 * report[TEACHER][name]:.1f}" for name in AP_COLUMNS), "", "", "")
    for kind in KINDS:
        table.add_row(kind, *student_cells(report["students"][kind]))
    console = Console()
    console.print(table)
    for difference in report["differences"]:
        console.print(verdict(difference, "AP50"), soft_wrap=True, markup=False)
    console.print(f"All figures: {work_dir}/compare.md, compare.json", soft_wrap=True)


def _label(config: str) -> str:
    path = Path(config)
    return path.parent.name if path.stem == "distill" else path.stem


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compare",
        description="Plain, live and cached students on the same data, seeds and order.",
        epilog="Exit status: 0 done, 1 failed, 2 unusable arguments. The same command continues a stopped comparison.",
    )
    parser.add_argument("--config", default="configs/demo/distill.py", help="the cached student's config")
    parser.add_argument("--plain", help="the plain student's config (default: the one beside --config)")
    parser.add_argument("--live", help="the live student's config (default: the one beside --config)")
    parser.add_argument("--cache", help="the teacher cache (default: the config's cache)")
    parser.add_argument("--teacher", help="the teacher's config (default: the live config's model.teacher.config)")
    parser.add_argument("--checkpoint", help="the teacher's weights (default: the live config's)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="at least two (default: 0 1 2)")
    parser.add_argument("--work-dir", help="holds one folder a run, and the results (default: work_dirs/compare_...)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="how many at a time; several blur the times")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override values of all three configs")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
