"""The regions of horizontal LD against mmdet's own head and a literal count, and how students share them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmrotate.registry import MODELS

import distill.gfl  # noqa: F401  registers the head
from cache.grid import AnchorGrid
from distill.adapter import adapter_of
from distill.losses import MAIN_WEIGHT
from distill.region import LARGEST_VLR_WEIGHT, box_region, describe_region, is_inside

TOPK = 9


@pytest.fixture(scope="module")
def gfl_head():
    init_default_scope("mmrotate")
    return MODELS.build(
        dict(
            type="GFLStudentHead",
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            norm_cfg=dict(type="GN", num_groups=2),
            anchor_generator=dict(
                type="mmdet.AnchorGenerator",
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type="mmdet.DistancePointBBoxCoder"),
            loss_cls=dict(type="mmdet.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
            loss_dfl=dict(type="mmdet.DistributionFocalLoss", loss_weight=0.25),
            loss_bbox=dict(type="mmdet.GIoULoss", loss_weight=2.0),
            train_cfg=dict(
                assigner=dict(type="mmdet.ATSSAssigner", topk=TOPK, iou_calculator=dict(type="mmdet.BboxOverlaps2D")),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
            test_cfg=dict(),
        )
    )


def boxes_in(height: int, width: int) -> st.SearchStrategy[np.ndarray]:
    """(G, 4) objects of any size inside an image, 0 to 6 of them."""
    side = st.floats(0, 1, width=32)
    box = st.tuples(side, side, side, side)

    def scaled(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
        unit = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        low = unit[:, :2] * (width - 4, height - 4)
        high = low + 4 + unit[:, 2:] * ((width, height) - low - 4)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    return st.lists(box, max_size=6).map(scaled)


def live_positive(head, boxes: np.ndarray, grid: AnchorGrid, batch: AnchorGrid) -> np.ndarray:
    """What the head's own targets call positive in a padded batch, on the batch's grid."""
    anchors, valid = head.get_anchors(batch.feature_sizes, [{"pad_shape": (grid.height, grid.width)}], device="cpu")
    objects = InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.zeros(len(boxes), dtype=torch.int64))
    meta = {"img_shape": (grid.height, grid.width), "pad_shape": (grid.height, grid.width)}
    targets = head.get_targets(anchors, valid, [objects], [meta], [None])
    return np.flatnonzero(torch.cat(targets[1], dim=1)[0].numpy() == 0)


@settings(max_examples=60, deadline=None)
@given(boxes_in(160, 224), st.sampled_from([(160, 224), (192, 224), (256, 320)]))
def test_main_region_is_what_the_live_head_reads(gfl_head, boxes, batch_shape) -> None:
    """Also in a batch that is padded to a larger image."""
    adapter = adapter_of(gfl_head)
    grid, batch = adapter.grid(160, 224), adapter.grid(*batch_shape)
    prior_index, weight = box_region(boxes, grid, rule="atss_main", topk=TOPK)
    np.testing.assert_array_equal(grid.reindex(prior_index, batch), live_positive(gfl_head, boxes, grid, batch))
    assert (weight == MAIN_WEIGHT).all()


def test_priors_are_the_generators(gfl_head) -> None:
    """The rules compute them from the grid: a last bit would move a threshold."""
    grid = adapter_of(gfl_head).grid(160, 224)
    anchors = torch.from_numpy(grid.anchors)
    ours = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], dim=1)
    theirs = torch.cat(gfl_head.prior_generator.grid_priors(grid.feature_sizes, device="cpu"))
    assert torch.equal(ours, theirs)


def counted_vlr(boxes: np.ndarray, grid: AnchorGrid) -> np.ndarray:
    """The VLR weight of every prior, one pair of boxes at a time and in double precision."""
    weights = np.zeros(grid.num_priors)
    anchors = grid.anchors.astype(np.float64)
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    for box in boxes.astype(np.float64):
        iou = np.zeros(grid.num_priors)
        diou = np.zeros(grid.num_priors)
        distance = np.zeros(grid.num_priors)
        for index, (x1, y1, x2, y2) in enumerate(corners):
            overlap = max(0, min(x2, box[2]) - max(x1, box[0])) * max(0, min(y2, box[3]) - max(y1, box[1]))
            union = (x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - overlap
            iou[index] = overlap / union
            distance[index] = np.hypot((x1 + x2 - box[0] - box[2]) / 2, (y1 + y2 - box[1] - box[3]) / 2)
            outer = np.hypot(max(x2, box[2]) - min(x1, box[0]), max(y2, box[3]) - min(y1, box[1]))
            diou[index] = iou[index] - (distance[index] / outer) ** 2
        nearest = np.concatenate(
            [
                start + np.argsort(distance[start:stop], kind="stable")[:TOPK]
                for start, stop in zip(grid.level_offsets[:-1], grid.level_offsets[1:], strict=True)
            ]
        )
        alpha = iou[nearest].mean() + iou[nearest].std(ddof=1)
        inside = (diou >= 0.25 * alpha) & (diou < alpha)
        weights[inside] = np.maximum(weights[inside], iou[inside])
    return weights


def test_vlr_is_the_literal_count(gfl_head) -> None:
    grid = adapter_of(gfl_head).grid(160, 224)
    # Centres off the grid's symmetry axes: no ties among the nearest priors.
    boxes = np.array([[21.3, 17.1, 90.2, 101.7], [60.4, 33.9, 120.8, 71.3], [150.6, 100.2, 170.3, 130.9]], np.float32)
    prior_index, weight = box_region(boxes, grid, rule="atss_main_vlr", topk=TOPK)
    dense = np.zeros(grid.num_priors, dtype=np.float32)
    dense[prior_index] = weight
    main_index, _ = box_region(boxes, grid, rule="atss_main", topk=TOPK)
    is_main = dense >= MAIN_WEIGHT
    np.testing.assert_array_equal(np.flatnonzero(is_main), main_index)
    vlr = 2 * (dense - MAIN_WEIGHT * is_main)
    expected = counted_vlr(boxes, grid)
    np.testing.assert_array_equal(np.flatnonzero(vlr), np.flatnonzero(expected))
    np.testing.assert_allclose(vlr, expected, atol=1e-6)
    # One object's main region reaches into another's VLR, and each kind is there by itself.
    assert ((vlr > 0) & is_main).any()
    assert ((vlr > 0) & ~is_main).any()
    assert ((vlr == 0) & is_main).any()


@settings(max_examples=60, deadline=None)
@given(boxes_in(160, 224))
def test_both_halves_of_a_weight_survive_storing(gfl_head, boxes) -> None:
    grid = adapter_of(gfl_head).grid(160, 224)
    main_index, _ = box_region(boxes, grid, rule="atss_main", topk=TOPK)
    prior_index, weight = box_region(boxes, grid, rule="atss_main_vlr", topk=TOPK)
    stored = weight.astype(np.float16).astype(np.float32)
    assert ((stored > 0) & (stored < 1)).all()
    np.testing.assert_array_equal(prior_index[stored >= MAIN_WEIGHT], main_index)


def test_the_largest_vlr_weight_stays_below_the_main_regions() -> None:
    assert np.float16(LARGEST_VLR_WEIGHT / 2) < MAIN_WEIGHT
    assert np.float16(MAIN_WEIGHT + LARGEST_VLR_WEIGHT / 2) < 1


@pytest.mark.parametrize(
    ("student", "stored", "inside"),
    [
        (dict(rule="atss_main", topk=9), dict(rule="atss_main_vlr", topk=9), True),
        (dict(rule="atss_main", topk=5), dict(rule="atss_main_vlr", topk=9), False),
        (dict(rule="atss_main_vlr", topk=9, factor=0.5), dict(rule="atss_main_vlr", topk=9), True),
        (dict(rule="atss_main_vlr", topk=9), dict(rule="atss_main", topk=9), False),
        (dict(rule="atss_main", topk=9), dict(rule="atss_main", topk=9), False),
        (dict(factor=1.0, topk=9), dict(factor=0.25, topk=9), True),
        (dict(factor=0.25, topk=9), dict(factor=1.0, topk=9), False),
        (dict(factor=1.0, topk=9, box_form="hbb"), dict(factor=0.25, topk=9), False),
        (dict(rule="atss_main", topk=9), dict(factor=0.25, topk=9), False),
    ],
)
def test_which_students_share_a_cache(student, stored, inside) -> None:
    assert is_inside(describe_region(**student), describe_region(**stored)) == inside


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (dict(rule="nearest"), "region.rule is 'nearest'; one of iou_above_alpha, atss_main, atss_main_vlr"),
        (dict(rule="atss_main"), "region of rule 'atss_main': .*missing.*'topk'"),
        (dict(rule="atss_main", topk=9, factor=1), "region of rule 'atss_main': .*'factor'"),
    ],
)
def test_unusable_rules_are_named(region, message) -> None:
    with pytest.raises(ValueError, match=message):
        describe_region(**region)


def test_a_rule_takes_its_own_kind_of_box(gfl_head) -> None:
    grid = adapter_of(gfl_head).grid(64, 64)
    with pytest.raises(ValueError, match="takes boxes of 4 numbers, not 5"):
        box_region(np.zeros((1, 5), np.float32), grid, rule="atss_main", topk=9)
    with pytest.raises(ValueError, match="takes boxes of 5 numbers, not 4"):
        box_region(np.zeros((1, 4), np.float32), grid, factor=0.25, topk=9)
