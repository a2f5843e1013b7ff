"""Where the golden stores lie, and what their records hold."""

from __future__ import annotations

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "tests/golden/stores"
# Floats a prior; cells of nine priors; cells of one prior, with a planned assignment.
STORES = ("rows", "rotated", "horizontal")
RECORD_ARRAYS = ("prior_index", "weight", "cls_logits", "box_logits", "assigned_prior", "assigned_object")
