"""What a model folder holds, read without trusting it: JSON files, shards and the tensors in them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hf_audio_mamba.errors import CheckpointError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# Far more than any model of this kind needs; JSON takes a multiple of its size in memory.
MAX_JSON_BYTES = 16 * 1024 * 1024
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class StoredTensor(NamedTuple):
    """A tensor as its file declares it.

    Attributes:
        file: File that holds it.
        shape: Its shape.
        dtype: Its type as safetensors names it, for example `"F32"`.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


def inside_folder(folder: Path, name: str, *, named_in: str | None = None) -> Path:
    """Find a file of the folder, refusing names and links that lead out of it.

    Args:
        folder: The model folder.
        name: File name, perhaps from a file that somebody else wrote.
        named_in: The file that the name comes from, for the message.

    Returns:
        The path; whether anything is there is not checked.

    Raises:
        CheckpointError: If the name is a path, or the file a link to somewhere else.
    """
    origin = f"{folder / named_in} names" if named_in else f"{folder} holds"
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise CheckpointError(f"{origin} {name!r}, which is not a plain file name; get the model again from its source")
    path = folder / name
    target, home = path.resolve(), folder.resolve()
    # The cache of huggingface_hub keeps the files of snapshots/<revision>/ as links into blobs/.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise CheckpointError(f"{origin} {name!r}, a link to {target} outside the folder; copy the file there instead")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: If the file is missing, too large, no JSON, no object, or has a key twice.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes; the largest that is read has {MAX_JSON_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; name the folder of a saved model") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; get it again from its source") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of a folder's weights; no tensor is loaded.

    Raises:
        CheckpointError: If there are no weights in safetensors, a shard is missing or damaged, or the index does not
            fit the shards.
    """
    tensors: dict[str, StoredTensor] = {}
    weight_map = _weight_map(folder)
    for file in _weight_files(folder, weight_map):
        for name, tensor in _read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in {tensors[name].file} and again in {file}; save the model again")
            tensors[name] = tensor
    for name, file_name in (weight_map or {}).items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise CheckpointError(f"{folder / INDEX_NAME} places {name} in {file_name}, which does not hold it")
    return tensors


def first_not_finite(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Name of the first tensor with a NaN or infinite value, None if there is none.

    Tensors are loaded one by one, so memory holds no more than the largest.
    """
    import torch
    from safetensors import safe_open

    for file in dict.fromkeys(tensor.file for tensor in tensors.values()):
        names = [name for name, tensor in tensors.items() if tensor.file == file]
        with safe_open(file, framework="pt") as weights:
            for name in names:
                if not torch.isfinite(weights.get_tensor(name)).all():
                    return name
    return None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Tensor name to file name from the index, None where the weights are one file."""
    if (folder / WEIGHTS_NAME).exists() or not (folder / INDEX_NAME).exists():
        return None
    index = inside_folder(folder, INDEX_NAME)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that names the file of each tensor")
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not file_name.endswith(".safetensors"):
            raise CheckpointError(f"{index} places {name} in {file_name!r}, which is not a .safetensors file")
    return weight_map


def _weight_files(folder: Path, weight_map: Mapping[str, str] | None) -> Iterator[Path]:
    if weight_map is not None:
        for file_name in dict.fromkeys(weight_map.values()):
            shard = inside_folder(folder, file_name, named_in=INDEX_NAME)
            if not shard.is_file():
                raise CheckpointError(f"{shard} is missing, but {folder / INDEX_NAME} needs it; get it again")
            yield shard
        return
    weights = inside_folder(folder, WEIGHTS_NAME)
    if not weights.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        also = (
            f" {', '.join(pickles)} is not opened: pickles can run code. Ask the author for safetensors, or save the "
            "model again with save_pretrained where you trust it."
            if pickles
            else " Name the folder of a saved model."
        )
        raise CheckpointError(f"{folder} holds no {WEIGHTS_NAME}.{also}")
    yield weights


def _read_header(file: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    # The library checks the header before it allocates: its length, every shape against its bytes, and that the
    # tensors cover the file without holes or overlaps.
    try:
        with safe_open(file, framework="pt") as weights:
            names = weights.keys()
            slices = {name: weights.get_slice(name) for name in names}
            return {
                name: StoredTensor(file, tuple(entry.get_shape()), entry.get_dtype()) for name, entry in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        size = file.stat().st_size
        raise CheckpointError(f"{file} ({size:,} bytes) is truncated or damaged: {error}; get it again") from error
