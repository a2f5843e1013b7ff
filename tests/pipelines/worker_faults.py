"""Faults for the workers of a test's cluster: `--preload tests.pipelines.worker_faults`, with FAULTS=<folder>.

They strike in the middle of a block: its shards are written, its commit is not. `kill` in the folder kills one worker;
a fifo `pause` holds every worker until the test has opened and closed it for writing.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Worker

import cache.writer

# All workers import at once, when they start; otherwise each does when its first task comes.
import pipelines.plan  # noqa: F401

FAULTS = "FAULTS"


def dask_setup(worker: Worker) -> None:
    """Dask calls this once in every worker process."""
    folder = Path(os.environ[FAULTS])
    digest = cache.writer.block_digest

    def faulty_digest(path: Path, *arguments: Any) -> bytes:
        # A probe writes blocks as well, into a store of its own.
        if path.name == "cache.zarr":
            with suppress(FileNotFoundError):
                (folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            with suppress(FileNotFoundError):
                (folder / "pause").read_bytes()
        return digest(path, *arguments)

    cache.writer.block_digest = faulty_digest
