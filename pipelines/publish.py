"""Strip a training checkpoint to weights and meta, and name it by its hash, as mmrotate users know it.

python -m pipelines.publish --checkpoint work_dirs/.../epoch_12.pth --out gwd_r18_1x_dota.pth
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from pipelines.base.arguments import add_json, make_command_parser
from pipelines.base.command import run_command
from pipelines.base.config_files import holds_values_alone
from pipelines.base.ready import require_file, require_writable

# What a user of the weights needs of a run's meta, beside the detector's config; dates, hosts and paths stay behind.
META_KEYS = ("epoch", "iter", "dataset_meta", "mmengine_version")


def main(arguments: argparse.Namespace) -> None:
    """Training checkpoint -> published file."""
    checkpoint = require_file(arguments.checkpoint, "CHECKPOINT")
    beside = checkpoint.with_name(f"{checkpoint.absolute().parent.name}_{checkpoint.stem}.pth")
    out = arguments.out or beside
    require_writable(out.parent, "--out")
    figures = publish(checkpoint, out)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"{figures['file']}: weights, classes and config, {figures['bytes'] / 1e6:.1f} MB")


def publish(checkpoint: Path, out: Path) -> dict[str, str | int]:
    """Write `<out stem>-<first 8 digits of the file's SHA-256>.pth`; an existing file is kept.

    Raises:
        ValueError: the checkpoint cannot be loaded, holds no weights, or has code in place of a config.
    """
    import torch

    from distill.checkpoint import load_checkpoint, state_dict_of, weights_digest

    loaded = load_checkpoint(checkpoint)
    weights = {name: tensor.cpu().contiguous() for name, tensor in state_dict_of(loaded, checkpoint).items()}
    trained = loaded.get("meta", {})
    meta = {key: trained[key] for key in META_KEYS if key in trained}
    if "cfg" in trained:
        meta["cfg"] = detector_text(trained["cfg"], checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.stem}.draft")
    torch.save({"meta": meta, "state_dict": weights}, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    final = out.with_name(f"{out.stem}-{digest[:8]}.pth")
    if final.exists():
        # The same name is the same content: nothing to replace.
        draft.unlink()
    else:
        draft.rename(final)
    return {
        "file": str(final),
        "bytes": final.stat().st_size,
        "file_sha256": digest,
        "weights_sha256": weights_digest(weights),
    }


def detector_text(text: str, checkpoint: Path) -> str:
    """The config of the bare detector: without cache and teacher, which a user of the weights does not have.

    Raises:
        ValueError: the text is code, which a checkpoint from elsewhere could bring.
    """
    from mmengine.config import Config

    from pipelines.training.kind import detector_config

    if not holds_values_alone(text):
        raise ValueError(f"the config in checkpoint {checkpoint} is code: it would be run, not read")
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        config = Config.fromfile(file.name, import_custom_modules=False)
    config.pop("work_dir", None)
    return detector_config(config).pretty_text


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "publish",
        "Strip a training checkpoint to weights and meta, named by its hash.",
        example="--checkpoint work_dirs/distill_gwd_r18_1x_dota/epoch_12.pth --out gwd_r18_1x_dota.pth",
    )
    parser.add_argument("--checkpoint", required=True, help="the training checkpoint")
    parser.add_argument(
        "--out", type=Path, help="the file to write, a hash is added to its name (default: beside the checkpoint)"
    )
    add_json(parser, "file, bytes and digests")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
