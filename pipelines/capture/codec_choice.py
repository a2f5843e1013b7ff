"""Finding the codec of a capture: a basis from some views of a probe, and the step that keeps its bound on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.cells import Basis, CellCodec, HeadShape, fit_basis
from cache.codec import BOUND_TEMPERATURE, Codec, CodecRequest, RowCodec
from pipelines.capture.encoding import BlockRows
from pipelines.capture.measured import mean_divergence

# Most cells that a basis is fitted on, and that a step is tried on.
MOST_CELLS = 2**15, 2**14
# Steps are powers of 2 to the 1/16: so coarse that another sample finds the same, and a percent of size apart.
STEPS_PER_OCTAVE = 16
# Of the bound: blocks differ from the probe's views.
TARGET_SHARE = 0.97
# Octaves below and above a step of 1 among which the step is looked for.
FINEST, COARSEST = -20, 6


def choose_codec(
    request: CodecRequest, head: HeadShape, fitting: Sequence[BlockRows], measuring: Sequence[BlockRows]
) -> Codec:
    """The codec that a config asks for.

    Args:
        request: what the config says.
        head: of the teacher.
        fitting: what the teacher says about some views, to fit a basis on.
        measuring: about others, on which the step is chosen.

    Raises:
        ValueError: views without a stored prior, or no step that keeps the bound.
    """
    if request.dtype is not None:
        return RowCodec(request.dtype)
    assert request.kl is not None
    fitted, measured = (_Cells.of(head, rows) for rows in (fitting, measuring))
    if not len(measured.values):
        raise ValueError("the probe saw no stored prior: no basis can be found. Use codec 'exact' or 'half'")
    sample = fitted.sample(MOST_CELLS[0])
    basis = fit_basis(head, sample.values, sample.is_stored)
    # Room for what other views hold: the largest coefficients of all that was seen.
    largest = np.maximum(*(np.abs(cells.coefficients(basis)).max(axis=0) for cells in (fitted, measured)))
    trial = _Trial(basis, measured.sample(MOST_CELLS[1]))
    bound = TARGET_SHARE * request.kl
    low, high = FINEST * STEPS_PER_OCTAVE, COARSEST * STEPS_PER_OCTAVE
    if trial.divergence(2.0**FINEST) > bound:
        raise ValueError(f"codec.kl is {request.kl:g}: no step keeps it. Use codec 'exact' or 'half'")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if trial.divergence(2.0 ** (middle / STEPS_PER_OCTAVE)) <= bound else (low, middle)
    return CellCodec.of_basis(basis, 2.0 ** (low / STEPS_PER_OCTAVE), largest)


@dataclass(frozen=True)
class _Cells:
    """Cells of several views: (n, A, P) logits, and which of their priors (n, A) are stored."""

    values: np.ndarray
    is_stored: np.ndarray

    @classmethod
    def of(cls, head: HeadShape, views: Sequence[BlockRows]) -> _Cells:
        cells = [rows.cells(head) for rows in views]
        values = [one.scatter(rows.values) for one, rows in zip(cells, views, strict=True)]
        return cls(np.concatenate(values), np.concatenate([one.is_stored for one in cells]))

    def sample(self, most: int) -> _Cells:
        """At most so many of them, evenly spaced."""
        step = -(-len(self.values) // most) or 1
        return _Cells(self.values[::step], self.is_stored[::step])

    def coefficients(self, basis: Basis) -> np.ndarray:
        return basis.coefficients(self.values, self.is_stored)


class _Trial:
    """Cells along a basis, to see what steps do to them."""

    def __init__(self, basis: Basis, cells: _Cells) -> None:
        self.head = basis.head
        self.is_stored = cells.is_stored
        self.teacher = self._groups(cells.values)
        self.coefficients = torch.from_numpy(cells.coefficients(basis))
        self.rows = torch.from_numpy(basis.head.expand(basis.directions))
        self.offset = torch.from_numpy(basis.head.expand(basis.mean[None]))

    def divergence(self, step: float) -> float:
        """The larger of mean KL(teacher || stored) over classes and over bins."""
        decoded = (self.coefficients / step).round() * step @ self.rows + self.offset
        stored = self._groups(decoded.numpy().reshape(*self.is_stored.shape, -1))
        return max(
            float(
                np.mean([mean_divergence(ours, theirs, BOUND_TEMPERATURE) for ours, theirs in zip(*pair, strict=True)])
            )
            for pair in zip(self.teacher, stored, strict=True)
        )

    def _groups(self, values: np.ndarray) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits, and the bins of each parameter, of the stored priors."""
        chosen = torch.from_numpy(values[self.is_stored])
        box = chosen[:, self.head.classes :]
        return [chosen[:, : self.head.classes]], [box[:, group] for group in self.head.box_groups()]
