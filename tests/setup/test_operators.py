"""mmcv's operators: builds keep apart, the small one knows every operator, and those we use give the right numbers."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import mmcv
import torch
from mmcv.ops import RoIAlign, box_iou_rotated, nms, nms_rotated

from setup.compile import SMALL, small_source
from setup.operators import Build, locked, planned_build
from tests.conftest import REPOSITORY

SOURCES = Path(mmcv.__file__).parent / "ops/csrc"


def test_every_field_of_a_build_shapes_its_key() -> None:
    build = planned_build("small", [], REPOSITORY, {})
    others = [replace(build, **{field.name: "another"}) for field in fields(Build)]
    assert len({build.key, *(other.key for other in others)}) == len(others) + 1


def test_the_lock_is_read_as_toml_reads_it() -> None:
    packages = {entry["name"]: entry for entry in tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]}
    for name in ("torch", "cuda-toolkit"):
        assert locked(REPOSITORY, name, "version") == packages[name]["version"]
    assert f"sha256:{locked(REPOSITORY, 'onedl-mmcv', 'sdist')}" == packages["onedl-mmcv"]["sdist"]["hash"]


def test_torch_is_built_with_the_locked_toolkits_cuda() -> None:
    assert torch.version.cuda.split(".")[0] == locked(REPOSITORY, "cuda-toolkit", "version").split(".")[0]


def test_the_small_build_has_each_operator_once() -> None:
    binding = (SOURCES / "pytorch/pybind.cpp").read_text()
    source = small_source(binding, SOURCES)
    module = source.partition("PYBIND11_MODULE")[2]
    every = re.findall(r'm\.def\(\s*"(\w+)"', binding)
    built = re.findall(r'm\.def\(\s*"(\w+)"', module)
    (not_built,) = re.findall(r"std::string name : \{(.*?)\}", module, re.DOTALL)
    assert sorted(built + re.findall(r'"(\w+)"', not_built)) == sorted(set(every))  # mmcv binds knn_forward twice
    assert sorted(built) == sorted(name for names in SMALL.values() for name in names)
    for file in ("nms", "nms_rotated", "box_iou_rotated", "cpu/nms", "cpu/nms_rotated", "cpu/box_iou_rotated"):
        assert f'#include "pytorch/{file}.cpp"' in source


def test_nms_drops_what_overlaps_a_better_box() -> None:
    """The second box shares 8 x 10 of a union of 12 x 10 with the first."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [20, 0, 30, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    for threshold, kept in ((0.66, [0, 2]), (0.67, [0, 1, 2])):
        assert nms(boxes, scores, iou_threshold=threshold)[1].tolist() == kept


def test_rotated_iou_of_a_square_and_the_same_turned() -> None:
    """A unit square and itself turned by 45 degrees share a regular octagon of area 2 (sqrt 2 - 1)."""
    octagon = 2 * (math.sqrt(2) - 1)
    boxes = torch.tensor([[0.0, 0, 1, 1, 0], [0, 0, 1, 1, math.pi / 4], [3, 0, 1, 1, 0]])
    expected = torch.tensor([[1, octagon / (2 - octagon), 0]])
    torch.testing.assert_close(box_iou_rotated(boxes[:1], boxes), expected, atol=1e-6, rtol=0)


def test_rotated_nms_drops_what_overlaps_a_better_box() -> None:
    """IoU of the first two is 0.7071, as above."""
    boxes = torch.tensor([[0.0, 0, 1, 1, math.pi / 4], [0, 0, 1, 1, 0], [3, 0, 1, 1, 0]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    for threshold, kept in ((0.70, [1, 2]), (0.71, [1, 0, 2])):
        assert nms_rotated(boxes, scores, threshold)[1].tolist() == kept


def test_any_other_operator_runs_or_names_itself_and_the_cure() -> None:
    """A pooled ramp is the mean of its halves; the small build has no such operator and says so."""
    ramp = torch.arange(4.0).repeat(1, 1, 4, 1)
    whole = torch.tensor([[0.0, 0, 0, 4, 4]])
    try:
        outcome = RoIAlign((1, 2))(ramp, whole).tolist()
    except ValueError as error:
        outcome = str(error)
    assert outcome in (
        [[[[0.5, 2.5]]]],
        "mmcv's operator roi_align_forward is not built in this environment: `make setup OPS=all` builds all of them",
    )
