"""What a finished run contributes to the table of a study, whichever study it is."""

from __future__ import annotations

from typing import Any

from pipelines.studies.runs import Run
from pipelines.training.evaluation import AP_COLUMNS, read_evaluation

FIGURE_COLUMNS = (*AP_COLUMNS, "training s", "s a step", "peak MB")
"""What tables show of a run, or of several as a mean."""


def run_figures(run: Run, run_record: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a finished run: AP as fractions, seconds, bytes, and what tells it from others."""
    evaluation = read_evaluation(run.folder)
    assert evaluation is not None
    return {
        "name": run.name,
        "folder": run.name,
        "kind": run_record["kind"],
        "seed": run_record["seed"],
        **{name: evaluation[name] for name in AP_COLUMNS},
        "training_seconds": run_record["seconds"],
        "step_seconds": run_record["step_seconds"],
        "steps": run_record["steps"],
        "resumed_at": run_record["resumed_at"],
        "peak_memory_bytes": run_record["peak_memory"]["process_bytes"],
        "config_sha256": run_record["config"]["sha256"],
        "code_version": run_record["code"]["version"],
        "commit": run_record["code"]["commit"],
    }
