"""Where the golden stores of format 1 lie, and what their records hold."""

from __future__ import annotations

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "tests/golden/stores"
# By kind of head; the first with a planned assignment.
STORES = ("rotated_retina", "gfl")
RECORD_ARRAYS = ("prior_index", "weight", "cls_logits", "box_logits", "assigned_prior", "assigned_object")
