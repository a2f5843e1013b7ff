"""A cache on an object store -> a copy in a folder, of which every byte has been checked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cache.documents import Finding
from cache.layout import commit_key
from cache.reader import CacheReader
from cache.s3 import Bucket
from cache.storage import Folder
from cache.store import Store
from cache.verify import verify_block, verify_metadata
from pipelines.base.files import PARTIAL, exclusive, replacing, require_room
from pipelines.base.parallel import map_and_add
from pipelines.base.progress import progress

# Metadata is checked before blocks are looked at, so damage to both is mended in two rounds; the third finds none.
ROUNDS = 3


@dataclass(frozen=True)
class FetchOptions:
    """How fast a copy is made."""

    jobs: int
    """Objects fetched at the same time."""
    workers: int
    """Threads that verify."""


@dataclass(frozen=True)
class Fetched:
    """What was fetched, and what is wrong with the copy all the same."""

    objects: int
    bytes: int
    findings: Sequence[Finding]


def fetch_store(source: Bucket, target: Path, options: FetchOptions) -> Fetched:
    """Fetch what `target` lacks, and verify all of it; until then a new copy lies under a hidden name.

    Raises:
        ValueError: the cache is incomplete, `target` holds something else, another fetch writes there, or the copy
            does not fit on its disk.
        OSError: an object cannot be fetched or written.
    """
    CacheReader(source).require_complete()
    _require_same_cache(source, target)
    draft = target if target.exists() else target.with_name(f".{target.name}.fetch")
    draft.mkdir(parents=True, exist_ok=True)
    with exclusive(draft, f"another fetch is writing into {draft}. Wait for it, or stop it first"):
        fetched = _copy_store(source, Folder(draft), options)
        if not fetched.findings and draft != target:
            # Fails where something else has been put there meanwhile: it is never replaced.
            draft.rename(target)
    return fetched


def _require_same_cache(source: Bucket, target: Path) -> None:
    if target.exists():
        Store(target)
        if Folder(target).read("zarr.json") != source.read("zarr.json"):
            raise ValueError(f"{target} holds another cache than {source}. Give another folder (--to), or move it away")


def _copy_store(source: Bucket, folder: Folder, options: FetchOptions) -> Fetched:
    """Fetch objects until the copy passes its verification, or does not get better."""
    sizes = []
    for _ in range(ROUNDS):
        sizes += _fetch_missing(source, folder, options.jobs)
        damaged, findings = _check_copy(folder, options.workers)
        if not findings:
            break
        for key in damaged & source.sizes().keys():
            folder.delete(key)
    return Fetched(len(sizes), sum(sizes), findings)


def _fetch_missing(source: Bucket, folder: Folder, jobs: int) -> list[int]:
    """Fetch the objects that are not there in their full length, each whole or not at all; their sizes."""
    sizes, present = source.sizes(), folder.sizes()
    for key in present:
        if key.endswith(PARTIAL):
            folder.delete(key)
    missing = {key: size for key, size in sizes.items() if present.get(key) != size}
    cure = "Make room, or give another folder (--to)"
    require_room(folder.path, sum(missing.values()), "the rest of the copy", cure)
    total, left = (sum(map(_kilobytes, counted.values())) for counted in (sizes, missing))
    with progress("fetch", total, "kB", done=total - left) as advance, ThreadPoolExecutor(jobs) as executor:
        fetches = {executor.submit(_fetch_object, source, folder, key): key for key in missing}
        try:
            for fetch in as_completed(fetches):
                fetch.result()
                advance(_kilobytes(missing[fetches[fetch]]))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return list(missing.values())


def _fetch_object(source: Bucket, folder: Folder, key: str) -> None:
    file = folder.path / key
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        source.download(key, partial)
    folder.sync(key)


def _check_copy(folder: Folder, workers: int) -> tuple[set[str], list[Finding]]:
    """Every byte of the copy; the objects that may be damaged, and what is wrong."""
    findings = verify_metadata(folder)
    if findings:
        return {finding.object for finding in findings}, findings
    store = Store(folder)
    found: list[tuple[int, Finding]] = map_and_add(
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


def _kilobytes(size: int) -> int:
    """Rounded up, so that small objects count."""
    return -(-size // 1000)
