"""A student beside the teacher of a cache: its answers at stored priors, and how far they are from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch import Tensor

from cache.reader import CacheReader
from distill.errors import TeacherNeeded
from distill.rows import Rows
from distill.teacher import FrozenTeacher
from pipelines.capture.measured import measure_error
from pipelines.capture.views import TrainingViews
from pipelines.training.kind import detector_config

# A student is asked about so many views; its error and the codec's are compared at this temperature.
STUDENT_VIEWS = 8
STUDENT_ERROR = "mean_kl_t5"


class Student:
    """A trained student that answers at the priors of a view.

    Raises:
        ValueError: no such checkpoint, or weights of another model.
    """

    def __init__(self, config: Config, checkpoint: str | Path) -> None:
        try:
            self.detector = FrozenTeacher.load(detector_config(config), str(checkpoint))
        except TeacherNeeded as error:
            raise ValueError(f"{error}. So this student cannot be shown beside the teacher") from None
        self.preprocessor = MODELS.build(config.model.data_preprocessor).to(self.detector.device)

    def logits(self, image: Tensor, prior_index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Class logits (n, C) and box logits (n, D, K) at the given priors of an image (3, H, W) uint8."""
        batch = self.preprocessor({"inputs": [image], "data_samples": None})
        maps = self.detector.forward(batch["inputs"])
        adapter = self.detector.adapter
        rows = Rows.of(adapter.grid_of_maps(maps[0]), [prior_index]).to(self.detector.device)
        logits = adapter.gather(maps, rows)
        return logits.cls_logits.cpu(), logits.box_logits.cpu()


def student_figures(
    config: Config, reader: CacheReader, checkpoint: str, errors: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """How small the codec's error is beside what a student still has to learn: both as mean KL from the teacher.

    errors: the store's measured errors, as `store_figures` gives them.
    """
    student = Student(config, checkpoint)
    views = TrainingViews(config)
    plan = reader.plan
    captured = np.isin(plan.block, reader.store.captured_blocks())
    usable = np.flatnonzero(captured & (plan.priors_per_view > 0))
    chosen = np.random.default_rng(0).choice(usable, min(STUDENT_VIEWS, len(usable)), replace=False)
    rows, sums = 0, dict.fromkeys(("cls", "box"), 0.0)
    for view in map(plan.view, chosen.tolist()):
        record = reader.read(view.patch_id, view.draw)
        answers = student.logits(views.sample(view.patch_id, view.draw).image, record.prior_index)
        for name, stored, answer in zip(sums, (record.cls_logits, record.box_logits), answers, strict=True):
            measured = measure_error(torch.from_numpy(stored), answer, name)
            sums[name] += len(record) * measured[f"{name}_{STUDENT_ERROR}"]
        rows += len(record)
    found: dict[str, Any] = {"checkpoint": str(checkpoint), "views": len(chosen), "rows": rows}
    for name, total in sums.items():
        divergence, error = total / rows, errors[f"{name}_{STUDENT_ERROR}"]["mean"]
        found[name] = {"stored": error, "student": divergence, "ratio": error / divergence if divergence else None}
    return found
