"""Several students from one cache: a sweep file names them by what they change; one table and one plot at the end.

    python -m pipelines.sweep --sweep configs/sweep/demo.py

Started again after an interruption, it skips what is finished; an unfinished training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

from cache.store import Store
from pipelines.base.arguments import add_json, add_work_dir, config_file, make_command_parser
from pipelines.base.command import plain_console, positive_int, run_command, tell_next
from pipelines.base.invocation import again, make, note
from pipelines.base.ready import require_writable


def main(arguments: argparse.Namespace) -> int:
    """Sweep file -> runs, all checked -> trainings and evaluations -> table and plot."""
    if arguments.cache:
        Store(arguments.cache)
    if arguments.work_dir:
        require_writable(arguments.work_dir, "WORK_DIR")

    from pipelines.studies.processes import finish_runs
    from pipelines.studies.runs import OUTPUT, require_same_configs
    from pipelines.studies.sweep import load_sweep, sweep_runs
    from pipelines.studies.sweep_results import results_table, write_results

    sweep = load_sweep(arguments.sweep, arguments.work_dir)
    note(config=sweep.base)
    runs = sweep_runs(sweep, arguments.cache)
    require_same_configs(runs)
    write = partial(write_results, sweep, runs)
    failures = finish_runs(runs, arguments.jobs, resume=True, description=f"sweep {sweep.file.stem}", finished=write)
    rows = write()
    if arguments.json:
        print(json.dumps({"sweep": str(sweep.file), "runs": rows, "failed": failures}, indent=2))
    else:
        console = plain_console()
        console.print(results_table(rows).terminal(f"Sweep {sweep.file.stem}: AP on the validation images"))
        console.print(f"Table and plot: {sweep.work_dir}/sweep.md, sweep.csv, sweep.svg", soft_wrap=True)
    for name, failure in failures.items():
        print(f"sweep failed: {name}: {failure} (all of it: {sweep.work_dir / name / OUTPUT})", file=sys.stderr)
    tell_next(again() if failures else make("report", work_dir=sweep.work_dir))
    return 1 if failures else 0


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "sweep",
        "Train and evaluate several students from one cache; one table and one plot.",
        example="--sweep configs/sweep/demo.py",
        status="0 done, 1 failed, 2 unusable arguments. The same command continues a stopped sweep.",
    )
    parser.add_argument("--sweep", type=config_file, required=True, help="the sweep file (configs/sweep/...)")
    parser.add_argument("--cache", help="the teacher cache (default: the base config's cache)")
    add_work_dir(parser, "holds one folder a run, and the results (default: the sweep's work_dir)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="how many at a time (default: one)")
    add_json(parser, "the results")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
