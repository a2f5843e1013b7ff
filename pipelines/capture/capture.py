"""The capture: block after block, the teacher's answers to its views as the writer takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache.codec import Codec
from cache.plan import Plan
from pipelines.capture.asking import TeacherViews
from pipelines.capture.encoding import BlockEncoder, BlockRows, BlockTargets


def capture_blocks(
    asked: TeacherViews, blocks: Sequence[int], codec: Codec, kl: float | None
) -> Iterator[BlockTargets]:
    """The targets of every named block, in order; the next block's images load meanwhile.

    No batch crosses a block: its bytes do not depend on other blocks.

    Raises:
        ValueError: a value that the codec cannot hold, naming view, field, value and range.
    """
    encoder = BlockEncoder(asked.plan, asked.teacher.adapter, codec, kl)
    patches = {block: patches_of(asked.plan, block) for block in blocks}
    answers = asked.logits([batch for block in blocks for batch in asked.batches(patches[block])])
    for block in blocks:
        yield encoder.encode(block, BlockRows.of([next(answers) for _ in patches[block]]))


def patches_of(plan: Plan, block: int) -> list[int]:
    """Patch positions of a block, in the order of their rows."""
    return list(dict.fromkeys(plan.view_patch[plan.views_of_block(block)].tolist()))
