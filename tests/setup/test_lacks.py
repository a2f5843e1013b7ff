"""What the machine lacks: which CUDA toolkit is taken, and one line in place of another program's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from setup.machine import cuda_toolkit
from setup.messages import SetupError, explained
from tests.setup.test_set_up import cuda_toolkit as toolkit
from tests.setup.test_set_up import script


def test_the_nvcc_of_torchs_cuda_is_taken_wherever_it_lies(tmp_path: Path) -> None:
    older, wanted = toolkit(tmp_path / "cuda-12.4", "12.4"), toolkit(tmp_path / "cuda-13.0", "13.0")
    (tmp_path / "cuda").symlink_to(older)
    on_path = {"PATH": f"{older}/bin"}
    assert cuda_toolkit(on_path, "13.0.2", tmp_path) == wanted
    assert cuda_toolkit({}, "12.1", tmp_path) == older
    assert cuda_toolkit({"CUDA_HOME": str(wanted), **on_path}, "13.0.2", tmp_path / "none") == wanted


def test_a_script_that_calls_nvcc_has_no_toolkit_around_it(tmp_path: Path) -> None:
    """torch would take the script's own grandparent for CUDA_HOME and find no headers there."""
    wanted = toolkit(tmp_path / "cuda-13.0", "13.0")
    nvcc = script(tmp_path / "local/bin/nvcc", f'exec {wanted}/bin/nvcc "$@"')
    assert cuda_toolkit({"PATH": str(nvcc.parent)}, "13.0.2", tmp_path) == wanted
    with pytest.raises(SetupError, match=r"found in PATH and .*/cuda\*: none\. Install one"):
        cuda_toolkit({"PATH": str(nvcc.parent)}, "13.0.2", tmp_path / "elsewhere")


LOGS = {
    "uv, no network": (
        "error: Failed to download `locket==1.0.0`\n"
        "  cause: Failed to fetch: https://files.pythonhosted.org/packages/db/locket-1.0.0-py2.py3-none-any.whl\n"
        "  cause: dns error\n",
        "files.pythonhosted.org cannot be reached: check the network, or name a proxy in HTTPS_PROXY=, ",
    ),
    "uv, no Python": (
        "error: Failed to download `https://github.com/astral-sh/python-build-standalone/releases/download/x.tar.gz`\n"
        "  cause: client error (Connect)\n  cause: tcp connect error\n",
        "github.com cannot be reached (from where uv brings Python 3.12: an installed one does as well): check",
    ),
    "pip, no network": (
        "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError('<HTTPSConnection>: "
        "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/uv/\n"
        "ERROR: No matching distribution found for uv==0.13.9\n",
        "the package index cannot be reached: ",
    ),
    "uv, full disk": (
        "  cause: failed to write to file `/cache/torch/wrapper.py`: No space left on device (os error 28)\n",
        "no space left on the disk: ",
    ),
    "g++, full disk": (
        "/tmp/ccX.s: Fatal error: can't write 4096 bytes to section .text: 'No space left on device'\n",
        "no space left on the disk: ",
    ),
    "g++, no memory": (
        "c++: fatal error: Killed signal terminated program cc1plus\n",
        "the compiler ran out of memory: `make setup MAX_JOBS=1`",
    ),
    "anything else": ("error: something new\n", "what it did"),
}


@pytest.mark.parametrize(("log", "line"), LOGS.values(), ids=LOGS)
def test_a_log_becomes_one_line(log: str, line: str, tmp_path: Path) -> None:
    text = str(explained(log, [tmp_path / "not/yet/made"], "what it did"))
    assert text.startswith(line)
    assert "\n" not in text
