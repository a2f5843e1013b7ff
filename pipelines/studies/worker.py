"""One process of a study: trains one run and evaluates it; what has been finished in its folder is not done again.

python -m pipelines.studies.worker --config <config> --work-dir <folder>
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines.base.arguments import make_command_parser
from pipelines.base.command import existing_file, run_command
from pipelines.base.config_files import last_checkpoint
from pipelines.base.experiment import load_config
from pipelines.training.evaluation import EVALUATION_FILE, evaluate_run, read_evaluation
from pipelines.training.kind import kind_of
from pipelines.training.match import use_cache
from pipelines.training.options import RunOptions
from pipelines.training.run_record import read_run_record
from pipelines.training.start import load_run, train


def main(arguments: argparse.Namespace) -> None:
    """Config -> trained weights -> AP; each where it is missing."""
    folder = Path(arguments.work_dir)
    checkpoint = arguments.checkpoint or trained_weights(arguments.config, folder, resume=arguments.resume)
    if read_evaluation(folder) is None:
        evaluate_run(load_config(arguments.config), checkpoint, folder)


def trained_weights(config_file: str, folder: Path, *, resume: bool) -> Path:
    """The last checkpoint of the finished training in a folder, which is trained now where it has not been.

    Raises:
        ValueError: the training cannot start, or leaves no checkpoint.
    """
    if read_run_record(folder) is None:
        # Of weights that the training is about to replace.
        (folder / EVALUATION_FILE).unlink(missing_ok=True)
        go_on = resume and last_checkpoint(folder) is not None
        config = load_run(RunOptions(config_file, work_dir=str(folder), resume=go_on))
        if kind_of(config) == "cached":
            use_cache(config)
        train(config)
    name = (read_run_record(folder) or {}).get("checkpoint")
    if name is None:
        raise ValueError(f"{folder} has no checkpoint. Let the config's CheckpointHook write one (save_last=True)")
    return folder / str(name)


def make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser(
        "studies.worker",
        "Train and evaluate one detector; what is finished in the work folder is not done again.",
        example="--config configs/demo/plain.py --work-dir work_dirs/plain",
    )
    parser.add_argument("--config", required=True, help="the config of the detector")
    parser.add_argument("--work-dir", required=True, help="its work folder")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, where there is one")
    parser.add_argument("--checkpoint", type=existing_file, help="weights that exist: evaluate only")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))
