"""Are metadata and plan what was written? Their digests, which the array `documents` holds (cache/FORMAT.md).

A reader asks before it trains, a verification before it looks at blocks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cache.commits import checksum_holds, read_chunk
from cache.layout import DOCUMENTS_CHUNK, ArrayNames, chunk_keys
from cache.manifest import ManifestMismatch
from cache.storage import Location, Place, locate
from cache.store import Store, require_created
from cache.trust import MAX_DOCUMENT_BYTES, MAX_PLAN_BYTES, require_object


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the object (its key in the store), what about it, and the cure."""

    object: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.object}: {self.problem}. {self.cure}"


def document_digest(key: str, keys: Iterable[str], read: Callable[[str], bytes]) -> bytes:
    """SHA-256 of a metadata document; for an array of `plan/` or `codec/` its chunks follow, each preceded by its key.

    Args:
        key: of the document.
        keys: of all objects of the store, or of those of the array.
        read: gives an object's bytes.
    """
    digest = hashlib.sha256(read(key))
    if _has_chunks(key):
        folder = key.removesuffix("zarr.json") + "c/"
        for chunk in sorted((chunk for chunk in keys if chunk.startswith(folder)), key=lambda chunk: chunk.split("/")):
            digest.update(chunk.encode())
            digest.update(read(chunk))
    return digest.digest()


def stored_document_digest(location: Location, key: str) -> bytes:
    """The digest of a metadata document as it lies in a store.

    Raises:
        ValueError: an object that is not a plain file of a possible size.
        FileNotFoundError: the document is absent.
    """

    def read(key: str) -> bytes:
        require_object(location, key, MAX_DOCUMENT_BYTES if key.endswith("zarr.json") else MAX_PLAN_BYTES)
        return location.read(key)

    return document_digest(key, location.sizes(key.removesuffix("zarr.json")) if _has_chunks(key) else (), read)


def verify_documents(place: Place) -> list[Finding]:
    """Check the bytes of all metadata documents and of the plan against the digests in `documents`.

    Raises:
        ValueError: there is no cache at `place`, or one of another format.
    """
    location = locate(place)
    if not any(location.has(key) for key in ("zarr.json", DOCUMENTS_CHUNK)):
        Store(location)  # says what is there instead
    require_created(location)
    cure = metadata_cure(location)
    # Not the manifest but the number of digests says which arrays there are: the manifest may be what is damaged.
    variants = {
        32 * len(names.documents): names
        for names in itertools.starmap(ArrayNames, itertools.product((False, True), repeat=2))
    }
    assert len(variants) == 4, "two kinds of stores have the same number of documents"
    try:
        stored = read_chunk(location, DOCUMENTS_CHUNK, *variants)
    except (ValueError, FileNotFoundError) as error:
        _require_format(location)
        problem = "absent" if isinstance(error, FileNotFoundError) else error
        return [Finding(DOCUMENTS_CHUNK, f"{problem}, so no metadata can be checked", cure)]
    findings = []
    for position, key in enumerate(variants[len(stored)].documents):
        try:
            if stored_document_digest(location, key) != stored[32 * position : 32 * position + 32]:
                findings += list(_chunk_findings(location, key)) or [
                    Finding(key, "its bytes are not those that were written", cure)
                ]
        except FileNotFoundError:
            findings.append(Finding(key, "absent", cure))
        except ValueError as error:
            findings.append(Finding(key, str(error), cure))
    return findings


def _require_format(location: Location) -> None:
    """Refuse a store of another format, which has other documents; what else is wrong is for others to say."""
    try:
        Store(location)
    except ManifestMismatch:
        raise
    except ValueError:
        pass


def _chunk_findings(location: Location, document: str) -> Iterator[Finding]:
    """The chunks that explain a wrong digest of an array of plan or codec; none where it is the document itself."""
    if not _has_chunks(document):
        return
    name = document.removesuffix("/zarr.json")
    present = set(location.sizes(f"{name}/c/"))
    try:
        expected = set(chunk_keys(name, Store(location).manifest))
    except ValueError:
        expected = present  # the root document is damaged as well, and has a finding of its own
    for key in sorted(present | expected):
        if key not in present:
            yield Finding(key, "absent", metadata_cure(location))
        elif key not in expected:
            yield surplus(location, key)
        elif not checksum_holds(location.read(key)):
            yield Finding(key, "its checksum fails", metadata_cure(location))


def _has_chunks(document: str) -> bool:
    """Whether a document is that of an array of `plan/` or `codec/`, whose chunks its digest covers as well."""
    return document.startswith(("plan/", "codec/")) and document.count("/") == 2


def metadata_cure(location: Location) -> str:
    return f"Restore it from a copy of the cache, or capture a new one at another path than {location}"


def surplus(location: Location, key: str) -> Finding:
    """A file that no capture writes."""
    if key.endswith(".partial"):
        cure = f"Delete {location.url(key)}; a resumed capture does as well"
        return Finding(key, "left by a capture that was killed", cure)
    return Finding(key, "does not belong to a cache", f"Delete {location.url(key)}")
