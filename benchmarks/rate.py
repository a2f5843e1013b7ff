"""Rate against distortion of the stored logits of a trained teacher: a table, a plot, JSON.

    python -m benchmarks.rate --config configs/demo/distill.py --teacher configs/demo/teacher.py \
        --checkpoint teacher.pth --student student.pth

Asks the teacher about some patches, then encodes the rows in many ways. Bytes are those of Zarr chunks with their
checksums and index entries; index and weight are counted in. Distortion is mean KL(teacher, stored) at T = 5, and the
cosine between the gradients of loss_ld + loss_kd with stored and with exact targets, over all student parameters, mean
of 8 batches of 2 views, for an untrained student and for the one that is given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.zstd
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmrotate.registry import MODELS
from torch import Tensor, nn

from cache.layout import ROWS_PER_CHUNK
from cache.quantize import LOGIT_FIELDS, PRESETS
from distill.checkpoint import load_checkpoint, state_dict_of
from distill.rows import Rows, Targets, stack_by_level
from distill.teacher import FrozenTeacher
from pipelines.base.experiment import load_config
from pipelines.capture.asking import PatchLogits, TeacherViews
from pipelines.capture.kept import PatchRegions
from pipelines.capture.loading import PatchViews
from pipelines.capture.measured import measure_error
from pipelines.capture.options import CaptureOptions
from pipelines.capture.planning import plan_views
from pipelines.capture.probe import value_ranges
from pipelines.capture.sampling import choose_patches

STEPS = tuple(2.0**exponent for exponent in range(-6, 1))
BITS = (4, 5, 6, 7, 8)
GRADIENT_BATCHES, VIEWS_PER_BATCH = 8, 2
# A chunk's CRC-32C, and its entry in the shard's index.
CHUNK_OVERHEAD = 4 + 16
KL_TARGET, BYTES_TARGET = 1e-4, 30.0
KL_COLUMN = "mean_kl_t5"

Codes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoding:
    """One way to turn the codes of a chunk (n, columns) into bytes.

    plain: whether every Zarr v3 reader undoes it.
    """

    name: str
    group: str
    encode: Callable[[np.ndarray], bytes]
    plain: bool = True
    rows: int = ROWS_PER_CHUNK


def main(arguments: argparse.Namespace) -> None:
    """Teacher -> rows -> encodings -> table and plot."""
    torch.manual_seed(0)
    MMLogger.get_current_instance().setLevel("WARNING")
    config = load_config(arguments.config)
    teacher = FrozenTeacher.load(arguments.teacher, arguments.checkpoint)
    asked = TeacherViews(config, plan_views(config, 0), teacher, CaptureOptions())
    patches = choose_patches(asked.plan, arguments.patches)
    answers = list(asked.logits(asked.batches(patches)))
    side = side_bytes(answers)
    students = gradient_students(config, arguments.student)
    batches = gradient_batches(asked)
    figures = {
        "rows": sum(len(answer.prior_index) for answer in answers),
        "patches": len(patches),
        "classes": answers[0].cls_logits.shape[1],
        "ranges": {field: [seen.low, seen.high] for field, seen in value_ranges(answers).items()},
        "index_and_weight_bytes": side,
        "steps": rate_curve(answers, side, students, batches, [(step, step) for step in STEPS]),
        "bits": rate_curve(answers, side, {}, [], bit_steps(answers)),
        "encodings": compare_encodings(answers, PRESETS["small"]["box_logits"]),
        "encodings_fine": compare_encodings(answers, PRESETS["default"]["box_logits"]),
        "companding": companding(answers),
    }
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "rate.json").write_text(json.dumps(figures, indent=2))
    draw(figures, out / "rate.png")
    print_tables(figures)
    print(f"\n{out / 'rate.json'}, {out / 'rate.png'}")


def stacked(answers: list[PatchLogits], field: str) -> Tensor:
    return torch.cat([getattr(answer, field) for answer in answers])


def quantised(logits: Tensor, step: float) -> Tensor:
    """Logits rounded to multiples of a step."""
    return (logits / step).round() * step


def codes_of(logits: Tensor, step: float) -> np.ndarray:
    """(n, columns) codes from 0 on, in one byte where they fit."""
    codes = (logits / step).round()
    # The middle of the range in the middle of 256 codes, as the store's codecs place it.
    codes = (codes - ((codes.min() + codes.max()) / 2).round()).flatten(1).numpy()
    wide = codes.max() - codes.min() >= 256
    return (codes + (32768 + 128 if wide else 128)).astype(np.uint16 if wide else np.uint8)


def chunked_bytes(codes: np.ndarray, encoding: Encoding) -> int:
    """Bytes of all chunks with what belongs to each."""
    parts = [codes[start : start + encoding.rows] for start in range(0, len(codes), encoding.rows)]
    return sum(len(encoding.encode(np.ascontiguousarray(part))) + CHUNK_OVERHEAD for part in parts)


def zstd(level: int) -> Callable[[np.ndarray], bytes]:
    return lambda codes: numcodecs.zstd.compress(codes.tobytes(), level)


def blosc(level: int, shuffle: int) -> Callable[[np.ndarray], bytes]:
    return numcodecs.Blosc("zstd", level, shuffle).encode


def stored_encoding(codes: np.ndarray) -> Encoding:
    """The one that the store uses for codes of this width."""
    return Encoding("stored", "", zstd(5) if codes.dtype == np.uint8 else blosc(5, numcodecs.Blosc.SHUFFLE))


def side_bytes(answers: list[PatchLogits]) -> dict[str, float]:
    """Bytes a row of the index and of the weight in several encodings."""
    index = np.concatenate([answer.prior_index for answer in answers])[:, None]
    weight = np.concatenate([answer.weight for answer in answers])[:, None]
    shuffled = Encoding("", "", blosc(5, numcodecs.Blosc.SHUFFLE))
    bits = Encoding("", "", blosc(5, numcodecs.Blosc.BITSHUFFLE))
    plain = Encoding("", "", zstd(5))
    rows = len(index)
    return {
        "index, zstd": chunked_bytes(index, plain) / rows,
        "index, byte shuffle": chunked_bytes(index, shuffled) / rows,
        "index, bit shuffle": chunked_bytes(index, bits) / rows,
        "weight float32, zstd": chunked_bytes(weight, plain) / rows,
        "weight float32, byte shuffle": chunked_bytes(weight, shuffled) / rows,
        "weight float16, zstd": chunked_bytes(weight.astype(np.float16), plain) / rows,
        "weight float16, byte shuffle": chunked_bytes(weight.astype(np.float16), shuffled) / rows,
    }


def bit_steps(answers: list[PatchLogits]) -> list[tuple[float, float]]:
    """Steps that spread 2^bits codes over twice the range of each field."""
    spans = [2 * (seen.high - seen.low) for seen in value_ranges(answers).values()]
    return [tuple(span / (2**bits - 1) for span in spans) for bits in BITS]


def rate_curve(
    answers: list[PatchLogits],
    side: dict[str, float],
    students: dict[str, nn.Module],
    batches: list[tuple[Tensor, Targets]],
    steps: list[tuple[float, float]],
) -> list[dict[str, Any]]:
    """Bytes, KL and gradient cosine for pairs of steps (class logits, box logits)."""
    exact = {name: [gradient(student, *batch) for batch in batches] for name, student in students.items()}
    points = []
    for pair in steps:
        point: dict[str, Any] = {}
        fixed = side["index, byte shuffle"] + side["weight float16, zstd"]
        for field, step in zip(LOGIT_FIELDS, pair, strict=True):
            logits = stacked(answers, field)
            codes = codes_of(logits, step)
            name = field.removesuffix("_logits")
            error = measure_error(logits, quantised(logits, step), name)
            point[field] = {
                "step": step,
                "codes": int(codes.max()) - int(codes.min()) + 1,
                "bytes": chunked_bytes(codes, stored_encoding(codes)) / len(codes),
                **{key.removeprefix(f"{name}_"): value for key, value in error.items()},
            }
        point["bytes"] = fixed + sum(point[field]["bytes"] for field in LOGIT_FIELDS)
        point["cosine"] = {
            name: float(
                np.mean(
                    [
                        cosine(gradient(student, image, coarse(targets, pair)), known)
                        for (image, targets), known in zip(batches, exact[name], strict=True)
                    ]
                )
            )
            for name, student in students.items()
        }
        points.append(point)
    return points


def coarse(targets: Targets, steps: tuple[float, float]) -> Targets:
    """Targets as a store with these steps would give them."""
    return replace(
        targets,
        weight=targets.weight.half().float(),
        cls_logits=quantised(targets.cls_logits, steps[0]),
        box_logits=quantised(targets.box_logits, steps[1]),
    )


def gradient_students(config: Config, checkpoint: str | None) -> dict[str, nn.Module]:
    """The student as training starts it and, where it is given, as training ends."""
    students = {"untrained": MODELS.build(config.model)}
    students["untrained"].init_weights()
    if checkpoint:
        students["trained"] = MODELS.build(config.model)
        students["trained"].load_state_dict(state_dict_of(load_checkpoint(checkpoint), checkpoint))
    return {name: student.train() for name, student in students.items()}


def gradient_batches(asked: TeacherViews) -> list[tuple[Tensor, Targets]]:
    """Seeded batches of views with their exact targets."""
    random = np.random.default_rng(0)
    count = len(asked.plan.patch_ids)
    batches = []
    for _ in range(GRADIENT_BATCHES):
        chosen = random.choice(count, min(VIEWS_PER_BATCH, count), replace=False)
        views = [
            one_view(asked.patches[int(patch)], int(random.integers(len(asked.patches.flips)))) for patch in chosen
        ]
        answers = [asked.ask([view])[0] for view in views]
        images = asked.teacher.preprocess(torch.stack([view.images[0] for view in views]))
        grid = asked.teacher.adapter.grid(*images.shape[-2:])
        rows = Rows.of(grid, [answer.prior_index.astype(np.int64) for answer in answers])
        values = {
            name: stack_by_level([np.asarray(getattr(answer, name)) for answer in answers], rows.sizes)
            for name in ("weight", *LOGIT_FIELDS)
        }
        targets = Targets(rows=rows, **{name: torch.from_numpy(array) for name, array in values.items()})
        batches.append((images, targets))
    return batches


def one_view(views: PatchViews, flip: int) -> PatchViews:
    """A patch under one of its flips alone."""
    one = slice(flip, flip + 1)
    regions = PatchRegions(views.regions.prior_index[one], views.regions.weight[one])
    return PatchViews(views.patch, views.images[one], regions)


def gradient(student: nn.Module, images: Tensor, targets: Targets) -> Tensor:
    """Gradient of loss_ld + loss_kd with respect to all parameters that it reaches, as one vector."""
    student.zero_grad()
    maps = student.bbox_head(student.extract_feat(images))
    terms = student.distillation(student.adapter.gather(maps, targets.rows), targets)
    sum(values.sum() for values in terms.values()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None])


def cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0))


def compare_encodings(answers: list[PatchLogits], step: float) -> dict[str, Any]:
    """Bytes a row and microseconds a row of both logit fields at one step, by encoding."""
    codes = {field: codes_of(stacked(answers, field), step) for field in LOGIT_FIELDS}
    shape = answers[0].box_logits.shape[1:]

    def bins_first(part: np.ndarray) -> np.ndarray:
        """Column after column: what Zarr's transpose codec does."""
        return np.ascontiguousarray(part.T)

    def difference(part: np.ndarray, distance: int) -> np.ndarray:
        return np.concatenate([part[:distance], part[distance:] - part[:-distance]])

    def along_bins(part: np.ndarray) -> np.ndarray:
        if part.shape[1] != int(np.prod(shape)):
            return np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
        bins = part.reshape(-1, *shape)
        return np.diff(bins, axis=2, prepend=np.zeros_like(bins[..., :1])).reshape(part.shape)

    options = [
        *(Encoding(f"zstd {level}", "zstd level", zstd(level)) for level in (1, 3, 5, 9, 15, 19)),
        *(
            Encoding(f"blosc {name}", "blosc", blosc(5, shuffle))
            for name, shuffle in (("no shuffle", 0), ("byte shuffle", 1), ("bit shuffle", 2))
        ),
        Encoding("column after column, zstd 5", "layout", lambda part: zstd(5)(bins_first(part))),
        Encoding("column after column, zstd 15", "layout", lambda part: zstd(15)(bins_first(part))),
        *(
            Encoding(f"{rows:,} rows a chunk, zstd 5", "chunk", zstd(5), rows=rows)
            for rows in (512, 1024, 2048, 8192, 16384, 65536)
        ),
        Encoding(
            "difference to the row before", "prediction", lambda part: zstd(5)(bins_first(difference(part, 1))), False
        ),
        Encoding(
            "difference to the cell before", "prediction", lambda part: zstd(5)(bins_first(difference(part, 9))), False
        ),
        Encoding("difference to the bin before", "prediction", lambda part: zstd(5)(along_bins(part)), False),
    ]
    rows = len(codes["box_logits"])
    found = []
    for option in options:
        began = time.perf_counter()
        sizes = {field: chunked_bytes(values, option) / rows for field, values in codes.items()}
        seconds = time.perf_counter() - began
        found.append(
            {
                "name": option.name,
                "group": option.group,
                "plain": option.plain,
                "bytes": sum(sizes.values()),
                **sizes,
                "microseconds_a_row": 1e6 * seconds / rows,
            }
        )
    entropy = sum(column_entropy(values) for values in codes.values())
    return {"step": step, "entropy_of_columns": entropy, "options": found}


def column_entropy(codes: np.ndarray) -> float:
    """Bytes a row of an ideal coder that knows every column's distribution and nothing else."""
    total = 0.0
    for column in codes.T:
        share = np.bincount(column) / len(column)
        share = share[share > 0]
        total -= float((share * np.log2(share)).sum())
    return total / 8


def companding(answers: list[PatchLogits]) -> list[dict[str, float]]:
    """Box logits with steps that grow with the distance from the row's maximum: KL and bytes, against even steps.

    Code k stands for -(k s + c (k s)^2): not what CF attributes can say, so no plain reader could decode it.
    """
    logits = stacked(answers, "box_logits")
    found = []
    for growth in (0.0, 0.02, 0.05, 0.1):
        for step in (0.125, 0.25, 0.5):
            depth = -logits
            inner = depth if not growth else ((1 + 4 * growth * depth).sqrt() - 1) / (2 * growth)
            code = (inner / step).round()
            decoded = -(code * step + growth * (code * step) ** 2)
            codes = code.flatten(1).numpy().astype(np.uint8)
            error = measure_error(logits, decoded, "box")
            found.append(
                {
                    "growth": growth,
                    "step": step,
                    "bytes": chunked_bytes(codes, stored_encoding(codes)) / len(codes),
                    KL_COLUMN: error[f"box_{KL_COLUMN}"],
                }
            )
    return found


def print_tables(figures: dict[str, Any]) -> None:
    """The figures in Markdown."""
    print(f"{figures['rows']:,} rows of {figures['patches']} patches, {figures['classes']} classes\n")
    names = list(figures["steps"][0]["cosine"])
    cosines = " | ".join(f"1 − cosine, {name}" for name in names)
    print(f"| step | bytes a prior | of it classes / bins | mean KL at T = 5, classes / bins | {cosines} |")
    print("|---:|---:|---:|---:|" + "---:|" * len(names))
    for point in figures["steps"]:
        classes, bins = (point[field] for field in LOGIT_FIELDS)
        values = " | ".join(f"{1 - point['cosine'][name]:.1e}" for name in names)
        print(
            f"| {classes['step']:g} | {point['bytes']:.1f} | {classes['bytes']:.1f} / {bins['bytes']:.1f} | "
            f"{classes[KL_COLUMN]:.1e} / {bins[KL_COLUMN]:.1e} | {values} |"
        )
    for key in ("encodings", "encodings_fine"):
        study = figures[key]
        print(f"\n| step {study['step']:g} | bytes of logits a prior | µs a row | any Zarr v3 reader |")
        print("|---|---:|---:|---|")
        print(f"| ideal coder of single columns | {study['entropy_of_columns']:.1f} | | |")
        for option in study["options"]:
            print(
                f"| {option['name']} | {option['bytes']:.1f} | {option['microseconds_a_row']:.1f} | "
                f"{'yes' if option['plain'] else 'no'} |"
            )
    print("\n| index and weight | bytes a prior |\n|---|---:|")
    for name, size in figures["index_and_weight_bytes"].items():
        print(f"| {name} | {size:.2f} |")


def draw(figures: dict[str, Any], path: Path) -> None:
    """Bytes against KL, bytes against the gradient's error, and the encodings at the step of `small`."""
    figure = Figure(figsize=(17, 5.4), layout="constrained")
    rate, gradient_panel, bars = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    steps = figures["steps"]
    sizes = [point["bytes"] for point in steps]
    presets = {PRESETS[name]["box_logits"]: name for name in ("default", "small")}
    for field, colour in zip(LOGIT_FIELDS, ("#0072B2", "#D55E00"), strict=True):
        label = field.replace("_", " ")
        rate.plot(sizes, [point[field][KL_COLUMN] for point in steps], "o-", color=colour, label=f"{label}, even steps")
        bits = figures["bits"]
        rate.plot(
            [point["bytes"] for point in bits],
            [point[field][KL_COLUMN] for point in bits],
            "s",
            fillstyle="none",
            color=colour,
            label=f"{label}, 4 to 8 bits over twice the range",
        )
    rate.axhline(KL_TARGET, color="#555555", linestyle=":")
    rate.axvline(BYTES_TARGET, color="#555555", linestyle=":")
    rate.annotate("target of small", (BYTES_TARGET, KL_TARGET), (4, 4), textcoords="offset points", fontsize=9)
    rate.set(yscale="log", xlabel="bytes a stored prior, everything", ylabel="mean KL(teacher, stored) at T = 5, nats")
    rate.legend(frameon=False, fontsize=9)
    for name, style in zip(steps[0]["cosine"], ("o-", "s--"), strict=False):
        values = [1 - point["cosine"][name] for point in steps]
        gradient_panel.plot(sizes, values, style, color="#009E73", label=f"{name} student")
    for limit, label in ((1e-4, "0.9999: default, untrained"), (1e-3, "0.999: default, trained")):
        gradient_panel.axhline(limit, color="#555555", linestyle=":")
        gradient_panel.annotate(label, (max(sizes), limit), (0, 3), textcoords="offset points", ha="right", fontsize=9)
    gradient_panel.set(yscale="log", xlabel="bytes a stored prior, everything", ylabel="1 − cosine of the gradients")
    gradient_panel.legend(frameon=False)
    for axes, values in ((rate, None), (gradient_panel, next(iter(steps[0]["cosine"]), None))):
        for point in steps:
            name = presets.get(point["box_logits"]["step"])
            if name:
                height = point["box_logits"][KL_COLUMN] if values is None else 1 - point["cosine"][values]
                axes.annotate(name, (point["bytes"], height), (6, -12), textcoords="offset points", weight="bold")
    options = figures["encodings"]["options"][::-1]
    colours = ["#56B4E9" if option["plain"] else "#CCCCCC" for option in options]
    drawn = bars.barh([option["name"] for option in options], [option["bytes"] for option in options], color=colours)
    bars.bar_label(drawn, [f"{option['bytes']:.1f}" for option in options], padding=3, fontsize=9)
    bars.axvline(figures["encodings"]["entropy_of_columns"], color="black", linestyle="--", linewidth=1)
    bars.set(
        title=f"Logits at step {figures['encodings']['step']:g} (grey: needs code of its own)\n"
        "dashed: ideal coder of single columns",
        xlabel="bytes of logits a prior",
    )
    bars.margins(x=0.12)
    for axes in (rate, gradient_panel, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rate", description="Rate and distortion of a trained teacher's logits."
    )
    parser.add_argument("--config", required=True, help="the student's config")
    parser.add_argument("--teacher", required=True, help="the teacher's config")
    parser.add_argument("--checkpoint", required=True, help="the trained teacher")
    parser.add_argument("--student", help="a trained student's weights, for the gradient at the end of training")
    parser.add_argument("--patches", type=int, default=100, help="patches to ask about (default: 100)")
    parser.add_argument("--out", default="work_dirs/rate", help="folder of the JSON and the plot")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
