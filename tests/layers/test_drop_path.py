"""Stochastic depth: which samples are left out, and what stays on average."""

import torch

from hf_audio_mamba.layers import DropPath


def test_whole_samples_are_left_out_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    dropped = layer(torch.ones(4000, 3, 2))
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(per_sample[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(dropped.mean().item() - 1) < 0.03


def test_outside_of_training_and_at_probability_0_nothing_changes() -> None:
    branch = torch.randn(5, 2)
    assert DropPath(0.9).eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch
