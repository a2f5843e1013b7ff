"""Images of different sizes in one batch: the planned assignment on the batch's grid against the head's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes

from distill.targets import BatchTargets, ViewTargets

SIZES = {
    "equal": [(128, 160), (128, 160)],
    "wider": [(128, 160), (128, 256)],
    "crossed": [(96, 224), (192, 128)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_planned_assignment(gwd_head, sizes) -> None:
    random = np.random.default_rng(3)
    adapter = gwd_head.adapter
    instances, metas, views = [], [], []
    for height, width in sizes:
        boxes = random.uniform((8, 8, 20, 20, -1.5), (width - 8, height - 8, 60, 40, 1.5), (5, 5)).astype(np.float32)
        labels = torch.from_numpy(random.integers(0, 15, len(boxes)))
        objects = InstanceData(bboxes=RotatedBoxes(torch.from_numpy(boxes)), labels=labels)
        grid = adapter.grid(height, width)
        planned = adapter.plan_assignment(gwd_head.assigner, objects, grid)
        instances.append(objects)
        metas.append({"img_shape": (height, width), "pad_shape": (height, width)})
        views.append(ViewTargets(grid, planned[0], np.ones(len(planned[0]), np.float32), assigned=planned))
    batch = adapter.grid(max(height for height, _ in sizes), max(width for _, width in sizes))
    scores = [torch.zeros(2, 9 * 15, *size) for size in batch.feature_sizes]
    known = gwd_head.assignment(scores, instances, metas)
    targets = BatchTargets.of(views, instances)
    assert targets.region.grid == batch
    planned = gwd_head.planned_assignment(targets.assigned)
    assert torch.equal(planned.label_weights, known.label_weights)
    learned = known.label_weights > 0
    assert torch.equal(planned.labels[learned], known.labels[learned])
    assert planned.positive.level_sizes == known.positive.level_sizes
    for name in ("place", "priors", "boxes"):
        ours, theirs = (getattr(one.positive if name == "place" else one, name) for one in (planned, known))
        assert torch.equal(ours, theirs), name
    assert planned.avg_factor == known.avg_factor
    if sizes[0] != sizes[1]:
        assert not learned.all()
