"""AuM in whole runs: statistics of another data set, and fine-tuning for clips of another length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor

from hf_audio_mamba import AuMForAudioClassification
from hf_audio_mamba.training import AudioTrainingArguments, DataArguments, ModelArguments, run
from tests.training.tone_folder import write_tones

MODEL = {
    "model_type": "aum",
    "config_overrides": "hidden_size=16,num_hidden_layers=1,state_size=4,patch_size=8,max_length=24",
    "feature_overrides": "sampling_rate=8000,win_length=200,hop_length=80,num_mel_bins=16,mean=-8,std=4",
}


def train(folder: Path, output: Path, model: dict[str, Any], *, epochs: int, learning_rate: float) -> dict[str, Any]:
    data = DataArguments(
        data_dir=str(folder), cache_dir=str(folder / "cache"), num_feature_workers=1, augmentation="none"
    )
    training = AudioTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        disable_tqdm=True,
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=learning_rate,
        bootstrap_resamples=50,
    )
    return run(ModelArguments(**model), data, training)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def trained(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("runs") / "tones"
    return output, train(tones, output, MODEL, epochs=10, learning_rate=1e-2)


def test_it_learns_the_tones(trained: tuple[Path, dict[str, Any]]) -> None:
    assert trained[1]["model_type"] == "aum"
    assert trained[1]["metrics"]["test"]["accuracy"] > 0.6  # a third by chance


def test_padding_follows_the_statistics_of_the_features(trained: tuple[Path, dict[str, Any]]) -> None:
    assert AutoConfig.from_pretrained(trained[0]).padding_value == 1.0
    assert AutoFeatureExtractor.from_pretrained(trained[0]).padding_value == 1.0


def test_fine_tuning_for_another_length_keeps_what_was_learnt(
    trained: tuple[Path, dict[str, Any]], tones: Path, tmp_path: Path
) -> None:
    model = {"model_name_or_path": str(trained[0]), "config_overrides": "max_length=16"}
    results = train(tones, tmp_path / "run", model, epochs=1, learning_rate=1e-12)
    expected = AuMForAudioClassification.from_pretrained(trained[0]).resize_positions(max_length=16)
    tuned = AuMForAudioClassification.from_pretrained(tmp_path / "run")
    assert tuned.config.max_length == 16
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], tensor, atol=1e-6, rtol=0)
    assert results["metrics"]["test"]["accuracy"] > 0.5
