"""What a check has found, as a block of Markdown for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.base.table import Table
from pipelines.gpu.check import Checked
from pipelines.gpu.sizes import Sizes


def as_markdown(found: Checked, sizes: Sizes) -> str:
    """One heading, and a table a part that was done."""
    return "\n\n".join(_paragraphs(found, sizes)) + "\n"


def _paragraphs(found: Checked, sizes: Sizes) -> Iterator[str]:
    machine = found.machine
    yield f"### {machine['GPU' if 'GPU' in machine else 'CPU'].partition(',')[0]}"
    yield (
        f"`make check-gpu`: {sizes.model} models, {sizes.size} px, batch {sizes.batch}, built-in scenes, untrained "
        f"teacher. {'; '.join(f'{name} {value}' for name, value in machine.items())}."
    )
    yield from (f"**{problem}**" for problem in found.problems)
    if found.left_out:
        yield f"No time was left for: {'; '.join(found.left_out)}."
    if found.operators:
        differences = ", ".join(f"`{name}` {value:.1g}" for name, value in found.operators.items())
        yield f"Largest difference from the CPU: {differences}."
    if found.answers is not None:
        yield f"The teacher's answers in float32 differ from the CPU's by {found.answers:.1g} of the largest logit."
    if found.different:
        captures = ", ".join(f"{name} {'no' if different else 'yes'}" for name, different in found.different.items())
        yield f"Two captures are the same bytes: {captures}."
    if found.agreements:
        yield _agreement_table(found).markdown()
    if found.steps:
        yield _step_table(found).markdown()
    if found.captures:
        yield _capture_table(found).markdown()


def _agreement_table(found: Checked) -> Table:
    """Largest relative differences, each with what is allowed."""
    columns = ("cached and live", "algorithms", "losses", "gradients", "{} steps", "two live students")
    rows = [
        (
            name,
            "deterministic" if deterministic else "any",
            *(f"{value:.1g} ({bound:.0e})" for value, bound in zip(one.measured, one.allowed, strict=True)),
            f"{one.noise:.1g}",
        )
        for (name, deterministic), one in found.agreements.items()
    ]
    count = max((one.num_steps for one in found.agreements.values()), default=0)
    return Table([column.format(count) for column in columns], rows, labels=2)


def _step_table(found: Checked) -> Table:
    columns = ("step in", "student", "ms", "x plain", "x live", "images/s", "peak MB", "waits for its loader, ms")
    rows = [
        (
            name,
            one.title,
            f"{1e3 * one.seconds:.1f}",
            f"{one.plain_ratio:.3f}",
            f"{one.live_ratio:.3f}",
            f"{one.images_a_second:.1f}",
            "" if one.memory is None else f"{one.memory / 1e6:,.0f}",
            "" if one.wait is None else f"{1e3 * one.wait[0]:.1f} ({one.wait[1]:.0%})",
        )
        for name, steps in found.steps.items()
        for one in steps
    ]
    return Table(columns, rows, labels=2)


def _capture_table(found: Checked) -> Table:
    """Shares of the time: what the asking process does, and of the thread that writes beside it."""
    stages = ("asking", "encoding", "waiting", "writing, beside")
    columns = ("capture in", "views", "views/s", "bare teacher", "share", *stages)
    rows = [
        (
            name,
            one.views,
            f"{one.rate:.1f}",
            f"{one.bare_rate:.1f}",
            f"{one.rate / one.bare_rate:.0%}",
            *(f"{part / one.seconds:.0%}" for part in (one.asking, one.encoding, one.waiting, one.writing)),
        )
        for name, one in found.captures.items()
    ]
    return Table(columns, rows)
