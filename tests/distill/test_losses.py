"""LD and KD on gathered rows: hand-computed values, normalisers, options; gathering rows changes nothing."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from torch import Tensor

from cache.grid import AnchorGrid
from distill.losses import (
    BinaryDistillationLoss,
    DistributionDistillationLoss,
    RegionDistillation,
    binary_row_divergence,
    distillation_loss,
    row_divergence,
    row_normalizer,
)
from distill.rows import Logits, Rows, Targets

LD = dict(type="DistributionDistillationLoss", loss_weight=10.0, temperature=5.0)
KD = dict(type="DistributionDistillationLoss", loss_weight=20.0, temperature=5.0)
BINARY_KD = dict(type="BinaryDistillationLoss", loss_weight=20.0, temperature=5.0)

# Rows of the published figures: T = 5, T^2 and the mean over the logits included.
RISING_BINS = torch.arange(9) * 0.5
RISING_CLASSES = -3 + 0.2 * torch.arange(15)
BINS_DIVERGENCE, CLASSES_DIVERGENCE = 0.0907343, 0.0246660


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope("mmrotate")


def literal_divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    """The formula of docs/method.md in plain Python."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit / temperature) for logit in logits]
        return [power / sum(powers) for power in powers]

    p, q = softmax(teacher), softmax(student)
    divergence = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 / len(p) * divergence


def rows_at(image_index: list[int], level: list[int], num_levels: int) -> Rows:
    """Rows of the first priors of each level."""
    grid = AnchorGrid(64, 64, (8, 16, 32, 64, 128)[:num_levels], (1.0,) * 64, (4.0,))
    of_image = []
    for image in range(max(image_index, default=1) + 1):
        counts = Counter(own for own, where in zip(level, image_index, strict=True) if where == image)
        firsts = [grid.level_offsets[own] + np.arange(counts[own]) for own in range(num_levels)]
        of_image.append(np.concatenate(firsts))
    return Rows.of(grid, of_image)


def random_rows(seed: int, image_index: list[int], level: list[int], num_levels: int) -> tuple[Targets, Logits]:
    """Random targets of the given rows, and a student's logits there."""
    generator = torch.Generator().manual_seed(seed)
    count = len(level)
    draw = lambda *shape: torch.randn(count, *shape, generator=generator) * 3  # noqa: E731
    weight = torch.rand(count, generator=generator) + 0.01
    targets = Targets(draw(15), draw(5, 9), rows_at(image_index, level, num_levels), weight)
    return targets, Logits(draw(15), draw(5, 9))


def rows_of_image(targets: Targets, student: Logits, image: int) -> tuple[Targets, Logits]:
    """The rows of one image as a batch of its own."""
    rows = targets.rows
    chosen = rows.image_index == image
    alone = Rows.of(rows.grid, [rows.prior_index[chosen].numpy()])
    theirs = Targets(targets.cls_logits[chosen], targets.box_logits[chosen], alone, targets.weight[chosen])
    return theirs, Logits(student.cls_logits[chosen], student.box_logits[chosen])


# --- one row, by hand -------------------------------------------------------------------------------------------------


def test_published_divergences() -> None:
    bins, classes = RISING_BINS[None].double(), RISING_CLASSES[None].double()
    assert row_divergence(torch.zeros_like(bins), bins, 5.0).item() == pytest.approx(BINS_DIVERGENCE, abs=5e-8)
    constant = torch.full_like(classes, -1.7)
    assert row_divergence(constant, classes, 5.0).item() == pytest.approx(CLASSES_DIVERGENCE, abs=5e-8)


def test_two_rows_by_hand() -> None:
    # Weights 0.5 and 0.25 over a divisor of 2; the second row is the first one reversed, and so equally far from flat.
    student, teacher = torch.zeros(2, 9), torch.stack([RISING_BINS, RISING_BINS.flip(0)])
    loss = distillation_loss(student, teacher, torch.tensor([0.5, 0.25]), 5.0, 2)
    assert loss.item() == pytest.approx((0.5 + 0.25) * BINS_DIVERGENCE / 2, abs=1e-7)


def test_two_logits_by_hand() -> None:
    # Teacher (2/3, 1/3), student (1/2, 1/2): 2/3 log(4/3) + 1/3 log(2/3), halved by the mean over two logits.
    expected = (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2
    loss = distillation_loss(torch.zeros(1, 2), torch.tensor([[math.log(2), 0.0]]), torch.ones(1), 1.0, 1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # The same distributions from logits five times as far apart: T = 5 softens them and adds T^2.
    softened = distillation_loss(torch.zeros(1, 2), torch.tensor([[5 * math.log(2), 0.0]]), torch.ones(1), 5.0, 1)
    assert softened.item() == pytest.approx(25 * expected, rel=1e-6)


def test_binary_divergence_by_hand() -> None:
    # Teacher 3/4, student 1/2: 3/4 log(3/2) + 1/4 log(1/2). The second class agrees, so the mean halves it.
    teacher, student = torch.tensor([[math.log(3), -2.0]]), torch.tensor([[0.0, -2.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert binary_row_divergence(student, teacher, 1.0).item() == pytest.approx(expected / 2, rel=1e-6)
    assert binary_row_divergence(4 * student, 4 * teacher, 4.0).item() == pytest.approx(16 * expected / 2, rel=1e-6)


def test_binary_divergence_sees_a_common_shift() -> None:
    teacher = RISING_CLASSES[None]
    assert row_divergence(teacher + 2, teacher, 5.0).item() == pytest.approx(0, abs=1e-6)
    assert binary_row_divergence(teacher + 2, teacher, 5.0).item() > 0.1
    assert torch.isfinite(binary_row_divergence(torch.full((1, 3), 1e4), torch.full((1, 3), -1e4), 1.0)).all()


logits = st.lists(st.floats(-20, 20), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.data(), logits, st.sampled_from([0.5, 1.0, 5.0, 10.0]))
def test_divergence_is_the_literal_formula(data, teacher, temperature) -> None:
    student = data.draw(st.lists(st.floats(-20, 20), min_size=len(teacher), max_size=len(teacher)))
    student, teacher = torch.tensor(student, dtype=torch.float64), torch.tensor(teacher, dtype=torch.float64)
    found = row_divergence(student, teacher, temperature)
    assert found.item() == pytest.approx(
        literal_divergence(student.tolist(), teacher.tolist(), temperature), rel=1e-9, abs=1e-9
    )
    assert found >= -1e-12


def test_gradient_reaches_the_student_only() -> None:
    student, teacher = torch.randn(3, 9, requires_grad=True), torch.randn(3, 9, requires_grad=True)
    for divergence in (row_divergence, binary_row_divergence):
        divergence(student, teacher, 5.0).sum().backward()
        assert teacher.grad is None
        assert student.grad.abs().sum() > 0


# --- terms and normalisers --------------------------------------------------------------------------------------------


def test_parameters_are_summed_and_bins_averaged() -> None:
    # One row on level 1 of 3, weight 0.5, alone there: w_LD * 0.5 * 5 parameters * the published divergence.
    bins = RISING_BINS.expand(1, 5, 9)
    targets = Targets(RISING_CLASSES[None], bins, rows_at([0], [1], 3), torch.tensor([0.5]))
    terms = RegionDistillation(LD, KD)(Logits(torch.zeros(1, 15), torch.zeros(1, 5, 9)), targets)
    assert terms["loss_ld"].tolist() == pytest.approx([0, 10 * 0.5 * 5 * BINS_DIVERGENCE, 0], abs=1e-5)
    assert terms["loss_kd"].tolist() == pytest.approx([0, 20 * 0.5 * CLASSES_DIVERGENCE, 0], abs=1e-5)


def test_normalizers_by_hand() -> None:
    # Image 0: two rows on level 0, one on level 1. Image 1: one row on level 0. Rows are sorted by level.
    rows = rows_at([0, 0, 0, 1], [0, 0, 1, 0], 3)
    divisors = {name: row_normalizer(rows, name).tolist() for name in ("per_level", "global")}
    assert divisors == {"per_level": [3, 3, 3, 1], "global": [4, 4, 4, 4]}
    # Each image counts its own rows, and the batch is the mean of two images.
    assert row_normalizer(rows, "per_image_level").tolist() == [2 * 2, 2 * 2, 2 * 1, 2 * 1]


def test_per_image_normalizer_is_two_devices_with_one_image_each() -> None:
    image_index, level = [0] * 40 + [1] * 7, [0] * 25 + [1] * 10 + [2] * 5 + [0] * 1 + [2] * 6
    targets, student = random_rows(1, image_index, level, 3)
    student.cls_logits.requires_grad_()
    student.box_logits.requires_grad_()

    together = RegionDistillation(LD, KD, "per_image_level")(student, targets)
    devices = []
    for image in range(2):
        theirs, ours = rows_of_image(targets, student, image)
        devices.append(RegionDistillation(LD, KD, "per_level")(ours, theirs))
    for name, logits in (("loss_ld", student.box_logits), ("loss_kd", student.cls_logits)):
        averaged = (devices[0][name] + devices[1][name]) / 2
        torch.testing.assert_close(together[name], averaged, rtol=1e-6, atol=1e-7)
        gradients = [
            torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (together[name], averaged)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
    # The published normaliser over the batch of two is another one.
    batch = RegionDistillation(LD, KD, "per_level")(student, targets)
    assert not torch.allclose(batch["loss_ld"], together["loss_ld"], rtol=1e-3)


def test_global_normalizer_divides_the_sum_by_all_rows() -> None:
    targets, student = random_rows(2, [0] * 6, [0, 0, 0, 1, 1, 2], 3)
    terms = RegionDistillation(None, KD, "global")(student, targets)
    expected = 20 * distillation_loss(student.cls_logits, targets.cls_logits, targets.weight, 5.0, 6)
    assert terms["loss_kd"].sum().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("loss_ld", "loss_kd", "names"),
    [
        pytest.param(LD, KD, {"loss_ld", "loss_kd"}, id="both"),
        pytest.param(LD, None, {"loss_ld"}, id="ld-only"),
        pytest.param(None, KD, {"loss_kd"}, id="kd-only"),
        pytest.param(LD, BINARY_KD, {"loss_ld", "loss_kd"}, id="binary-kd"),
    ],
)
@pytest.mark.parametrize("normalizer", ["per_level", "per_image_level", "global"])
def test_options(loss_ld, loss_kd, names, normalizer) -> None:
    targets, student = random_rows(3, [0, 0, 1], [0, 1, 0], 2)
    terms = RegionDistillation(loss_ld, loss_kd, normalizer)(student, targets)
    assert set(terms) == names
    both = RegionDistillation(LD, KD, normalizer)(student, targets)
    for name, values in terms.items():
        assert (values > 0).all()
        # Leaving out or replacing one term does not move the other.
        assert torch.equal(values, both[name]) == (name == "loss_ld" or loss_kd is KD)


@pytest.mark.parametrize("loss_kd", [KD, BINARY_KD])
@pytest.mark.parametrize("normalizer", ["per_level", "per_image_level", "global"])
def test_no_rows_give_zero_with_a_gradient(normalizer, loss_kd) -> None:
    targets, student = random_rows(4, [], [], 5)
    student.cls_logits.requires_grad_()
    student.box_logits.requires_grad_()
    terms = RegionDistillation(LD, loss_kd, normalizer)(student, targets)
    for values in terms.values():
        assert values.tolist() == [0.0] * 5
    # A student step must not fail, and devices must agree on which losses exist.
    sum(values.sum() for values in terms.values()).backward()
    assert student.cls_logits.grad.shape == (0, 15)
    assert student.box_logits.grad.shape == (0, 5, 9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda: DistributionDistillationLoss(1.0, 0.0), "temperature is 0.0; it must be above 0", id="temperature"
        ),
        pytest.param(
            lambda: BinaryDistillationLoss(-1.0, 5.0), "loss_weight is -1.0; it must not be negative", id="weight"
        ),
        pytest.param(
            lambda: RegionDistillation(LD, KD, "per_gpu"), "normalizer is 'per_gpu'; one of per_level", id="normalizer"
        ),
    ],
)
def test_unusable_options_are_refused(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# --- gathered and dense -----------------------------------------------------------------------------------------------

FEATURES = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1)]


@pytest.fixture(scope="module")
def maps() -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Maps of two images of 32 x 48 px for student and teacher."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda channels: [torch.randn(2, channels, *size, generator=generator) * 2 for size in FEATURES]  # noqa: E731
    return {name: (draw(135), draw(405)) for name in ("student", "teacher")}


def dense_terms(maps: dict, weight: Tensor) -> dict[str, Tensor]:
    """LD and KD over every prior of every image, weight 0 outside the region: the published way to compute them."""
    terms: dict[str, list[Tensor]] = {"loss_ld": [], "loss_kd": []}
    start = 0
    for level, (height, width) in enumerate(FEATURES):
        stop = start + height * width * 9
        of_level = weight[:, start:stop].reshape(-1)
        count = max(1, int((of_level > 0).sum()))
        for name, kind, shape in (("loss_kd", 0, (-1, 15)), ("loss_ld", 1, (-1, 9))):
            student, teacher = (
                maps[model][kind][level].permute(0, 2, 3, 1).reshape(*shape) for model in ("student", "teacher")
            )
            # The weight of a prior counts for each of its five parameters, the prior once in the divisor.
            of_rows = of_level if kind == 0 else of_level[:, None].expand(-1, 5).reshape(-1)
            loss_weight = 20 if kind == 0 else 10
            terms[name].append(loss_weight * distillation_loss(student, teacher, of_rows, 5.0, count))
        start = stop
    return {name: torch.stack(values) for name, values in terms.items()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_gathered_loss_equals_dense_loss_masked(maps, gwd_head, seed, share) -> None:
    random = np.random.default_rng(seed)
    num_priors = 9 * sum(height * width for height, width in FEATURES)
    weight = torch.from_numpy(random.random((2, num_priors)).astype(np.float32))
    weight *= torch.from_numpy(random.random((2, num_priors)) < share)
    student = [[tensor.clone().requires_grad_() for tensor in of_kind] for of_kind in maps["student"]]

    dense = dense_terms(maps | {"student": student}, weight)
    adapter = gwd_head.adapter
    rows = Rows.of(adapter.grid_of_maps(student[0]), [np.flatnonzero(of_image) for of_image in weight])
    teacher = adapter.gather(maps["teacher"], rows)
    chosen = weight[rows.image_index, rows.prior_index]
    targets = Targets(teacher.cls_logits, teacher.box_logits, rows, chosen)
    gathered = RegionDistillation(LD, KD)(adapter.gather(student, rows), targets)

    tensors = [tensor for of_kind in student for tensor in of_kind]
    for name, values in gathered.items():
        torch.testing.assert_close(values, dense[name], rtol=1e-5, atol=1e-6)
        gradients = [
            torch.autograd.grad(of_name.sum(), tensors, retain_graph=True, materialize_grads=True, allow_unused=True)
            for of_name in (values, dense[name])
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
