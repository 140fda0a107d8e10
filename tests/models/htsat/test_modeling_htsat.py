"""HTS-AT against Transformers' own `ClapAudioModel`, which is its oracle and its network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ClapAudioConfig, ClapAudioModel, ClapConfig, ClapModel, ClapTextConfig

from hf_audio_mamba import HTSATConfig, HTSATForAudioClassification, HTSATModel

SIZES: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [2, 1],
    "num_attention_heads": [2, 4],
    "window_size": 4,
    "num_mel_bins": 16,
    "spec_size": 32,
}
CLAP = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "depths": [2, 1],
    "num_attention_heads": [2, 4],
    "window_size": 4,
    "num_mel_bins": 16,
    "spec_size": 32,
    "patch_size": 4,
    "patch_stride": [4, 4],
}
FRAMES = 64


@pytest.fixture
def pair() -> tuple[HTSATForAudioClassification, ClapAudioModel]:
    """A classifier, and a `ClapAudioModel` with the same weights whose batch normalisation has seen data."""
    torch.manual_seed(0)
    model = HTSATForAudioClassification(HTSATConfig(**SIZES, num_labels=3)).eval()
    norm = model.htsat.audio_model.audio_encoder.batch_norm
    norm.running_mean.uniform_(-60, -40)
    norm.running_var.uniform_(100, 300)
    clap = ClapAudioModel(ClapAudioConfig(**CLAP)).eval()
    clap.load_state_dict(model.htsat.audio_model.state_dict())
    return model, clap


def clips(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, frames, 16, generator=torch.Generator().manual_seed(frames)) * 15 - 50


def scores(model: HTSATForAudioClassification, clap: ClapAudioModel, windows: torch.Tensor) -> torch.Tensor:
    """Scores of windows, by Transformers' model and the definition of the head: rows and three steps at a time."""
    features = clap(input_features=windows[:, None]).last_hidden_state
    padded = torch.nn.functional.pad(features, (1, 1))
    steps = torch.stack([padded[..., start : start + 3] for start in range(features.shape[-1])], dim=1)
    weighted = torch.einsum("btcrs,kcrs->btk", steps, model.classifier.weight) + model.classifier.bias
    return weighted.mean(dim=1)


def test_a_window_is_scored_by_the_clap_model_and_the_head(
    pair: tuple[HTSATForAudioClassification, ClapAudioModel],
) -> None:
    model, clap = pair
    inputs = clips(2, FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs).logits, scores(model, clap, inputs))
        expected = clap(input_features=inputs[:, None]).pooler_output
        torch.testing.assert_close(model.htsat(inputs).pooler_output, expected)


def test_silence_follows_a_short_clip(pair: tuple[HTSATForAudioClassification, ClapAudioModel]) -> None:
    model, clap = pair
    inputs = clips(2, 50)
    filled = torch.cat([inputs, torch.full((2, FRAMES - 50, 16), -100.0)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs).logits, scores(model, clap, filled))


def test_a_long_clip_is_the_mean_of_windows_that_cover_it(
    pair: tuple[HTSATForAudioClassification, ClapAudioModel],
) -> None:
    model, clap = pair
    inputs = clips(1, 2 * FRAMES)
    with torch.no_grad():
        halves = scores(model, clap, inputs.view(2, FRAMES, 16))
        torch.testing.assert_close(model(inputs).logits, halves.mean(dim=0, keepdim=True))


def test_the_audio_half_of_a_clap_checkpoint_loads(tmp_path: Path) -> None:
    text = ClapTextConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config = ClapConfig(text_config=text.to_dict(), audio_config={**CLAP}, projection_dim=8)
    stored = ClapModel(config).eval()
    stored.save_pretrained(tmp_path)
    loaded, info = HTSATModel.from_pretrained(tmp_path, config=HTSATConfig(**SIZES), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    inputs = clips(1, FRAMES)
    with torch.no_grad():
        expected = stored.audio_model(input_features=inputs[:, None]).pooler_output
        torch.testing.assert_close(loaded.eval()(inputs).pooler_output, expected)


def test_base_is_the_published_size() -> None:
    with torch.device("meta"):
        model = HTSATForAudioClassification(HTSATConfig(num_labels=527))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Chen et al. count a linear layer of 527 x 527 that their forward pass does not use: 30.24 M in all.
    assert parameters + 527 * 528 == 30_241_687


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": []}, "depths must name 1 to 8 stages"),
        ({"depths": [2, 0]}, "depths must name 1 to 8 stages"),
        ({"num_attention_heads": [2]}, r"num_attention_heads must divide the width of each stage, \[8, 16\]"),
        ({"num_attention_heads": [3, 4]}, "num_attention_heads must divide"),
        ({"num_attention_heads": [0, 4]}, "num_attention_heads must divide"),
        ({"spec_size": 40}, "spec_size must be a multiple of num_mel_bins"),
        ({"num_mel_bins": 4}, "num_mel_bins must be a multiple of 8"),
        ({"window_size": 1}, "window_size must be from 2"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is a probability"),
        ({"embed_dim": 10**9}, "embed_dim must be from 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        HTSATConfig(**{**SIZES, **changes})


def test_a_hidden_size_that_the_stages_cannot_reach_is_refused() -> None:
    config = HTSATConfig(**SIZES)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of 2 with 2 stages, not 9"):
        config.hidden_size = 9
