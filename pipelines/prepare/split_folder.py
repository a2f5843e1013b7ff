"""The patches of one split on disk, and the record of every image that has been split.

Layout of `<data_root>/train` or `<data_root>/val`:

    images/<image>__<size>__<x>___<y>.png     patches
    annfiles/<image>__<size>__<x>___<y>.txt   their labels; empty where a patch holds no object
    labelTxt/<image>.txt                      the labels of the whole image, byte for byte, for the evaluation
    done/<image>.json                         an image's record, written when everything else of it is in place
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.dota import format_labels, parse_patch_name
from pipelines.base.files import PARTIAL, write_bytes, write_json
from pipelines.prepare.images import encode_png, read_image
from pipelines.prepare.sources import SourceImage, read_kept_labels
from pipelines.prepare.windows import SplitRule, split_image


@dataclass(frozen=True)
class ImageRecord:
    """What was made of one image. `patches`: patch name -> number of objects; num_bytes: of all its patch files."""

    source: Mapping[str, Any]
    patches: Mapping[str, int]
    num_bytes: int


@dataclass(frozen=True)
class SplitFolder:
    """The folder of one split's patches; see the top of this module."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annfiles(self) -> Path:
        return self.root / "annfiles"

    @property
    def label_texts(self) -> Path:
        return self.root / "labelTxt"

    @property
    def done(self) -> Path:
        return self.root / "done"

    def folders(self) -> tuple[Path, ...]:
        return self.images, self.annfiles, self.label_texts, self.done

    def make(self) -> None:
        for folder in self.folders():
            folder.mkdir(parents=True, exist_ok=True)

    def records(self) -> dict[str, ImageRecord]:
        """Image id -> record of every image all of whose files are there."""
        if not self.done.is_dir():
            return {}
        pictures, annfiles, texts = ({path.name for path in folder.iterdir()} for folder in self.folders()[:3])
        records = {}
        for path in sorted(self.done.glob("*.json")):
            try:
                record = ImageRecord(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError):  # a power cut can leave an empty file under a finished name
                continue
            has_patches = all(f"{name}.png" in pictures and f"{name}.txt" in annfiles for name in record.patches)
            if has_patches and f"{path.stem}.txt" in texts:
                records[path.stem] = record
        return records

    def remove_unfinished(self) -> None:
        """Delete what a killed run left: temporary files, and everything of images that have no record.

        Without this, an image that is replaced before it was finished could leave patches that no image owns.
        """
        finished = self.records()
        for folder in (self.images, self.annfiles):
            for path in folder.iterdir():
                name = parse_patch_name(path.stem)
                if path.suffix == PARTIAL or (name is not None and name.image_id not in finished):
                    path.unlink(missing_ok=True)
        for folder in (self.label_texts, self.done):
            for path in folder.iterdir():
                if path.suffix == PARTIAL or path.stem not in finished:
                    path.unlink(missing_ok=True)


def write_patches(source: SourceImage, folder: SplitFolder, rule: SplitRule) -> ImageRecord:
    """Write all files of one image, each whole or not at all, its record last.

    Whenever the process dies, either the record is missing, and the image is split again to the same bytes, or
    everything is there.

    Raises:
        ValueError: the image cannot be decoded, or its labels are malformed.
    """
    labels = read_kept_labels(source.label_file, rule)
    patches: dict[str, int] = {}
    num_bytes = 0
    for patch in split_image(read_image(source.image), labels, source.image_id, rule):
        picture, text = encode_png(patch.pixels), format_labels(patch.labels).encode()
        write_bytes(folder.images / f"{patch.name}.png", picture)
        write_bytes(folder.annfiles / f"{patch.name}.txt", text)
        patches[str(patch.name)] = len(patch.labels)
        num_bytes += len(picture) + len(text)
    write_bytes(folder.label_texts / f"{source.image_id}.txt", source.label_file.read_bytes())
    record = ImageRecord(source.identity(), patches, num_bytes)
    write_json(folder.done / f"{source.image_id}.json", asdict(record))
    return record
