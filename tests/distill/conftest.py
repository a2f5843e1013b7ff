"""Models of the published configuration, built once."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from distill.settings import read_config
from tests.conftest import REPOSITORY


@pytest.fixture(scope="session")
def gwd_config() -> Config:
    """The distilled student's config of the GWD row."""
    init_default_scope("mmrotate")
    return read_config(REPOSITORY / "configs/distill/gwd_r18_1x_dota.py")


@pytest.fixture(scope="session")
def gwd_head(gwd_config):
    """The published head, without weights that matter."""
    from mmrotate.registry import MODELS

    model = gwd_config.model
    return MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})


@pytest.fixture(scope="session")
def gwd_distillation(gwd_config):
    """LD and KD of the published configuration."""
    from mmrotate.registry import MODELS

    return MODELS.build(gwd_config.distillation)
