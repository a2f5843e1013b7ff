"""docs/read-a-cache.md: its three ways of reading run as printed, and read the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cache.store_tools import write_store
from tests.conftest import REPOSITORY

COMPARED = """
import numpy as np
assert record.box_logits.shape[0] == len(record.prior_index) == len(record.weight) == len(record.cls_logits) > 0
ours = CacheReader("caches/demo.zarr").read(patch_id, "none")
for cls_logits, box_logits in (by_zarr, by_xarray):
    np.testing.assert_allclose(cls_logits, ours.cls_logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(box_logits - box_logits.max(axis=-1, keepdims=True), ours.box_logits, rtol=0, atol=1e-4)
assert len(ours) > 0
"""


def test_the_page_reads_what_is_stored(tmp_path: Path) -> None:
    (tmp_path / "caches").mkdir()
    write_store(tmp_path / "caches/demo.zarr", preset="default")
    page = (REPOSITORY / "docs/read-a-cache.md").read_text(encoding="utf-8")
    # The first patch of the small store has no object: its second one, of four views each.
    page = page.replace("patch_ids[0]", "patch_ids[1]").replace("view = 0", "view = 4")
    reader, by_zarr, by_xarray = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found = "cls_logits, box_logits"
    script = f"{reader}\n{by_zarr}\nby_zarr = {found}\n{by_xarray}\nby_xarray = {found}\n{COMPARED}"
    # In a process of its own: one that has read records can no longer fork.
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
