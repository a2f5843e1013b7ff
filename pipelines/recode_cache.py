"""Make a cache of another codec from one that is complete, without the teacher.

    python -m pipelines.recode_cache --config configs/demo/distill.py --cache a.zarr --to b.zarr --codec small

From an exact cache it gives what a capture with that codec would have given, byte for byte. The same command continues
a stopped run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from cache.codec import PRESETS, Codec, CodecRequest
from cache.reader import CacheReader
from cache.storage import Location, locate
from cache.writer import CacheWriter
from pipelines.base.arguments import add_config, add_json, make_command_parser
from pipelines.base.command import plain_console, run_command
from pipelines.base.files import bytes_on_disk, require_room

if TYPE_CHECKING:
    from mmengine.config import Config


def main(arguments: argparse.Namespace) -> None:
    """Records of a store -> their codec -> the blocks of another store."""
    from distill.interface import require_same_interface
    from pipelines.base.experiment import build_adapter, describe_student, load_config
    from pipelines.capture.recoding import Recoding
    from pipelines.capture.resume import stored_codec

    config = load_config(arguments.config, arguments.cfg_options)
    request = CodecRequest.of(arguments.codec)
    source, path = CacheReader(arguments.cache or config.cache), locate(arguments.to)
    source.require_complete()
    # The adapter turns logits into boxes, whose change is measured.
    require_same_interface(
        describe_student(config),
        source.manifest,
        place=f"cache {source.path}",
        cure="Give the config that the cache is for (CONFIG=)",
        whose=("in the cache", "in the config"),
    )
    recoding = Recoding(source, request)
    codec = stored_codec(path, request) or recoding.choose_codec()
    require_room_for(path, source, codec, config)
    with CacheWriter(path, recoding.manifest(codec), recoding.plan, codec) as writer:
        started = time.perf_counter()
        written = recoding.fill(writer, build_adapter(config))
        seconds = time.perf_counter() - started
    figures = recode_figures(source, path, written, seconds)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        before, after = (figures[key] / max(1, source.plan.num_priors) for key in ("bytes_before", "bytes"))
        plain_console(soft_wrap=True, highlight=False).print(
            f"{path}: complete, {figures['bytes'] / 1e6:,.1f} MB, {after:.1f} bytes a row ({before:.1f} in "
            f"{source.path}); {written / 1e6:,.1f} MB written in {seconds:,.0f} s"
        )


def require_room_for(path: Location, source: CacheReader, codec: Codec, config: Config) -> None:
    """Refuse a new cache that will not fit on its disk, by the size of the one that it is made from."""
    from pipelines.capture.figures import row_bytes

    folder = path.disk()
    if folder is not None and not path.exists():
        share = row_bytes(codec, config) / row_bytes(source.codec, config)
        size = share * bytes_on_disk(source.location)
        require_room(
            folder, size, f"by the size of {source.path}, cache {path}", "Make room, or give another path (--to)"
        )


def recode_figures(source: CacheReader, path: Location, written: int, seconds: float) -> dict[str, Any]:
    """What the new cache holds, beside the one that it was made from."""
    return {
        "cache": source.path,
        "to": str(path),
        "rows": source.plan.num_priors,
        "bytes_before": bytes_on_disk(source.location),
        "bytes": bytes_on_disk(path),
        "bytes_written": written,
        "seconds": seconds,
    }


def _codec(text: str) -> str | dict[str, float]:
    """An argparse type: a preset, or a bound on the KL."""
    if text in PRESETS:
        return text
    try:
        return {"kl": float(text)}
    except ValueError:
        names = ", ".join(PRESETS)
        raise argparse.ArgumentTypeError(
            f"{names}, or a bound of mean KL such as 2e-5 is needed, not {text!r}"
        ) from None


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "recode_cache",
        "Make a cache of another codec from one that is complete, without the teacher. The same command continues a "
        "stopped run.",
        example="--config configs/distill/gwd_r18_1x_dota.py --cache a.zarr --to b.zarr --codec small",
    )
    add_config(parser, "a student's config for the cache")
    parser.add_argument("--cache", help="the cache to read (default: the config's cache)")
    parser.add_argument("--to", required=True, help="the cache to make")
    parser.add_argument(
        "--codec", type=_codec, required=True, help=f"{', '.join(PRESETS)}, or a bound of mean KL at T = 5"
    )
    add_json(parser, "the closing figures")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
