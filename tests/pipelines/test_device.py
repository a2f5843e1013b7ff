"""A command stops at its start where mmcv's operators were not built for its device."""

from __future__ import annotations

import pytest

from pipelines.base.device import require_operators


def test_operators_run_on_a_cpu() -> None:
    require_operators("cpu")


def test_a_device_without_operators_is_refused() -> None:
    """`meta` is a device for which mmcv has none, as a GPU is for a build without CUDA."""
    with pytest.raises(
        ValueError, match=r"not built for meta \(nms_impl: implementation for device meta.* not found"
    ) as error:
        require_operators("meta")
    assert str(error.value).endswith(
        "Build them on this machine: make setup CUDA=1; or compute on the CPU: CUDA_VISIBLE_DEVICES= in the environment"
    )
