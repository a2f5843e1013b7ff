"""How a teacher computes: what torch is set to meanwhile, what the manifest says of it, and how far answers differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partialmethod
from typing import Any

import pytest
import torch
from mmrotate.registry import MODELS
from torch import Tensor, nn
from torch.backends import cudnn

from distill.arithmetic import REPEAT_TOLERANCE, Arithmetic, use_tf32
from distill.audit import repeat_tolerance
from distill.teacher import FrozenTeacher
from pipelines.base.experiment import load_config
from tests.conftest import REPOSITORY
from tests.distill.golden_tools import TEACHER_SEED, fill_seeded_weights

CPU = torch.device("cpu")


def settings() -> dict[str, object]:
    """All that `Arithmetic.applied` changes in torch, as it stands."""
    return {
        "convolutions": cudnn.conv.fp32_precision,
        "recurrent": cudnn.rnn.fp32_precision,
        "products": torch.backends.cuda.matmul.fp32_precision,
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@pytest.fixture
def kept_settings() -> Iterator[None]:
    """torch's settings, put back after a test that changes them as a user could."""
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    flags = cudnn.deterministic, cudnn.benchmark
    yield
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[0] == "tf32", before[2] == "tf32"
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before
    cudnn.deterministic, cudnn.benchmark = flags


@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic(tf32=True), Arithmetic("bfloat16")])
def test_torch_is_set_while_a_teacher_computes(arithmetic: Arithmetic, kept_settings) -> None:
    """Also where a user has set one part by its newer name: torch then raises where `allow_tf32` is read."""
    cudnn.benchmark = True
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "ieee", "tf32"
    with pytest.raises(RuntimeError, match="mix of the legacy and new"):
        _ = cudnn.allow_tf32
    before = settings()
    precision = "tf32" if arithmetic.tf32 else "ieee"
    with suppress(KeyError), arithmetic.applied(CPU):
        assert settings() == {
            **dict.fromkeys(("convolutions", "recurrent", "products"), precision),
            "deterministic": True,
            "benchmark": False,
            "autocast": arithmetic.dtype == "bfloat16",
        }
        # What a library reads by its older name.
        assert cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is arithmetic.tf32
        raise KeyError
    assert settings() == before


def test_algorithms_may_be_left_to_the_process(kept_settings) -> None:
    """A live teacher that is timed beside a student takes those that the student takes."""
    cudnn.deterministic, cudnn.benchmark = False, True
    with Arithmetic(tf32=True).applied(CPU, deterministic=False):
        assert (cudnn.deterministic, cudnn.benchmark) == (False, True)
        assert cudnn.conv.fp32_precision == "tf32"
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_tf32_is_set_for_a_whole_process(kept_settings) -> None:
    for on in (False, True):
        use_tf32(on)
        assert cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is on


def test_the_manifest_states_what_the_bits_depend_on(monkeypatch) -> None:
    """Threads on a CPU; model, library, algorithms and precision on a GPU."""
    arithmetic = Arithmetic("float16", tf32=True, channels_last=True)
    shared = {"torch": torch.__version__, "dtype": "float16", "channels_last": True, "compile": False}
    assert arithmetic.describe(CPU) == shared | {"device": "cpu", "threads": torch.get_num_threads()}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model of {device}")
    assert arithmetic.describe(torch.device("cuda:1")) == shared | {
        "device": "cuda",
        "gpu": "Model of cuda:1",
        "cudnn": cudnn.version(),
        "deterministic": True,
        "tf32": True,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tf32", [False, True])
def test_arithmetic_is_read_from_a_manifest(dtype: str, tf32: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Model")
    arithmetic = Arithmetic(dtype, tf32=tf32)
    assert Arithmetic.of({**arithmetic.describe(torch.device("cuda")), "patches_per_batch": 1}) == arithmetic
    assert Arithmetic.of(arithmetic.describe(CPU)) == Arithmetic(dtype)
    wanted = "tf32" if tf32 and dtype == "float32" else dtype
    assert arithmetic.repeat_tolerance == REPEAT_TOLERANCE[wanted]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The demo's teacher with seeded weights, and logits about as far apart as a trained one's."""
    built = MODELS.build(load_config(REPOSITORY / "configs/demo/teacher.py").model)
    fill_seeded_weights(built, TEACHER_SEED)
    with torch.no_grad():
        for layer in (built.bbox_head.retina_cls, built.bbox_head.retina_reg):
            layer.weight *= 5 / layer.weight.flatten(1).norm(dim=1).mean()
    return built


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answer(model: nn.Module, arithmetic: Arithmetic, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class and box logits (B, N) of the views that come first, with a copy of the teacher."""
    teacher = FrozenTeacher(deepcopy(model), {}).compute_in(arithmetic)
    maps = teacher.forward(teacher.preprocess(images))
    cls_logits, box_logits = (torch.cat([level.float().flatten(1) for level in part], dim=1) for part in maps)
    return cls_logits, box_logits


WAYS = [
    pytest.param(Arithmetic(), 2, 4, id="two threads"),
    pytest.param(Arithmetic(), 1, 1, id="alone"),
    pytest.param(Arithmetic(channels_last=True), 1, 4, id="channels last"),
    pytest.param(Arithmetic("bfloat16", channels_last=True), 1, 4, id="bfloat16, channels last"),
]


@pytest.mark.parametrize(("arithmetic", "number", "views"), WAYS)
def test_a_repeated_answer_lies_within_its_tolerance(
    model: nn.Module, arithmetic: Arithmetic, number: int, views: int
) -> None:
    """With other threads, fewer views in a batch, another memory format: the last bits differ, and no more."""
    images = torch.randint(0, 256, (4, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with threads(1):
        wanted = answer(model, Arithmetic(arithmetic.dtype), images)
    with threads(number):
        found = answer(model, arithmetic, images[:views])
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs[:views]
        assert ours.dtype == torch.float32
        allowed = repeat_tolerance(float(theirs.abs().max()), arithmetic.repeat_tolerance)
        assert (ours - theirs).abs().max() <= allowed


def test_the_answer_of_another_view_is_far_outside(model: nn.Module) -> None:
    """Even for the coarsest precision, and in noise."""
    images = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    right, wrong = (answer(model, Arithmetic(), seen) for seen in (images, images.flip(3)))
    for ours, theirs in zip(wrong, right, strict=True):
        assert (ours - theirs).abs().max() > 3 * REPEAT_TOLERANCE["bfloat16"] * theirs.abs().max()


@pytest.mark.slow
def test_a_teacher_is_compiled_for_each_size(model: nn.Module, monkeypatch) -> None:
    """With the size as a variable, an answer would depend on the sizes before: a resumed capture would make others."""
    shapes = []

    def as_it_is(graph: Any, inputs: Sequence[Any]) -> Any:
        shapes.append([tuple(value.shape) for value in inputs if isinstance(value, Tensor)])
        assert all(isinstance(length, int) for shape in shapes[-1] for length in shape)
        return graph.forward

    compile_part = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", partialmethod(compile_part, backend=as_it_is))
    teacher = FrozenTeacher(deepcopy(model), {}).compute_in(Arithmetic(compile=True))
    for size in (64, 96, 128, 64):
        teacher.forward(torch.zeros(1, 3, size, size))
    images = [shape for found in shapes for shape in found if shape[:2] == (1, 3)]
    assert images == [(1, 3, size, size) for size in (64, 96, 128)]
    # The names of its weights are those that the manifest's digest was made from.
    assert teacher.model.state_dict().keys() == model.state_dict().keys()
