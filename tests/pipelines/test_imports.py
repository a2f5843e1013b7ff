"""What importing OpenMMLab says and loads."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY

PROGRAM = """
import sys
import pipelines
from pipelines.base.openmmlab import DEFERRED
import mmrotate.models, mmrotate.datasets, mmdet.datasets
assert not {*sys.modules} & set(DEFERRED)

from mmdet.datasets.transforms import generate_line
from mmdet.utils import mot_error_visualize
from mmrotate.models.detectors import h2rbox_v2
import torch
assert generate_line.LineString([(0, 0), (3, 4)]).length == 5
assert mot_error_visualize.plt.get_cmap("tab10").N == 10
assert h2rbox_v2.transforms.functional.vflip(torch.tensor([[[1], [2]]])).flatten().tolist() == [2, 1]
from mmdet.datasets.transforms import transforms
import numpy
assert transforms.corrupt(numpy.zeros((32, 32, 3), numpy.uint8), corruption_name="brightness").mean() > 0
assert {*sys.modules} >= set(DEFERRED)
"""


def test_openmmlab_is_imported_in_silence_and_the_rest_when_it_is_used() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_help_and_unusable_arguments_wait_for_no_imports() -> None:
    """Nothing that takes seconds is imported by any command before its arguments are read."""
    commands = sorted(path.stem for path in (REPOSITORY / "pipelines").glob("[!_]*.py"))
    program = (
        "import importlib, sys\n"
        f"for command in {commands}:\n"
        "    importlib.import_module(f'pipelines.{command}').make_parser().format_help()\n"
        "print(*sorted({'torch', 'torchvision', 'mmdet', 'mmrotate', 'scipy', 'distributed'} & {*sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(commands) > 10
    assert ran.stdout.strip() == ""
