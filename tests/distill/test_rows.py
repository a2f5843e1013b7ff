"""Rows of a batch: their order, what is taken and summed by them, and what a loader ships for them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from cache.cells import CellRows
from cache.codec import RowCodec
from cache.grid import AnchorGrid
from cache.reader import CodedRecord
from distill.rows import Rows, stack_by_level
from distill.targets import Answers, BatchTargets, TargetDecoder, ViewTargets, collate_views
from tests.cache.store_tools import HEAD, small_codec

GRID = AnchorGrid.retina(64, 96, strides=(8, 16, 32))


def some_priors(seed: int, grid: AnchorGrid, share: float) -> np.ndarray:
    return np.flatnonzero(np.random.default_rng(seed).random(grid.num_priors) < share)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), num_images=st.integers(1, 4), share=st.sampled_from([0.0, 0.01, 0.5]))
def test_rows_know_where_they_lie(seed, num_images, share) -> None:
    """Level, then image, then prior; and back to the images."""
    priors = [some_priors(seed + image, GRID, share) for image in range(num_images)]
    rows = Rows.of(GRID, priors)
    level, image, anchor, cell, prior = rows.place.numpy()
    assert (rows.num_images, len(prior)) == (num_images, sum(map(len, priors)))
    order = np.stack([level, image, prior], axis=1).tolist()
    assert order == sorted(order)
    np.testing.assert_array_equal(GRID.level_offsets[level] + cell * GRID.anchors_per_cell + anchor, prior)
    for known, found in zip(priors, rows.by_image(rows.prior_index), strict=True):
        np.testing.assert_array_equal(found, known)
    values = [np.random.default_rng(seed).random((len(one), 3)) for one in priors]
    stacked = stack_by_level(values, rows.sizes)
    for known, found in zip(values, rows.by_image(torch.from_numpy(stacked)), strict=True):
        np.testing.assert_array_equal(found, known)
    sums = rows.sum_by_level(torch.from_numpy(stacked[:, 0]))
    expected = [stacked[level == index, 0].sum() for index in range(GRID.num_levels)]
    np.testing.assert_allclose(sums, expected, rtol=1e-12)


def test_rows_take_what_their_priors_say() -> None:
    """A map that says of every prior which it is; the flat order is that of `permute(0, 2, 3, 1).reshape(-1, n)`."""
    maps = []
    for level, (height, width) in enumerate(GRID.feature_sizes):
        start, stop = GRID.level_offsets[level : level + 2].tolist()
        flat = torch.arange(start, stop).view(1, height, width, -1).repeat(2, 1, 1, 1)
        flat[1] += 10**6
        maps.append(flat.permute(0, 3, 1, 2).contiguous())
    rows = Rows.of(GRID, [some_priors(0, GRID, 0.1), some_priors(1, GRID, 0.1)])
    assert torch.equal(rows.take(maps).squeeze(1), rows.prior_index + 10**6 * rows.image_index)


def test_maps_of_another_size_are_noticed() -> None:
    rows = Rows.of(GRID, [np.arange(3)])
    with pytest.raises(AssertionError, match="feature sizes"):
        rows.take([torch.zeros(1, 9, 8, 8), torch.zeros(1, 9, 4, 4), torch.zeros(1, 9, 2, 2)])


# --- what a loader ships ----------------------------------------------------------------------------------------------


def view_of(seed: int, grid: AnchorGrid, assigned: int = 0) -> ViewTargets:
    """Random answers at random priors, and an assignment whose first priors have objects, the rest being ignored."""
    random = np.random.default_rng(seed)
    prior = some_priors(seed, grid, 0.05)
    logits = random.standard_normal((len(prior), 4)).astype(np.float32)
    boxes = random.standard_normal((len(prior), 5, 9)).astype(np.float32)
    boxes -= boxes.max(axis=-1, keepdims=True)
    weight = random.random(len(prior)).astype(np.float32)
    record = CodedRecord(prior, weight, logits, boxes.reshape(len(prior), -1))
    pair = prior, np.where(np.arange(len(prior)) < assigned, random.integers(0, 3, len(prior)), -1)
    return ViewTargets(grid, prior, record.weight, record, pair)


def objects_of(seed: int) -> InstanceData:
    random = np.random.default_rng(seed)
    boxes = torch.from_numpy(random.random((3, 5)).astype(np.float32))
    return InstanceData(bboxes=boxes, labels=torch.from_numpy(random.integers(0, 4, 3)))


@pytest.mark.parametrize("shapes", [[(64, 96), (64, 96)], [(64, 96), (96, 64)]], ids=["equal", "crossed"])
def test_a_batch_gives_every_view_back(shapes) -> None:
    grids = [replace(GRID, height=height, width=width) for height, width in shapes]
    views = [view_of(seed, grid, assigned=7) for seed, grid in enumerate(grids)]
    targets = BatchTargets.of(views, [objects_of(0), objects_of(1)])
    assert (targets.region.grid.height, targets.region.grid.width) == tuple(np.max(shapes, axis=0))
    for image, (view, grid) in enumerate(zip(views, grids, strict=True)):
        stored = targets.record(image, grid)
        for name in ("prior_index", "weight", "cls_logits", "box_logits"):
            expected = getattr(view.record, name).reshape(getattr(stored, name).shape)
            np.testing.assert_array_equal(getattr(stored, name), expected, err_msg=name)


def test_cells_of_a_batch_become_the_logits_of_its_rows() -> None:
    """One product on the device for all images gives what a reader decodes view by view."""
    codec, priors = small_codec("small"), HEAD.priors
    grid = AnchorGrid(64, 96, (8, 16), (1.0, 0.5), (2.0,))
    records, expected = [], []
    for seed in range(2):
        random = np.random.default_rng(seed)
        prior = some_priors(seed, grid, 0.2)
        cells = CellRows.of(prior, np.array([len(prior)]), priors)
        logits = random.uniform(-4, 0, (len(prior), HEAD.values)).astype(np.float32)
        codes = codec.encode(cells.scatter(logits), cells.is_stored)
        weight = random.random(len(prior)).astype(np.float32)
        records.append(CodedRecord(prior, weight, coefficients=codes, cell_row=cells.row))
        expected.append(records[-1].decode(codec, HEAD))
    rows = Rows.of(grid, [record.prior_index for record in records])
    decoded = TargetDecoder(HEAD.box_shape, codec)(Answers.of(records, rows.sizes, priors))
    for name in ("cls_logits", "box_logits"):
        values = getattr(decoded, name)
        for found, record in zip(rows.by_image(values - values.amax(-1, keepdim=True)), expected, strict=True):
            wanted = getattr(record, name)
            np.testing.assert_allclose(found, wanted - wanted.max(-1, keepdims=True), atol=1e-4)
    with pytest.raises(ValueError, match="whose basis the student was not given"):
        TargetDecoder(HEAD.box_shape, RowCodec("float32"))(Answers.of(records, rows.sizes, priors))


def test_what_an_assignment_says() -> None:
    views = [view_of(0, GRID, assigned=2), view_of(1, GRID, assigned=0)]
    objects = [objects_of(0), objects_of(1)]
    assigned = BatchTargets.of(views, objects).assigned
    assert assigned.avg_factor == 2 + 1  # an image without positive priors counts as one
    prior, place = views[0].assigned
    np.testing.assert_array_equal(assigned.positive.prior_index, prior[:2])
    np.testing.assert_array_equal(assigned.boxes, objects[0].bboxes[place[:2]])
    labels, weights = assigned.dense(num_classes=4, pos_weight=-1)
    expected = np.full((2, GRID.num_priors), 4)
    expected[0, prior[:2]] = objects[0].labels[place[:2]]
    np.testing.assert_array_equal(labels, expected)
    ignored = np.zeros_like(expected, dtype=bool)
    ignored[0, prior[2:]] = ignored[1, views[1].assigned[0]] = True
    np.testing.assert_array_equal(weights, ~ignored)
    _, heavier = assigned.dense(num_classes=4, pos_weight=2.5)
    np.testing.assert_array_equal(heavier[0, prior[:2]], [2.5, 2.5])


def test_centers_are_those_of_the_grid() -> None:
    grid = replace(GRID, width=128)
    assigned = BatchTargets.of([view_of(0, GRID, 50), view_of(1, grid, 50)], [objects_of(0), objects_of(1)]).assigned
    np.testing.assert_array_equal(assigned.centers, grid.anchors[assigned.positive.prior_index, :2])


def test_a_batch_travels_light() -> None:
    """A grid that has been used holds all its anchors; the batch must not carry them to another process."""
    grid = replace(GRID)
    assert len(grid.anchors) == GRID.num_priors
    targets = BatchTargets.of([view_of(0, grid, 5)], [objects_of(0)])
    tensors = 4 * (targets.answers.cls_logits.numel() + targets.answers.box_logits.numel())
    assert len(pickle.dumps(targets)) < 1.3 * tensors + 8000 < grid.anchors.nbytes + tensors


def test_a_batch_without_targets_is_mmengines() -> None:
    samples = [{"inputs": torch.zeros(3, 4, 4), "data_samples": index} for index in range(2)]
    assert set(collate_views(samples)) == {"inputs", "data_samples"}


def test_a_part_of_a_record() -> None:
    record = view_of(3, GRID).record
    rows = np.array([0, 4, 9])
    part = record.take(record.prior_index[rows], np.ones(3, np.float32))
    np.testing.assert_array_equal(part.box_logits, record.box_logits[rows])
    assert part.weight.tolist() == [1, 1, 1]
    absent = np.setdiff1d(np.arange(GRID.num_priors), record.prior_index)[:1]
    with pytest.raises(ValueError, match=f"prior {absent[0]}"):
        record.take(absent, np.ones(1, np.float32))
