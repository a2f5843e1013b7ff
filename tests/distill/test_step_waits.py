"""What a training step would make a host wait for on a device: nothing of ours, without a device to try it on.

Twice: on a device that does not exist, with real numbers, forward, backward and optimiser; and with tensors that have
no numbers at all, so that whatever needs one raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmrotate.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data._utils.pin_memory import pin_memory

from distill.detectors import LiveDistiller
from distill.dota import DOTA_CLASSES
from distill.rows import with_tensors
from distill.targets import collate_views
from pipelines import cache_teacher
from pipelines.base.experiment import load_config, training_set
from tests.conftest import REPOSITORY
from tests.distill.coco_tools import write_coco_images
from tests.distill.draw_tools import flipped
from tests.distill.made_up_device import DEVICE, MadeUpDevice, OnDevice
from tests.distill.test_live_equals_cached import random_patches

BATCH_SIZE = 8
# Of what a step could use, the operations without a deterministic algorithm on a GPU (torch's documentation).
NOT_DETERMINISTIC = ("bincount", "put.", "histc", "kthvalue", "median", "cumsum", "scatter_reduce", "index_reduce")
ROTATED = f"classes = {DOTA_CLASSES}\n"
CONFIG = """
_base_ = ["{repository}/configs/demo/{base}.py"]

data_root = "{folder}/data/"
train_dataloader = dict(dataset=dict(data_root=data_root))
"""
STUDENT = """
teacher = dict(config="{folder}/teacher.py", checkpoint="{folder}/teacher.pth")
cache = "{folder}/cache.zarr"
"""
# Teacher and student of the demo, and the student's flips.
RECIPES = {
    "rotated": ("teacher", "distill", ("none", "horizontal", "vertical", "diagonal")),
    "gfl": ("gfl_teacher", "gfl_vlr_distill", ("none", "horizontal")),
}


@dataclass
class Recipe:
    """A cache, a batch of it as loaders make it, and the students that learn from it."""

    config: Config
    batch: dict[str, Any]

    def student(self, changes: dict[str, Any]) -> nn.Module:
        torch.manual_seed(1)
        model = MODELS.build(self.config.model.to_dict() | changes)
        model.init_weights()
        return model.train()

    def cached(self) -> nn.Module:
        return self.student({"cache": str(self.config.cache)})

    def live(self) -> nn.Module:
        return self.student({"type": "LiveDistiller", "teacher": dict(self.config.teacher)})

    def seen(self, model: nn.Module) -> dict[str, Any]:
        """The batch, copied since a step changes samples; a live student's has the region alone."""
        targets = self.batch["targets"]
        if isinstance(model, LiveDistiller):
            targets = replace(targets, answers=None, assigned=None)
        samples = [sample.clone() for sample in self.batch["data_samples"]]
        return {"inputs": list(self.batch["inputs"]), "data_samples": samples, "targets": targets}


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request, tmp_path_factory) -> Recipe:
    """Made-up images, a seeded teacher, and its cache with a planned assignment."""
    teacher, student, flips = RECIPES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "rotated":
        random_patches(folder)
    else:
        write_coco_images(folder / "data")
    own = ROTATED if request.param == "rotated" else ""
    for name, base, text in (("teacher", teacher, CONFIG + own), ("student", student, CONFIG + own + STUDENT)):
        (folder / f"{name}.py").write_text(text.format(repository=REPOSITORY, folder=folder, base=base))
    torch.manual_seed(0)
    seeded = MODELS.build(load_config(folder / "teacher.py").model)
    seeded.init_weights()
    torch.save({"state_dict": seeded.state_dict()}, folder / "teacher.pth")
    cache_teacher.main(
        cache_teacher.make_parser().parse_args(["--config", str(folder / "student.py"), "--loaders", "0"])
    )
    return Recipe(config := load_config(folder / "student.py"), load_batch(config, flips))


def load_batch(config: Config, flips: tuple[str, ...]) -> dict[str, Any]:
    """Images of several sizes, where there are any."""
    pipeline = config.train_dataloader.dataset.pipeline
    targets = next(step for step in pipeline if step.type == "LoadTeacherTargets")
    targets.cache, targets.assignment = config.cache, True
    dataset = training_set(config, pipeline)
    views = [(index % len(dataset), flips[index % len(flips)]) for index in range(BATCH_SIZE)]
    return collate_views([dataset.pipeline(flipped(dataset.get_data_info(index), flip)) for index, flip in views])


# --- on a made-up device ----------------------------------------------------------------------------------------------


def step_on(device: MadeUpDevice, recipe: Recipe, model: nn.Module) -> dict[str, Tensor]:
    """A whole step as mmengine's loop runs it, and what its hook then reads of the losses."""
    wrapper = build_optim_wrapper(model, recipe.config.optim_wrapper)
    losses: dict[str, Tensor] = model.train_step(recipe.seen(model), wrapper)
    runner = SimpleNamespace(message_hub=MessageHub.get_current_instance())
    RuntimeInfoHook().after_train_iter(runner, 0, outputs=losses)
    return losses


def losses_on_the_cpu(recipe: Recipe, model: nn.Module) -> dict[str, float]:
    wrapper = build_optim_wrapper(model, recipe.config.optim_wrapper)
    return {name: float(value) for name, value in model.train_step(recipe.seen(model), wrapper).items()}


def test_a_cached_step_waits_for_nothing_of_ours(recipe) -> None:
    """At most eight waits, all of them mmengine's: for the norm of the gradient and every loss, at the step's end."""
    expected = losses_on_the_cpu(recipe, recipe.cached())
    with MadeUpDevice() as device:
        model = recipe.cached().to(DEVICE)
        device.waits.clear()
        losses = step_on(device, recipe, model)
    assert {name: float(value) for name, value in losses.items()} == expected
    by_library = Counter()
    for (who, _, _), count in device.waits.items():
        by_library[who] += count
    assert by_library == {"mmengine": 1 + len(losses)}, device.table()
    assert by_library.total() <= 8
    # Nothing that `randomness.deterministic=True` would refuse on a GPU.
    assert not [name for name in device.operations if name.removeprefix("aten.").startswith(NOT_DETERMINISTIC)]
    # Images and targets, pinned by the loader, are all that travels.
    assert {line.partition(":")[0] for _, line, _ in device.uploads} == {
        "distill/rows.py",
        "mmengine/model/base_model/data_preprocessor.py",
    }, device.table()
    assert all(isinstance(value, OnDevice) for value in losses.values())


def test_loaders_pin_all_that_travels(recipe) -> None:
    """By torch's own function, in the thread of its loader: images, and the targets as one object."""
    batch = {name: recipe.batch[name] for name in ("inputs", "targets")}
    tensors: list[Tensor] = []
    with_tensors(batch["targets"], lambda tensor: tensors.append(tensor) or tensor)
    with MadeUpDevice() as device:
        pinned = pin_memory(batch)
    assert device.pinned == len(tensors) + BATCH_SIZE > 8 + BATCH_SIZE
    assert torch.equal(pinned["targets"].region.place, batch["targets"].region.place)


def test_a_live_step_waits_for_nothing_of_ours(recipe) -> None:
    """What it waits for is mmdet's assignment; the teacher and the region it was asked at add nothing."""
    expected = losses_on_the_cpu(recipe, recipe.live())
    with MadeUpDevice() as device:
        model = recipe.live().to(DEVICE)
        model.teacher.to(DEVICE)
        device.waits.clear()
        losses = step_on(device, recipe, model)
        assert device.ours() == {}, device.table()
        device.waits.clear()
        data = model.data_preprocessor(recipe.seen(model), training=True)
        maps = model.bbox_head(model.extract_feat(data["inputs"]))
        model.distillation_losses(maps, model.answers(data["inputs"], data["targets"]))
        assert not device.waits, device.table()
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("put_back", "kind"),
    [
        pytest.param(lambda values: values * float(values.sum().item() > -1), "_local_scalar_dense", id="item"),
        pytest.param(lambda values: values * torch.ones(1, device=values.device), None, id="made-there"),
        pytest.param(lambda values: values * values.new_tensor([1.0]), "new_tensor", id="uploaded"),
        pytest.param(lambda values: values * torch.ones(len(values)).to(values.device), "to", id="made-here"),
        pytest.param(lambda values: values[values == values], "index by a mask", id="mask"),
        pytest.param(lambda values: values[[0, 1]], "index: upload of indices", id="list"),
        pytest.param(lambda values: torch.from_numpy(values.detach().cpu().numpy()), "copy to the host", id="copied"),
    ],
)
def test_the_made_up_device_sees_a_wait(put_back: Callable[[Tensor], Tensor], kind: str | None) -> None:
    with MadeUpDevice() as device:
        values = torch.arange(3.0, device=DEVICE)
        put_back(values)
    assert [what for _, _, what in device.waits] == ([] if kind is None else [next_to(device, kind)])


def next_to(device: MadeUpDevice, kind: str) -> str:
    """The only wait, which names its kind."""
    ((_, _, what),) = device.waits
    assert kind in what
    return what


@pytest.mark.parametrize(
    "mixed",
    [
        pytest.param(lambda there, here: there + here, id="sum"),
        pytest.param(lambda there, here: here[there.long()], id="indexed"),
        pytest.param(lambda there, here: here.index_put((there.long(),), there), id="put here"),
        pytest.param(lambda there, here: there.index_put((there.long(),), here), id="put there"),
    ],
)
def test_the_made_up_device_refuses_two_devices(mixed: Callable[[Tensor, Tensor], Tensor]) -> None:
    with MadeUpDevice(), pytest.raises(RuntimeError, match="operands on cuda:0 and on the CPU"):
        mixed(torch.arange(3.0, device=DEVICE), torch.ones(3))


# --- without numbers --------------------------------------------------------------------------------------------------


class NoUploads(TorchDispatchMode):
    """Refuses copies between host and device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        is_copy = operation.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if is_copy and len(devices) > 1:
            raise RuntimeError(f"{operation} between host and device")
        return result


@pytest.fixture
def no_numbers() -> Iterator[FakeTensorMode]:
    """Tensors without numbers; parameters take the device of what they are replaced by."""
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield FakeTensorMode()
    torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def without_numbers(mode: FakeTensorMode, recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    """The model on a made-up device, and what its preprocessor hands on."""

    def moved(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to(DEVICE)

    # On the CPU: mmengine pads a batch by sizes that it keeps in tensors.
    data = model.data_preprocessor(recipe.seen(model), training=True)
    with mode:
        for module in (model, *(one.model for one in getattr(model, "_teacher", []))):
            module._apply(moved)
        return {**data, "inputs": moved(data["inputs"]), "targets": with_tensors(data["targets"], moved)}


@pytest.mark.parametrize("terms", ["all", "ld"])
def test_a_cached_step_needs_no_number(recipe, no_numbers, terms: str) -> None:
    """Forward pass and losses know every size beforehand; and they lie on one device."""
    if terms == "ld":
        recipe = replace(recipe, config=deepcopy(recipe.config))
        recipe.config.model.distillation |= {"loss_kd": None}
    model = recipe.cached()
    data = without_numbers(no_numbers, recipe, model)
    with no_numbers, NoUploads():
        total, parts = model.parse_losses(model(**data, mode="loss"))
    assert {value.device for value in parts.values()} == {DEVICE}
    assert total.requires_grad


def test_a_live_teacher_needs_no_number(recipe, no_numbers) -> None:
    """Student, teacher and distillation; the detection losses ask mmdet's assigner for numbers."""
    model = recipe.live()
    data = without_numbers(no_numbers, recipe, model)
    with no_numbers, NoUploads():
        maps = model.bbox_head(model.extract_feat(data["inputs"]))
        losses = model.distillation_losses(maps, model.answers(data["inputs"], data["targets"]))
    assert {value.device for values in losses.values() for value in values} == {DEVICE}
