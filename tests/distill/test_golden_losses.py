"""Losses and gradients of the published code, from seeded head outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.distill.golden_tools import (
    CASES_AND_FLIPS,
    GoldenAssigner,
    assert_gradients,
    detection_terms,
    distillation_terms,
    require_grad,
    seeded_maps,
)

SYNTHETIC = ("31", "32", "33", "batch2_seed41")


@pytest.fixture(params=[*CASES_AND_FLIPS, *(f"synthetic/{name}" for name in SYNTHETIC)])
def case(request, synthetic_golden) -> dict:
    """Seed, size, ground truth and positives of each image, and the published figures."""
    folder, name = request.param.split("/")
    if folder == "synthetic":
        expected = json.loads((synthetic_golden / "losses.json").read_text())[name]
        seed = int(name.removeprefix("batch2_seed"))
        stored = np.load(synthetic_golden / f"gt_{name if name.startswith('batch2') else f'seed{name}'}.npz")
        suffixes = ["_0", "_1"] if name.startswith("batch2") else [""]
        size, boxes_key = expected["size"], "legacy_oc"
    else:
        golden = request.getfixturevalue("golden")
        figures = json.loads((golden / "losses.json").read_text())
        (key,) = (key for key in figures if key.startswith(f"{request.param}/seed"))
        expected, seed = figures[key], int(key.rsplit("seed", 1)[1])
        stored = np.load(golden / f"assigned__{folder}__{name}.npz")
        suffixes, size, boxes_key = [""], 512, "flipped_legacy_oc"
    counts = {"neg_inds_count": stored["neg_inds_count"]} if "neg_inds_count" in stored else {}
    return {
        "seed": seed,
        "size": size,
        "boxes": [stored[boxes_key + suffix] for suffix in suffixes],
        "labels": [stored["labels" + suffix] for suffix in suffixes],
        "assigned": [{key: stored[key + suffix] for key in ("pos_inds", "pos_gt")} | counts for suffix in suffixes],
        "expected": expected,
    }


def assert_published(terms: dict, case: dict, student: tuple, smallest: float) -> None:
    """Losses per level, and gradients where they were published."""
    for name, values in terms.items():
        np.testing.assert_allclose(values.detach().numpy(), case["expected"][name], rtol=1e-5, atol=smallest)
        if f"grad_{name}" in case["expected"]:
            assert_gradients(values, case["expected"][f"grad_{name}"], student, 1e-5)


def test_ld_and_kd_with_gradients(case, gwd_head, gwd_distillation) -> None:
    maps = seeded_maps(case["seed"], case["size"], len(case["boxes"]))
    student = require_grad(maps[0]), require_grad(maps[1])
    terms = distillation_terms(gwd_head, gwd_distillation, student, maps[2:], case["boxes"])
    assert set(terms) == {"loss_ld", "loss_kd"}
    assert_published(terms, case, student, 1e-8)


def test_class_and_box_loss_with_the_golden_positives(case, gwd_head, monkeypatch) -> None:
    maps = seeded_maps(case["seed"], case["size"], len(case["boxes"]))
    student = require_grad(maps[0]), require_grad(maps[1])
    assigner = GoldenAssigner(gwd_head.assigner.iou_calculator, case["assigned"])
    monkeypatch.setattr(gwd_head, "assigner", assigner)
    terms = detection_terms(gwd_head, student, case["boxes"], case["labels"], case["size"])
    assert set(terms) == {"loss_cls", "loss_bbox"}
    assert_published(terms, case, student, 1e-7)
