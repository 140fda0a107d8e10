"""Files that are written whole or not at all; damaged checkpoints are tested on real ones in tests/faults."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_audio_mamba.errors import OutputError
from hf_audio_mamba.training import last_complete_checkpoint
from hf_audio_mamba.training.checkpoints import (
    find_problem,
    list_checkpoints,
    publish,
    write_atomically,
)


def test_checkpoints_are_listed_by_step_the_latest_first(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-x", ".partial-checkpoint-200", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-300").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]
    assert list_checkpoints(tmp_path / "absent") == []
    assert last_complete_checkpoint(tmp_path / "absent") is None


def test_every_process_needs_its_random_state(tmp_path: Path) -> None:
    for name in ("config.json", "trainer_state.json"):
        (tmp_path / name).write_text('{"global_step": 3}')
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        torch.save({}, tmp_path / name)
    assert find_problem(tmp_path) is None
    assert find_problem(tmp_path, world_size=2) == "rng_state_0.pth is missing"
    assert find_problem(tmp_path, world_size=2, allow_partial=True) is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x00" * 8, b"\xff" * 8 + b"{}", b"\x02" + b"\x00" * 7 + b"[]", b"\x0b" + b"\x00" * 7 + b'{"a": "tmp"}'],
)
def test_damaged_weights_are_found_without_loading_them(tmp_path: Path, damage: bytes) -> None:
    for name in ("config.json", "trainer_state.json"):
        (tmp_path / name).write_text('{"global_step": 3}')
    (tmp_path / "model.safetensors").write_bytes(damage)
    assert str(find_problem(tmp_path, allow_partial=True)).startswith("model.safetensors ")


def test_flipped_bytes_of_the_optimiser_are_found(tmp_path: Path) -> None:
    for name in ("config.json", "trainer_state.json"):
        (tmp_path / name).write_text('{"global_step": 3}')
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    torch.save({"state": torch.arange(1000.0)}, tmp_path / "optimizer.pt")
    data = bytearray((tmp_path / "optimizer.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "optimizer.pt").write_bytes(data)
    assert str(find_problem(tmp_path, allow_partial=True)).startswith("optimizer.pt is damaged (record ")


def test_publishing_replaces_an_older_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "checkpoint-1", tmp_path / ".partial-checkpoint-1"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "file").write_text(text)
    publish(new, old)
    assert (old / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "first")

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match=r"results\.json could not be written .*6 bytes.*No space left"):
        write_atomically(path, "second")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
