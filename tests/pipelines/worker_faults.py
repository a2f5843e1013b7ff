"""Faults for the workers of a test's cluster: `--preload tests.pipelines.worker_faults`, with FAULTS=<folder>.

They strike in the middle of a block: its shards are written, its commit is not. `kill` in the folder kills one worker;
a fifo `pause` holds every worker until the test has opened and closed it for writing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from distributed import Worker

# All workers import at once, when they start; otherwise each does when its first task comes.
import pipelines.plan  # noqa: F401
from cache.storage import Folder

FAULTS = "FAULTS"


def dask_setup(worker: Worker) -> None:
    """Dask calls this once in every worker process."""
    folder = Path(os.environ[FAULTS])
    write = Folder.write

    def faulty_write(store: Folder, objects: Mapping[str, bytes]) -> None:
        write(store, objects)
        # A probe writes blocks as well, into a store of its own.
        if store.name == "cache.zarr" and not any(key.startswith("committed/") for key in objects):
            with suppress(FileNotFoundError):
                (folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            with suppress(FileNotFoundError):
                (folder / "pause").read_bytes()

    Folder.write = faulty_write
