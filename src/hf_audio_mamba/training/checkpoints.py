"""Checkpoint folders: which ones are complete, and how one comes to be without ever being half there.

A checkpoint is written into a folder of another name and renamed when every file is on the disk, so a folder called
`checkpoint-<step>` is either complete or was damaged later. Because it may have been (or was written by other
software), resuming still examines it: header and size of the weights, and the checksums of all other files.
"""

import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_audio_mamba.errors import CheckpointError, OutputError

logger = logging.getLogger(__name__)

_STEP = re.compile(r"checkpoint-(\d+)")
PARTIAL_PREFIX = ".partial-"


def find_problem(checkpoint: Path, *, world_size: int = 1, allow_partial: bool = False) -> str | None:
    """Say why a checkpoint cannot be resumed from.

    Args:
        checkpoint: Folder of the checkpoint.
        world_size: Number of processes of the run that wants to resume: each needs its own random state.
        allow_partial: Accept that optimiser, schedule or random state is missing (but not that it is damaged).

    Returns:
        One sentence naming the file, or None if the checkpoint is complete.
    """
    random_states = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME, TRAINER_STATE_NAME):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME, *random_states):
        if not (checkpoint / name).is_file():
            if allow_partial:
                continue
            return f"{name} is missing"
        if damage := _archive_damage(checkpoint / name):
            return f"{name} {damage}"
    if damage := _weights_damage(checkpoint / SAFE_WEIGHTS_NAME):
        return f"{SAFE_WEIGHTS_NAME} {damage}"
    for name in (CONFIG_NAME, TRAINER_STATE_NAME):
        try:
            loaded = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            return f"{name} is damaged ({error})"
        if not isinstance(loaded, dict) or (name == TRAINER_STATE_NAME and "global_step" not in loaded):
            return f"{name} is damaged (not what it should hold)"
    return None


def _archive_damage(path: Path) -> str | None:
    """Check the zip container of torch.save: its directory, and the checksum of every record."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        return f"is truncated or damaged ({error})"
    return None if damaged is None else f"is damaged (record {damaged})"


def _weights_damage(path: Path) -> str | None:
    """Check that a safetensors file has a readable header and is exactly as long as that says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > size - 8:
            return f"is truncated ({size:,} bytes)"
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            return f"has a damaged header ({error})"
    expected = 8 + header_bytes + max(ends, default=0)
    return None if size == expected else f"has {size:,} bytes where its header needs {expected:,}"


def list_checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Checkpoint folders, complete or not, the latest step first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    steps = {path: _STEP.fullmatch(path.name) for path in folder.iterdir() if path.is_dir()}
    found = [(int(match.group(1)), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found, reverse=True)]


def last_complete_checkpoint(
    output_dir: str | os.PathLike[str], *, world_size: int = 1, allow_partial: bool = False
) -> Path | None:
    """Find the latest checkpoint that can be resumed from; those passed over are named in the log, with the reason.

    Args:
        output_dir: Folder of the run.
        world_size: As in `find_problem`.
        allow_partial: As in `find_problem`.

    Returns:
        The folder, or None if the run has no checkpoint at all.

    Raises:
        CheckpointError: If there are checkpoints and none of them is complete.
    """
    problems = []
    for checkpoint in list_checkpoints(output_dir):
        problem = find_problem(checkpoint, world_size=world_size, allow_partial=allow_partial)
        if problem is None:
            return checkpoint
        logger.warning("Skipping the incomplete checkpoint %s: %s.", checkpoint, problem)
        problems.append(f"{checkpoint.name}: {problem}")
    if problems:
        raise CheckpointError(
            f"No checkpoint in {os.fspath(output_dir)} is complete ({'; '.join(problems)}). Restore the missing "
            "file, use --allow_partial_resume if only optimiser, schedule or random state is missing, or start "
            "again with --overwrite_output_dir."
        )
    return None


def fsync_folder(folder: Path) -> None:
    """Make sure that the files of a folder, and their names, are on the disk."""
    for path in [*(path for path in folder.rglob("*") if path.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Rename a finished folder to its real name, replacing an older one of that name."""
    fsync_folder(partial)
    if final.exists():
        replaced = final.with_name(f"{PARTIAL_PREFIX}replaced-{final.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
        partial.rename(final)
        shutil.rmtree(replaced)
    else:
        partial.rename(final)


@contextmanager
def reporting_failed_writes(path: str | os.PathLike[str], *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the errors with which the libraries below report a failed write into one OutputError.

    They have no type in common: torch raises RuntimeError with a text from its C++ streams. So the block must do
    nothing but write.

    Args:
        path: What is being written, for the message.
        needed_bytes: Its size if known.

    Raises:
        OutputError: With the path, the bytes needed and the bytes free.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        folder = next((parent for parent in (Path(path), *Path(path).parents) if parent.is_dir()), Path("."))
        free = f"{shutil.disk_usage(folder).free:,} bytes are free"
        needed = "" if needed_bytes is None else f"it needs about {needed_bytes:,} bytes, "
        raise OutputError(
            f"{os.fspath(path)} could not be written ({needed}{free} there): {error}. "
            "Earlier checkpoints are untouched; make room or choose another --output_dir."
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, never half of it.

    Raises:
        OutputError: If it cannot be written.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    with reporting_failed_writes(path, needed_bytes=len(text.encode())):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """`write_atomically` for JSON, indented."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n")
