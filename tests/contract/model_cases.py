"""One tiny configuration of every registered model; the contract tests run over all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_audio_mamba import AudioMambaConfig, AuMConfig, HTSATConfig, MoMambaConfig
from hf_audio_mamba.models import MODEL_TYPES


@dataclass(frozen=True)
class ModelCase:
    """A model small enough to test in milliseconds."""

    model_type: str
    make_config: Callable[..., PreTrainedConfig]
    bands: int
    frames: int
    num_blocks: int

    def config(self, **overrides: Any) -> PreTrainedConfig:
        return self.make_config(**{"num_labels": 3, **overrides})

    def inputs(self, batch: int = 2, *, frames: int | None = None, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, frames or self.frames, self.bands, generator=generator)


def _momamba(**overrides: Any) -> MoMambaConfig:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_mel_bins": 6,
        "hidden_dropout": 0.0,
    }
    return MoMambaConfig(**{**sizes, **overrides})


def _aum(**overrides: Any) -> AuMConfig:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_mel_bins": 8,
        "patch_size": 4,
        "max_length": 16,  # shorter than the clips, which are heard in two windows
    }
    return AuMConfig(**{**sizes, **overrides})


def _audio_mamba(**overrides: Any) -> AudioMambaConfig:
    sizes = {"embed_dim": 8, "depths": [1, 2], "num_mel_bins": 8, "spec_size": 32, "drop_path_rate": 0.0}
    return AudioMambaConfig(**{**sizes, **overrides})


def _htsat(**overrides: Any) -> HTSATConfig:
    # Windows of 32 frames, shorter than the clips, which are heard in two of them.
    sizes = {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "window_size": 2,
        "num_mel_bins": 8,
        "spec_size": 16,
        "drop_path_rate": 0.0,
        "silence_value": 0.0,
    }
    return HTSATConfig(**{**sizes, **overrides})


CASES = [
    ModelCase("aum", _aum, bands=8, frames=19, num_blocks=2),
    # 150 frames are two windows of 128.
    ModelCase("audio_mamba", _audio_mamba, bands=8, frames=150, num_blocks=3),
    ModelCase("htsat", _htsat, bands=8, frames=41, num_blocks=2),
    ModelCase("momamba", _momamba, bands=6, frames=19, num_blocks=2),
]


def test_every_registered_model_has_a_case() -> None:
    assert {case.model_type for case in CASES} == set(MODEL_TYPES)
