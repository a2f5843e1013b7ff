"""Two processes train one student: torchrun over gloo, as GPUS=2 does on GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.pipelines.conftest import Project


@pytest.mark.slow
def test_two_processes_train_from_the_cache(project: Project, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "pipelines.distill", "--config", project.config("distill"), "--work-dir", str(tmp_path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = next(tmp_path.glob("*/vis_data/scalars.json")).read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert len(lines) == 4
    assert all(np.isfinite(line["loss"]) and line["loss_ld"] > 0 for line in lines)
    assert (tmp_path / "iter_4.pth").is_file()
