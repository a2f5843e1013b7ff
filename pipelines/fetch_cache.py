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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cache.documents import Finding
from cache.layout import commit_key
from cache.reader import CacheReader
from cache.s3 import Bucket
from cache.storage import Folder, locate
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from pipelines.base.command import available_cores, positive_int, run_command
from pipelines.base.files import PARTIAL, exclusive, replacing, require_room
from pipelines.base.parallel import map_and_add
from pipelines.base.progress import progress

# Metadata is checked before blocks are looked at, so damage to both is mended in two rounds; the third finds none.
ROUNDS = 3


@dataclass
class Copied:
    """What was fetched, and what is wrong all the same."""

    objects: int = 0
    bytes: int = 0
    findings: Sequence[Finding] = ()


def main(arguments: argparse.Namespace) -> int:
    """Fetch, verify, rename; 1 where the copy is not what was captured."""
    source, target = locate(arguments.cache), Path(arguments.to)
    if not isinstance(source, Bucket):
        raise ValueError(f"cache {source} is a folder of this machine; give one on an object store (CACHE=s3://...)")
    CacheReader(source).require_complete()
    require_same_cache(source, target)
    draft = target if target.exists() else target.with_name(f".{target.name}.fetch")
    started = time.perf_counter()
    draft.mkdir(parents=True, exist_ok=True)
    with exclusive(draft, f"another fetch is writing into {draft}. Wait for it, or stop it first"):
        copied = copy_store(source, Folder(draft), arguments)
        if not copied.findings and draft != target:
            # Fails where something else has been put there meanwhile: it is never replaced.
            draft.rename(target)
    report(source, target, copied, time.perf_counter() - started, as_json=arguments.json)
    return 1 if copied.findings else 0


def require_same_cache(source: Bucket, target: Path) -> None:
    """Refuse to mix a cache with something else.

    Raises:
        ValueError: the folder is there and is not a copy of this cache.
    """
    if target.exists():
        Store(target)
        if Folder(target).read("zarr.json") != source.read("zarr.json"):
            raise ValueError(f"{target} holds another cache than {source}. Give another folder (--to), or move it away")


def copy_store(source: Bucket, folder: Folder, arguments: argparse.Namespace) -> Copied:
    """Fetch objects until the copy passes its verification, or does not get better."""
    copied = Copied()
    for _ in range(ROUNDS):
        fetch_missing(source, folder, copied, arguments.jobs)
        damaged, copied.findings = check_copy(folder, arguments.workers)
        if not copied.findings:
            break
        for key in damaged & source.sizes().keys():
            folder.delete(key)
    return copied


def fetch_missing(source: Bucket, folder: Folder, copied: Copied, jobs: int) -> None:
    """Fetch the objects that are not there in their full length: each comes whole or not at all."""
    sizes, present = source.sizes(), folder.sizes()
    for key in present:
        if key.endswith(PARTIAL):
            folder.delete(key)
    missing = [key for key, size in sizes.items() if present.get(key) != size]
    needed = sum(sizes[key] for key in missing)
    require_room(folder.path, needed, "the rest of the copy", "Make room, or give another folder (--to)")
    total, left = (sum(map(_kilobytes, counted)) for counted in (sizes.values(), (sizes[key] for key in missing)))
    with progress("fetch", total, "kB", done=total - left) as advance, ThreadPoolExecutor(jobs) as executor:
        fetches = {executor.submit(fetch_object, source, folder, key): key for key in missing}
        try:
            for fetch in as_completed(fetches):
                fetch.result()
                advance(_kilobytes(sizes[fetches[fetch]]))
                copied.objects += 1
                copied.bytes += sizes[fetches[fetch]]
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def fetch_object(source: Bucket, folder: Folder, key: str) -> None:
    """Fetch one object under another name, and rename it when it is complete."""
    file = folder.path / key
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        source.download(key, partial)
    folder.sync(key)


def check_copy(folder: Folder, workers: int) -> tuple[set[str], list[Finding]]:
    """Every byte of the copy; the objects that may be damaged, and what is wrong."""
    findings = verify_metadata(folder)
    if findings:
        return {finding.object for finding in findings}, findings
    store = Store(folder)
    found = map_and_add(
        lambda block: [(block, finding) for finding in verify_block(store, block)],
        range(store.num_blocks),
        [],
        workers=workers,
        description="verify blocks",
        unit="blocks",
    )
    # Which object of a block is at fault cannot always be told: all of them are fetched again.
    damaged = {key for block, _ in found for key in (*store.names.block_keys(block), commit_key(block))}
    return damaged, [finding for _, finding in found]


def report(source: Bucket, target: Path, copied: Copied, seconds: float, *, as_json: bool) -> None:
    """What was fetched, and whether the copy is whole."""
    problems = [f"{finding.object}: {finding.problem}" for finding in copied.findings]
    if as_json:
        figures = {
            "ok": not problems,
            "cache": str(source),
            "to": str(target),
            "objects_fetched": copied.objects,
            "bytes_fetched": copied.bytes,
            "seconds": seconds,
            "findings": problems,
        }
        print(json.dumps(figures, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{copied.objects:,} objects, {copied.bytes / 1e6:,.1f} MB fetched in {seconds:,.0f} s")
    for problem in problems:
        console.print(f"wrong: {problem}")
    if problems:
        console.print(f"The copy is not whole. Look at the store itself: make verify-cache CACHE={source}")
    else:
        console.print(f"{target}: every byte is what was captured")


def _kilobytes(size: int) -> int:
    """Counted up, so that small objects count."""
    return -(-size // 1000)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.fetch_cache",
        description="Copy a cache from an object store into a folder, and verify the copy.",
        epilog="Exit status: 0 the copy is whole, 1 it is not or could not be made, 2 unusable arguments. The same "
        "command continues a stopped copy, and mends a damaged one.",
    )
    parser.add_argument("--cache", required=True, help="the store: s3://bucket/name.zarr")
    parser.add_argument("--to", required=True, help="the folder to make, such as caches/name.zarr")
    parser.add_argument("--jobs", type=positive_int, default=8, help="objects fetched at the same time (default: 8)")
    parser.add_argument(
        "--workers", type=positive_int, default=available_cores(), help="threads that verify (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
