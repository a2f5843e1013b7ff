"""A store that has been opened: what reader, writer, verification and statistics are handed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from cache.cells import CellCodec, HeadShape
from cache.codec import Codec, RowCodec
from cache.commits import read_commit
from cache.layout import (
    DOCUMENTS_CHUNK,
    ArrayNames,
    ArraySpec,
    chunk_keys,
    commit_key,
    decode_ids,
    object_key,
    rows_in_block,
)
from cache.manifest import FORMAT, Manifest, ManifestMismatch
from cache.plan import Plan
from cache.storage import Location, Place, StorageError, locate
from cache.trust import (
    read_document,
    require_arrays,
    require_block,
    require_chunks,
    require_codec,
    require_manifest,
    require_object,
    require_plan,
)
from cache.view import draw_names

REQUESTS_AT_ONCE = 16


class CaptureNeeded(ValueError):
    """A cache that a capture has to make or to finish: what is wrong, and where it lies.

    is_damaged: what lies there stays, so that another path is needed.
    """

    def __init__(self, problem: str, place: Place | None = None, *, is_damaged: bool = False) -> None:
        super().__init__(problem)
        self.place = place
        self.is_damaged = is_damaged


class Store:
    """One store, opened for reading.

    Opening reads the root document alone, so it costs the same for any number of views. The other documents are read
    before the first array, the plan with the first question about views; `trust` checks each of them once.

    Attributes:
        location: where it lies.
        manifest: what it was made from.
        names: its arrays.

    Args:
        place: a folder, or `s3://bucket/name.zarr`.
        allow_unfinished: on S3, open a store whose creation was cut short as well: its manifest is there.

    Raises:
        ValueError: nothing there, something that is not a cache of this format, or a manifest that no capture writes.
    """

    def __init__(self, place: Place, *, allow_unfinished: bool = False) -> None:
        self.location = locate(place)
        self.manifest: Manifest = _read_manifest(self.location)
        self.names = ArrayNames.of(self.manifest)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        if not allow_unfinished:
            require_created(self.location)

    @cached_property
    def _root(self) -> zarr.Group:
        return zarr.open_group(self.location.zarr_store(), mode="r", zarr_format=3, use_consolidated=False)

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """Every array by name, as manifest and documents agree.

        Raises:
            ValueError: a document is absent, or says something else.
        """
        return require_arrays(self.location, self.manifest)

    def array(self, name: str) -> zarr.Array[Any]:
        """An array, through zarr-python."""
        if name not in self._arrays:
            # Through the specs, so that its metadata have been looked at.
            array = self._root[self.specs[name].name]
            assert isinstance(array, zarr.Array), f"{name} is a group"
            self._arrays[name] = array
        return self._arrays[name]

    @cached_property
    def plan(self) -> Plan:
        """Every view and where its rows lie.

        Raises:
            ValueError: a chunk is lost or damaged, or the plan points outside its arrays.
        """
        arrays = {name: self._whole_array(f"plan/{name}") for name in self.names.plan}
        try:
            patch_ids = decode_ids(arrays.pop("patch_id"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"cache {self.location}: plan/patch_id is not UTF-8 ({error}). "
                f"Run make verify-cache CACHE={self.location}"
            ) from None
        plan = Plan(patch_ids=patch_ids, draws=draw_names(self.manifest.views), **arrays)
        require_plan(self.location, plan, self.manifest, self.specs)
        return plan

    @cached_property
    def codec(self) -> Codec:
        """How logits are held.

        Raises:
            ValueError: an array of `codec/` is lost or damaged, or is not the manifest's.
        """
        section = self.manifest.codec
        if not self.names.cells:
            return RowCodec(section["dtype"])
        arrays = {name: self._whole_array(f"codec/{name}") for name in self.names.codec}
        codec = CellCodec(HeadShape.of(self.manifest.head), section["step"], section["wide_columns"], **arrays)
        require_codec(self.location, codec, section)
        return codec

    def _whole_array(self, name: str) -> np.ndarray:
        """An array of `plan/` or `codec/`, by its path."""
        spec, keys = self.specs[name], chunk_keys(name, self.manifest)
        for key in keys:
            require_object(self.location, key, spec.largest_object)
        try:
            for key in keys:
                require_chunks(self.location, key, spec)
            # A lost chunk must raise: read as zeros it would be a plan all the same.
            return np.asarray(self.array(name).with_config({"read_missing_chunks": False})[...])
        except StorageError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"cache {self.location}: {name} cannot be read: {reason}. Run make verify-cache CACHE={self.location}"
            ) from error

    def require_block(self, block: int, fields: Iterable[str]) -> None:
        """Refuse a block with an object that is not a plain file of a possible size, or with a chunk of one of these
        fields that would decompress to anything but its shape.

        Raises:
            ValueError: naming the object.
        """
        require_block(self.location, self.specs, block)
        for field in fields:
            rows = rows_in_block(self.plan, field, block)
            require_chunks(self.location, object_key(field, block), self.specs[field], rows)

    def is_committed(self, block: int) -> bool:
        """Whether a block has been captured.

        Raises:
            ValueError: its commit is damaged.
        """
        try:
            return any(read_commit(self.location, block) or b"")
        except ValueError as error:
            raise ValueError(
                f"cache {self.location}: {commit_key(block)}: {error}. Run make verify-cache CACHE={self.location}"
            ) from error

    def missing_blocks(self) -> list[int]:
        """Blocks without a commit; none in a complete cache.

        Raises:
            ValueError: a commit is damaged.
        """
        captured = self.captured_blocks()
        # On S3 the time is that of waiting for answers.
        with ThreadPoolExecutor(REQUESTS_AT_ONCE if self.location.is_remote else 1) as executor:
            is_committed = dict(zip(captured, executor.map(self.is_committed, captured), strict=True))
        return [block for block in range(self.num_blocks) if not is_committed.get(block)]

    def captured_blocks(self) -> list[int]:
        """Blocks that have a commit, good or damaged; in one look, where S3 would be asked block by block."""
        commits = self.location.sizes("committed/c/")
        return [block for block in range(self.num_blocks) if commit_key(block) in commits]

    @property
    def num_blocks(self) -> int:
        return self.specs["committed"].shape[0]


def _read_manifest(location: Location) -> Manifest:
    """The manifest in a root document that is one of this format."""
    if not location.has("zarr.json"):
        if not location.exists():
            raise CaptureNeeded(f"cache {location} does not exist", location)
        raise ValueError(f"{location} exists but is not a teacher cache (no zarr.json). Give another CACHE= path")
    document = read_document(location, "zarr.json")
    attributes = document.get("attributes", {})
    if document.get("zarr_format") != 3 or document.get("node_type") != "group" or not isinstance(attributes, dict):
        raise ValueError(f"{location} is not a Zarr v3 group. Give another CACHE= path")
    stored = attributes.get("format")
    if stored is None:
        raise ValueError(f"{location} is a Zarr group but not a teacher cache (no `format`). Give another CACHE= path")
    if stored != FORMAT:
        raise ManifestMismatch(
            f"cache {location}: format is {stored} but this code reads format {FORMAT}. Capture a new cache"
        )
    if document.get("consolidated_metadata") is not None:
        raise ValueError(
            f"cache {location}: zarr.json holds consolidated metadata, which no capture writes. Restore it"
        )
    return require_manifest(location, attributes)


def require_created(location: Location) -> None:
    """Refuse a store on S3 that is still being laid out: there is no rename that would show it whole or not at all.

    Raises:
        ValueError: `documents`, which is written last, is not there, and no block is.
    """
    if location.is_remote and not location.has(DOCUMENTS_CHUNK) and not location.sizes("committed/c/"):
        raise CaptureNeeded(
            f"cache {location} is still being laid out, or its capture was stopped while it was ({DOCUMENTS_CHUNK} is "
            "not there yet). Wait for the capture, or go on with it",
            location,
        )
