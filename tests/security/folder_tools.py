"""Ways to damage a model folder, and to see what is said about it."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.hub import check_model_folder, load_classifier

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


def edit_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_raw(folder: Path, header: dict[str, Any], data: bytes, *, length: int | None = None) -> None:
    """Write a safetensors file by hand: 8 bytes of header length, header, data."""
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    (folder / WEIGHTS).write_bytes(content)


def split_into_shards(folder: Path) -> dict[str, str]:
    """Replace the weights by two shards and an index; return the weight map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file_name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file_name))
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def refusal(folder: Path) -> str:
    """The message with which both entry points refuse a folder, quickly."""
    start = time.process_time()
    with pytest.raises(CheckpointError) as checked:
        check_model_folder(folder)
    assert time.process_time() - start < 2
    with pytest.raises(CheckpointError) as loaded:
        load_classifier(folder)
    assert str(loaded.value) == str(checked.value)
    return str(checked.value)
