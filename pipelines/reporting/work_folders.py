"""What work folders hold: finished runs by the folder that holds them, and what commands wrote about them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.base.config_files import RUN_RECORD
from pipelines.reporting.plotting import COLOURS
from pipelines.training.evaluation import EVALUATION, read_evaluation
from pipelines.training.run_record import read_losses, read_run_record

STUDIES = {"demo": "Demo", "compare": "Plain, live and cached", "sweep": "Sweep"}
KINDS = ("teacher", "plain", "live", "cached")
CAPTURE = "capture.json"


@dataclass(frozen=True)
class FinishedRun:
    """A finished training. kind: plain, live, cached, or teacher where a cache was captured from its weights."""

    folder: Path
    kind: str
    record: Mapping[str, Any]
    ap: Mapping[str, float] | None
    losses: Mapping[str, Sequence[tuple[int, float]]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def colour(self) -> str:
        return COLOURS[self.kind]


@dataclass(frozen=True)
class Group:
    """The runs of one folder, and what commands have written about them: `<study>.json`, `capture.json`."""

    folder: Path
    runs: Sequence[FinishedRun]
    studies: Mapping[str, dict[str, Any]]
    capture: Mapping[str, Any] | None

    @property
    def title(self) -> str:
        return f"{next((STUDIES[study] for study in self.studies), 'Runs')}: {self.folder}"

    def label(self, run: FinishedRun) -> str:
        """The run's kind where no other has it, else its name."""
        kinds = [other.kind for other in self.runs]
        return run.kind if kinds.count(run.kind) == 1 else run.name


def find_groups(folders: Sequence[Path]) -> list[Group]:
    """All runs below the folders, by the folder that holds them.

    Raises:
        ValueError: there is no finished run.
    """
    found: dict[Path, list[Path]] = {}
    for folder in folders:
        for place, children, files in os.walk(folder):
            children[:] = sorted(c for c in children if not c.endswith(".zarr") and c not in ("vis_data", EVALUATION))
            here = Path(place)
            if RUN_RECORD in files:
                found.setdefault(here.parent, []).append(here)
            if {CAPTURE, *(f"{study}.json" for study in STUDIES)} & set(files):
                found.setdefault(here, [])
    records = {run: record for runs in found.values() for run in runs if (record := read_run_record(run))}
    if not records:
        raise ValueError(
            f"no {RUN_RECORD} of a finished training below {', '.join(map(str, folders))}. Train first: make demo, "
            "train, distill, sweep or compare; or give another WORK_DIR="
        )
    teachers = {record["cache"]["teacher_sha256"] for record in records.values() if record["cache"]}
    return [_read_group(folder, {run: records[run] for run in runs}, teachers) for folder, runs in found.items()]


def _read_group(folder: Path, records: Mapping[Path, Mapping[str, Any]], teachers: set[str]) -> Group:
    written = {name: folder / f"{name}.json" for name in STUDIES}
    studies = {name: _read_json(path) for name, path in written.items() if path.is_file()}
    # In the order of the study, and what it does not name by kind and name.
    order = [row["name"] for study in studies.values() for row in study.get("runs", [])]
    runs = [
        FinishedRun(
            run,
            "teacher" if record["weights_sha256"] in teachers else record["kind"],
            record,
            read_evaluation(run),
            read_losses(run, record),
        )
        for run, record in records.items()
    ]
    places = {name: place for place, name in enumerate(order)}
    runs.sort(key=lambda run: (places.get(run.name, len(order)), KINDS.index(run.kind), run.name))
    capture = folder / CAPTURE
    return Group(folder, runs, studies, _read_json(capture) if capture.is_file() else None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object. Remove it, or run the command that writes it again")
    return found
