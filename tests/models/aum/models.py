"""Tiny AuM models whose every tensor matters."""

from typing import Any

import torch

from hf_audio_mamba import AuMConfig

BANDS, FRAMES = 8, 12


def tiny(**overrides: Any) -> AuMConfig:
    """A grid of 2 bands x 3 times of patches, not square, in two blocks."""
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_mel_bins": BANDS,
        "patch_size": 4,
        "max_length": FRAMES,
        "num_labels": 3,
    }
    return AuMConfig(**{**sizes, **overrides})


def randomised(model: torch.nn.Module, seed: int = 0) -> Any:
    """Give every tensor, norms and biases too, values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def clips(batch: int = 2, frames: int = FRAMES, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, BANDS, generator=torch.Generator().manual_seed(seed))
