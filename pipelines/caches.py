"""The caches of a folder: teacher, classes, views, codec, size, fingerprint, and whether they are complete.

    python -m pipelines.caches --folder caches

Each is looked at by itself, and no record of it is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from cache.storage import Place, locate
from cache.store import Store
from pipelines.base.arguments import add_json, make_command_parser
from pipelines.base.command import plain_console, printable, run_command
from pipelines.base.files import bytes_on_disk
from pipelines.base.ready import require_folder
from pipelines.base.stores import find_stores


def main(arguments: argparse.Namespace) -> None:
    """Folder -> its stores -> two lines each."""
    is_remote = locate(arguments.folder).is_remote
    places = [arguments.folder] if is_remote else list(find_stores(require_folder(arguments.folder, "CACHE")))
    found = [describe(place) for place in places]
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    console = plain_console(highlight=False, soft_wrap=True)
    for store in found:
        console.print(as_text(store))
    if not found:
        console.print(f"{arguments.folder} holds no cache")


def describe(place: Place) -> dict[str, Any]:
    """A store as plain values; `problem` alone where it cannot be opened."""
    try:
        store = Store(place)
        manifest, blocks = store.manifest, store.num_blocks
        return {
            "cache": str(place),
            "fingerprint": manifest.fingerprint,
            "teacher_sha256": manifest.teacher["weights_sha256"],
            "teacher": _backbone(manifest.teacher),
            "classes": manifest.head["classes"],
            "patches": manifest.plan["num_patches"],
            "views": manifest.plan["num_views"],
            "rows": manifest.plan["num_priors"],
            "codec": manifest.codec["preset"],
            "bytes": bytes_on_disk(place),
            "blocks": blocks,
            "blocks_missing": blocks - len(store.captured_blocks()),
        }
    except (ValueError, OSError) as error:
        return {"cache": str(place), "problem": str(error)}


def _backbone(teacher: Mapping[str, Any]) -> str:
    """`ResNet-34`, as far as a manifest says so."""
    model = teacher.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    known = backbone if isinstance(backbone, dict) else {}
    return f"{str(known.get('type', 'backbone')).rpartition('.')[2]}-{known.get('depth', '?')}"


def as_text(store: dict[str, Any]) -> str:
    """A store for people, in two lines."""
    if "problem" in store:
        return f"{store['cache']}: unusable\n    {printable(store['problem'])}"
    missing, blocks, classes = store["blocks_missing"], store["blocks"], store["classes"]
    state = f"{missing} of {blocks} blocks missing" if missing else "complete"
    return (
        f"{store['cache']}: {state}, {store['views']:,} views of {store['patches']:,} patches, "
        f"{store['bytes'] / 1e6:,.2f} MB, codec {store['codec']}, fingerprint {store['fingerprint'][:12]}\n"
        f"    teacher {store['teacher']} {store['teacher_sha256'][:12]}; {len(classes)} classes: {', '.join(classes)}"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "caches",
        "List the caches of a folder: teacher, classes, views, codec, size, fingerprint, completeness.",
        example="--folder caches",
    )
    parser.add_argument("--folder", default="caches", help="the folder, or one cache (default: caches)")
    add_json(parser, "the list")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
