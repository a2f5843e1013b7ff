"""Who is asked, and how: the teacher compared with its student, and the manifest of the cache that it makes."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config

from distill.arithmetic import Arithmetic
from distill.interface import require_same_interface
from distill.teacher import FrozenTeacher
from pipelines.base.device import choose_device, require_operators
from pipelines.base.experiment import describe_assignment, describe_student
from pipelines.capture.asking import TeacherViews
from pipelines.capture.options import TeacherOptions


def load_teacher(config: Config, options: TeacherOptions, turn: int = 0) -> FrozenTeacher:
    """The teacher that the config or the command line names, on the device; `turn` is that of `choose_device`.

    Raises:
        ValueError: it cannot be loaded, its head or preprocessing is not that of the config's student, the device is
            not there, or mmcv's operators were not built for it.
    """
    device = choose_device(options.device, turn)
    require_operators(device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    teacher = FrozenTeacher.load(
        options.teacher or config.teacher.config, options.checkpoint or config.teacher.checkpoint
    )
    require_same_interface(describe_student(config), teacher.interface())
    return teacher.to(device)


def describe_pair(config: Config, teacher: FrozenTeacher, arithmetic: Arithmetic) -> dict[str, Any]:
    """What the manifest says about teacher and student, and of `numeric` what needs no plan.

    What it says about the teacher is the teacher's; views, labels, region and assignment are the student's.
    """
    student, theirs = describe_student(config), teacher.interface()
    return {
        **student,
        "teacher": teacher.describe(),
        "head": theirs["head"],
        "preprocessing": {**student["preprocessing"], **theirs["preprocessing"]},
        "numeric": arithmetic.describe(teacher.device),
        "assignment": describe_assignment(config),
    }


def describe_capture(config: Config, asked: TeacherViews) -> dict[str, Any]:
    """The manifest of the cache that a capture makes, but for its plan and codec."""
    return {**describe_pair(config, asked.teacher, asked.arithmetic), "numeric": describe_numeric(asked)}


def describe_numeric(asked: TeacherViews) -> dict[str, Any]:
    """What the bytes of a block depend on beside views and teacher, as the manifest states it."""
    return {**asked.arithmetic.describe(asked.teacher.device), "patches_per_batch": asked.options.patches_per_batch}
