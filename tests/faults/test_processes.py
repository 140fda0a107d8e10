"""Processes that die, and several that work together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from hf_audio_mamba.errors import HFAudioMambaError
from hf_audio_mamba.training import AudioTrainer
from tests.training.tone_folder import FEATURES, MODEL, write_tones

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "train_audio_classification.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_AUDIO_MAMBA_SCAN": "torch"}


@pytest.mark.slow  # torch looks at its workers every five seconds
def test_death_of_a_loading_process_is_an_error_and_no_hang(make_trainer: Callable[..., AudioTrainer]) -> None:
    trainer = make_trainer(dataloader_num_workers=2)
    original = trainer.data_collator

    def die_in_worker(items: Any) -> Any:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(items)

    trainer.data_collator = die_in_worker
    start = time.monotonic()
    with pytest.raises(HFAudioMambaError, match=r"data-loading process died.*--dataloader_num_workers"):
        trainer.train()
    assert time.monotonic() - start < 120


def options(tones: Path, output: Path) -> list[str]:
    return [
        *("--data_dir", str(tones), "--output_dir", str(output), "--cache_dir", str(output.parent / "cache")),
        *("--config_overrides", f"{MODEL},hidden_dropout=0.0", "--feature_overrides", FEATURES, "--use_cpu"),
        *("--augmentation", "none", "--bootstrap_resamples", "20", "--num_feature_workers", "1"),
    ]


def finish(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of eleven clips a class eight are for training: 24 in all, three batches of eight or of two times four.
    return write_tones(tmp_path_factory.mktemp("tones"), clips_per_class=11)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(tones: Path, tmp_path: Path) -> None:
    augmented = ["--num_train_epochs", "30", "--augmentation", "mixup_alpha=0.3", "--save_strategy", "steps"]
    augmented += [
        "--eval_strategy",
        "steps",
        "--save_steps",
        "5",
        "--eval_steps",
        "5",
        "--per_device_train_batch_size",
        "8",
    ]
    finish([sys.executable, SCRIPT, *options(tones, tmp_path / "straight"), *augmented])
    killed = [sys.executable, SCRIPT, *options(tones, tmp_path / "killed"), *augmented]
    for step in (20, 45, 70):
        # The second and third run start from what the one before left.
        with subprocess.Popen(killed, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT) as process:
            while not list((tmp_path / "killed").glob(f"checkpoint-{step}")) and process.poll() is None:
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        if "--resume" not in killed:
            killed.append("--resume")
    log = finish(killed)
    assert "Resuming from" in log
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "killed"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


@pytest.mark.slow
def test_two_processes_train_to_the_loss_of_one(tones: Path, tmp_path: Path) -> None:
    common = ["--num_train_epochs", "2", "--logging_strategy", "steps", "--logging_steps", "1", "--seed", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    finish([sys.executable, SCRIPT, *options(tones, one), *common, "--per_device_train_batch_size", "8"])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shared = ["--ddp_backend", "gloo", "--per_device_train_batch_size", "4"]
    finish([*launcher, SCRIPT, *options(tones, two), *common, *shared])

    results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, two)]
    states = [json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text()) for folder in (one, two)]
    assert [state["global_step"] for state in states] == [6, 6]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert results[1]["metrics"]["test"] == pytest.approx(results[0]["metrics"]["test"], abs=0.01)
    # Two processes saved: one state of random numbers each, one model.
    saved = {path.name for path in (two / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= saved
