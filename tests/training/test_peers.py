"""Models of Transformers that the tables compare with train by the same command."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_audio_mamba.training import AudioTrainingArguments, DataArguments, ModelArguments, run
from tests.training.tone_folder import write_tones

FEATURES = "sampling_rate=8000,n_fft=256,win_length=256,hop_length=160,num_mel_bins=8,num_frames=32,clip_seconds=0.3"
HTSAT = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "window_size": 2,
    "spec_size": 16,
    "drop_path_rate": 0.0,
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


def test_htsat_learns_tones(tones: Path, tmp_path: Path) -> None:
    model = ModelArguments(
        model_type="htsat",
        config_overrides=json.dumps(HTSAT),
        feature_overrides=f"{FEATURES},f_max=4000",
    )
    data = DataArguments(data_dir=str(tones), cache_dir=str(tmp_path / "cache"), augmentation="none")
    training: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "bootstrap_resamples": 20, "floor": False}
    args = AudioTrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=8,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        **training,
    )
    results = run(model, data, args)
    assert results["model_type"] == "htsat"
    assert results["metrics"]["test"]["accuracy"] > 0.8

    trained = AutoModelForAudioClassification.from_pretrained(tmp_path / "run").eval()
    extract = AutoFeatureExtractor.from_pretrained(tmp_path / "run")
    assert type(extract).__name__ == "AudioMambaFeatureExtractor"
    samples, rate = sf.read(tones / "clips" / "low-0.wav", dtype="float32")
    with torch.no_grad():
        logits = trained(**extract(samples, sampling_rate=rate, return_tensors="pt")).logits
    assert trained.config.id2label[int(logits.argmax())] == "low"
