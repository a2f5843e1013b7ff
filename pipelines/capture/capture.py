"""The capture: block after block, what the teacher says about its views, encoded and written while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch

from cache.plan import Plan
from cache.writer import CacheWriter
from pipelines.capture.asking import TeacherViews
from pipelines.capture.encoding import BlockEncoder, BlockRows

# Blocks that are encoded or written while the teacher answers for the next; each takes about 2 kB a stored prior of 60
# logits, 2.4 GB where a block has a million.
BLOCKS_AT_ONCE = 2


def capture_blocks(
    asked: TeacherViews, writer: CacheWriter, blocks: Sequence[int], advance: Callable[[int], None]
) -> int:
    """Fill blocks of a store; returns the bytes written.

    Loader processes, the teacher, and threads that encode, measure and write work at the same time, each on other
    blocks; no batch crosses a block, so its bytes do not depend on other blocks. `advance` is told how many views the
    teacher has answered for.

    Raises:
        ValueError: a value that the codec cannot hold, naming view, field, value and range. Blocks that are committed
            stay.
    """
    encoder = BlockEncoder(asked.plan, asked.teacher.adapter, writer.codec, writer.manifest.codec["kl"])

    def finish(block: int, rows: BlockRows, beside: AbstractContextManager[object]) -> int:
        with beside:
            targets = encoder.encode(block, rows)
        return writer.write(block, targets.fields, targets.error)

    written, pending = 0, deque[Future[int]]()
    with ThreadPoolExecutor(BLOCKS_AT_ONCE) as executor:
        for block, rows in answered_blocks(asked, blocks, advance):
            if len(pending) == BLOCKS_AT_ONCE:
                written += pending.popleft().result()
            pending.append(executor.submit(finish, block, rows, _beside(asked.teacher.device)))
        return written + sum(future.result() for future in pending)


def answered_blocks(
    asked: TeacherViews, blocks: Sequence[int], advance: Callable[[int], None]
) -> Iterator[tuple[int, BlockRows]]:
    """Every named block with what the teacher says about it, in order; the next images load meanwhile."""
    patches = {block: patches_of(asked.plan, block) for block in blocks}
    answers = asked.logits([batch for block in blocks for batch in asked.batches(patches[block])])
    for block in blocks:
        of_block = []
        for answer in (next(answers) for _ in patches[block]):
            of_block.append(answer)
            advance(len(answer.priors))
        yield block, BlockRows.of(of_block)


def _beside(device: torch.device) -> AbstractContextManager[object]:
    """For work on a device beside the teacher: a stream of its own, which begins after what has been asked so far."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


def patches_of(plan: Plan, block: int) -> list[int]:
    """Patch positions of a block, in the order of their rows."""
    return list(dict.fromkeys(plan.view_patch[plan.views_of_block(block)].tolist()))
