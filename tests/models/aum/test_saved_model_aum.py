"""A saved AuM in the hands of `pipeline()` and of the checked loader."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_audio_mamba import AuMFeatureExtractor, AuMForAudioClassification
from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.hub.safe_loading import load_classifier
from tests.models.aum.models import BANDS, FRAMES, randomised, tiny

LABELS = {0: "bark", 1: "rain", 2: "siren"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aum")
    randomised(AuMForAudioClassification(tiny(id2label=LABELS))).save_pretrained(path)
    AuMFeatureExtractor(num_mel_bins=BANDS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Half a second, four windows of the model."""
    return (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)


def test_the_pipeline_gives_the_models_probabilities(folder: Path, noise: np.ndarray) -> None:
    pipe = pipeline("audio-classification", model=str(folder), device="cpu")
    assert isinstance(pipe.model, AuMForAudioClassification)
    model, extractor = AuMForAudioClassification.from_pretrained(folder), AuMFeatureExtractor.from_pretrained(folder)
    inputs = extractor(noise, sampling_rate=16000, return_tensors="pt")
    assert inputs["input_values"].shape[1] > 3 * FRAMES
    with torch.no_grad():
        scores = model(**inputs).logits.softmax(-1)[0]
    expected = {LABELS[index]: score for index, score in enumerate(scores.tolist())}
    assert {entry["label"]: entry["score"] for entry in pipe(noise)} == pytest.approx(expected, abs=1e-5)


def test_clips_of_any_length_score_the_same_in_batches_of_the_pipeline(folder: Path, noise: np.ndarray) -> None:
    pipe = pipeline("audio-classification", model=str(folder), device="cpu", top_k=None)
    clips = [noise, noise[:3000], noise[:50]]
    for batched, clip in zip(pipe(clips, batch_size=3), clips, strict=True):
        alone = {entry["label"]: entry["score"] for entry in pipe(clip)}
        assert {entry["label"]: entry["score"] for entry in batched} == pytest.approx(alone, abs=1e-5)


def test_the_checked_loader_takes_it(folder: Path, noise: np.ndarray) -> None:
    model, extractor = load_classifier(folder)
    assert isinstance(model, AuMForAudioClassification)
    assert model(**extractor(noise, sampling_rate=16000, return_tensors="pt")).logits.shape == (1, 3)


def test_the_checked_loader_refuses_another_grid_than_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f'"max_length": {FRAMES}', '"max_length": 32'))
    with pytest.raises(CheckpointError, match=r"pos_embed.*do not fit|do not fit.*pos_embed"):
        load_classifier(tmp_path)
