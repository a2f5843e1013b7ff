"""What a capture finds where its cache shall be, asked before anything is planned: a store to continue, or room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cache import __version__
from cache.codec import Codec, CodecRequest
from cache.manifest import as_stored, first_difference, require_equal
from cache.storage import Location
from cache.store import Store
from cache.writer import Part
from pipelines.base.files import require_room
from pipelines.base.invocation import again
from pipelines.base.ready import require_writable
from pipelines.base.stores import path_beside

if TYPE_CHECKING:
    from pipelines.capture.probe import Probe


def require_usable_place(path: Location, part: Part) -> None:
    """Refuse a path where no cache can be written: something else lies there, or another capture writes these blocks.

    Raises:
        ValueError: naming it.
    """
    folder = path.disk()
    if path.exists():
        store = Store(path, allow_unfinished=True)
        with path.lock(part.blocks(store.manifest.plan["num_blocks"])):
            pass
    elif folder is not None:
        require_writable(folder.parent, "CACHE")


def require_same_sections(path: Location, sections: Mapping[str, Any]) -> None:
    """Refuse to continue a store of another teacher, student or version of the code.

    Args:
        sections: of the manifest that this capture would write, without what needs a plan.

    Raises:
        ManifestMismatch: naming the first field that differs, both values and the cure.
    """
    if not path.exists():
        return
    require_same_numeric(path, sections)
    wanted = {"code_version": __version__, **{name: value for name, value in sections.items() if name != "numeric"}}
    cure = f"Give another path, or move this cache away: {again(cache=path_beside(path))}"
    manifest = Store(path, allow_unfinished=True).manifest
    require_equal(as_stored(wanted), manifest, place=f"cache {path}", cure=cure)


def stored_codec(path: Location, request: CodecRequest) -> Codec | None:
    """The codec of a store that is being resumed: fixed before its first block. None where there is no store."""
    if not path.exists():
        return None
    store = Store(path, allow_unfinished=True)
    for field, value in request.describe().items():
        if store.manifest.codec[field] != value:
            raise ValueError(
                f"cache {path}: codec.{field} is {store.manifest.codec[field]!r} in the cache but {value!r} here. "
                f"Give the stored codec in the config, or another path: {again(cache=path_beside(path))}"
            )
    return store.codec


def require_same_numeric(path: Location, sections: Mapping[str, Any]) -> None:
    """Refuse to continue a store in another arithmetic: the last bits of the answers would differ inside it.

    Args:
        sections: of the manifest that this capture would write.

    Raises:
        ManifestMismatch: naming the field, both values, and the option that continues the store.
    """
    if not path.exists():
        return
    numeric, manifest = as_stored(sections["numeric"]), Store(path, allow_unfinished=True).manifest
    stored = {name: manifest.numeric.get(name) for name in numeric}
    difference = first_difference(numeric, stored)
    if difference is None:
        return
    field, _, theirs = difference
    option = _option(field, theirs)
    where = f": {again(arguments=option)}" if option else " where it is the same"
    cure = f"Continue it{where}; or capture into another path: {again(cache=path_beside(path))}"
    require_equal({"numeric": numeric}, {"numeric": stored}, place=f"cache {path}", cure=cure)


def _option(field: str, stored: Any) -> list[str] | None:
    """The option of the command line that makes a field of `numeric` what is stored; None where the machine does."""
    match field:
        case "threads" | "dtype" | "device":
            return [f"--{field}", str(stored)]
        case "patches_per_batch":
            return ["--patches-per-batch", str(stored)]
        case "tf32" | "channels_last" | "compile":
            name = field.replace("_", "-")
            return [f"--{name}" if stored else f"--no-{name}"]
    return None


def require_room_for(path: Location, probe: Probe | None) -> None:
    """Refuse a new cache that will not fit on its disk. S3 does not fill up.

    A capture that goes on is not refused: what it still needs nobody knows, and a full disk loses nothing.

    Raises:
        ValueError: naming what it needs and what is free.
    """
    folder = path.disk()
    if folder is None or probe is None:
        return
    cure = f"Make room, give another path (CACHE=), or a coarser codec: {again(options=['codec=small'])}"
    require_room(folder, float(probe.bytes), f"by the probe's prediction, cache {path}", cure)
