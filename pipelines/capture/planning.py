"""Planning: the region and the assignment of every view from labels alone, here or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import batched

import numpy as np
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from cache.cells import count_cells
from cache.codec import CodecRequest
from cache.plan import VIEWS_PER_BLOCK, Plan, PlannedPatch, make_plan
from pipelines.base.experiment import register
from pipelines.base.progress import progress
from pipelines.capture.cluster import Cluster, Shared
from pipelines.capture.kept import KeptRegions, PatchRegions
from pipelines.capture.loading import unchanged
from pipelines.capture.views import TrainingViews

# Most patches of a Dask task: a second of work.
PATCHES_PER_TASK = 64


def plan_views(
    config: Config,
    loaders: int,
    views_per_block: int = VIEWS_PER_BLOCK,
    cluster: Cluster | None = None,
    kept: KeptRegions | None = None,
) -> Plan:
    """Search the regions of every view of the student's training set; on a cluster where there is one.

    What is found is kept in `kept`, but not on a cluster.
    """
    patches = PatchPlanner(config, hand_on=kept is not None)
    planned = []
    with progress("plan", len(patches), "patches") as advance:
        if cluster is None:
            for patch, regions in _planned_by_loaders(patches, loaders):
                planned.append(patch)
                if kept is not None and regions is not None:
                    kept.keep(patch.patch_id, regions)
                advance(1)
        else:
            for some in _planned_by_workers(patches, config, cluster):
                planned += some
                advance(len(some))
    as_cells = CodecRequest.of(config.codec).is_cells
    return make_plan(planned, patches.views.draws, views_per_block=views_per_block, as_cells=as_cells)


class PatchPlanner(Dataset[tuple[PlannedPatch, PatchRegions | None]]):
    """Every patch of the training set with its digests and row counts, and with the regions that they count."""

    def __init__(self, config: Config, *, hand_on: bool = False) -> None:
        self.views = TrainingViews(config)
        self.hand_on = hand_on
        self.patch_ids = self.views.patch_ids

    def __len__(self) -> int:
        return len(self.patch_ids)

    def __getitem__(self, index: int) -> tuple[PlannedPatch, PatchRegions | None]:
        views, patch_id = self.views, self.patch_ids[index]
        samples, draw_view = views.samples(patch_id)
        regions = views.regions(samples)
        grids = [sample.grid for sample in samples]
        found = list(zip(grids, regions.prior_index, strict=True))
        assigned = [len(prior) for prior, _ in regions.assigned]
        patch = PlannedPatch(
            patch_id=patch_id,
            image_sha256=samples[0].image_sha256,
            label_sha256=views.label_digest(patch_id),
            draw_view=draw_view,
            view_shape=np.asarray([(grid.height, grid.width) for grid in grids]),
            view_crc32c=np.asarray([sample.crc32c for sample in samples], dtype=np.uint32),
            level_counts=np.stack([grid.level_counts(index) for grid, index in found]),
            cell_counts=np.asarray([count_cells(index, grid.anchors_per_cell) for grid, index in found]),
            assigned_counts=np.asarray(assigned) if assigned else None,
        )
        return patch, regions if self.hand_on else None


def _planned_by_loaders(patches: PatchPlanner, loaders: int) -> Iterator[tuple[PlannedPatch, PatchRegions | None]]:
    return iter(DataLoader(patches, batch_size=None, num_workers=min(loaders, len(patches)), collate_fn=unchanged))


def _planned_by_workers(patches: PatchPlanner, config: Config, cluster: Cluster) -> Iterator[list[PlannedPatch]]:
    size = max(1, min(PATCHES_PER_TASK, len(patches) // (4 * cluster.num_workers)))
    positions = list(batched(range(len(patches)), size))
    return (planned for _, planned in cluster.run_all(_plan_some, positions, config=Shared(config)))


def _plan_some(positions: Sequence[int], *, config: Shared[Config]) -> list[PlannedPatch]:
    """In a worker."""
    patches = _planner_of(config)
    return [patches[position][0] for position in positions]


@lru_cache(maxsize=1)
def _planner_of(config: Shared[Config]) -> PatchPlanner:
    register(config.value)
    return PatchPlanner(config.value)
