"""Damage to stores: random flips over every kind of object, and what verification says to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.documents import Finding, verify_documents
from cache.store import Store
from cache.verify import verify_block, verify_metadata


@dataclass(frozen=True)
class Flip:
    """One bit of one object."""

    key: str
    byte: int
    bit: int


def objects_by_kind(path: Path) -> dict[str, list[str]]:
    """Keys of a store's objects: metadata documents one by one, chunks by array."""
    kinds: dict[str, list[str]] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            key = file.relative_to(path).as_posix()
            kinds.setdefault(key.partition("/c/")[0], []).append(key)
    return kinds


def random_flips(path: Path, count: int, seed: int) -> Iterator[Flip]:
    """Seeded flips that go round all kinds of objects, so that small objects get their share."""
    random = np.random.default_rng(seed)
    kinds = list(objects_by_kind(path).values())
    for number in range(count):
        if number % len(kinds) == 0:
            random.shuffle(kinds)
        keys = kinds[number % len(kinds)]
        key = keys[random.integers(len(keys))]
        yield Flip(key, int(random.integers((path / key).stat().st_size)), int(random.integers(8)))


@contextmanager
def flipped(path: Path, flip: Flip) -> Iterator[None]:
    """The store with that bit changed; as it was afterwards."""

    def change(file: Path) -> None:
        damaged = bytearray(file.read_bytes())
        damaged[flip.byte] ^= 1 << flip.bit
        file.write_bytes(damaged)

    with damaged(path / flip.key, change):
        yield


@contextmanager
def damaged(file: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """The file changed, possibly away; as it was afterwards."""
    content = file.read_bytes()
    change(file)
    try:
        yield
    finally:
        file.write_bytes(content)


def all_findings(path: Path | str) -> list[Finding]:
    """What `make verify-cache` says of the store alone."""
    if damage := verify_documents(path):
        return damage
    findings = verify_metadata(path)
    store = Store(path)
    return findings + [finding for block in store.captured_blocks() for finding in verify_block(store, block)]
