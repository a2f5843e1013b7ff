"""The teacher's answers of a block as the writer takes them: refused where a codec cannot hold them, then measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.layout import ERROR_COLUMNS
from cache.quantize import LOGIT_FIELDS, FieldCodec
from distill.adapter import HeadAdapter
from pipelines.capture.asking import PatchLogits
from pipelines.capture.loading import PatchDataset
from pipelines.capture.measured import measure_box_change, measure_error

# Rows of a block, evenly spaced, whose boxes are compared: rotated IoU costs microseconds a pair on a CPU.
BOX_CHANGE_ROWS = 65536


@dataclass(frozen=True)
class BlockTargets:
    """The rows of one block as the writer takes them, and their measured errors."""

    block: int
    fields: dict[str, np.ndarray]
    error: np.ndarray


@dataclass(frozen=True)
class BlockEncoder:
    """Quantises the answers for the patches of a block, and measures what that has done to them."""

    patches: PatchDataset
    adapter: HeadAdapter
    codecs: Mapping[str, FieldCodec]

    def encode(self, block: int, answers: Sequence[PatchLogits]) -> BlockTargets:
        """One block's fields and errors.

        Raises:
            ValueError: a value that the codec cannot hold, naming view, field, value and range.
        """
        for answer in answers:
            self._require_storable(answer)
        self._require_in_range(answers)
        fields = {
            "prior_index": np.concatenate([answer.prior_index for answer in answers]),
            "weight": np.concatenate([answer.weight for answer in answers]).astype(self.codecs["weight"].dtype),
        }
        pairs = [pair for answer in answers for pair in answer.assigned]
        if pairs:
            fields["assigned_prior"] = np.concatenate([prior for prior, _ in pairs]).astype(np.uint32)
            fields["assigned_object"] = np.concatenate([matched for _, matched in pairs]).astype(np.int32)
        error = dict.fromkeys(ERROR_COLUMNS, 0.0)
        logits = {field: torch.cat([getattr(answer, field) for answer in answers]) for field in LOGIT_FIELDS}
        decoded = {}
        for field, values in logits.items():
            codec = self.codecs[field]
            fields[field] = codec.encode(values).to(getattr(torch, codec.dtype)).cpu().numpy()
            if len(values) and codec.dtype != "float32":
                decoded[field] = torch.from_numpy(codec.decode(fields[field])).to(values.device)
                error |= measure_error(values, decoded[field], field.removesuffix("_logits"))
        if "box_logits" in decoded:
            before, after = (self._boxes(answers, values["box_logits"]) for values in (logits, decoded))
            error |= measure_box_change(self.adapter, before, after)
        return BlockTargets(block, fields, np.asarray([error[column] for column in ERROR_COLUMNS]))

    def _require_storable(self, answer: PatchLogits) -> None:
        """Refuse a region that is not the planned one, or weights that their codec would lose."""
        plan = self.patches.plan
        rows = int(plan.rows_per_view[plan.view_patch == answer.patch].sum())
        patch_id = plan.patch_ids[answer.patch]
        if rows != len(answer.weight):
            raise ValueError(
                f"patch {patch_id}: its region has {len(answer.weight)} rows, the plan says {rows}. The labels "
                "have changed since the plan: start a new cache"
            )
        require_weights(self.codecs["weight"], answer.weight, f"patch {patch_id}")

    def _require_in_range(self, answers: Sequence[PatchLogits]) -> None:
        """Refuse a logit that its codec cannot hold within the bound, naming its view."""
        plan = self.patches.plan
        places: list[tuple[int, str]] = []
        bounds: list[Tensor] = []
        for answer in answers:
            views = np.flatnonzero(plan.view_patch == answer.patch).tolist()
            for field in LOGIT_FIELDS:
                parts = getattr(answer, field).split(plan.rows_per_view[views].tolist())
                for view, part in zip(views, parts, strict=True):
                    if part.numel():
                        places.append((view, field))
                        bounds += part.aminmax()
        if not bounds:
            return
        # One tensor: a device is waited for once a block.
        for (view, field), (low, high) in zip(places, torch.stack(bounds).view(-1, 2).tolist(), strict=True):
            self.codecs[field].check_range(low, high, field, f"view {plan.view(view)}")

    def _boxes(self, answers: Sequence[PatchLogits], box_logits: Tensor) -> Tensor:
        """Expected boxes of at most `BOX_CHANGE_ROWS` rows of a block's box logits."""
        count = len(box_logits)
        rows = np.linspace(0, count - 1, min(count, BOX_CHANGE_ROWS)).astype(np.int64)
        boxes, start = [], 0
        for answer in answers:
            stop = start + len(answer.prior_index)
            own = rows[(rows >= start) & (rows < stop)]
            grid = self.patches.views.grid(*self.patches.plan.patch_shape[answer.patch].tolist())
            prior_index = torch.from_numpy(answer.prior_index[own - start].astype(np.int64))
            boxes.append(self.adapter.expected_boxes(grid, prior_index, box_logits[own]))
            start = stop
        return torch.cat(boxes)


def require_weights(codec: FieldCodec, weight: np.ndarray, where: str) -> None:
    """Refuse weights that the codec would round to 0: a stored prior has a weight above 0."""
    lost = weight.astype(codec.dtype) == 0
    if lost.any():
        raise ValueError(
            f"{where}: weight {weight[lost][0]:.3g} is 0 in {codec.dtype}. Capture into a new cache with codec "
            "'exact', or codec=dict(weight='float32')"
        )
