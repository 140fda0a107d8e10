"""A disk that is full, or a size limit, costs the checkpoint being written and nothing that was there before."""

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoModelForAudioClassification

from hf_audio_mamba.errors import OutputError
from hf_audio_mamba.training import AudioTrainer, last_complete_checkpoint
from tests.training.conftest import make_model

MakeTrainer = Callable[..., AudioTrainer]
ARGUMENTS = {"save_strategy": "steps", "eval_strategy": "no", "save_steps": 2, "load_best_model_at_end": False}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes; the system itself refuses, as it does for a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 kB: room for one checkpoint of the tiny model below, not for two."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a small disk needs the right to mount")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


# Weights come first, then the optimiser (twice as large), then small files.
@pytest.mark.parametrize("limit", [100, 20_000, 60_000])
def test_size_limit_keeps_the_checkpoint_before(make_trainer: MakeTrainer, tmp_path: Path, limit: int) -> None:
    model = make_model(hidden_size=24)
    make_trainer(tmp_path / "run", model=model, **ARGUMENTS, max_steps=2).train()
    kept = tmp_path / "run" / "checkpoint-2"
    trainer = make_trainer(tmp_path / "run", model=model, **ARGUMENTS)
    with (
        file_size_limit(limit),
        pytest.raises(OutputError, match=r"checkpoint-4 could not be written \(it needs about"),
    ):
        trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint-2"]
    assert last_complete_checkpoint(tmp_path / "run") == kept
    assert AutoModelForAudioClassification.from_pretrained(kept) is not None


def test_full_disk_keeps_the_checkpoint_before(make_trainer: MakeTrainer, small_disk: Path) -> None:
    trainer = make_trainer(small_disk / "run", model=make_model(hidden_size=24), **ARGUMENTS)
    with pytest.raises(OutputError) as failure:
        trainer.train()
    message = str(failure.value)
    assert str(small_disk / "run" / "checkpoint-4") in message
    needed = int(message.split("needs about ")[1].split(" bytes")[0].replace(",", ""))
    written = sum(path.stat().st_size for path in (small_disk / "run" / "checkpoint-2").iterdir())
    assert needed == pytest.approx(written, rel=0.35)
    assert last_complete_checkpoint(small_disk / "run") == small_disk / "run" / "checkpoint-2"
    # With room again, the run goes on from there.
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    trainer = make_trainer(small_disk / "run", model=make_model(hidden_size=24), **ARGUMENTS)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 9


def test_final_model_is_the_old_or_the_new_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(model=make_model(hidden_size=24))
    trainer.save_final_model(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    next(trainer.model.parameters()).data += 1
    with file_size_limit(20_000), pytest.raises(OutputError, match="could not be written"):
        trainer.save_final_model(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".partial-*"))
