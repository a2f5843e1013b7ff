"""Work over the blocks of a store, or any other list, in threads, in bounded memory, with progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipelines.base.progress import progress


def map_and_add[Item, Result](
    function: Callable[[Item], Result],
    items: Sequence[Item],
    zero: Result,
    *,
    workers: int,
    description: str,
    unit: str,
) -> Result:
    """Add up `function(item)` of all items in their order, `zero` first.

    Threads, because the work is reading, hashing and decompressing, which all release Python's lock. Memory never
    holds more than two results a worker.
    """
    total: Any = zero
    if items:
        with progress(description, len(items), unit) as advance, ThreadPoolExecutor(workers) as pool:
            for result in _results(pool, function, items, ahead=2 * workers):
                total = total + result
                advance(1)
    return total


def _results[Item, Result](
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], *, ahead: int
) -> Iterator[Result]:
    """Results in the order of the items, of which no more than `ahead` are begun at a time."""
    begun: deque[Future[Result]] = deque()
    for item in items:
        if len(begun) == ahead:
            yield begun.popleft().result()
        begun.append(pool.submit(function, item))
    while begun:
        yield begun.popleft().result()
