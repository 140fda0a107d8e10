"""Checkpoints of other projects, honest and hostile."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.hub.foreign_weights import read_foreign_weights

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 6, generator=generator)
    return {
        "layers.0.weight": shared,
        "layers.1.weight": shared.t(),
        "head.bias": torch.randn(3, generator=generator).half(),
        "steps": torch.tensor(7),
    }


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        read_foreign_weights(path, **kwargs)
    assert str(path) in str(error.value)
    return str(error.value)


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights.safetensors"])
def test_plain_tensors_come_back_as_they_were(tmp_path: Path, tensors: Tensors, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
    else:
        saved(path, tensors)
    assert_same(read_foreign_weights(path), tensors)


def test_weights_are_found_beside_the_optimiser_and_without_the_data_parallel_prefix(
    tmp_path: Path, tensors: Tensors
) -> None:
    training = {
        "model": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "model_ema": {"head.bias": torch.ones(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "epoch": 12,
    }
    path = saved(tmp_path / "run.pth", training)
    assert_same(read_foreign_weights(path), tensors)
    assert_same(read_foreign_weights(path, entry="model_ema"), {"head.bias": torch.ones(3)})
    assert "model_ema" in refusal(path, entry="weights")


class Runs:
    """Pickles as a call, which unpickling would make."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return (os.system, (self.command,))


@pytest.mark.parametrize(
    "wrap", [lambda call: call, lambda call: {"model": {}, "config": call}], ids=["bare", "beside"]
)
def test_a_pickle_that_runs_a_program_is_refused_and_runs_nothing(tmp_path: Path, wrap: Any) -> None:
    witness = tmp_path / "ran"
    path = saved(tmp_path / "evil.pth", wrap(Runs(f"touch {witness}")))
    assert "could run a program" in refusal(path)
    assert not witness.exists()


def test_an_old_style_pickle_that_runs_a_program_is_refused_too(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Runs(f"touch {witness}")))
    refusal(path)
    assert not witness.exists()


def test_a_foreign_class_is_refused_with_advice(tmp_path: Path) -> None:
    path = saved(tmp_path / "run.pth", {"model": {"a": torch.ones(1)}, "config": Path("settings.yaml")})
    assert "save its weights alone" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, tensors: Tensors, value: float) -> None:
    tensors["layers.0.weight"] = tensors["layers.0.weight"].clone()
    tensors["layers.0.weight"][1, 2] = value
    assert "layers.0.weight" in refusal(saved(tmp_path / "a.pth", tensors))


def test_an_empty_and_a_cut_file_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    content = saved(tmp_path / "whole.pth", tensors).read_bytes()
    for length in (0, len(content) // 2):
        path = tmp_path / f"cut{length}.pth"
        path.write_bytes(content[:length])
        refusal(path)


def test_a_small_file_that_unfolds_to_much_is_refused_within_limited_memory(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(100_000, 100_000)  # 40 GB of one stored value
    assert "memory" in refusal(saved(tmp_path / "bomb.pth", {"weight": huge}))


def test_a_zip_bomb_is_refused_within_limited_memory(tmp_path: Path) -> None:
    plain, path = io.BytesIO(), tmp_path / "bomb.pth"
    torch.save({"weight": torch.zeros(700_000_000, dtype=torch.uint8)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 2_000_000
    refusal(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([torch.ones(1)], "list"),
        ({"weight": "text"}, "weight"),
        ({"weight": torch.ones(2, 2).to_sparse()}, "sparse"),
        ({"model": {}, "epoch": 1}, "model"),
    ],
    ids=["list", "text", "sparse", "nothing"],
)
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, content: Any, named: str) -> None:
    assert named in refusal(saved(tmp_path / "a.pth", content))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    refusal(tmp_path / "none.pth")
    refusal(tmp_path)
