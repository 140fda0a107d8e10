"""Two processes that train on one stream of shards, as `torchrun` starts them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_audio_mamba.data import load_audio_folder, write_shards
from tests.training.tone_folder import FEATURES, MODEL, write_tones

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "train_audio_classification.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_AUDIO_MAMBA_SCAN": "torch"}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def shards(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "tones"
    # Four shards for two processes; the validation split has three clips in three shards, which both must share.
    write_shards(load_audio_folder(tones), folder, file_format="tar", num_shards=4)
    return folder


def train(shards: Path, output: Path, *options: str) -> str:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT),
        *("--streaming", "--data_dir", str(shards), "--output_dir", str(output), "--shuffle_buffer", "6"),
        *("--max_steps", "60", "--eval_strategy", "steps", "--eval_steps", "20", "--save_strategy", "steps"),
        *("--save_steps", "20", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--use_cpu"),
        *("--ddp_backend", "gloo", "--config_overrides", MODEL, "--feature_overrides", FEATURES),
        *("--augmentation", "none", "--bootstrap_resamples", "20", *options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_two_processes_share_a_stream_and_go_on_where_they_were(shards: Path, tones: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(shards, whole)
    results = json.loads((whole / "all_results.json").read_text())
    assert results["clips"] == {"train": 21, "validation": 3, "test": 6}
    assert results["metrics"]["test"]["accuracy"] > 0.6
    # Two processes saved.
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in (whole / "checkpoint-60").iterdir()}

    # What two processes scored is what the model says in one.
    model = AutoModelForAudioClassification.from_pretrained(whole).eval()
    extractor = AutoFeatureExtractor.from_pretrained(whole)
    with (whole / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file_name"] for row in rows}) == 6
    for row in rows:
        samples, rate = sf.read(tones / row["file_name"].split("/", 1)[1], dtype="float32")
        inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits.softmax(-1)[0]
        assert model.config.id2label[int(probabilities.argmax())] == row["prediction"]
        assert float(probabilities.max()) == pytest.approx(float(row["score"]), abs=1e-4)

    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoint-60")
    for path in parts.iterdir():
        if path.is_file():
            path.unlink()
    assert "Resuming from" in train(shards, parts, "--resume")
    weights = [load_file(folder / "checkpoint-60" / "model.safetensors") for folder in (whole, parts)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
