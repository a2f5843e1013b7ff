"""Loading of patches and teacher targets, flips, and packing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Any

import google_crc32c
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs, RandomFlip
from mmrotate.registry import TRANSFORMS

from cache.grid import AnchorGrid, padded_shape
from cache.reader import CacheReader
from cache.view import FLIPS
from distill.errors import DataNeeded, ViewsUnknown
from distill.region import box_region
from distill.targets import ViewTargets


class Role(Enum):
    """What a transform of a training pipeline does to a view."""

    FIXED = auto()
    """Makes the view, from the patch alone."""
    DRAWN = auto()
    """Makes the view, by chance; every outcome can be enumerated and forced."""
    TARGETS = auto()
    """Adds the region of the view that the sample has become, and perhaps the teacher's answers there."""
    PACK = auto()
    """Packs what the model takes."""


# Every transform that a training pipeline with a cache may have; any other makes the set of views unknown.
ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "LoadPatch": Role.FIXED,
        "mmdet.LoadAnnotations": Role.FIXED,
        "ConvertBoxType": Role.FIXED,
        "mmrotate.ConvertBoxType": Role.FIXED,
        "mmdet.Pad": Role.FIXED,
        "mmdet.Resize": Role.FIXED,
        "RandomViewFlip": Role.DRAWN,
        "FindRegion": Role.TARGETS,
        "LoadTeacherTargets": Role.TARGETS,
        "PackDistillInputs": Role.PACK,
        "mmdet.PackDetInputs": Role.PACK,
    }
)


@TRANSFORMS.register_module()
class LoadPatch(BaseTransform):
    """Read and decode a patch, and note the SHA-256 of its file's bytes.

    Adds `img` (H, W, 3) uint8 BGR, `img_shape`, `ori_shape`, `scale_factor` (1, 1), `img_sha256`.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["img_path"]
        content = fileio.get(path)
        image = mmcv.imfrombytes(content, flag="color", backend="cv2")
        if image is None:
            raise DataNeeded(f"image {path} cannot be decoded. Delete it, so that it is made again")
        results["img_sha256"] = hashlib.sha256(content).digest()
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        results["scale_factor"] = (1.0, 1.0)
        results["img"] = image
        return results


@TRANSFORMS.register_module()
class RandomViewFlip(RandomFlip):
    """Random flip whose outcome can be forced, so that a capture sees exactly the views that training draws.

    `results['forced_flip']` (a name of `cache.view.FLIPS`) decides where it is present.

    Args:
        prob, direction: as `mmdet.RandomFlip`.
        flip_offset: 1 flips ground truth as mmrotate 0.x did (x -> W - 1 - x), 0 as mmrotate 1.x does (W - x).
    """

    def __init__(self, *, flip_offset: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flip_offset = flip_offset

    @property
    def flips(self) -> tuple[str, ...]:
        """Every outcome, in the stored order."""
        directions = [self.direction] if isinstance(self.direction, str) else list(self.direction or ())
        total = 0.0 if self.prob is None else float(np.sum(self.prob))
        chances = self.prob if isinstance(self.prob, list) else [total / max(1, len(directions))] * len(directions)
        outcomes = {direction for direction, chance in zip(directions, chances, strict=True) if chance > 0}
        if total < 1:
            outcomes.add("none")
        return tuple(flip for flip in FLIPS if flip in outcomes)

    def _flip_on_direction(self, results: dict[str, Any]) -> None:
        if "forced_flip" not in results:
            super()._flip_on_direction(results)
            return
        direction = results["forced_flip"]
        results["flip"] = direction != "none"
        results["flip_direction"] = None if direction == "none" else direction
        if results["flip"]:
            self._flip(results)

    def _flip(self, results: dict[str, Any]) -> None:
        super()._flip(results)
        if results.get("gt_bboxes") is not None and self.flip_offset:
            direction = results["flip_direction"]
            along_x = -self.flip_offset * (direction in ("horizontal", "diagonal"))
            along_y = -self.flip_offset * (direction in ("vertical", "diagonal"))
            results["gt_bboxes"].translate_((along_x, along_y))


@TRANSFORMS.register_module()
class FindRegion(BaseTransform):
    """Find the region of the view that this sample has become, for a student whose teacher is live, as a plan does.

    Adds `targets` (a `ViewTargets`).

    Args:
        region: rule (see `box_region`); filled in from the config's `region`.
        grid, pad_size_divisor: strides, ratios and scales of the head's priors, and to multiples of what its
            preprocessor pads; `make train` fills in both.
    """

    def __init__(
        self,
        region: Mapping[str, Any] | None = None,
        grid: Mapping[str, Any] | None = None,
        pad_size_divisor: int = 1,
    ) -> None:
        self.region = region
        self.pad_size_divisor = pad_size_divisor
        self._grids = _Grids(grid)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if self.region is None:
            raise ValueError("FindRegion has no region; set `region` in the config")
        grid = self._grids[padded_shape(results["img_shape"], self.pad_size_divisor)]
        results["targets"] = ViewTargets(grid, *box_region(_object_boxes(results), grid, **self.region))
        return results


@TRANSFORMS.register_module()
class LoadTeacherTargets(BaseTransform):
    """Add the cached record of the view that this sample has become, after whatever makes the view.

    Adds `targets` (a `ViewTargets`). Refuses a view whose file or pixels differ from what the teacher saw.

    Args:
        cache: path of the store; `make distill` fills it in from the config's `cache`.
        region: rule (see `box_region`) of a student that learns on a part of the stored region; all of it where None.
        check_image: compare the digest of the image file and the checksum of the view's pixels.
        assignment: hand on the planned assignment, which the cache must hold; without, the student assigns by itself.
    """

    def __init__(
        self,
        cache: str | None = None,
        region: Mapping[str, Any] | None = None,
        check_image: bool = True,
        assignment: bool = False,
    ) -> None:
        self.cache = cache
        self.region = region
        self.check_image = check_image
        self.assignment = assignment
        self._reader: CacheReader | None = None

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if self.cache is None:
            raise ValueError("LoadTeacherTargets has no cache; give it cache=<path>")
        if self._reader is None:
            self._reader = CacheReader(self.cache)
            self._grids = _Grids(self._reader.manifest.head["grid"])
        patch_id, flip = str(results["img_id"]), results.get("flip_direction") or "none"
        stored = self._reader.find(patch_id, flip)
        if self.check_image:
            self._reader.require_image(stored, results["img_sha256"])
            self._reader.require_pixels(stored, pixel_crc32c(results["img"]))
        divisor = self._reader.manifest.preprocessing["pad_size_divisor"]
        found = padded_shape(results["img_shape"], divisor)
        # Another size would move every flat index.
        if found != stored.shape:
            raise ValueError(
                f"cache {self.cache}, patch {patch_id}: its size is {stored.shape} in the cache but {found} here, with "
                "padding. Resize and pad as the cache's preprocessing says, or capture a new cache"
            )
        grid, record = self._grids[stored.shape], self._reader.read_found(stored)
        if self.region is not None:
            try:
                record = record.take(*box_region(_object_boxes(results), grid, **self.region))
            except ValueError as error:
                raise ValueError(
                    f"cache {self.cache}, patch {patch_id}: {error} of the student's region {dict(self.region)} is not "
                    "stored. Capture a cache with that region"
                ) from None
        assigned = None
        if self.assignment:
            if record.assigned_prior is None or record.assigned_object is None:
                raise ValueError(
                    f"cache {self.cache} holds no planned assignment. Capture one with plan_assignment = True in the "
                    "config, or train with plan_assignment = False"
                )
            assigned = record.assigned_prior, record.assigned_object
        results["targets"] = ViewTargets(grid, record.prior_index, record.weight, record, assigned)
        return results


@TRANSFORMS.register_module()
class PackDistillInputs(PackDetInputs):
    """`PackDetInputs` that also packs what a transform has added as `targets`; `collate_views` makes batches of it."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        packed = super().transform(results)
        return packed | {"targets": results["targets"]} if "targets" in results else packed


class _Grids(dict[tuple[int, int], AnchorGrid]):
    """The priors of views by padded (height, width): views share a few sizes, and a grid keeps its anchors."""

    def __init__(self, kind: Mapping[str, Any] | None) -> None:
        self.kind = kind

    def __missing__(self, shape: tuple[int, int]) -> AnchorGrid:
        if self.kind is None:
            raise ValueError("FindRegion has no grid; train with make train, which fills in the head's")
        strides, ratios, scales = (tuple(self.kind[name]) for name in ("strides", "ratios", "scales"))
        grid = AnchorGrid(*shape, strides, ratios, scales)
        self[shape] = grid
        return grid


def _object_boxes(results: Mapping[str, Any]) -> np.ndarray:
    """(G, 4 or 5) float32 boxes of a sample's objects; ignored ones have no region."""
    boxes: np.ndarray = results["gt_bboxes"].tensor.numpy()
    return boxes[~results["gt_ignore_flags"]]


def pixel_crc32c(image: np.ndarray) -> int:
    """CRC-32C of the pixels (H, W, 3) uint8 of a view, as plans state it."""
    return int(google_crc32c.value(np.ascontiguousarray(image).tobytes()))


def view_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a training pipeline that make a view; the others only add targets or pack.

    Raises:
        ValueError: a transform whose random outcomes cannot be enumerated, or one that changes the view after the
            teacher's targets have been added.
    """
    steps = []
    has_targets = ""
    for step in pipeline:
        role = ROLES.get(step["type"])
        if role is None:
            if step["type"].rpartition(".")[2] == "RandomFlip":
                raise ValueError(
                    f"transform {step['type']} cannot be told how to flip, as a capture must. Use RandomViewFlip with "
                    "its prob and direction, and flip_offset=0 for boxes that flip as they did"
                )
            raise ViewsUnknown(
                f"transform {step['type']} has outcomes that cannot be enumerated, so no cache can hold its views. "
                f"Known: {', '.join(sorted(ROLES))}. Remove it, or train with a live teacher"
            )
        if role in (Role.FIXED, Role.DRAWN):
            if has_targets:
                raise ValueError(
                    f"transform {step['type']} comes after {has_targets}, which adds the targets of the view as it is "
                    f"then. Place {has_targets} after it"
                )
            steps.append(dict(step))
        if role is Role.TARGETS:
            has_targets = step["type"]
    return steps


def fixed_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a training pipeline that make a view from the patch alone."""
    return [step for step in view_steps(pipeline) if ROLES[step["type"]] is Role.FIXED]


def describe_views(pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The views that a training pipeline can draw, as the manifest states them.

    Raises:
        ValueError: as `view_steps`, or more than one flip.
    """
    flips = [step for step in view_steps(pipeline) if ROLES[step["type"]] is Role.DRAWN]
    if len(flips) > 1:
        raise ValueError("the pipeline has more than one RandomViewFlip; one describes all flips")
    if not flips:
        return {"flips": ["none"], "flip_offset": 0.0}
    flip = TRANSFORMS.build(flips[0])
    return {"flips": list(flip.flips), "flip_offset": float(flip.flip_offset)}
