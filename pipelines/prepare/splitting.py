"""Many images -> patches, in parallel processes that end with the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed

import cv2

from pipelines.base.invocation import again
from pipelines.prepare.sources import SourceImage
from pipelines.prepare.split_folder import SplitFolder, write_patches
from pipelines.prepare.windows import SplitRule


def split_images(
    tasks: Sequence[tuple[SourceImage, SplitFolder]],
    rule: SplitRule,
    *,
    workers: int,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write the patches of every image, one image per worker at a time; `on_image` is called after each.

    At the first error the images in work are finished, the others are left for the next run.

    Raises:
        ValueError: from `write_patches`, or a worker process died.
        OSError: a file cannot be read or written.
    """
    if not tasks:
        return
    # Spawned, not forked: a fork copies the locks of OpenCV's and the progress display's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_prepare_worker) as pool:
        futures = [pool.submit(write_patches, source, folder, rule) for source, folder in tasks]
        try:
            for future in as_completed(futures):
                future.result()
                on_image()
        except BrokenExecutor:
            raise ValueError(
                f"one of {workers} worker processes died, probably because memory ran out. Finished images are kept; "
                f"with fewer: {again(arguments=('--workers', '1'))}"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    cv2.setNumThreads(1)  # one image per process keeps the cores busy already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one winds the work up
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's workers outlive a killed main process: they hold both ends of the queue that they wait on.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
