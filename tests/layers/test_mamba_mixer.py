"""The mixer against transformers' own, which has the same tensors."""

import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer as TransformersMixer

from hf_audio_mamba.layers import MambaMixer


@pytest.fixture
def mixers() -> tuple[MambaMixer, TransformersMixer]:
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=24, state_size=8, conv_kernel=4, expand=2, num_hidden_layers=1, vocab_size=4)
    theirs = TransformersMixer(config, layer_idx=0).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MambaMixer(24, state_size=8)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def test_equals_transformers(mixers: tuple[MambaMixer, TransformersMixer]) -> None:
    ours, theirs = mixers
    hidden = torch.randn(2, 21, 24)
    torch.testing.assert_close(ours(hidden), theirs(hidden), atol=1e-5, rtol=1e-5)


def test_left_padding_equals_transformers_and_the_unpadded_run(
    mixers: tuple[MambaMixer, TransformersMixer],
) -> None:
    ours, theirs = mixers
    hidden = torch.randn(1, 21, 24)
    padded = torch.cat([torch.full((1, 5, 24), 50.0), hidden], dim=1)
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 21)], dim=1)
    order = torch.cat([torch.arange(5, 26), torch.arange(5)])
    out = ours(padded, order=order, lengths=torch.tensor([21]))
    torch.testing.assert_close(out[:, 5:], ours(hidden), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[:, 5:], theirs(padded, attention_mask=mask)[:, 5:], atol=1e-5, rtol=1e-5)
    assert out[:, :5].abs().max() == 0


@pytest.mark.parametrize(
    ("hidden_size", "parameters"), [(256, 437_760), (512, 1_694_720), (768, 3_770_880), (1024, 6_666_240)]
)
def test_parameter_count(hidden_size: int, parameters: int) -> None:
    with torch.device("meta"):
        mixer = MambaMixer(hidden_size)
    assert sum(p.numel() for p in mixer.parameters()) == parameters


def test_initial_step_sizes_and_decays() -> None:
    torch.manual_seed(0)
    mixer = MambaMixer(64)
    mixer.init_weights()
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert steps.min() >= 0.99e-3
    assert steps.max() <= 1.01e-1
    # Log-uniform: the middle of the logarithms is the middle of the range.
    assert steps.log().mean().exp().item() == pytest.approx(1e-2, rel=0.5)
    torch.testing.assert_close(mixer.A_log.exp()[5], torch.arange(1.0, 17.0))
    assert mixer.dt_proj.weight.abs().max() <= mixer.time_step_rank**-0.5
