"""Check a cache: every byte of the store, every image and label file, and a sample of views against the live teacher.

Without `--config` the store alone is checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from cache.reader import CacheReader
from cache.storage import locate
from cache.store import Store
from distill.settings import read_config
from pipelines.base.arguments import add_config, add_json, add_workers, make_command_parser, options_of
from pipelines.base.command import plain_console, positive_int, printable, run_command
from pipelines.base.cures import ITS_CONFIG
from pipelines.base.invocation import again, given, make
from pipelines.base.ready import require_keys
from pipelines.base.stores import path_beside, tell_store
from pipelines.capture.options import TeacherOptions, add_teacher_arguments

if TYPE_CHECKING:
    from pipelines.capture.verification import Verification


def main(arguments: argparse.Namespace) -> int:
    """Store, then files, then the teacher; 1 where anything is wrong."""
    if not arguments.config and not arguments.cache:
        make_parser().error("--cache or --config is needed")
    if arguments.cache and not locate(arguments.cache).exists():
        # Says what is there instead.
        Store(arguments.cache)

    if arguments.config:
        settings = read_config(arguments.config, arguments.cfg_options, imports=False)
        require_keys(settings, ("region", "classes", "cache"), arguments.config)

    from pipelines.base.experiment import load_config
    from pipelines.capture.teacher_check import check_teacher
    from pipelines.capture.verification import Verification, check_config, check_files, check_store

    config = load_config(arguments.config, arguments.cfg_options) if arguments.config else None
    found = Verification(str(arguments.cache or config.cache))
    locate(found.cache).require_idle()
    readable = check_store(found, arguments.workers)
    if not readable:
        found.skipped.append("blocks, files and teacher: the metadata must be whole first")
    elif config is None:
        found.skipped.append(f"image and label files, and the teacher; with them: {again(config=ITS_CONFIG)}")
    else:
        reader = CacheReader(found.cache)
        tell_store(reader.store, arguments.checkpoint or (config.get("teacher") or {}).get("checkpoint"))
        same = check_config(found, config, reader)
        check_files(found, config, reader, arguments.workers)
        if arguments.no_teacher:
            found.skipped.append("the teacher: --no-teacher")
        elif not same:
            found.skipped.append("the teacher: the config is not that of the cache")
        else:
            teacher = options_of(TeacherOptions, arguments)
            sample = {"sample": arguments.sample, "seed": arguments.seed, "tolerance": arguments.tolerance}
            check_teacher(found, config, reader, teacher, **sample)
    show(found, as_json=arguments.json)
    return 1 if found.findings else 0


def show(found: Verification, *, as_json: bool) -> None:
    """The report for people or for programs."""
    if as_json:
        print(json.dumps({"ok": not found.findings, **asdict(found)}, indent=2))
        return
    console = plain_console(soft_wrap=True, highlight=False)
    if found.store:
        store = found.store
        console.print(
            f"store: {store['objects']:,} objects, {store['bytes'] / 1e6:,.1f} MB, "
            f"{store['blocks_captured']} of {store['blocks']} blocks captured"
        )
    if found.files:
        console.print(f"files: {found.files['patches']:,} images and label files hashed")
    if found.teacher:
        teacher = found.teacher
        errors = ", ".join(
            f"{name} {found['max_abs_error']:.4g} (bound {found['codec_bound']:.4g} + "
            f"{found['repeat_tolerance']:.2g} for a repeated forward)"
            for name, found in teacher.items()
            if isinstance(found, dict)
        )
        console.print(f"teacher: {teacher['views']} views, {teacher['rows']:,} rows; largest error: {errors}")
    for note in found.notes:
        console.print(f"note: {printable(note)}")
    for skipped in found.skipped:
        console.print(f"not checked: {printable(skipped)}")
    for finding in found.findings:
        console.print(f"wrong: {printable(finding)}")
    count = len(found.findings)
    console.print(f"{found.cache}: {f'{count} finding{"s" if count > 1 else ""}' if count else 'nothing is wrong'}")
    if count:
        config = given("config") or ITS_CONFIG
        console.print(f"capture again what is missing: {make('cache-teacher', config=config, cache=found.cache)}")
        anew = make("cache-teacher", config=config, cache=path_beside(found.cache))
        console.print(f"capture a new cache: {anew}")


def _share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return share


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "verify_cache",
        "Check every byte of a cache, its images and labels, and a sample of views against the teacher.",
        example="--config configs/distill/gwd_r18_1x_dota.py --checkpoint teacher.pth",
        status="0 nothing is wrong, 1 something is (one line each) or it could not be checked, 2 unusable arguments",
    )
    add_config(parser, "the student's config; without it the store alone is checked", required=False)
    parser.add_argument("--cache", help="the store to check (default: the config's cache)")
    add_teacher_arguments(parser)
    parser.add_argument("--no-teacher", action="store_true", help="do not run the teacher")
    parser.add_argument("--sample", type=positive_int, default=8, help="views to choose for the teacher (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=_share,
        help="share of the largest logit by which a repeated forward may differ (default: by the cache's precision, "
        "see docs/exactness.md)",
    )
    add_workers(parser, "threads that read")
    add_json(parser, "the report")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
