"""Is every byte of a store what its capture wrote?

`verify_metadata` once, `verify_block` for every block. Blocks share nothing, so a pipeline maps over them as it likes.

Every object is under a SHA-256 that stands in another object: metadata and plan in `documents`, a block's objects in
its commit. The two that hold the digests end in a CRC-32C, as all chunks do. Digests say that something is wrong; the
chunks' own checksums then say where.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cache.cells import HeadShape
from cache.codec import LOGIT_FIELDS
from cache.commits import read_commit, stored_block_digest
from cache.documents import Finding, metadata_cure, surplus, verify_documents
from cache.grid import grid_of
from cache.layout import (
    ASSIGNED_FIELDS,
    DOCUMENTS_CHUNK,
    POISON_INDEX,
    commit_key,
    object_key,
    rows_in_block,
)
from cache.manifest import first_difference
from cache.plan import Plan
from cache.storage import Place, StorageError, locate
from cache.store import Store
from cache.trust import require_chunks

# Rows of logits read at a time, so that memory does not grow with the block.
ROWS_AT_ONCE = 16384
# What is wrong with an object, and its key.
Problem = tuple[str, str]


def verify_metadata(place: Place) -> list[Finding]:
    """Check all that is not a block: metadata documents, plan, completeness, files that do not belong.

    Raises:
        ValueError: there is no cache at `place`.
    """
    location = locate(place)
    damage = verify_documents(location)
    if damage:
        # How many blocks there are, and what they hold, nobody can tell before this is repaired.
        return damage
    store = Store(location)
    cure = metadata_cure(location)
    try:
        store.specs  # noqa: B018
    except ValueError as error:
        # Digests that agree with such metadata are no damage: nothing is opened that they describe.
        return [Finding("zarr.json", str(error), cure)]
    problems = [Finding(culprit, problem, cure) for culprit, problem in _metadata_problems(store)]
    return problems + _unwritten_findings(store) + _surplus_findings(store)


def verify_block(store: Store, block: int) -> list[Finding]:
    """Check one block: its commit, its objects against the commit, and its rows against the plan.

    Args:
        store: one in which `verify_documents` finds nothing.
        block: index of the block.
    """
    location, key = store.location, commit_key(block)
    recapture = f"Delete {location.url(key)}, then capture block {block} again"
    try:
        commit = read_commit(location, block)
    except ValueError as error:
        return [Finding(key, str(error), recapture)]
    if commit is None:
        return [_uncaptured(store, block, f"block {block} was never captured")]
    if not any(commit):
        return [_uncaptured(store, block, f"holds zeros: block {block} was never captured")]
    # What is too large, or no file, is not even hashed.
    problems = list(_impossible_objects(store, block))
    if not problems and stored_block_digest(location, store.names.block_keys(block)) == commit:
        problems = list(_chunk_problems(store, block)) or list(_row_problems(store, block))
    elif not problems:
        problems = list(_object_problems(store, block)) or [
            (
                key,
                f"every object of block {block} passes its own checksum, but they are not those of the commit: some "
                "come from elsewhere, or have lost chunks",
            )
        ]
    return [Finding(culprit, problem, recapture) for culprit, problem in problems]


def _uncaptured(store: Store, block: int, problem: str) -> Finding:
    return Finding(commit_key(block), problem, "Finish the capture")


def _metadata_problems(store: Store) -> Iterator[Problem]:
    """Does the manifest describe this plan and these arrays?"""
    try:
        plan = store.plan
    except StorageError:
        raise
    except Exception as error:
        yield "plan", f"cannot be read ({error})"
        return
    if list(plan.patch_ids) != sorted(set(plan.patch_ids)):
        yield "plan/patch_id", "ids are not sorted, or not unique"
    for kind, (start, stop) in plan.row_ranges.items():
        yield from _order_problems(plan, f"{kind}_start", start, stop)
    difference = first_difference(plan.describe(), store.manifest.plan, "plan")
    if difference is not None:
        field, ours, theirs = difference
        yield "zarr.json", f"{field} is {theirs} in the manifest but {ours} in the plan"
    if not store.names.cells:
        return
    try:
        store.codec  # noqa: B018
    except ValueError as error:
        yield "codec", str(error)
    scale, step = store.array("coefficients").attrs.asdict().get("scale_factor"), store.manifest.codec["step"]
    if scale != step:
        yield "coefficients/zarr.json", f"stores scale_factor {scale} but the manifest says {step}"


def _order_problems(plan: Plan, name: str, start: np.ndarray, stop: np.ndarray) -> Iterator[Problem]:
    """Do the views of every block lie one after the other?"""
    # By stop as well: a view without rows starts where the next one does.
    order = np.lexsort((stop, start, plan.block))
    block, start, stop = plan.block[order], start[order], stop[order]
    is_first = np.append(True, block[1:] != block[:-1])
    expected = np.where(is_first, 0, np.append(0, stop[:-1]))
    if (start != expected).any():
        view = int(order[np.flatnonzero(start != expected)[0]])
        yield f"plan/{name}", f"rows of view {plan.view(view)} do not follow those of the view before it in its block"


def _unwritten_findings(store: Store) -> list[Finding]:
    """Completeness, as one finding: a young cache would otherwise drown everything else."""
    count = store.num_blocks
    missing = sorted(set(range(count)) - set(store.captured_blocks()))
    if not missing:
        return []
    if len(missing) == 1:
        return [_uncaptured(store, missing[0], f"block {missing[0]} of {count} was never captured")]
    problem = f"{len(missing)} of {count} blocks were never captured, {missing[0]} first"
    return [_uncaptured(store, missing[0], problem)]


def _surplus_findings(store: Store) -> list[Finding]:
    """Files that no capture writes; those among the chunks of plan and codec are found by their digests."""
    names = store.names
    expected = {*names.documents, DOCUMENTS_CHUNK}
    plan_chunks = tuple(f"{name}/c/" for name in names.all if name.startswith(("plan/", "codec/")))

    def belongs(key: str) -> bool:
        if key in expected or key.startswith(plan_chunks):
            return True
        name, _, place = key.partition("/c/")
        number = place.split("/")[0]
        if name not in (*names.block, "committed") or not number.isdecimal() or int(number) >= store.num_blocks:
            return False
        # Numbers as zarr writes them: 007 is another file than 7.
        return key == object_key(name, int(number))

    return [surplus(store.location, key) for key in sorted(store.location.sizes()) if not belongs(key)]


def _impossible_objects(store: Store, block: int) -> Iterator[Problem]:
    """Objects of a block that no capture could have written."""
    for name in (*store.names.block, "committed"):
        key = object_key(name, block)
        problem = store.location.problem(key, store.specs[name].largest_object)
        if problem is not None:
            yield key, problem


def _chunk_problems(store: Store, block: int) -> Iterator[Problem]:
    """Objects of an intact block whose chunks would decompress to another size than planned."""
    for name in store.names.record:
        key = object_key(name, block)
        try:
            require_chunks(store.location, key, store.specs[name], rows_in_block(store.plan, name, block))
        except ValueError as error:
            yield key, str(error)


def _object_problems(store: Store, block: int) -> Iterator[Problem]:
    """Which objects of a block explain that its digest is wrong."""
    for name, key in zip(store.names.block, store.names.block_keys(block), strict=True):
        is_error = name == "capture_error"
        rows = None if is_error else rows_in_block(store.plan, name, block)
        if not store.location.has(key):
            if rows != 0:
                yield key, f"absent, though block {block} is committed"
        elif rows == 0:
            yield key, f"does not belong there: block {block} has no rows"
        else:
            try:
                require_chunks(store.location, key, store.specs[name], rows)
                # Every byte of an object is under a checksum: that of an inner chunk, or of the shard's index.
                np.asarray(store.array(name)[store.specs[name].rows_of(block, slice(rows))])
            except StorageError:
                raise
            except Exception as error:
                yield key, f"damaged ({str(error).rstrip('.')})"


def _row_problems(store: Store, block: int) -> Iterator[Problem]:
    """Do the rows of an intact block keep what the plan says? If not, the capture is at fault, not the disk."""
    plan, names = store.plan, store.names
    index_name, weight_name = names.record[:2]
    index_key, priors = object_key(index_name, block), HeadShape.of(store.manifest.head).priors if names.cells else 1
    rows = int(plan.rows_per_block()[block])
    index = np.asarray(store.array(index_name)[block, :rows]).astype(np.int64)
    weight = np.asarray(store.array(weight_name)[store.specs[weight_name].rows_of(block, slice(rows))])
    if (index == POISON_INDEX).any():
        yield index_key, f"{int((index == POISON_INDEX).sum())} rows were never written"
    # Of a cell, priors that are not stored have a weight of 0.
    weight = weight.reshape(rows, priors)
    if not ((weight >= 0) & (weight <= 1)).all() or (weight == 0).all(axis=1).any():
        yield object_key(weight_name, block), "weights outside (0, 1]"
    yield from _poison_problems(store, block)
    yield from _assigned_problems(store, block)
    for view in plan.views_of_block(block).tolist():
        view_rows = slice(plan.row_start[view], plan.row_stop[view])
        if (np.diff(index[view_rows]) <= 0).any():
            yield index_key, f"view {plan.view(view)}: {index_name} does not rise"
            continue
        stored = (index[view_rows, None] * priors + np.arange(priors))[weight[view_rows] > 0]
        if len(stored) != plan.priors_per_view[view]:
            problem = f"view {plan.view(view)}: {len(stored)} priors, {plan.priors_per_view[view]} planned"
            yield object_key(weight_name, block), problem
            continue
        grid = grid_of(store.manifest.head, plan.view_shape[view])
        if grid is None:
            continue
        counts, planned = grid.level_counts(stored), plan.level_counts[view]
        if stored.size and stored[-1] >= grid.num_priors:
            yield index_key, f"view {plan.view(view)}: prior {stored[-1]} of {grid.num_priors}"
        elif not np.array_equal(counts, planned):
            yield index_key, f"view {plan.view(view)}: {counts.tolist()} priors by level, {planned.tolist()} planned"


def _poison_problems(store: Store, block: int) -> Iterator[Problem]:
    """Logits or codes that are fill values, a part of the block at a time."""
    rows = int(store.plan.rows_per_block()[block])
    for name in LOGIT_FIELDS if not store.names.cells else ("coefficients",):
        spec, poison = store.specs[name], 0
        for start in range(0, rows, ROWS_AT_ONCE):
            values = np.asarray(store.array(name)[spec.rows_of(block, slice(start, min(start + ROWS_AT_ONCE, rows)))])
            poison += int(
                np.count_nonzero(values != values if np.isnan(spec.fill_value) else values == spec.fill_value)
            )
        if poison:
            yield object_key(name, block), f"{poison} values were never written"


def _assigned_problems(store: Store, block: int) -> Iterator[Problem]:
    """The same of the planned assignment, where there is one."""
    plan = store.plan
    if "assigned" not in plan.row_ranges:
        return
    start, stop = plan.row_ranges["assigned"]
    rows = int(plan.rows_per_block("assigned")[block])
    prior, matched = (np.asarray(store.array(name)[block, :rows]).astype(np.int64) for name in ASSIGNED_FIELDS)
    if (matched < -1).any():
        yield object_key("assigned_object", block), f"{int((matched < -1).sum())} rows were never written"
    for view in plan.views_of_block(block).tolist():
        if (np.diff(prior[start[view] : stop[view]]) <= 0).any():
            yield object_key("assigned_prior", block), f"view {plan.view(view)}: prior indices do not rise"
