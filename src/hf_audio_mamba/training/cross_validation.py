"""Cross-validation: one run for each fold, and what they come to together."""

import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_audio_mamba.data.audio_dataset import sort_labels
from hf_audio_mamba.data.audio_folder import FOLD_COLUMN, METADATA_NAME
from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.metrics import mean_and_deviation
from hf_audio_mamba.training import cross_validation_card
from hf_audio_mamba.training.arguments import DataArguments
from hf_audio_mamba.training.checkpoints import write_atomically, write_json
from hf_audio_mamba.training.output_dir import RESULTS_NAME

logger = logging.getLogger(__name__)

_SHARED = ("dataset", "problem_type", "label_names", "model_type", "num_parameters", "seed", "versions", "command")

RunFold = Callable[[DataArguments, Path], dict[str, Any]]


def cross_validate(data_args: DataArguments, folder: Path, run_fold: RunFold, *, is_main: bool) -> dict[str, Any]:
    """Run every fold in `folder/fold-<name>` and write their means and deviations, as JSON and as a card.

    Args:
        data_args: Data with a fold column.
        folder: Folder of the whole cross-validation.
        run_fold: Trains and evaluates one fold in a given folder.
        is_main: Whether this process writes.

    Returns:
        `folds` (results by fold), `metrics` and `floor` (means over folds) and `deviations` (standard deviations over
        folds, with one degree of freedom less), as in `all_results.json`.

    Raises:
        UsageError: If the data has no fold column.
    """
    folds = {}
    for name in list_folds(data_args):
        logger.info("Fold %s.", name)
        fold_folder = folder / f"fold-{name}"
        if is_main:
            fold_folder.mkdir(exist_ok=True)
        folds[name] = run_fold(replace(data_args, fold=name), fold_folder)
    first = next(iter(folds.values()))
    results = {
        **{key: first[key] for key in _SHARED},
        "train_seconds": sum(result["train_seconds"] for result in folds.values()),
        "metrics": _combine([result["metrics"] for result in folds.values()], _mean),
        "deviations": _combine([result["metrics"] for result in folds.values()], _deviation),
        "folds": folds,
    }
    if is_main:
        results["floor"] = _combine([result["floor"] for result in folds.values()], _mean)
        write_json(folder / RESULTS_NAME, results)
        write_atomically(folder / "README.md", cross_validation_card.render(folder.resolve().name, results))
    return results


def list_folds(data_args: DataArguments) -> list[str]:
    """Names of the folds in the metadata file, in order.

    Raises:
        UsageError: If there is no metadata file with a fold column.
    """
    if data_args.data_dir is None:
        raise UsageError("--fold all needs --data_dir with a metadata file that has a fold column.")
    root = Path(data_args.data_dir)
    candidates = [Path(data_args.metadata), root / data_args.metadata] if data_args.metadata else [root / METADATA_NAME]
    table = next((path for path in candidates if path.is_file()), None)
    if table is None:
        raise DataError(f"The metadata file {candidates[-1]} does not exist.")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if FOLD_COLUMN not in (reader.fieldnames or ()):
                raise UsageError(f"--fold all needs a column {FOLD_COLUMN!r}, which {table} does not have.")
            return sort_labels((row[FOLD_COLUMN] or "").strip() for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error


def _mean(values: list[float]) -> float:
    return mean_and_deviation(values)[0]


def _deviation(values: list[float]) -> float:
    return mean_and_deviation(values)[1]


def _combine(trees: list[Any], function: Callable[[list[float]], Any]) -> Any:
    """Apply a function to the numbers at the same place of nested dicts."""
    if isinstance(trees[0], dict):
        return {key: _combine([tree[key] for tree in trees], function) for key in trees[0]}
    return float(function(trees))
