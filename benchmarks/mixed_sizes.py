"""Live against cached LD in batches of images of one size and of several: what the teacher sees of the padding.

python -m benchmarks.mixed_sizes --config configs/demo/gfl_distill.py --student work_dirs/demo_gfl_distill/iter_160.pth
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmrotate.registry import MODELS
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cache.reader import CacheReader
from distill.checkpoint import load_checkpoint, load_weights, state_dict_of
from pipelines.base.command import positive_int, run_command
from pipelines.base.experiment import entries_of, load_config, training_set
from pipelines.base.progress import progress
from pipelines.training.kind import point_to_cache


def main(arguments: argparse.Namespace) -> None:
    """The same batches through both distillers; differences of LD and of its gradient."""
    config = load_config(arguments.config)
    config.cache = arguments.cache or config.cache
    point_to_cache(config)
    models = {"cached": student(config, arguments.student), "live": student(live_config(config), arguments.student)}
    reader = CacheReader(config.cache)
    random = np.random.default_rng(0)
    dataset = training_set(config, config.train_dataloader.dataset.pipeline)
    infos = entries_of(dataset)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with progress("compare", 2 * arguments.batches, "batches") as advance:
        for kind, patches in draw_batches(reader, random, arguments.batches, config.train_dataloader.batch_size):
            flips = random.choice(reader.plan.draws, len(patches))
            views = zip(patches, flips.tolist(), strict=True)
            batch = [dataset.pipeline({**infos[patch], "forced": {"RandomViewFlip": flip}}) for patch, flip in views]
            found[kind].append(compare(models, pseudo_collate(batch)))
            advance(1)
    figures = {kind: summary(rows) for kind, rows in found.items()}
    print(json.dumps(figures, indent=2)) if arguments.json else show(figures)


def live_config(config: Config) -> Config:
    """The same student with its teacher in the step."""
    live = config.copy()
    live.model = {**config.model, "type": "LiveDistiller", "teacher": config.teacher, "region": config.region}
    return live


def student(config: Config, checkpoint: str) -> nn.Module:
    model = MODELS.build(config.model)
    load_weights(model, state_dict_of(load_checkpoint(checkpoint), checkpoint), checkpoint, "--student")
    # Statistics of the batch would differ as well: of interest is what the teacher answers.
    return model.eval()


def draw_batches(
    reader: CacheReader, random: np.random.Generator, count: int, size: int
) -> Iterator[tuple[str, list[str]]]:
    """`count` batches of patches of one padded size, and as many of any."""
    of_shape = defaultdict(list)
    for patch, patch_id in enumerate(reader.plan.patch_ids):
        of_shape[tuple(reader.plan.view_shape[reader.plan.draw_view[patch, 0]].tolist())].append(patch_id)
    if len(of_shape) < 2:
        raise ValueError(f"cache {reader.path} holds patches of one size alone. Give one of several sizes (--cache)")
    groups = sorted(of_shape.items())
    for number in range(count):
        _, patches = groups[number % len(groups)]
        yield "one size", random.choice(patches, size, replace=False).tolist()
        yield "several sizes", random.choice(reader.plan.patch_ids, size, replace=False).tolist()


def compare(models: dict[str, nn.Module], batch: dict[str, Any]) -> dict[str, float]:
    """Relative difference of LD, and cosine of its gradient with respect to all parameters, for one batch."""
    loss, gradient = {}, {}
    for name, model in models.items():
        samples = [sample.clone() for sample in batch["data_samples"]]
        data = model.data_preprocessor({"inputs": list(batch["inputs"]), "data_samples": samples}, training=True)
        loss[name] = sum(model(**data, mode="loss")["loss_ld"])
        gradient[name] = gradient_of(model, loss[name])
    return {
        "difference": abs(float(loss["cached"] / loss["live"]) - 1),
        "cosine": float(torch.nn.functional.cosine_similarity(gradient["cached"], gradient["live"], dim=0)),
    }


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]).double()


def summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    differences = [row["difference"] for row in rows]
    cosines = [row["cosine"] for row in rows]
    return {
        "batches": len(rows),
        "ld_difference": {"median": float(np.median(differences)), "max": max(differences)},
        "gradient_cosine": {"mean": float(np.mean(cosines)), "min": min(cosines)},
    }


def show(figures: dict[str, Any]) -> None:
    table = Table("batches of", "LD: median difference", "largest", "gradient cosine: mean", "smallest")
    for kind, row in figures.items():
        difference, cosine = row["ld_difference"], row["gradient_cosine"]
        table.add_row(
            kind,
            f"{difference['median']:.2g}",
            f"{difference['max']:.2g}",
            f"{cosine['mean']:.7f}",
            f"{cosine['min']:.7f}",
        )
    Console().print(table)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_sizes", description=__doc__)
    parser.add_argument("--config", required=True, help="a student's config, of images of several sizes")
    parser.add_argument("--student", required=True, help="the student's weights")
    parser.add_argument("--cache", help="the store (default: the config's cache)")
    parser.add_argument("--batches", type=positive_int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
