"""What a capture finds where its cache shall be: the codecs of a store that it continues, and room on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from cache.manifest import as_stored, first_difference, require_equal
from cache.plan import Plan
from cache.quantize import FieldCodec, codecs_of
from cache.reader import CacheReader
from cache.storage import Location
from cache.store import Store
from pipelines.base.files import bytes_on_disk, require_room
from pipelines.base.invocation import again
from pipelines.base.stores import path_beside
from pipelines.capture.figures import row_bytes
from pipelines.capture.probe import Probe


def stored_codecs(path: Location, requested: Mapping[str, Any]) -> dict[str, FieldCodec] | None:
    """The codecs of a store that is being resumed: fixed before its first block. None where there is no store."""
    if not path.exists():
        return None
    stored = Store(path, allow_unfinished=True).manifest.codec
    for field, value in requested.items():
        if stored["requested"][field] != value:
            raise ValueError(
                f"cache {path}: codec.{field} is {stored['requested'][field]!r} in the cache but {value!r} here. "
                f"Give the stored codec in the config, or another path: {again(cache=path_beside(path))}"
            )
    return codecs_of(stored)


def require_same_numeric(path: Location, sections: Mapping[str, Any]) -> None:
    """Refuse to continue a store in another arithmetic: the last bits of the answers would differ inside it.

    Args:
        sections: of the manifest that this capture would write.

    Raises:
        ManifestMismatch: naming the field, both values, and the option that continues the store.
    """
    if not path.exists():
        return
    stored, numeric = Store(path, allow_unfinished=True).manifest.numeric, as_stored(sections["numeric"])
    difference = first_difference(numeric, stored)
    if difference is None:
        return
    field, _, theirs = difference
    option = _option(field, theirs, len(sections["views"]["flips"]))
    where = f"with ARGS='{option}'" if option else "where it is the same"
    cure = f"Continue it {where}, or capture into another CACHE= path"
    require_equal({"numeric": numeric}, {"numeric": stored}, place=f"cache {path}", cure=cure)


def _option(field: str, stored: Any, flips: int) -> str | None:
    """The option of the command line that makes a field of `numeric` what is stored; None where the machine does."""
    match field:
        case "threads" | "dtype" | "device":
            return f"--{field} {stored}"
        case "views_per_batch":
            return f"--patches-per-batch {stored // flips}"
        case "tf32" | "channels_last" | "compile":
            name = field.replace("_", "-")
            return f"--{name}" if stored else f"--no-{name}"
    return None


def require_room_for(
    path: Location, plan: Plan, config: Config, codecs: Mapping[str, FieldCodec], probe: Probe | None
) -> None:
    """Refuse a capture that will not fit on its disk. S3 does not fill up.

    Raises:
        ValueError: naming what it needs and what is free.
    """
    folder = path.disk()
    if folder is None:
        return
    if probe is not None:
        needed, basis = float(probe.bytes), "by the probe's prediction"
    else:
        missing = int(plan.rows_per_block[CacheReader(path).missing_blocks()].sum())
        captured = plan.num_rows - missing
        if captured:
            needed, basis = bytes_on_disk(path) / captured * missing, "at the size of the blocks that it holds"
        else:
            needed, basis = float(row_bytes(codecs, config) * missing), "before compression"
    cure = f"Make room, give another path (CACHE=), or a coarser codec: {again(options=['codec=small'])}"
    require_room(folder, needed, f"{basis}, cache {path}", cure)
