"""Work in threads: everything once, in order, and never far ahead of what has been added up."""

from __future__ import annotations

import pytest

from pipelines.base.parallel import map_and_add


def add(function, items, zero, workers: int = 3):
    return map_and_add(function, items, zero, workers=workers, description="adding", unit="items")


@pytest.mark.parametrize("count", [0, 1, 5, 200])
def test_results_are_added_in_the_order_of_the_items(count: int) -> None:
    assert add(lambda item: [item * item], range(count), []) == [item * item for item in range(count)]


def test_at_most_two_results_a_worker_wait_to_be_added() -> None:
    begun: list[int] = []
    ahead: list[int] = []

    class Total(int):
        def __add__(self, other: int) -> Total:
            ahead.append(len(begun) - int(self))
            return Total(int(self) + other)

    def work(item: int) -> int:
        begun.append(item)
        return 1

    assert add(work, range(100), Total(0)) == 100
    assert max(ahead) <= 2 * 3


def test_an_error_ends_the_work_early() -> None:
    begun: list[int] = []

    def fail_at_three(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("block 3 is damaged")
        return 1

    with pytest.raises(ValueError, match="block 3 is damaged"):
        add(fail_at_three, range(1000), 0)
    assert len(begun) <= 3 + 2 * 3
