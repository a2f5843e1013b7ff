"""One HTML file about finished runs: losses, AP, time, sizes, what the cache holds, predictions, fingerprints.

It reads what the commands have left in the work folders: `run.json`, logs, `evaluation/`, `demo.json`, `compare.json`,
`sweep.json`, and `capture.json` (the closing figures of `cache-teacher --json`). Nothing is trained or evaluated.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import run_command
from pipelines.base.ready import require_folder, require_writable

TITLE = "Localization Distillation from a teacher cache"


def main(arguments: argparse.Namespace) -> None:
    """Work folders -> groups of runs -> sections -> one file."""
    folders = [require_folder(folder, "WORK_DIR") for folder in arguments.work_dir]
    out = Path(arguments.out) if arguments.out else folders[0] / "report.html"
    require_writable(out.parent, "--out")

    from pipelines.base.files import write_text
    from pipelines.reporting.cache_sections import cache_sections
    from pipelines.reporting.page import page
    from pipelines.reporting.sections import code_text, environment_section, group_section
    from pipelines.reporting.work_folders import find_groups
    from pipelines.training.environment import describe_code

    groups = find_groups(folders)
    sections = [group_section(group) for group in groups if group.runs or group.studies]
    sections += cache_sections(groups, pictures=not arguments.no_pictures)
    sections.append(environment_section(groups))
    runs = sum(len(group.runs) for group in groups)
    subtitle = f"Training runs: {runs}, in {', '.join(map(str, folders))}"
    made = f"Made by python -m pipelines.report, {code_text(describe_code())}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(TITLE, subtitle, sections, made))
    print(f"Report: {out}")


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "report",
        "One self-contained HTML file about the finished runs of some work folders. Nothing is trained or evaluated.",
        example="--work-dir work_dirs/demo/1",
    )
    parser.add_argument("--work-dir", nargs="+", default=["work_dirs"], help="folders with runs (default: work_dirs)")
    parser.add_argument("--out", help="the file to write (default: report.html in the first folder)")
    parser.add_argument("--no-pictures", action="store_true", help="no pictures of regions, boxes and distributions")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
