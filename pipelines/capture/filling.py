"""A whole capture: the probe where the store is new, its manifest, room on the disk, then every missing block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mmengine.config import Config

from cache.codec import CodecRequest, describe_codec
from cache.manifest import Manifest
from cache.plan import Plan
from cache.storage import Location
from cache.writer import CacheWriter, Part
from pipelines.capture.engine import Engine
from pipelines.capture.kept import KeptRegions
from pipelines.capture.probe import Probe
from pipelines.capture.resume import require_room_for, require_same_numeric, stored_codec


@dataclass(frozen=True)
class Filled:
    """What a capture has done: bytes written, seconds after the probe, and the probe where there was one."""

    written: int
    seconds: float
    probe: Probe | None


def fill_cache(
    path: Location,
    plan: Plan,
    config: Config,
    engine: Engine,
    kept: KeptRegions | None = None,
    *,
    part: Part = Part(),  # noqa: B008 -- frozen
    tell: Callable[[Probe], None] | None = None,
) -> Filled:
    """Fill the blocks of a part, all by default, of a store that is new or of the same capture.

    Args:
        kept: regions that planning has found in this process.
        tell: takes what the probe says, before the capture begins.

    Raises:
        ValueError: the store is of another capture, the disk has no room, or a value cannot be stored.
    """
    request = CodecRequest.of(config.codec)
    codec = stored_codec(path, request)
    sections, probe = engine.describe(plan, kept, probe=codec is None)
    require_same_numeric(path, sections)
    if probe is not None:
        codec = probe.codec
        if tell is not None:
            tell(probe)
    assert codec is not None
    manifest = Manifest(**sections, plan=plan.describe(), codec=describe_codec(request, codec))
    require_room_for(path, probe)
    with CacheWriter(path, manifest, plan, codec, part) as writer:
        started = time.perf_counter()
        written = engine.fill(writer)
        return Filled(written, time.perf_counter() - started, probe)
