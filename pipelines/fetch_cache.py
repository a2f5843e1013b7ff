"""Copy a cache from an object store into a folder, and verify the copy.

    python -m pipelines.fetch_cache --cache s3://bucket/name.zarr --to caches/name.zarr

Started again after an interruption, it fetches what is missing or damaged. The copy lies under a hidden name until
every byte of it has been checked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from cache.s3 import Bucket
from cache.storage import locate
from pipelines.base.arguments import add_json, add_workers, make_command_parser, options_of
from pipelines.base.command import plain_console, positive_int, run_command
from pipelines.base.invocation import make
from pipelines.capture.fetching import Fetched, FetchOptions, fetch_store


def main(arguments: argparse.Namespace) -> int:
    """Fetch, verify, rename; 1 where the copy is not what was captured."""
    started = time.perf_counter()
    source, target = locate(arguments.cache), Path(arguments.to)
    if not isinstance(source, Bucket):
        raise ValueError(f"cache {source} is a folder of this machine; give one on an object store (CACHE=s3://...)")
    fetched = fetch_store(source, target, options_of(FetchOptions, arguments))
    report(source, target, fetched, time.perf_counter() - started, as_json=arguments.json)
    return 1 if fetched.findings else 0


def report(source: Bucket, target: Path, fetched: Fetched, seconds: float, *, as_json: bool) -> None:
    """What was fetched, and whether the copy is whole."""
    problems = [f"{finding.object}: {finding.problem}" for finding in fetched.findings]
    if as_json:
        figures = {
            "ok": not problems,
            "cache": str(source),
            "to": str(target),
            "objects_fetched": fetched.objects,
            "bytes_fetched": fetched.bytes,
            "seconds": seconds,
            "findings": problems,
        }
        print(json.dumps(figures, indent=2))
        return
    console = plain_console(soft_wrap=True, highlight=False)
    console.print(f"{fetched.objects:,} objects, {fetched.bytes / 1e6:,.1f} MB fetched in {seconds:,.0f} s")
    for problem in problems:
        console.print(f"wrong: {problem}")
    if problems:
        console.print(f"The copy is not whole. Look at the store itself: {make('verify-cache')}")
    else:
        console.print(f"{target}: every byte is what was captured")


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "fetch_cache",
        "Copy a cache from an object store into a folder, and verify the copy. The same command continues a stopped "
        "copy, and mends a damaged one.",
        example="--cache s3://bucket/name.zarr --to caches/name.zarr",
        status="0 the copy is whole, 1 it is not or could not be made, 2 unusable arguments",
    )
    parser.add_argument("--cache", required=True, help="the store: s3://bucket/name.zarr")
    parser.add_argument("--to", required=True, help="the folder to make, such as caches/name.zarr")
    parser.add_argument("--jobs", type=positive_int, default=8, help="objects fetched at the same time (default: 8)")
    add_workers(parser, "threads that verify")
    add_json(parser, "what was done")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
