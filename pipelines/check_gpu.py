"""Check a GPU: what is installed, whether cached students are live ones there, and what steps and captures take.

Built-in scenes and untrained full models: nothing is downloaded. Prints a block of Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import available_cores, run_command
from pipelines.capture.options import device_name

# No part begins later; the longest takes about a minute.
SECONDS = 480


def main(arguments: argparse.Namespace) -> int:
    """Parts, one after the other -> Markdown; 1 where something should be otherwise."""
    # Read when CUDA starts: without it cuBLAS has no deterministic algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if not torch.cuda.is_available():
        raise ValueError("no GPU is visible to torch. Look at CUDA_VISIBLE_DEVICES and the driver (nvidia-smi)")

    from pipelines.base.device import choose_device
    from pipelines.gpu.check import Check
    from pipelines.gpu.page import as_markdown
    from pipelines.gpu.sizes import full_sizes

    sizes = full_sizes(available_cores())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = Check(choose_device(arguments.device), sizes, Path(folder), SECONDS).run()
    print(as_markdown(found, sizes), end="")
    return 1 if found.problems else 0


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "check_gpu",
        "What is installed, whether cached students are live ones on this GPU, and what steps and captures take.",
        example="--device cuda:0",
        status="0 all is as it should be, 1 something is not or there is no GPU, 2 unusable arguments",
    )
    parser.add_argument("--device", type=device_name, help="which GPU (default: the first)")
    parser.add_argument("--folder", help="where scenes and stores lie meanwhile (default: the temporary folder)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
