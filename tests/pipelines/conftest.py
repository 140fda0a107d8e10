"""A model whose scores can be calculated by hand, and a tiny MoMamba, each behind the pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_audio_mamba import MoMambaConfig, MoMambaFeatureExtractor, MoMambaForAudioClassification
from hf_audio_mamba.pipelines import AudioClassificationPipeline

LEVEL_RATE = 8000


class LevelConfig(PreTrainedConfig):
    model_type = "test_level"


class LevelModel(PreTrainedModel):
    """Logits (m, 1 - m, 0) of a clip with mean sample value m; counts the samples that it hears."""

    config: LevelConfig

    def __init__(self, config: LevelConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.heard: list[int] = []
        self.batch_sizes: list[int] = []
        self.post_init()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        lengths = attention_mask.sum(dim=1)
        self.heard += lengths.tolist()
        self.batch_sizes.append(len(lengths))
        mean = self.scale * (input_values[..., 0] * attention_mask).sum(dim=1) / lengths
        return SequenceClassifierOutput(logits=torch.stack((mean, 1 - mean, torch.zeros_like(mean)), dim=1))


class SampleFeatures(SequenceFeatureExtractor):
    """Each sample is a frame of one value; frames are padded on the left."""

    model_input_names: ClassVar = ["input_values", "attention_mask"]

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"feature_size": 1, "sampling_rate": LEVEL_RATE, "padding_value": 0.0, "padding_side": "left"} | kwargs
        super().__init__(**kwargs)

    def __call__(self, raw_speech: np.ndarray, *, sampling_rate: int, return_tensors: str) -> BatchFeature:
        assert sampling_rate == self.sampling_rate
        assert raw_speech.dtype == np.float32
        assert raw_speech.ndim == 1
        values = torch.from_numpy(raw_speech)[None, :, None]
        mask = torch.ones(values.shape[:2], dtype=torch.long)
        return BatchFeature({"input_values": values, "attention_mask": mask})


def assert_same_labels(actual: Any, expected: Any, *, tolerance: float = 1e-5) -> None:
    """Compare results of the pipeline: the same labels in the same order, scores within a tolerance."""
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        assert [entry["label"] for entry in actual] == [entry["label"] for entry in expected]
        scores = [entry["score"] for entry in expected]
        assert [entry["score"] for entry in actual] == pytest.approx(scores, abs=tolerance)
    else:
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same_labels(one, other, tolerance=tolerance)


@pytest.fixture(scope="session")
def same_labels() -> Callable[..., None]:
    return assert_same_labels


@pytest.fixture
def level() -> AudioClassificationPipeline:
    """Pipeline whose score "high" (function none) is the clip's mean, at 8 kHz."""
    config = LevelConfig(id2label={0: "high", 1: "low", 2: "zero"}, label2id={"high": 0, "low": 1, "zero": 2})
    return AudioClassificationPipeline(
        model=LevelModel(config), feature_extractor=SampleFeatures(), function_to_apply="none", device="cpu"
    )


@pytest.fixture(scope="session")
def momamba_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved MoMamba of some thousand weights with 7 labels, and its feature extractor, at 16 kHz."""
    folder = tmp_path_factory.mktemp("momamba")
    torch.manual_seed(0)
    names = ["bass", "cello", "drums", "flute", "oboe", "organ", "voice"]
    config = MoMambaConfig(
        hidden_size=16, num_hidden_layers=1, state_size=4, num_mel_bins=32, id2label=dict(enumerate(names))
    )
    model = MoMambaForAudioClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights are so small that all clips score alike.
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    extractor = MoMambaFeatureExtractor(sampling_rate=16000, n_fft=960, win_length=960, hop_length=160, num_mel_bins=32)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def momamba(momamba_folder: Path) -> AudioClassificationPipeline:
    from transformers import pipeline

    pipe = pipeline("audio-classification", model=str(momamba_folder), device="cpu")
    # The first clip also pays for compiling the scan; tests that measure time must not.
    pipe(np.zeros(16000))
    return pipe


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """Three seconds of noise at 16 kHz, `(samples,)` float32, whose spectrum moves so that order matters."""
    rng = np.random.default_rng(3)
    samples = 0.1 * rng.standard_normal(48000)
    return (samples * np.linspace(0.1, 1, 48000)).astype(np.float32)


@pytest.fixture(scope="session")
def wav(noise: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The noise as a float wav file."""
    path = tmp_path_factory.mktemp("clips") / "noise.wav"
    soundfile.write(path, noise, 16000, subtype="FLOAT")
    return path
