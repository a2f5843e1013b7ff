"""Loading of patches and teacher targets, flips, and packing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from itertools import product, takewhile
from types import MappingProxyType
from typing import Any

import cv2
import google_crc32c
import mmcv
import mmdet
import mmengine.fileio as fileio
import mmrotate
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs, RandomFlip
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes
from mmrotate.registry import TRANSFORMS
from mmrotate.structures.bbox import RotatedBoxes

from cache.grid import AnchorGrid, padded_shape
from cache.reader import CacheReader
from cache.view import FLIPS, is_frozen
from distill.draws import FrozenViews
from distill.errors import DataNeeded, ViewsUnknown
from distill.region import box_region
from distill.targets import ViewTargets


class Role(Enum):
    """What a transform of a training pipeline does to a view."""

    FIXED = auto()
    """Makes the view, the same whenever."""
    DRAWN = auto()
    """Makes the view, by chance; every outcome can be enumerated and forced."""
    RANDOM = auto()
    """Makes the view, by chance; draws of it can be frozen."""
    TARGETS = auto()
    """Adds the region of the view that the sample has become, and perhaps the teacher's answers there."""
    PACK = auto()
    """Packs what the model takes."""


# Any other transform is taken for a random one.
ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "LoadPatch": Role.FIXED,
        "mmdet.LoadAnnotations": Role.FIXED,
        "ConvertBoxType": Role.FIXED,
        "mmrotate.ConvertBoxType": Role.FIXED,
        "mmdet.Pad": Role.FIXED,
        "mmdet.Resize": Role.FIXED,
        "RandomViewFlip": Role.DRAWN,
        "RandomQuarterTurn": Role.DRAWN,
        "FindRegion": Role.TARGETS,
        "LoadTeacherTargets": Role.TARGETS,
        "PackDistillInputs": Role.PACK,
        "mmdet.PackDetInputs": Role.PACK,
    }
)


# Methods of transforms that look at other images than the patch's own.
LOOKS_AT_OTHERS = {"get_indexes", "get_indices"}


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

    `results['forced']['RandomViewFlip']` (a name of `cache.view.FLIPS`) decides where it is present.

    Args:
        prob, direction: as `mmdet.RandomFlip`.
        flip_offset: 1 flips ground truth as mmrotate 0.x did (x -> W - 1 - x), 0 as mmrotate 1.x does (W - x).
    """

    def __init__(self, *, flip_offset: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flip_offset = flip_offset

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Every outcome, in the stored order."""
        directions = [self.direction] if isinstance(self.direction, str) else list(self.direction or ())
        total = 0.0 if self.prob is None else float(np.sum(self.prob))
        chances = self.prob if isinstance(self.prob, list) else [total / max(1, len(directions))] * len(directions)
        outcomes = {direction for direction, chance in zip(directions, chances, strict=True) if chance > 0}
        if total < 1:
            outcomes.add("none")
        return tuple(flip for flip in FLIPS if flip in outcomes)

    def _flip_on_direction(self, results: dict[str, Any]) -> None:
        direction = _forced(self, results)
        if direction is None:
            super()._flip_on_direction(results)
        else:
            results["flip"] = direction != "none"
            results["flip_direction"] = None if direction == "none" else direction
            if results["flip"]:
                self._flip(results)
        _note_outcome(results, results["flip_direction"] or "none")

    def _flip(self, results: dict[str, Any]) -> None:
        super()._flip(results)
        if results.get("gt_bboxes") is not None and self.flip_offset:
            direction = results["flip_direction"]
            along_x = -self.flip_offset * (direction in ("horizontal", "diagonal"))
            along_y = -self.flip_offset * (direction in ("vertical", "diagonal"))
            results["gt_bboxes"].translate_((along_x, along_y))


@TRANSFORMS.register_module()
class RandomQuarterTurn(BaseTransform):
    """Turn a patch by 90 degrees clockwise, or leave it; with a flip of four outcomes all eight views of a square.

    `results['forced']['RandomQuarterTurn']` ("none" or "turn") decides where it is present.

    Args:
        prob: of the turn.
        flip_offset: as of `RandomViewFlip`: ground truth turns as y -> H - flip_offset - y.
    """

    outcomes = ("none", "turn")

    def __init__(self, *, prob: float = 0.5, flip_offset: float = 1.0) -> None:
        if not 0 < prob < 1:
            raise ValueError(f"prob of RandomQuarterTurn is {prob}; a number between 0 and 1 is needed")
        self.prob = prob
        self.flip_offset = flip_offset

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        outcome = _forced(self, results) or ("turn" if np.random.rand() < self.prob else "none")
        if outcome == "turn":
            height = results["img"].shape[0]
            results["img"] = np.ascontiguousarray(np.rot90(results["img"], k=-1))
            results["img_shape"] = results["img"].shape[:2]
            if results.get("gt_bboxes") is not None:
                results["gt_bboxes"] = turned(results["gt_bboxes"], height - self.flip_offset)
        _note_outcome(results, outcome)
        return results


def turned(boxes: BaseBoxes, height: float) -> BaseBoxes:
    """Boxes of an image turned by 90 degrees clockwise: (x, y) -> (height - y, x).

    Raises:
        ValueError: boxes that are neither horizontal nor rotated.
    """
    if isinstance(boxes, RotatedBoxes):
        x, y, w, h, angle = boxes.tensor.unbind(-1)
        quarter = math.pi / 2
        # In [-pi / 2, pi / 2) where they were: a rectangle is the same after half a turn.
        angle = torch.where(angle < 0, angle + quarter, angle - quarter)
        return RotatedBoxes(torch.stack([height - y, x, w, h, angle], dim=-1))
    if isinstance(boxes, HorizontalBoxes):
        left, top, right, bottom = boxes.tensor.unbind(-1)
        return HorizontalBoxes(torch.stack([height - bottom, left, height - top, right], dim=-1))
    raise ValueError(f"boxes are {type(boxes).__name__}; RandomQuarterTurn turns rotated and horizontal ones")


def _forced(transform: RandomViewFlip | RandomQuarterTurn, results: Mapping[str, Any]) -> str | None:
    """The outcome that a capture wants of a transform; None in training."""
    outcome: str | None = results.get("forced", {}).get(type(transform).__name__)
    return outcome


def _note_outcome(results: dict[str, Any], outcome: str) -> None:
    if outcome != "none":
        results["outcomes"] = (*results.get("outcomes", ()), outcome)


def draw_of(results: Mapping[str, Any]) -> str:
    """The name of the draw that a sample is of."""
    return results.get("draw") or "+".join(results.get("outcomes", ())) or "none"


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
        patch_id = str(results["img_id"])
        stored = self._reader.find(patch_id, draw_of(results))
        if self.check_image:
            self._reader.require_image(stored, results["img_sha256"])
            self._reader.require_pixels(stored, pixel_crc32c(results["img"]))
        divisor = self._reader.manifest.preprocessing["pad_size_divisor"]
        found = padded_shape(results["img_shape"], divisor)
        # Another size would move every flat index.
        if found != stored.shape:
            raise ValueError(
                f"cache {self.cache}, view {stored.view}: its size is {stored.shape} in the cache but {found} here, "
                "with padding. Resize and pad as the cache's preprocessing says, or capture a new cache"
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
        ValueError: a transform that changes the view after the teacher's targets have been added.
    """
    steps = []
    has_targets = ""
    for step in pipeline:
        role = _role(step)
        if role in (Role.FIXED, Role.DRAWN, Role.RANDOM):
            if has_targets:
                raise ValueError(
                    f"transform {step['type']} comes after {has_targets}, which adds the targets of the view as it is "
                    f"then. Place {has_targets} after it"
                )
            steps.append(dict(step))
        if role is Role.TARGETS:
            has_targets = step["type"]
    return steps


def _role(step: Mapping[str, Any]) -> Role:
    return ROLES.get(step["type"], Role.RANDOM)


def _require_freezable(step: Mapping[str, Any], views: Mapping[str, int] | None) -> None:
    """Refuse a random transform that looks at other images, or whose draws are not frozen."""
    name = step["type"]
    if LOOKS_AT_OTHERS & set(dir(TRANSFORMS.get(name))):
        raise ViewsUnknown(
            f"transform {name} puts other images of the training set into a view, so that no patch has views of its "
            "own, and no cache can hold them. Remove it, or train with a live teacher"
        )
    if views is not None:
        return
    if name.rpartition(".")[2] == "RandomFlip":
        raise ValueError(
            f"transform {name} cannot be told how to flip, as a capture must. Use RandomViewFlip with "
            "its prob and direction, and flip_offset=0 for boxes that flip as they did; or freeze so many draws of a "
            "patch in the config: views = dict(draws=12, seed=0)"
        )
    raise ViewsUnknown(
        f"transform {name} has outcomes that cannot be enumerated. Freeze so many of them a patch in the config: "
        "views = dict(draws=12, seed=0); or remove it, or train with a live teacher"
    )


def fixed_steps(pipeline: Sequence[Mapping[str, Any]], views: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """The steps that prepare a patch, as the manifest's `preprocessing` states them.

    Of frozen views those before the first random one: the others belong to what is frozen.
    """
    steps = view_steps(pipeline)
    if views is not None:
        return list(takewhile(lambda step: _role(step) is Role.FIXED, steps))
    return [step for step in steps if _role(step) is Role.FIXED]


def describe_views(pipeline: Sequence[Mapping[str, Any]], views: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The views that a training pipeline can draw, as the manifest states them.

    views: of the data set, a `FrozenViews`; None where nothing is frozen.

    Raises:
        ValueError: as `view_steps`; a transform whose random outcomes can be neither enumerated nor frozen; or a flip
            or turn that is there twice, or with another flip offset.
    """
    steps = view_steps(pipeline)
    for step in steps:
        if _role(step) is Role.RANDOM:
            _require_freezable(step, views)
    if views is not None:
        frozen = FrozenViews(**views)
        random = steps[len(fixed_steps(pipeline, views)) :]
        return {"draws": frozen.draws, "seed": frozen.seed, "transforms": random, "libraries": library_versions()}
    drawn = [TRANSFORMS.build(step) for step in steps if _role(step) is Role.DRAWN]
    kinds = [type(transform).__name__ for transform in drawn]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"the pipeline has {', '.join(kinds)}; one of each describes all views")
    offsets = {float(transform.flip_offset) for transform in drawn}
    if len(offsets) > 1:
        raise ValueError(f"flip_offset is {' and '.join(map(str, sorted(offsets)))} in one pipeline; give one")
    return {"draws": [name for name, _ in enumerated_draws(drawn)], "flip_offset": max(offsets, default=0.0)}


def enumerated_draws(drawn: Sequence[RandomViewFlip | RandomQuarterTurn]) -> list[tuple[str, dict[str, str]]]:
    """Every draw of flips and turns: its name, and the outcome of each transform."""
    names = [type(transform).__name__ for transform in drawn]
    # The last transform varies slowest: the four flips come first.
    outcomes = [combined[::-1] for combined in product(*(transform.outcomes for transform in reversed(drawn)))]
    return [
        ("+".join(one for one in combined if one != "none") or "none", dict(zip(names, combined, strict=True)))
        for combined in outcomes
    ]


def part_of_views(views: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The views of a student as they are compared with stored ones: as stored, where it draws some of these.

    Versions of libraries are not compared: the loader compares the pixels.
    """
    if is_frozen(views) and is_frozen(stored):
        return {**views, "draws": max(views["draws"], stored["draws"]), "libraries": stored["libraries"]}
    is_part = not is_frozen(views) and not is_frozen(stored) and set(views["draws"]) < set(stored["draws"])
    return {**views, "draws": stored["draws"]} if is_part else dict(views)


def library_versions() -> dict[str, str]:
    """Of the libraries that read and transform images."""
    return {library.__name__: str(library.__version__) for library in (cv2, mmcv, mmdet, mmrotate, np)}
