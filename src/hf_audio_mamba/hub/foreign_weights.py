"""Tensors of somebody else's checkpoint, read without trusting the file.

A `.pth` file is a pickle, and a pickle is a program. It is opened with `weights_only=True`, which builds tensors and
plain containers and nothing else, in a child process whose memory is limited: a file that declares a tensor larger than
itself ends the child, not the caller.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_audio_mamba.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Far above any published checkpoint of the models that are converted (0.1 to 1.2 GB with optimiser).
MAX_FILE_BYTES = 8 * 1024**3
# Opening a gigabyte takes seconds; what needs longer is no checkpoint.
TIMEOUT_S = 600
# Where training programs put the weights beside optimiser and settings.
ENTRIES = ("model", "state_dict", "model_state_dict")
_DATA_PARALLEL = "module."


def read_foreign_weights(path: str | Path, *, entry: str | None = None) -> dict[str, "torch.Tensor"]:
    """Read the tensors of a checkpoint of another project.

    Args:
        path: A file of `torch.save` (`.pth`, `.pt`, `.bin`, `.ckpt`) or of safetensors.
        entry: Key of the weights in a file that holds more than them, for example `"model_ema"`. By default a file
            that is nothing but tensors is taken whole, and else the first of `ENTRIES` that it has.

    Returns:
        Tensors on the CPU by name, without the prefix `module.` of data-parallel training.

    Raises:
        CheckpointError: If the file is missing, damaged, too large, holds Python objects besides tensors, has no such
            entry, or a tensor in it is sparse, quantised, NaN or infinite.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source} is no file; give the checkpoint's file")
    size = source.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise CheckpointError(f"{source} has {size:,} bytes; a checkpoint has 1 to {MAX_FILE_BYTES:,}")
    with tempfile.TemporaryDirectory(prefix="hf-audio-mamba-") as scratch:
        tensors = _read_in_child(source, entry, Path(scratch) / "tensors.safetensors")
    _refuse_not_finite(source, tensors)
    return _without_prefix(source, tensors)


def _read_in_child(source: Path, entry: str | None, target: Path) -> dict[str, "torch.Tensor"]:
    from safetensors.torch import load_file

    request = json.dumps({"source": str(source.resolve()), "target": str(target), "entry": entry, "entries": ENTRIES})
    command = [sys.executable, "-m", "hf_audio_mamba.hub._unpickle"]
    try:
        child = subprocess.run(command, input=request, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{source} was not read within {TIMEOUT_S} s; get it again from its source") from error
    answer = _last_json(child.stdout)
    if answer is None:
        raise CheckpointError(
            f"{source}: reading it ended with status {child.returncode}; the file is damaged, or asks for more memory "
            "than it holds data; get it again from its source"
        )
    if "problem" in answer:
        raise CheckpointError(f"{source}: {answer['problem']}")
    loaded: dict[str, torch.Tensor] = load_file(target)
    return loaded


def _last_json(output: str) -> dict[str, Any] | None:
    """The child's answer: its last line, as libraries may print before it."""
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _refuse_not_finite(source: Path, tensors: dict[str, "torch.Tensor"]) -> None:
    for name, tensor in tensors.items():
        # A sum is not finite if any value is not, and needs no second copy; it may overflow only in half precision.
        if tensor.is_floating_point() and not math.isfinite(float(tensor.double().sum())):
            raise CheckpointError(f"{source}: {name} holds NaN or infinite values; get the file again from its source")


def _without_prefix(source: Path, tensors: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    plain = {name.removeprefix(_DATA_PARALLEL): tensor for name, tensor in tensors.items()}
    if len(plain) != len(tensors):
        raise CheckpointError(f"{source} holds tensors of the same name with and without {_DATA_PARALLEL!r}")
    return plain


__all__ = ["read_foreign_weights"]
