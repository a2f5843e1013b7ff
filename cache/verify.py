"""Is every byte of a store what its capture wrote? And what is in a block?

Pure functions on a store's path: `verify_metadata` once, `verify_block` and `block_statistics` for every block. They
share nothing, so a pipeline maps them over the blocks as it likes.

Every object is under a SHA-256 that stands in another object: metadata and plan in `documents`, a block's objects in
its commit. The two that hold the digests end in a CRC-32C, as all chunks do. Digests say that something is wrong; the
chunks' own checksums then say where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np
import zarr

from cache.frames import content_bytes, largest_encoded
from cache.grid import grid_of
from cache.layout import (
    ASSIGNED_FIELDS,
    DOCUMENTS_CHUNK,
    ERROR_COLUMNS,
    POISON_INDEX,
    RECORD_FIELDS,
    ArrayNames,
    ArraySpec,
    StoreSizes,
    array_of,
    block_digest,
    block_keys,
    commit_key,
    document_digest,
    manifest_specs,
    names_of,
    object_key,
    open_root,
    plan_chunk_keys,
    read_plan,
    require_arrays,
    require_block_objects,
    require_created,
    require_rows,
    rows_in_block,
)
from cache.manifest import Manifest, first_difference
from cache.plan import Plan
from cache.quantize import CODED_FIELDS, LOGIT_FIELDS, FieldCodec
from cache.storage import Location, Place, StorageError, locate

# Histogram bins of logits that are stored as floats; values outside are counted in the outer bins.
FLOAT_EDGES = np.linspace(-64.0, 64.0, 257)
WEIGHT_EDGES = np.linspace(0.0, 1.0, 51)
# Rows decoded at a time, so that memory does not grow with the block.
ROWS_AT_ONCE = 65536


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the object (its key in the store), what about it, and the cure."""

    object: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.object}: {self.problem}. {self.cure}"


def verify_metadata(path: Place) -> list[Finding]:
    """Check all that is not a block: metadata documents, plan, completeness, files that do not belong.

    Raises:
        ValueError: there is no cache at `path`.
    """
    path = locate(path)
    damage = verify_documents(path)
    if damage:
        # How many blocks there are, and what they hold, nobody can tell before this is repaired.
        return damage
    root = open_root(path)
    try:
        require_arrays(path, _manifest(root))
    except ValueError as error:
        # Digests that agree with such metadata are no damage: nothing is opened that they describe.
        return [Finding("zarr.json", str(error), _metadata_cure(path))]
    return _manifest_findings(path, root) + _unwritten_findings(path, _manifest(root)) + _surplus_findings(path, root)


def verify_documents(path: Place) -> list[Finding]:
    """Check the bytes of all metadata documents and of the plan against the digests in `documents`.

    Raises:
        ValueError: there is no cache at `path`.
    """
    path = locate(path)
    if not any(path.has(key) for key in ("zarr.json", DOCUMENTS_CHUNK)):
        open_root(path)  # says what is there instead
    require_created(path)
    cure = _metadata_cure(path)
    # Not the manifest but the number of digests says which arrays there are: the manifest may be what is damaged.
    variants = {32 * len(names.documents): names for names in (ArrayNames(False), ArrayNames(True))}
    try:
        stored = _chunk_bytes(path, DOCUMENTS_CHUNK, *variants)
    except ValueError as error:
        return [Finding(DOCUMENTS_CHUNK, f"{error}, so no metadata can be checked", cure)]
    keys = variants[len(stored)].documents
    findings = []
    for position, key in enumerate(keys):
        if not path.has(key):
            findings.append(Finding(key, "absent", cure))
            continue
        try:
            digest = document_digest(path, key)
        except ValueError as error:
            findings.append(Finding(key, str(error), cure))
            continue
        if digest != stored[32 * position : 32 * position + 32]:
            findings += list(_plan_chunk_findings(path, key)) or [
                Finding(key, "its bytes are not those that were written", cure)
            ]
    return findings


def verify_block(path: Place, block: int, plan: Plan | None = None) -> list[Finding]:
    """Check one block: its commit, its objects against the commit, and its rows against the plan.

    Args:
        path: a store in which `verify_documents` finds nothing.
        block: index of the block.
        plan: the store's plan, read where it is not given.
    """
    path = locate(path)
    key = commit_key(block)
    recapture = f"Delete {path.url(key)}; then make cache-teacher CACHE={path} captures block {block} again"
    if not path.has(key):
        return [_uncaptured(path, key, f"block {block} was never captured")]
    try:
        commit = _chunk_bytes(path, key, 32)
    except ValueError as error:
        return [Finding(key, str(error), recapture)]
    if not any(commit):
        return [_uncaptured(path, key, f"holds zeros: block {block} was never captured")]
    root = open_root(path)
    plan = read_plan(root) if plan is None else plan
    specs = manifest_specs(StoreSizes.of_plan(plan), _manifest(root))
    # What is too large, or no file, is not even hashed.
    problems = list(_impossible_objects(path, specs, block))
    if not problems and block_digest(path, root, block) == commit:
        problems = _frame_problems(path, specs, block, plan) or _row_problems(root, block, plan)
    elif not problems:
        problems = _object_problems(path, root, block, plan)
    return [Finding(culprit, problem, recapture) for culprit, problem in problems]


def is_captured(path: Place, block: int) -> bool:
    """Whether a block has a commit, good or damaged."""
    return locate(path).has(commit_key(block))


def captured_blocks(path: Place, num_blocks: int) -> list[int]:
    """Blocks that have a commit, good or damaged; in one look, where an object store would be asked block by block."""
    commits = locate(path).sizes("committed/c/")
    return [block for block in range(num_blocks) if commit_key(block) in commits]


def _metadata_cure(path: Location) -> str:
    return f"Restore it from a copy of the cache, or capture a new one: make cache-teacher CACHE=<not {path}>"


def _uncaptured(path: Location, key: str, problem: str) -> Finding:
    return Finding(key, problem, f"Finish the capture with: make cache-teacher CACHE={path}")


def _chunk_bytes(location: Location, key: str, *sizes: int) -> bytes:
    """Content of an unsharded chunk, without zarr: the array's metadata may be what is damaged.

    Raises:
        ValueError: absent, a wrong checksum, or a content of another size.
    """
    problem = location.problem(key, largest_encoded(max(sizes)))
    if problem is not None:
        raise ValueError(problem)
    if not location.has(key):
        raise ValueError("absent")
    data = location.read(key)
    if not _checksum_holds(data):
        raise ValueError(f"its checksum fails ({len(data)} bytes)")
    said = content_bytes(data, is_blosc=False)
    if said not in sizes:
        raise ValueError(f"says that it holds {said} bytes, {' or '.join(map(str, sizes))} expected")
    try:
        content = bytes(numcodecs.zstd.decompress(data[:-4]))
    except Exception as error:
        raise ValueError(f"cannot be decompressed ({error})") from error
    if len(content) not in sizes:
        raise ValueError(f"holds {len(content)} bytes, {' or '.join(map(str, sizes))} expected")
    return content


def _checksum_holds(data: bytes) -> bool:
    """Whether a chunk ends in the CRC-32C of what comes before."""
    return len(data) > 4 and google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")


def _plan_chunk_findings(path: Location, document: str) -> Iterator[Finding]:
    """The chunks that explain a wrong digest of a plan array; none where it is the document itself."""
    if document == "plan/zarr.json" or not document.startswith("plan/"):
        return
    name = document.split("/")[1]
    present = set(path.sizes(f"plan/{name}/c/"))
    try:
        counts = _manifest(open_root(path)).plan
        expected = set(plan_chunk_keys(name, counts["num_patches"], counts["num_views"]))
    except (ValueError, KeyError, TypeError):
        expected = present  # the root document is damaged as well, and has a finding of its own
    for key in sorted(present | expected):
        if key not in present:
            yield Finding(key, "absent", _metadata_cure(path))
        elif key not in expected:
            yield _surplus(path, key)
        elif not _checksum_holds(path.read(key)):
            yield Finding(key, "its checksum fails", _metadata_cure(path))


def _manifest(root: zarr.Group) -> Manifest:
    return Manifest.from_json(root.attrs.asdict())


def _manifest_findings(path: Location, root: zarr.Group) -> list[Finding]:
    """Does the manifest describe this plan and these arrays?"""
    manifest = _manifest(root)
    try:
        plan = read_plan(root)
    except StorageError:
        raise
    except Exception as error:
        return [Finding("plan", f"cannot be read ({error})", _metadata_cure(path))]
    problems = list(_plan_problems(plan))
    difference = first_difference(plan.describe(), manifest.plan, "plan")
    if difference is not None:
        field, ours, theirs = difference
        problems.append(("zarr.json", f"{field} is {theirs} in the manifest but {ours} in the plan"))
    for name in CODED_FIELDS:
        codec = FieldCodec.from_json(manifest.codec[name])
        array = array_of(root, name)
        attributes: dict[str, Any] = array.attrs.asdict()
        stored = FieldCodec(str(array.dtype), attributes.get("scale_factor", 1.0), attributes.get("add_offset", 0.0))
        if stored != codec:
            problems.append((f"{name}/zarr.json", f"stores {stored} but the manifest says {codec}"))
    return [Finding(culprit, problem, _metadata_cure(path)) for culprit, problem in problems]


def _plan_problems(plan: Plan) -> Iterator[tuple[str, str]]:
    """Do counts and places of the plan agree with each other?"""
    if list(plan.patch_ids) != sorted(set(plan.patch_ids)):
        yield "plan/patch_id", "ids are not sorted, or not unique"
    rows = plan.row_stop.astype(np.int64) - plan.row_start
    wrong = np.flatnonzero(rows != plan.rows_per_view)
    if wrong.size:
        view = int(wrong[0])
        yield (
            "plan/row_stop",
            f"view {plan.view(view)} has {rows[view]} rows but {plan.rows_per_view[view]} in level_counts",
        )
        return
    yield from _order_problems(plan, "row_start", plan.row_start, plan.row_stop)
    if plan.assigned_start is not None and plan.assigned_stop is not None:
        yield from _order_problems(plan, "assigned_start", plan.assigned_start, plan.assigned_stop)


def _order_problems(plan: Plan, name: str, start: np.ndarray, stop: np.ndarray) -> Iterator[tuple[str, str]]:
    """Do the views of every block lie one after the other?"""
    # By stop as well: a view without rows starts where the next one does.
    order = np.lexsort((stop, start, plan.block))
    block, start, stop = plan.block[order], start[order], stop[order]
    is_first = np.append(True, block[1:] != block[:-1])
    expected = np.where(is_first, 0, np.append(0, stop[:-1]))
    if (start != expected).any():
        view = int(order[np.flatnonzero(start != expected)[0]])
        yield f"plan/{name}", f"rows of view {plan.view(view)} do not follow those of the view before it in its block"


def _unwritten_findings(path: Location, manifest: Manifest) -> list[Finding]:
    """Completeness, as one finding: a young cache would otherwise drown everything else."""
    count = int(manifest.plan["num_blocks"])
    missing = sorted(set(range(count)) - set(captured_blocks(path, count)))
    if not missing:
        return []
    first = commit_key(missing[0])
    if len(missing) == 1:
        return [_uncaptured(path, first, f"block {missing[0]} of {count} was never captured")]
    return [_uncaptured(path, first, f"{len(missing)} of {count} blocks were never captured, {missing[0]} first")]


def _surplus(path: Location, key: str) -> Finding:
    if key.endswith(".partial"):
        return Finding(
            key, "left by a capture that was killed", f"Delete {path.url(key)}; a resumed capture does as well"
        )
    return Finding(key, "does not belong to a cache", f"Delete {path.url(key)}")


def _surplus_findings(path: Location, root: zarr.Group) -> list[Finding]:
    """Files that no capture writes; those among the plan's chunks are found by the plan's digests."""
    names = names_of(root)
    expected = {*names.documents, DOCUMENTS_CHUNK}
    plan_chunks = tuple(f"plan/{name}/c/" for name in names.plan)
    count = int(_manifest(root).plan["num_blocks"])
    tails = {name: "/0" * (array_of(root, name).ndim - 1) for name in (*names.block, "committed")}

    def belongs(key: str) -> bool:
        if key in expected or key.startswith(plan_chunks):
            return True
        name, _, place = key.partition("/c/")
        number = place.split("/")[0]
        # Numbers as zarr writes them: 007 is another file than 7.
        return name in tails and number.isdecimal() and place == f"{int(number)}{tails[name]}" and int(number) < count

    return [_surplus(path, key) for key in sorted(path.sizes()) if not belongs(key)]


def _impossible_objects(path: Location, specs: Mapping[str, ArraySpec], block: int) -> Iterator[tuple[str, str]]:
    """Objects of a block that no capture could have written."""
    for spec in specs.values():
        if spec.dimensions[0] == "block":
            key = object_key(spec, block)
            problem = path.problem(key, spec.largest_object)
            if problem is not None:
                yield key, problem


def _frame_problems(path: Location, specs: Mapping[str, ArraySpec], block: int, plan: Plan) -> list[tuple[str, str]]:
    """Objects of an intact block whose chunks would decompress to another size than planned."""
    problems = []
    for name in (name for name in RECORD_FIELDS + ASSIGNED_FIELDS if name in specs):
        try:
            require_rows(path, specs[name], block, slice(0, rows_in_block(plan, name, block)))
        except ValueError as error:
            problems.append((object_key(specs[name], block), str(error)))
    return problems


def _object_problems(path: Location, root: zarr.Group, block: int, plan: Plan) -> list[tuple[str, str]]:
    """Which objects of a block explain that its digest is wrong."""
    problems = []
    specs = manifest_specs(StoreSizes.of_plan(plan), _manifest(root))
    for name, key in zip(names_of(root).block, block_keys(root, block), strict=True):
        rows = rows_in_block(plan, name, block)
        expected = rows > 0 or name == "capture_error"
        if not path.has(key):
            if expected:
                problems.append((key, f"absent, though block {block} is committed"))
        elif not expected:
            problems.append((key, f"does not belong there: block {block} has no rows"))
        else:
            try:
                require_rows(path, specs[name], block, slice(0, max(1, rows)))
                # Every byte of an object is under a checksum: that of an inner chunk, or of the shard's index.
                np.asarray(array_of(root, name)[block, : None if name == "capture_error" else rows])
            except StorageError:
                raise
            except Exception as error:
                problems.append((key, f"damaged ({str(error).rstrip('.')})"))
    if not problems:
        problems.append(
            (
                commit_key(block),
                f"every object of block {block} passes its own checksum, but they are not those of the commit: some "
                "come from elsewhere, or have lost chunks",
            )
        )
    return problems


def _row_problems(root: zarr.Group, block: int, plan: Plan) -> list[tuple[str, str]]:
    """Do the rows of an intact block keep what the plan says? If not, the capture is at fault, not the disk."""
    prior_key, weight_key = list(block_keys(root, block))[:2]
    rows = int(plan.rows_per_block[block])
    prior_index = np.asarray(array_of(root, "prior_index")[block, :rows]).astype(np.int64)
    weight = np.asarray(array_of(root, "weight")[block, :rows])
    problems = []
    if (prior_index == POISON_INDEX).any():
        problems.append((prior_key, f"{int((prior_index == POISON_INDEX).sum())} rows were never written"))
    if not ((weight > 0) & (weight <= 1)).all():
        problems.append((weight_key, "weights outside (0, 1]"))
    problems += _assigned_problems(root, block, plan)
    manifest = _manifest(root)
    for view in plan.views_of_block(block):
        index = prior_index[plan.row_start[view] : plan.row_stop[view]]
        if (np.diff(index) <= 0).any():
            problems.append((prior_key, f"view {plan.view(int(view))}: prior indices do not rise"))
            continue
        grid = grid_of(manifest.head, plan.patch_shape[plan.view_patch[view]])
        if grid is None:
            continue
        counts, planned = grid.level_counts(index), plan.level_counts[view]
        if index.size and index[-1] >= grid.num_priors:
            problems.append((prior_key, f"view {plan.view(int(view))}: prior {index[-1]} of {grid.num_priors}"))
        elif not np.array_equal(counts, planned):
            problems.append(
                (prior_key, f"view {plan.view(int(view))}: {counts.tolist()} rows by level, {planned.tolist()} planned")
            )
    return problems


def _assigned_problems(root: zarr.Group, block: int, plan: Plan) -> Iterator[tuple[str, str]]:
    """The same of the planned assignment, where there is one."""
    if plan.assigned_start is None or plan.assigned_stop is None:
        return
    rows = int(plan.assigned_per_block[block])
    keys = dict(zip(names_of(root).block, block_keys(root, block), strict=True))
    prior, matched = (np.asarray(array_of(root, name)[block, :rows]).astype(np.int64) for name in ASSIGNED_FIELDS)
    if (matched < -1).any():
        yield keys["assigned_object"], f"{int((matched < -1).sum())} rows were never written"
    for view in plan.views_of_block(block):
        index = prior[plan.assigned_start[view] : plan.assigned_stop[view]]
        if (np.diff(index) <= 0).any():
            yield keys["assigned_prior"], f"view {plan.view(int(view))}: prior indices do not rise"


@dataclass(frozen=True)
class BlockStatistics:
    """What is in a block, or in several: statistics of blocks add up with `+`.

    Attributes:
        blocks, views, rows: counts.
        rows_per_level: (L,) int64.
        ranges: smallest and largest decoded value of every field.
        histograms: of a logit field the counts of its codes, or, where it is stored as float, of values between
            `FLOAT_EDGES`; of the weight between `WEIGHT_EDGES`.
        outside: float logits beyond `FLOAT_EDGES`; they are counted in the outer bins.
        error_max: (E,) largest `capture_error` by column.
        error_sum: (E,) `capture_error` times rows, for means over rows.
        object_bytes: bytes on disk by array and block.
        block_rows: rows by block.
    """

    blocks: int
    views: int
    rows: int
    rows_per_level: np.ndarray
    ranges: Mapping[str, tuple[float, float]]
    histograms: Mapping[str, np.ndarray]
    outside: Mapping[str, int]
    error_max: np.ndarray
    error_sum: np.ndarray
    object_bytes: Mapping[str, Mapping[int, int]]
    block_rows: Mapping[int, int]

    def __add__(self, other: BlockStatistics) -> BlockStatistics:
        return BlockStatistics(
            blocks=self.blocks + other.blocks,
            views=self.views + other.views,
            rows=self.rows + other.rows,
            rows_per_level=self.rows_per_level + other.rows_per_level,
            ranges={
                name: (min(low, other.ranges[name][0]), max(high, other.ranges[name][1]))
                for name, (low, high) in self.ranges.items()
            },
            histograms={name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            outside={name: count + other.outside[name] for name, count in self.outside.items()},
            error_max=np.maximum(self.error_max, other.error_max),
            error_sum=self.error_sum + other.error_sum,
            object_bytes={name: {**sizes, **other.object_bytes[name]} for name, sizes in self.object_bytes.items()},
            block_rows={**self.block_rows, **other.block_rows},
        )

    def __radd__(self, other: int) -> BlockStatistics:
        """So that `sum` works, which starts at 0."""
        assert other == 0
        return self


def block_statistics(path: Place, block: int, plan: Plan | None = None) -> BlockStatistics:
    """Counts, ranges, histograms and bytes of one committed block; its checksums are zarr's, not its commit's.

    Args:
        path: the store.
        block: index of the block.
        plan: the store's plan, read where it is not given.

    Raises:
        ValueError: an object cannot be decoded.
    """
    path = locate(path)
    root = open_root(path)
    plan = read_plan(root) if plan is None else plan
    manifest = _manifest(root)
    specs = manifest_specs(StoreSizes.of_plan(plan), manifest)
    views = plan.views_of_block(block)
    rows = int(plan.rows_per_block[block])
    counters = {name: _FieldCounter(name, manifest) for name in RECORD_FIELDS}
    sizes = {}
    try:
        require_block_objects(path, specs, block)
        for name in RECORD_FIELDS:
            require_rows(path, specs[name], block, slice(0, rows))
        for name, key in zip(names_of(root).block, block_keys(root, block), strict=True):
            sizes[name] = {block: path.size(key) or 0}
        for name, counter in counters.items():
            for start in range(0, rows, ROWS_AT_ONCE):
                counter.count(np.asarray(array_of(root, name)[block, start : min(start + ROWS_AT_ONCE, rows)]))
        error = np.asarray(array_of(root, "capture_error")[block], dtype=np.float64)
    except StorageError:
        raise
    except Exception as problem:
        raise ValueError(f"cache {path}, block {block}: {problem}. Run make verify-cache CACHE={path}") from problem
    assert error.shape == (len(ERROR_COLUMNS),)
    return BlockStatistics(
        blocks=1,
        views=len(views),
        rows=rows,
        rows_per_level=plan.level_counts[views].sum(axis=0, dtype=np.int64),
        ranges={name: (counter.low, counter.high) for name, counter in counters.items()},
        histograms={name: counter.histogram for name, counter in counters.items() if counter.histogram.size},
        outside={name: counters[name].outside for name in LOGIT_FIELDS},
        error_max=error,
        error_sum=error * rows,
        object_bytes=sizes,
        block_rows={block: rows},
    )


class _FieldCounter:
    """Range and histogram of one field, a part of its rows at a time."""

    def __init__(self, name: str, manifest: Manifest) -> None:
        self.codec = FieldCodec.from_json(manifest.codec[name]) if name in LOGIT_FIELDS else None
        self.edges = WEIGHT_EDGES if name == "weight" else FLOAT_EDGES
        self.low, self.high, self.outside = np.inf, -np.inf, 0
        if name == "prior_index":
            self.histogram = np.zeros(0, dtype=np.int64)
        elif self.codec is None or self.codec.is_float:
            self.histogram = np.zeros(len(self.edges) - 1, dtype=np.int64)
        else:
            self.histogram = np.zeros(self.codec.largest_code + 1, dtype=np.int64)

    def count(self, values: np.ndarray) -> None:
        ends = np.asarray([values.min(), values.max()])
        if self.codec is not None:
            ends = self.codec.decode(ends)
        self.low, self.high = min(self.low, float(ends[0])), max(self.high, float(ends[1]))
        if values.dtype.kind == "f":
            low, high = self.edges[0], self.edges[-1]
            self.outside += int(((values < low) | (values > high)).sum())
            self.histogram += np.histogram(values.clip(low, high), self.edges)[0]
        elif self.codec is not None:
            self.histogram += np.bincount(values.ravel(), minlength=len(self.histogram))
