"""DOTA patches as a cache knows them: name, and digest of the labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from distill.datasets import DotaPatchDataset

LABEL = "1 1 9 1 9 9 1 9 plane 0\n"


def test_name_and_label_digest_of_a_patch(tmp_path: Path) -> None:
    for part in ("images", "annfiles"):
        (tmp_path / part).mkdir()
    for name, text in (("b", LABEL), ("a", "")):
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.zeros((16, 16, 3), np.uint8))
        (tmp_path / f"annfiles/{name}.txt").write_text(text)
    dataset = DotaPatchDataset(
        data_root=str(tmp_path),
        data_prefix={"img_path": "images"},
        ann_file="annfiles",
        metainfo={"classes": ("plane",)},
        pipeline=[],
    )
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [info["img_id"] for info in infos] == ["a", "b"]
    contents = [hashlib.sha256(text.encode()).digest() for text in ("", LABEL)]
    assert [dataset.label_digest(info) for info in infos] == contents
