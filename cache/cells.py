"""The cells codec: all logits of a grid cell as steps along an orthonormal basis (cache/FORMAT.md, "Cells").

The logits of a cell are linear in the features of one place, so few directions hold nearly all of what they say. A
cell is its A priors with their C class logits and D groups of bins. The mean of a group of bins is read by no loss and
left out; that of the classes is kept at `CLASS_MEAN_SCALE` of the others' precision, for those who read scores.

Only some priors of a cell are stored. What the others would have said is of no interest, so they are given what the
stored ones lead to expect (the conditional mean), which costs the fewest bytes: a cell's codes are a function of its
stored priors alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

# Of the precision of other directions: an error of the mean class logit moves no softmax.
CLASS_MEAN_SCALE = 1 / 4
# A parameter without bins is a number in box deltas, whose error counts as that of a Gaussian of unit variance; that
# of a softmax row is divided by the temperature of the bounds.
NUMBER_SCALE = 5.0
# A code is one signed byte, of which -128 is never written: it is what rows that were never written read back as.
LARGEST_CODE = 127
# A coefficient that may need more takes two columns, of so many steps and of one.
WIDE_STEPS = 2 * LARGEST_CODE + 1
# Room for coefficients larger than any that the probe saw.
HEADROOM = 4
# Added to the covariance's diagonal when values are predicted, as a share of its mean: it may be singular.
RIDGE = 1e-6


@dataclass(frozen=True)
class HeadShape:
    """What a head predicts in a cell: A priors, each C class logits and K_d bins of every box parameter."""

    priors: int
    classes: int
    bins: tuple[int, ...]

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> HeadShape:
        """The shape of a manifest's head."""
        grid = head.get("grid") or {}
        bins, parameters = head["num_bins"], len(head["box_parameters"])
        return cls(
            priors=len(grid.get("ratios", [1])) * len(grid.get("scales", [1])),
            classes=len(head["classes"]),
            bins=tuple(bins) if isinstance(bins, list) else (bins,) * parameters,
        )

    @property
    def values(self) -> int:
        """Logits of a prior, P: classes, then the bins of one parameter after the other."""
        return self.classes + sum(self.bins)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Of the box logits of a prior: (D, K), or (sum of K_d,) where parameters differ."""
        return (len(self.bins), self.bins[0]) if len(set(self.bins)) == 1 else (sum(self.bins),)

    def box_groups(self) -> Iterator[slice]:
        """Where the bins of each parameter lie among a prior's box logits."""
        start = 0
        for count in self.bins:
            yield slice(start, start + count)
            start += count

    @cached_property
    def reduction(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q, P) float64 matrices: a prior's logits to coordinates without the means of its bins, and back by the
        second's transpose."""
        forth: list[np.ndarray] = []
        back: list[np.ndarray] = []
        place = 0
        for number, count in enumerate((self.classes, *self.bins)):
            rows = _contrasts(count)
            if number == 0:
                mean = np.full((1, count), count**-0.5)
                down, up = np.vstack([rows, CLASS_MEAN_SCALE * mean]), np.vstack([rows, mean / CLASS_MEAN_SCALE])
            elif count == 1:
                down, up = np.full((1, 1), NUMBER_SCALE), np.full((1, 1), 1 / NUMBER_SCALE)
            else:
                down = up = rows
            for parts, block in ((forth, down), (back, up)):
                parts.append(np.pad(block, ((0, 0), (place, self.values - place - count))))
            place += count
        return np.vstack(forth), np.vstack(back)

    def by_stored_priors(self, is_stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cells (n, A) that store the same priors, and which of their N coordinates (N,) belong to these."""
        codes = is_stored @ (1 << np.arange(self.priors, dtype=np.int64))
        for code in np.unique(codes).tolist():
            stored = code >> np.arange(self.priors) & 1 == 1
            yield np.flatnonzero(codes == code), np.repeat(stored, len(self.reduction[0]))

    @property
    def coordinates(self) -> int:
        """Coordinates of a cell, A x Q: the number of its coefficients. No matrix is made to count them."""
        return self.priors * (self.values - sum(count > 1 for count in self.bins))

    def reduce(self, values: np.ndarray) -> np.ndarray:
        """(n, A, P) logits -> (n, A x Q) float64 coordinates."""
        reduced: np.ndarray = values.astype(np.float64) @ self.reduction[0].T
        return reduced.reshape(len(values), self.coordinates)

    def expand(self, rows: np.ndarray) -> np.ndarray:
        """(J, A x Q) -> (J, A x P): rows that act on coordinates as rows that give logits."""
        expanded: np.ndarray = rows.reshape(len(rows), self.priors, -1) @ self.reduction[1]
        return expanded.reshape(len(rows), -1)


def _contrasts(count: int) -> np.ndarray:
    """(count - 1, count) orthonormal rows that sum to 0 (Helmert's)."""
    rows = np.zeros((count - 1, count))
    for row in range(1, count):
        rows[row - 1, :row] = 1
        rows[row - 1, row] = -row
        rows[row - 1] /= (row * (row + 1)) ** 0.5
    return rows


@dataclass(frozen=True, eq=False)
class Basis:
    """Where the coordinates of a teacher's cells lie: N = A x Q of them.

    mean: (N,) float64. directions: (N, N) float64, orthonormal rows, largest variance first. variance: (N,) along them.
    """

    head: HeadShape
    mean: np.ndarray
    directions: np.ndarray
    variance: np.ndarray

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.head, (self.directions.T * self.variance) @ self.directions)

    @cached_property
    def _projections(self) -> dict[bytes, tuple[np.ndarray, np.ndarray]]:
        return {}

    def coefficients(self, values: np.ndarray, is_stored: np.ndarray) -> np.ndarray:
        """(n, N) float64 coefficients of cells (n, A, P), of whose priors those of (n, A) are stored."""
        found = np.empty((len(values), len(self.directions)))
        for cells, known in self.head.by_stored_priors(is_stored):
            projection, of_mean = self._projection(known)
            stored = known[:: len(self.head.reduction[0])]
            logits = values[np.ix_(cells, stored)].reshape(len(cells), -1).astype(np.float64)
            found[cells] = logits @ projection - of_mean
        return found

    def sensitivity(self, is_stored: np.ndarray) -> np.ndarray:
        """(n, N) most by which coefficients of cells change where no stored logit changes by more than one."""
        found = np.empty((len(is_stored), len(self.directions)))
        for cells, known in self.head.by_stored_priors(is_stored):
            found[cells] = np.abs(self._projection(known)[0]).sum(axis=0)
        return found

    def _projection(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the logits of the stored priors to coefficients, in one product; and what the mean gives."""
        key = known.tobytes()
        if key not in self._projections:
            there = self.directions[:, known] + self.directions[:, ~known] @ self._predictor.weights(known)
            forth = self.head.reduction[0]
            projection = there.reshape(len(there), -1, len(forth)) @ forth
            self._projections[key] = projection.reshape(len(there), -1).T.copy(), there @ self.mean[known]
        return self._projections[key]


class Predictor:
    """The conditional mean of the priors of a cell that are not stored, given those that are."""

    def __init__(self, head: HeadShape, covariance: np.ndarray) -> None:
        self.head = head
        ridge = RIDGE * np.trace(covariance) / len(covariance)
        self._covariance = covariance + ridge * np.eye(len(covariance))

    def weights(self, known: np.ndarray) -> np.ndarray:
        """(unknown, known) what the unknown coordinates, as differences from their mean, follow from."""
        there = self._covariance[known]
        return np.linalg.solve(there[:, known], there[:, ~known]).T

    def complete(self, away: np.ndarray, is_stored: np.ndarray) -> np.ndarray:
        """(n, N) differences from the mean, known at the priors of (n, A) -> all of them."""
        completed = away.copy()
        for cells, known in self.head.by_stored_priors(is_stored):
            completed[np.ix_(cells, ~known)] = away[np.ix_(cells, known)] @ self.weights(known).T
        return completed


def fit_basis(head: HeadShape, values: np.ndarray, is_stored: np.ndarray, rounds: int = 4) -> Basis:
    """The basis of cells (n, A, P) whose stored priors (n, A) are all that is looked at.

    Mean and covariance are estimated, what is missing is completed by them, and so on (expectation maximisation without
    the variance of the completion, which the codes do not have either). On one thread: the order of sums decides which
    of two directions of the same variance comes first, and bytes must not depend on the number of cores.

    Raises:
        ValueError: no cell.
    """
    if not len(values):
        raise ValueError("the probe saw no stored prior: no basis can be found. Use codec 'exact' or 'half'")
    with threadpool_limits(1, user_api="blas"):
        known = np.repeat(is_stored, len(head.reduction[0]), axis=1)
        coordinates = np.where(known, head.reduce(values), 0.0)
        mean = coordinates.sum(axis=0) / known.sum(axis=0).clip(min=1)
        completed = np.where(known, coordinates, mean)
        for _ in range(rounds):
            mean, covariance = _moments(completed)
            completed = Predictor(head, covariance).complete(coordinates - mean, is_stored) + mean
        mean, covariance = _moments(completed)
        variance, directions = np.linalg.eigh(covariance)
    return Basis(head, mean, directions.T[::-1].copy(), variance[::-1].clip(min=0))


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = values.mean(axis=0)
    away = values - mean
    return mean, away.T @ away / len(values)


@dataclass(frozen=True, eq=False)
class CellCodec:
    """Uniform steps along a basis; the arrays are those of the store's `codec/` group.

    A store's J columns are W of `WIDE_STEPS` steps for the first W coefficients, then one of a step for each of the N.

    Attributes:
        head: what the head predicts in a cell.
        step: of every coefficient.
        wide: W.
        basis: (J, A x P) float32, logits of a step of one in every column; rows of wide columns are `WIDE_STEPS`
            times longer.
        offset: (A x P,) float32, the logits of a cell whose codes are all 0.
        variance: (J,) float32, of the coefficients; 0 of the wide columns, which repeat directions.
    """

    head: HeadShape
    step: float
    wide: int
    basis: np.ndarray
    offset: np.ndarray
    variance: np.ndarray

    @classmethod
    def of_basis(cls, basis: Basis, step: float, largest: np.ndarray) -> CellCodec:
        """Steps along a basis; `largest` are the magnitudes (N,) of the coefficients that the probe has seen."""
        too_large = np.flatnonzero(HEADROOM * largest > LARGEST_CODE * step)
        wide = int(too_large[-1]) + 1 if too_large.size else 0
        rows = basis.head.expand(basis.directions)
        return cls(
            basis.head,
            step,
            wide,
            basis=np.vstack([WIDE_STEPS * rows[:wide], rows]).astype(np.float32),
            offset=basis.head.expand(basis.mean[None])[0].astype(np.float32),
            variance=np.append(np.zeros(wide), basis.variance).astype(np.float32),
        )

    @cached_property
    def _stored_basis(self) -> Basis:
        """The basis as float32 keeps it: fresh and resumed captures compute with the same numbers."""
        rows = self.basis[self.wide :].astype(np.float64)
        offset = self.offset.astype(np.float64).reshape(1, self.head.priors, -1)
        return Basis(
            self.head,
            mean=self.head.reduce(offset)[0],
            directions=self.head.reduce(rows.reshape(len(rows), self.head.priors, -1)),
            variance=self.variance[self.wide :].astype(np.float64),
        )

    @property
    def columns(self) -> int:
        """J."""
        return len(self.basis)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over step, basis, offset and variance, as hexadecimal text."""
        digest = hashlib.sha256(repr((self.step, self.wide, self.basis.shape)).encode())
        for array in (self.basis, self.offset, self.variance):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def encode(self, values: np.ndarray, is_stored: np.ndarray, where: str = "a cell") -> np.ndarray:
        """(n, A, P) logits of cells and their stored priors (n, A) -> (J, n) int8 codes.

        The error of a coefficient is at most half a step; see `max_abs_error`.

        Raises:
            ValueError: a coefficient that its columns do not hold, or that is no number; `where` begins the message.
        """
        steps = np.rint(self._stored_basis.coefficients(values, is_stored) / self.step)
        largest = np.full(steps.shape[1], LARGEST_CODE)
        largest[: self.wide] = (WIDE_STEPS + 1) * LARGEST_CODE
        fits = np.abs(steps) <= largest
        if not fits.all():
            cell, column = np.argwhere(~fits)[0]
            raise ValueError(
                f"{where}: coefficient {column} is {steps[cell, column] * self.step:.4g}, the codes of its cache reach "
                f"±{largest[column] * self.step:.4g}, fixed from the probe. Capture into a new cache with codec "
                "'half', or with a coarser one"
            )
        columns = steps.T.astype(np.int32)
        high = (columns[: self.wide] + LARGEST_CODE) // WIDE_STEPS
        columns[: self.wide] -= WIDE_STEPS * high
        return np.ascontiguousarray(np.concatenate([high, columns], dtype=np.int8, casting="unsafe"))

    def coefficients(self, codes: np.ndarray) -> np.ndarray:
        """(J, n) codes -> (n, N) float64 coefficients that they stand for."""
        steps = codes[self.wide :].astype(np.float64)
        steps[: self.wide] += WIDE_STEPS * codes[: self.wide].astype(np.float64)
        return self.step * steps.T

    def expected(self, values: np.ndarray, is_stored: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of cells (n, A, P) and stored priors (n, A), and how far those of a store may be; (n, N) both.

        Half a step, and as far as a change of every stored logit by `tolerance` can move a coefficient.
        """
        basis = self._stored_basis
        return basis.coefficients(values, is_stored), 0.5 * self.step + tolerance * basis.sensitivity(is_stored)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(J, n) codes -> (n, A, P) float32 logits; the mean of every group of bins is that of the offset."""
        values: np.ndarray = codes.T.astype(np.float32) @ (np.float32(self.step) * self.basis) + self.offset
        return values.reshape(codes.shape[1], self.head.priors, self.head.values)

    @cached_property
    def max_abs_error(self) -> np.ndarray:
        """(P,) most by which a logit of a prior can be off, whose bins have had their mean subtracted."""
        largest: np.ndarray = 0.5 * self.step * np.abs(self.basis[self.wide :]).sum(axis=0) * (1 + 2**-10)
        of_priors: np.ndarray = largest.reshape(self.head.priors, -1)
        bound: np.ndarray = of_priors.max(axis=0)
        return bound

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the store's `codec/` group."""
        return {"basis": self.basis, "offset": self.offset, "variance": self.variance}

    def describe(self) -> dict[str, Any]:
        """The codec's part of the manifest."""
        return {"step": self.step, "wide_columns": self.wide, "columns": self.columns, "digest": self.digest}


@dataclass(frozen=True, eq=False)
class CellRows:
    """Stored priors, view after view, as rows of the cells that hold them.

    cell_index: (n,) int64, flat index of each cell in its view. row: (m,) int64, each prior's place among the n x A of
    the cells. cells: how many each view has. priors: A.
    """

    cell_index: np.ndarray
    row: np.ndarray
    cells: np.ndarray
    priors: int

    @classmethod
    def of(cls, prior_index: np.ndarray, views: np.ndarray, priors: int) -> CellRows:
        """Of sorted flat prior indices (m,) whose first views[0] are the first view's, and so on."""
        view = np.repeat(np.arange(len(views)), views)
        cell, prior = np.divmod(prior_index.astype(np.int64), priors)
        is_first = np.append(True, (np.diff(cell) != 0) | (np.diff(view) != 0))[: len(cell)]
        place = np.cumsum(is_first) - 1
        cells = np.bincount(view[is_first], minlength=len(views))
        return cls(cell[is_first], place * priors + prior, cells, priors)

    def parts(self, most: int) -> Iterator[tuple[slice, CellRows]]:
        """Runs of at most so many cells: their priors among the m, and the run itself."""
        for start in range(0, len(self.cell_index), most):
            stop = min(start + most, len(self.cell_index))
            first, last = np.searchsorted(self.row, [start * self.priors, stop * self.priors]).tolist()
            row = self.row[first:last] - start * self.priors
            yield slice(first, last), CellRows(self.cell_index[start:stop], row, self.cells, self.priors)

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """(m, ...) values of the priors -> (n, A, ...), zeros where a prior is not stored."""
        dense = np.zeros((len(self.cell_index) * self.priors, *values.shape[1:]), dtype=values.dtype)
        dense[self.row] = values
        return dense.reshape(-1, self.priors, *values.shape[1:])

    def gather(self, values: np.ndarray) -> np.ndarray:
        """(n, A, ...) values of the cells -> (m, ...) those of the priors."""
        chosen: np.ndarray = values.reshape(-1, *values.shape[2:])[self.row]
        return chosen

    @property
    def is_stored(self) -> np.ndarray:
        """(n, A)."""
        return self.scatter(np.ones(len(self.row), dtype=bool))


def count_cells(prior_index: np.ndarray, priors: int) -> int:
    """Cells that hold a view's stored priors (m,), which are sorted."""
    cell = prior_index // priors
    return 1 + int(np.count_nonzero(np.diff(cell))) if len(cell) else 0
