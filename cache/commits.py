"""Commits: the digest that says that a block has been captured, and of what bytes (cache/FORMAT.md, "Commits")."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import google_crc32c
import numcodecs.zstd  # type: ignore[import-untyped]

from cache.layout import commit_key, largest_encoded
from cache.storage import Location
from cache.trust import content_bytes


def block_digest(objects: Iterable[bytes]) -> bytes:
    """SHA-256 over the objects of a block, in the order of `ArrayNames.block`, each preceded by its length."""
    digest = hashlib.sha256()
    for data in objects:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def stored_block_digest(location: Location, keys: Iterable[str]) -> bytes:
    """The digest of a block as it lies in a store; an object that is absent has length 0."""
    return block_digest(_read_or_empty(location, key) for key in keys)


def _read_or_empty(location: Location, key: str) -> bytes:
    try:
        return location.read(key)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return b""


def read_commit(location: Location, block: int) -> bytes | None:
    """The digest that commits a block; None where there is none. One of zeros commits nothing.

    Raises:
        ValueError: what is wrong with the object.
    """
    try:
        return read_chunk(location, commit_key(block), 32)
    except FileNotFoundError:
        return None


def read_chunk(location: Location, key: str, *sizes: int) -> bytes:
    """Content of an object that is one chunk, of one of these sizes; without zarr, whose metadata may be damaged.

    Raises:
        ValueError: what is wrong with the object.
        FileNotFoundError: it is absent.
    """
    problem = location.problem(key, largest_encoded(max(sizes)))
    if problem is not None:
        raise ValueError(problem)
    data = location.read(key)
    if not checksum_holds(data):
        raise ValueError(f"its checksum fails ({len(data)} bytes)")
    said = content_bytes(data, is_blosc=False)
    if said not in sizes:
        raise ValueError(f"says that it holds {said} bytes, {' or '.join(map(str, sizes))} expected")
    try:
        return bytes(numcodecs.zstd.decompress(data[:-4]))
    except Exception as error:
        raise ValueError(f"cannot be decompressed ({error})") from error


def checksum_holds(data: bytes) -> bool:
    """Whether a chunk ends in the CRC-32C of what comes before."""
    return len(data) > 4 and google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")
