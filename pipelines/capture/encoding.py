"""The rows of a block as the writer takes them: refused where their codec cannot hold them, then measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cache.cells import CellCodec, CellRows, HeadShape
from cache.codec import BLOCK_ALLOWANCE, BOUND_TEMPERATURE, LOGIT_FIELDS, Codec
from cache.layout import ERROR_COLUMNS
from cache.plan import Plan
from distill.adapter import HeadAdapter
from pipelines.capture.asking import PatchLogits
from pipelines.capture.measured import measure_box_change, measure_error

# Rows of a block, evenly spaced, whose boxes are compared: rotated IoU costs microseconds a pair on a CPU.
BOX_CHANGE_ROWS = 65536
# Cells that are changed into coefficients together: the basis works in float64.
CELLS_AT_ONCE = 16384
BOUND_COLUMNS = tuple(f"{name}_mean_kl_t{BOUND_TEMPERATURE:g}" for name in ("cls", "box"))


@dataclass(frozen=True)
class BlockRows:
    """What a teacher says at the stored priors of a block's views, one view after the other; n priors, F views.

    priors: (F,) of each view. prior_index: (n,). weight: (n,) float32. cls_logits: (n, C) and box_logits: (n, D, K), on
    the teacher's device. assigned: F pairs (m,) priors and objects of the planned assignment, or none.
    """

    priors: np.ndarray
    prior_index: np.ndarray
    weight: np.ndarray
    cls_logits: Tensor
    box_logits: Tensor
    assigned: Sequence[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, answers: Sequence[PatchLogits]) -> BlockRows:
        return cls(
            np.concatenate([answer.priors for answer in answers]),
            np.concatenate([answer.prior_index for answer in answers]),
            np.concatenate([answer.weight for answer in answers]),
            torch.cat([answer.cls_logits for answer in answers]),
            torch.cat([answer.box_logits for answer in answers]),
            [pair for answer in answers for pair in answer.assigned],
        )

    @cached_property
    def values(self) -> np.ndarray:
        """(n, P) all logits of a prior, on the host."""
        return torch.cat([self.cls_logits, self.box_logits.flatten(1)], dim=1).cpu().numpy()

    def cells(self, head: HeadShape) -> CellRows:
        return CellRows.of(self.prior_index, self.priors, head.priors)


@dataclass(frozen=True)
class BlockTargets:
    """One block's fields as the writer takes them, and their measured errors by column."""

    block: int
    fields: dict[str, np.ndarray]
    error: dict[str, float]


class BlockEncoder:
    """Turns rows into the fields of a store, and measures what its codec has done to them.

    Args:
        plan: of the store.
        adapter: of the teacher's head.
        codec: of the store.
        kl: the bound that mean KL(teacher || stored) of a block may exceed by `BLOCK_ALLOWANCE`; None of floats.
    """

    def __init__(self, plan: Plan, adapter: HeadAdapter, codec: Codec, kl: float | None) -> None:
        self.plan = plan
        self.adapter = adapter
        self.codec = codec
        self.kl = kl
        # Views share a few sizes, and a grid keeps its anchors.
        self._grids = {tuple(shape): adapter.grid(*shape) for shape in np.unique(plan.view_shape, axis=0).tolist()}

    def encode(self, block: int, rows: BlockRows) -> BlockTargets:
        """One block's fields and errors.

        Raises:
            ValueError: a value that the codec cannot hold, naming view, field, value and range; or a block that it
                does not hold within the bound.
        """
        self._require_planned(block, rows)
        fields, decoded = encode_rows(self.codec, rows, f"block {block}")
        for place, name in enumerate(("assigned_prior", "assigned_object")):
            if rows.assigned:
                dtype = np.uint32 if place == 0 else np.int32
                fields[name] = np.concatenate([pair[place] for pair in rows.assigned]).astype(dtype)
        error = dict.fromkeys(ERROR_COLUMNS, 0.0)
        if decoded is not None and len(rows.weight):
            error |= measure_rows(rows, decoded)
            error |= self._box_change(block, rows, decoded[1])
            self._require_bound(block, error)
        return BlockTargets(block, fields, error)

    def _require_planned(self, block: int, rows: BlockRows) -> None:
        """Refuse a region that is not the planned one, and logits that are no numbers."""
        plan, views = self.plan, self.plan.views_of_block(block)
        wrong = np.flatnonzero(plan.priors_per_view[views] != rows.priors)
        if wrong.size:
            view, found = int(views[wrong[0]]), int(rows.priors[wrong[0]])
            raise ValueError(
                f"view {plan.view(view)}: its region has {found} priors, the plan says {plan.priors_per_view[view]}. "
                "The labels have changed since the plan: start a new cache"
            )
        if not len(rows.weight):
            return
        # One tensor: a device is waited for once a block.
        ends = torch.stack([end for field in LOGIT_FIELDS for end in getattr(rows, field).aminmax()]).tolist()
        for field, low, high in zip(LOGIT_FIELDS, ends[::2], ends[1::2], strict=True):
            if not np.isfinite([low, high]).all():
                values = getattr(rows, field).flatten(1)
                row = int(torch.nonzero(~values.isfinite().all(dim=1))[0])
                view = int(views[np.searchsorted(np.cumsum(rows.priors), row, side="right")])
                raise ValueError(
                    f"view {plan.view(view)}: {field} holds {high if np.isfinite(low) else low}; the teacher's output "
                    "must be finite"
                )
            if not isinstance(self.codec, CellCodec):
                self.codec.require_range(low, high, field, f"block {block}")

    def _require_bound(self, block: int, error: dict[str, float]) -> None:
        """Refuse a block that the step, found on the probe's views, does not hold well enough."""
        measured = max(error[column] for column in BOUND_COLUMNS)
        if self.kl is not None and measured > BLOCK_ALLOWANCE * self.kl:
            raise ValueError(
                f"block {block}: mean KL(teacher || stored) is {measured:.3g} at T = {BOUND_TEMPERATURE:g} but the "
                f"codec promises {self.kl:.3g}, and a block may exceed it by {BLOCK_ALLOWANCE - 1:.0%}. Blocks before "
                "it are kept. Capture into a new cache with a finer codec, such as "
                f"codec=dict(kl={self.kl**2 / measured:.2g})"
            )

    def _box_change(self, block: int, rows: BlockRows, decoded: Tensor) -> dict[str, float]:
        """What the codec does to the boxes of at most `BOX_CHANGE_ROWS` rows of a block."""
        count = len(decoded)
        chosen = np.linspace(0, count - 1, min(count, BOX_CHANGE_ROWS)).astype(np.int64)
        views = self.plan.views_of_block(block)
        shapes = self.plan.view_shape[views].tolist()
        ends = np.searchsorted(chosen, np.cumsum(rows.priors))
        # Found on the host for all views at once: a device is sent to once a block.
        found = [
            self._grids[tuple(shape)].priors_at(rows.prior_index[own])
            for shape, own in zip(shapes, np.split(chosen, ends[:-1]), strict=True)
        ]
        place = torch.from_numpy(chosen).to(decoded.device)
        priors, strides = map(np.concatenate, zip(*found, strict=True))
        before, after = (self.adapter.boxes_at(priors, strides, logits[place]) for logits in (rows.box_logits, decoded))
        return measure_box_change(self.adapter, before, after)


def encode_rows(
    codec: Codec, rows: BlockRows, where: str
) -> tuple[dict[str, np.ndarray], tuple[Tensor, Tensor] | None]:
    """The fields of rows, and their class and box logits as a reader gets them; None where nothing is lost.

    Raises:
        ValueError: a weight or a coefficient that the store cannot hold.
    """
    if isinstance(codec, CellCodec):
        return _encode_cells(codec, rows, where)
    require_weights(codec.dtype, rows.weight, where)
    dtype = getattr(torch, codec.dtype)
    stored = rows.cls_logits.to(dtype), rows.box_logits.to(dtype)
    fields = {
        "prior_index": rows.prior_index.astype(np.uint32),
        "weight": rows.weight.astype(codec.dtype),
        "cls_logits": stored[0].cpu().numpy(),
        "box_logits": stored[1].flatten(1).cpu().numpy(),
    }
    return fields, None if dtype == torch.float32 else (stored[0].float(), stored[1].float())


def _encode_cells(codec: CellCodec, rows: BlockRows, where: str) -> tuple[dict[str, np.ndarray], tuple[Tensor, Tensor]]:
    require_weights("float16", rows.weight, where)
    cells = rows.cells(codec.head)
    decoded, codes = np.empty_like(rows.values), np.empty((codec.columns, len(cells.cell_index)), dtype=np.int8)
    start = 0
    for priors, part in cells.parts(CELLS_AT_ONCE):
        coded = codec.encode(part.scatter(rows.values[priors]), part.is_stored, where)
        decoded[priors] = part.gather(codec.decode(coded))
        codes[:, start : start + coded.shape[1]] = coded
        start += coded.shape[1]
    fields = {
        "cell_index": cells.cell_index.astype(np.uint32),
        "cell_weight": cells.scatter(rows.weight.astype(np.float16)),
        "coefficients": codes,
    }
    ours, boxes = (
        torch.from_numpy(decoded).to(rows.cls_logits.device).split([codec.head.classes, sum(codec.head.bins)], 1)
    )
    boxes = boxes.reshape(rows.box_logits.shape)
    if boxes.shape[-1] > 1:
        # No loss reads the mean of a group of bins, so none is stored.
        boxes = boxes + (rows.box_logits.mean(dim=-1, keepdim=True) - boxes.mean(dim=-1, keepdim=True))
    return fields, (ours, boxes)


def measure_rows(rows: BlockRows, decoded: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The errors of class and box logits by column."""
    named = zip(("cls", "box"), (rows.cls_logits, rows.box_logits), decoded, strict=True)
    return {
        column: value for name, ours, theirs in named for column, value in measure_error(ours, theirs, name).items()
    }


def require_weights(dtype: str, weight: np.ndarray, where: str) -> None:
    """Refuse weights that a dtype would round to 0: a stored prior has a weight above 0."""
    lost = weight.astype(dtype) == 0
    if lost.any():
        raise ValueError(
            f"{where}: weight {weight[lost][0]:.3g} is 0 in {dtype}. Capture into a new cache with codec 'exact'"
        )
