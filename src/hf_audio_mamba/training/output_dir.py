"""The folder of a run: held by one process at a time, and never mixed up with an earlier run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_audio_mamba.errors import OutputError, UsageError
from hf_audio_mamba.training.arguments import AudioTrainingArguments
from hf_audio_mamba.training.checkpoints import PARTIAL_PREFIX

LOCK_NAME = ".lock"
RESULTS_NAME = "all_results.json"
PREDICTIONS_NAME = "test_predictions.csv"
CURVES_NAME = "learning_curves.png"
CONFUSION_NAME = "confusion_matrix.png"
SCATTER_NAME = "regression_scatter.png"
CARD_NAME = "README.md"

# Everything a run writes; --overwrite_output_dir deletes these and nothing else.
_RUN_FILES = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "training_args.bin",
    RESULTS_NAME,
    PREDICTIONS_NAME,
    CURVES_NAME,
    CONFUSION_NAME,
    SCATTER_NAME,
    CARD_NAME,
)
_RUN_FOLDERS = ("checkpoint-*", f"{PARTIAL_PREFIX}*", "fold-*")


@contextmanager
def claimed(output_dir: str) -> Iterator[Path]:
    """Make the folder and hold it for the duration of the block.

    Raises:
        OutputError: If it cannot be made or written to, or another process holds it.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"{folder} is in use by another run; wait for it or choose another --output_dir.") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error}; choose another --output_dir.") from error
    try:
        yield folder
    finally:
        lock.release()


def prepare(folder: Path, args: AudioTrainingArguments) -> None:
    """Clear an earlier run away if asked to, and otherwise refuse to mix with it.

    Raises:
        UsageError: If the folder holds something and neither resuming nor overwriting was asked for.
    """
    if args.overwrite_output_dir:
        for pattern in (*_RUN_FILES, *_RUN_FOLDERS):
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if args.resume or args.resume_from_checkpoint:
        return
    found = sorted(path.name for path in folder.iterdir() if path.name != LOCK_NAME)
    if found:
        raise UsageError(
            f"--output_dir {folder} is not empty ({', '.join(found[:3])}{' ...' if len(found) > 3 else ''}). "
            "Continue with --resume, delete the earlier run with --overwrite_output_dir, or choose another folder."
        )


def finished_results(folder: Path) -> dict[str, Any] | None:
    """Results of a run that came to its end, or None."""
    path = folder / RESULTS_NAME
    if not path.is_file():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
