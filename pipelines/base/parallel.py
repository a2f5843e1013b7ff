"""Work over the blocks of a store, or any other list, on Dask: in parallel, in bounded memory, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import dask
import dask.bag

from pipelines.base.progress import progress

# Most items of one Dask task: few enough for a smooth progress, enough that a million items are no million tasks.
ITEMS_PER_TASK = 64


def map_and_add[Item, Result](
    function: Callable[[Item], Result],
    items: Sequence[Item],
    zero: Result,
    *,
    workers: int,
    description: str,
    unit: str,
) -> Result:
    """Add up `function(item)` of all items, `zero` first.

    Threads, because the work is reading, hashing and decompressing, which all release Python's lock. At any time
    memory holds one item and one sum a worker. The order of the sum is that of the items.
    """
    if not items:
        return zero
    size = max(1, min(ITEMS_PER_TASK, len(items) // (4 * workers)))
    lock = threading.Lock()
    with progress(description, len(items), unit) as advance:

        def counted(item: Item) -> Result:
            result = function(item)
            with lock:
                advance(1)
            return result

        def total(part: Sequence[Item]) -> Result:
            part_sum = zero
            for item in part:
                part_sum = part_sum + counted(item)
            return part_sum

        sums = dask.bag.from_sequence(items, partition_size=size).reduction(total, lambda parts: sum(parts, zero))
        with dask.config.set(scheduler="threads", num_workers=workers):
            return sums.compute()
