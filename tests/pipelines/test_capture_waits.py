"""What a capture asks of a device: few copies, few waits, and stages that the probe adds up as they happen."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cache.codec import LOGIT_FIELDS
from cache.reader import CacheReader
from distill.teacher import FrozenTeacher
from distill.transforms import LoadPatch
from pipelines import cache_teacher
from pipelines.base.experiment import load_config
from pipelines.capture.asking import TeacherViews
from pipelines.capture.encoding import BlockEncoder, BlockRows
from pipelines.capture.options import CaptureOptions
from pipelines.capture.probe import ProbeCost, predicted_seconds
from pipelines.capture.views import TrainingViews
from tests.cache.store_tools import small_plan
from tests.distill.made_up_device import DEVICE, MadeUpDevice
from tests.pipelines.conftest import Project, call


class Calls(TorchDispatchMode):
    """Counts the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def asked(project: Project) -> TeacherViews:
    config = load_config(project.config("distill"))
    teacher = FrozenTeacher.load(config.teacher.config, config.teacher.checkpoint)
    return TeacherViews(config, CacheReader(project.cache).plan, teacher, CaptureOptions(patches_per_batch=2))


def test_a_block_is_checked_without_a_wait_for_every_view(project: Project, asked: TeacherViews) -> None:
    """`.item()` and `float()` of a tensor wait for the device that holds it."""
    codec = CacheReader(project.cache).codec
    answers = [answer for batch in asked.batches(range(12)) for answer in asked.logits([batch])]
    with Calls() as calls:
        targets = BlockEncoder(asked.plan, asked.teacher.adapter, codec, None).encode(0, BlockRows.of(answers))
    assert targets.fields["cls_logits"].shape[0] == asked.plan.num_priors
    assert calls.count["aminmax"] == len(LOGIT_FIELDS)
    assert calls.count["_local_scalar_dense"] == 0


def test_images_are_normalised_as_one_tensor(asked: TeacherViews) -> None:
    """To the bits that mmdet makes of a list of images, one after the other."""
    images = list(asked.patches[0].images)
    alone = asked.teacher.model.data_preprocessor({"inputs": images, "data_samples": None})["inputs"]
    with Calls() as calls:
        together = asked.teacher.preprocess(torch.stack(images))
    assert torch.equal(together, alone)
    assert together.is_contiguous()
    assert calls.count["index"] == 1


@pytest.mark.parametrize(
    ("codec", "waits"),
    [
        pytest.param("exact", len(LOGIT_FIELDS), id="exact"),
        # Logits are encoded on the host, and measured on the device; however many views there are.
        pytest.param("default", 15, id="default"),
    ],
)
def test_a_block_on_a_device_is_that_of_the_cpu(
    project: Project, tmp_path, monkeypatch, codec: str, waits: int
) -> None:
    """On one that does not exist: no operand lies elsewhere, and asking waits for the teacher alone, at its end."""
    synchronized = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronized.append)
    cache = tmp_path / "cache.zarr"
    arguments = ["--config", project.config("distill"), "--loaders", 0, "--cache", cache]
    assert call(cache_teacher, *arguments, "--cfg-options", f"codec={codec}") == 0
    config, store = load_config(project.config("distill")), CacheReader(cache)
    teacher = FrozenTeacher.load(config.teacher.config, config.teacher.checkpoint)
    here, there = (TeacherViews(config, store.plan, one, CaptureOptions()) for one in (teacher, deepcopy(teacher)))
    views = [here.patches[patch] for patch in range(12)]
    encoder = BlockEncoder(store.plan, teacher.adapter, store.codec, None)
    wanted = encoder.encode(0, BlockRows.of(here.ask(views)))
    with MadeUpDevice() as device:
        there.teacher.to(DEVICE)
        answers = there.ask(views, timed=True)
        assert device.ours() == {}, device.table()
        found = encoder.encode(0, BlockRows.of(answers))
    assert synchronized == [DEVICE]
    # One more for the ranges of all its values.
    assert sum(device.ours().values()) == waits + 1, device.table()
    assert found.error == wanted.error
    for name, values in wanted.fields.items():
        assert np.array_equal(found.fields[name], values), name


def test_a_capture_searches_regions_once_and_decodes_a_patch_for_all_its_views(
    project: Project, tmp_path, monkeypatch
) -> None:
    """Planning searches and assigns; it, the probe and the capture each decode a patch once, and flip the array."""
    done: Counter[str] = Counter()

    def counted(of: type, name: str) -> None:
        method = getattr(of, name)

        def count(*given: Any) -> Any:
            done[name] += 1
            return method(*given)

        monkeypatch.setattr(of, name, count)

    for of, name in ((LoadPatch, "transform"), (TrainingViews, "region"), (TrainingViews, "assignment")):
        counted(of, name)
    assert call(cache_teacher, "--config", project.config("distill"), "--loaders", 0, "--cache", tmp_path / "c") == 0
    plan = CacheReader(tmp_path / "c").plan
    assert done["region"] == done["assignment"] == plan.num_views == 4 * len(plan.patch_ids)
    assert 2 * len(plan.patch_ids) <= done["transform"] <= 3 * len(plan.patch_ids)


@pytest.mark.parametrize(
    ("device", "loaders", "seconds"),
    [
        pytest.param("cuda", 0, 2 + 3 + 5 + 40, id="worker"),
        pytest.param("cuda", 4, 40, id="overlapping"),
        pytest.param("cpu", 0, 2 + 3 + 5 + 40 / 4, id="cpu"),
    ],
)
def test_stages_that_do_not_overlap_are_added(device: str, loaders: int, seconds: float, monkeypatch) -> None:
    """Half the rows of a plan were probed. A Dask worker, which has no loaders, does one stage after the other."""
    monkeypatch.setattr("pipelines.capture.probe.available_cores", lambda: 4)
    plan = small_plan()
    rows, one = np.asarray([plan.num_priors // 2]), np.ones(1)
    predicted = predicted_seconds(plan, ProbeCost(rows, one, 1.5 * one, 2.5, 20), device, loaders)
    scale = plan.num_priors / (plan.num_priors // 2) / 2
    assert predicted == pytest.approx(scale * seconds)
