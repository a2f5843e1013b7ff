"""The plan of a cache: every view, how many rows its region has, and where those rows will lie."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np

from cache.manifest import array_digest
from cache.view import View

VIEWS_PER_BLOCK = 64


@dataclass(frozen=True)
class PlannedPatch:
    """One patch as the labels describe it.

    image_sha256, label_sha256: digests of the files' bytes.
    draw_view: (K,) the view that each draw makes, numbered from 0 by first draw; F views.
    view_shape: (F, 2) height and width of each view in pixels, with padding.
    view_crc32c: (F,) CRC-32C of each view's pixels, (H, W, 3) uint8 without padding.
    level_counts: (F, L) stored priors on every level.
    cell_counts: (F,) cells with a stored prior.
    assigned_counts: (F,) priors that the assignment does not call negative; None where it is not planned.
    """

    patch_id: str
    image_sha256: bytes
    label_sha256: bytes
    draw_view: np.ndarray
    view_shape: np.ndarray
    view_crc32c: np.ndarray
    level_counts: np.ndarray
    cell_counts: np.ndarray
    assigned_counts: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    """Where each view's rows lie; the arrays are those of the store's `plan/` group.

    Patches are sorted by id, views by patch and first draw. P patches, V views, L levels, K draws a patch; `draws` are
    their names. A row of a view is a stored prior, or a cell with such, as the codec stores them.
    """

    patch_ids: tuple[str, ...]
    image_sha256: np.ndarray  # (P, 32) uint8
    label_sha256: np.ndarray  # (P, 32) uint8
    draws: tuple[str, ...]
    draw_view: np.ndarray  # (P, K) uint32
    view_patch: np.ndarray  # (V,) uint32
    view_draw: np.ndarray  # (V,) uint32, the first draw that makes it
    view_shape: np.ndarray  # (V, 2) uint32 height and width, with padding
    view_crc32c: np.ndarray  # (V,) uint32, of the pixels that the teacher sees
    level_counts: np.ndarray  # (V, L) uint32
    block: np.ndarray  # (V,) uint32
    row_start: np.ndarray  # (V,) uint32, inside the block
    row_stop: np.ndarray  # (V,) uint32
    # Rows of the planned assignment, counted by themselves; None where it is not planned.
    assigned_start: np.ndarray | None = None  # (V,) uint32, inside the block
    assigned_stop: np.ndarray | None = None  # (V,) uint32

    @property
    def num_views(self) -> int:
        return len(self.view_patch)

    @cached_property
    def num_blocks(self) -> int:
        return int(self.block.max()) + 1

    @cached_property
    def num_priors(self) -> int:
        """Stored priors of all views."""
        return int(self.level_counts.sum(dtype=np.int64))

    @cached_property
    def priors_per_view(self) -> np.ndarray:
        """(V,) int64 stored priors."""
        return self.level_counts.sum(axis=1, dtype=np.int64)

    @cached_property
    def priors_per_block(self) -> np.ndarray:
        """(B,) int64 stored priors."""
        return np.bincount(self.block, weights=self.priors_per_view, minlength=self.num_blocks).astype(np.int64)

    def rows_per_block(self, kind: str = "row") -> np.ndarray:
        """(B,) int64 rows of a key of `row_ranges`; zeros of one that is not planned."""
        start, stop = self.row_ranges.get(kind, (self.block, self.block))
        rows = stop.astype(np.int64) - start
        return np.bincount(self.block, weights=rows, minlength=self.num_blocks).astype(np.int64)

    @cached_property
    def row_ranges(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(V,) first row of each view in its block, and one past its last.

        Of the record as "row"; of the assignment, where it is planned, as "assigned".
        """
        ranges = {"row": (self.row_start, self.row_stop)}
        if self.assigned_start is not None and self.assigned_stop is not None:
            ranges["assigned"] = self.assigned_start, self.assigned_stop
        return ranges

    def view(self, view_index: int) -> View:
        return View(self.patch_ids[self.view_patch[view_index]], self.draws[self.view_draw[view_index]])

    def views_of_patch(self, patch: int) -> np.ndarray:
        """View indices of a patch, in order."""
        return np.arange(*np.searchsorted(self.view_patch, [patch, patch + 1]))

    def views_of_block(self, block: int) -> np.ndarray:
        """View indices of a block, in the order of their rows."""
        views, start = self._views_by_block
        return views[start[block] : start[block + 1]]

    @cached_property
    def _views_by_block(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) views block by block and (B + 1,) where each block's begin: every block is asked for in turn."""
        return np.argsort(self.block, kind="stable"), np.append(0, np.cumsum(np.bincount(self.block)))

    def describe(self) -> dict[str, Any]:
        """The plan's part of the manifest: counts and digests, of constant size."""
        names = "\n".join(self.patch_ids).encode()
        placement = [self.view_patch, self.view_draw, *self.view_shape.T, self.block, *chain(*self.row_ranges.values())]
        return {
            "num_patches": len(self.patch_ids),
            "num_views": self.num_views,
            "num_blocks": self.num_blocks,
            "num_priors": self.num_priors,
            "patch_digest": array_digest(np.frombuffer(names, dtype=np.uint8)),
            "image_digest": array_digest(self.image_sha256),
            "label_digest": array_digest(self.label_sha256),
            "pixel_digest": array_digest(self.view_crc32c),
            "draw_digest": array_digest(self.draw_view),
            "placement_digest": array_digest(np.stack(placement).astype(np.uint32)),
        }


def make_plan(
    patches: Sequence[PlannedPatch],
    draws: Sequence[str],
    *,
    views_per_block: int = VIEWS_PER_BLOCK,
    as_cells: bool = False,
) -> Plan:
    """Lay out the rows of every view in blocks of about `views_per_block` views, balanced by stored priors.

    All views of a patch share a block, so that a capture reads each image once. Patches go, largest first, to the
    block with the fewest priors that has room: which block depends on nothing but the counts and the ids.

    Args:
        patches: of the training set, each with the same draws.
        draws: their names.
        views_per_block: about so many views a block.
        as_cells: a row is a cell with a stored prior; without, a stored prior.

    Raises:
        ValueError: no patch; an id given twice, or one that cannot name a file.
    """
    if not patches:
        raise ValueError("the plan has no patch: the training set is empty")
    patches = sorted(patches, key=lambda patch: patch.patch_id)
    for left, right in pairwise(patches):
        if left.patch_id == right.patch_id:
            raise ValueError(f"two patches share the id {left.patch_id!r}; ids must be unique")

    require_patch_ids([patch.patch_id for patch in patches], "the training set")
    views = np.asarray([len(patch.level_counts) for patch in patches], dtype=np.int64)
    level_counts = np.concatenate([patch.level_counts for patch in patches]).astype(np.uint32)
    priors = np.asarray([patch.level_counts.sum(dtype=np.int64) for patch in patches])
    block = np.repeat(_balance(priors, views, views_per_block), views).astype(np.uint32)
    rows = level_counts.sum(axis=1, dtype=np.int64)
    if as_cells:
        rows = np.concatenate([patch.cell_counts for patch in patches]).astype(np.int64)
    row_start, row_stop = place_rows(block, rows)
    assigned_start = assigned_stop = None
    assigned = [patch.assigned_counts for patch in patches if patch.assigned_counts is not None]
    if assigned:
        assert len(assigned) == len(patches), "the assignment is planned for some patches alone"
        assigned_start, assigned_stop = place_rows(block, np.concatenate(assigned).astype(np.int64))
    draw_view = np.stack([patch.draw_view for patch in patches])
    assert draw_view.shape[1] == len(draws), "a patch has other draws than the plan"
    first_view = np.cumsum(views) - views
    return Plan(
        patch_ids=tuple(patch.patch_id for patch in patches),
        image_sha256=np.stack([np.frombuffer(patch.image_sha256, dtype=np.uint8) for patch in patches]),
        label_sha256=np.stack([np.frombuffer(patch.label_sha256, dtype=np.uint8) for patch in patches]),
        draws=tuple(draws),
        draw_view=(draw_view + first_view[:, None]).astype(np.uint32),
        view_patch=np.repeat(np.arange(len(patches), dtype=np.uint32), views),
        view_draw=np.concatenate([np.unique(patch.draw_view, return_index=True)[1] for patch in patches]).astype(
            np.uint32
        ),
        view_shape=np.concatenate([patch.view_shape for patch in patches]).astype(np.uint32),
        view_crc32c=np.concatenate([patch.view_crc32c for patch in patches]).astype(np.uint32),
        level_counts=level_counts,
        block=block,
        row_start=row_start,
        row_stop=row_stop,
        assigned_start=assigned_start,
        assigned_stop=assigned_stop,
    )


def require_patch_ids(patch_ids: Sequence[str], place: str) -> None:
    """Refuse patch ids that could lead a path elsewhere or write to a terminal.

    Raises:
        ValueError: naming the place and the first such id.
    """
    # One look at all of them: nearly always there is nothing to find.
    if _is_file_name("_".join(patch_ids)) and not {"", ".", ".."} & set(patch_ids):
        return
    for patch_id in patch_ids:
        if not _is_file_name(patch_id):
            raise ValueError(
                f"{place}: patch id {patch_id!a} cannot name a file: printable text without / and \\ is needed. "
                "Rename its files"
            )


def _is_file_name(text: str) -> bool:
    return text.isprintable() and not {"/", "\\"} & set(text) and text not in ("", ".", "..")


def _balance(priors: np.ndarray, views: np.ndarray, views_per_block: int) -> np.ndarray:
    """(P,) block of every patch: largest first into the emptiest block with room."""
    patches_per_block = max(1, views_per_block * len(views) // int(views.sum()))
    num_blocks = -(-len(priors) // patches_per_block)
    open_blocks = [(0, block, 0) for block in range(num_blocks)]  # priors, block, patches
    patch_block = np.empty(len(priors), dtype=np.int64)
    for patch in np.argsort(-priors, kind="stable"):
        filled, block, members = heapq.heappop(open_blocks)
        patch_block[patch] = block
        if members + 1 < patches_per_block:
            heapq.heappush(open_blocks, (filled + int(priors[patch]), block, members + 1))
    return patch_block


def place_rows(block: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V,) uint32 first row of every view inside its block, views in order, and one past its last."""
    order = np.argsort(block, kind="stable")
    rows_before = np.cumsum(rows[order]) - rows[order]
    first_of_block = np.searchsorted(block[order], block[order])
    start = np.empty(len(block), dtype=np.uint32)
    start[order] = rows_before - rows_before[first_of_block]
    return start, (start + rows).astype(np.uint32)
