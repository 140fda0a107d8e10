"""The child process of `foreign_weights`: reads a checkpoint, writes its tensors as safetensors, answers in JSON."""

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

# What reading and writing need beside the tensors, twice: once as read, once as written.
_SPARE_BYTES = 512 * 1024**2


def main() -> int:
    """Read the request from standard input and answer on standard output."""
    request = json.loads(sys.stdin.read())
    source = Path(request["source"])
    _limit_memory(3 * source.stat().st_size + _SPARE_BYTES)
    try:
        tensors = _chosen(_load(source), request["entry"], request["entries"])
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, request["target"])
    except _Refused as refusal:
        print(json.dumps({"problem": str(refusal)}))
    except MemoryError:
        print(
            json.dumps({"problem": "it asks for far more memory than the file holds data; it is damaged or malicious"})
        )
    else:
        print(json.dumps({"tensors": len(tensors)}))
    return 0


class _Refused(Exception):
    """The file is not used; the message says why and what to do."""


def _limit_memory(extra: int) -> None:
    """Let this process grow by `extra` bytes from here on, where the system can limit that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))


def _load(source: Path) -> Any:
    if source.suffix == ".safetensors":
        try:
            return load_file(source)
        except Exception as error:  # the library's error class derives from Exception alone
            raise _Refused(f"it cannot be read as safetensors: {_one_line(error)}") from error
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Refused(
            f"it holds more than tensors, and reading that could run a program ({_one_line(error)[:300]}). Where you "
            "trust it, open it in the environment it was made in and save its weights alone: "
            "torch.save(torch.load(FILE)['model'], NEW_FILE)"
        ) from error
    except (MemoryError, _Refused):
        raise
    except RuntimeError as error:
        if "alloc" in str(error).lower() or "memory" in str(error).lower():
            raise MemoryError from error
        raise _Refused(f"it is damaged: {_one_line(error)[:300]}") from error
    except Exception as error:  # a damaged pickle fails in any way
        raise _Refused(f"it cannot be read as a checkpoint of PyTorch: {_one_line(error)[:300]}") from error


def _chosen(content: Any, entry: str | None, entries: Sequence[str]) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise _Refused(f"it holds {type(content).__name__}, not tensors by name")
    if entry is not None and entry not in content:
        raise _Refused(f"it has no entry {entry!r}; it has {_listed(content)}")
    if entry is None:
        entry = next((name for name in entries if isinstance(content.get(name), Mapping)), None)
    weights = content if entry is None else content[entry]
    if not isinstance(weights, Mapping) or not weights:
        raise _Refused(f"entry {entry!r} holds no tensors by name")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise _Refused(f"{name!r} is {type(tensor).__name__}, not a tensor; it has {_listed(content)}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise _Refused(f"{name} is a sparse, quantised or complex tensor, which no model here has")
    return dict(weights)


def _listed(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
