"""Small models of transformers and their fast twins."""

import copy

import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

from hf_audio_mamba import use_fast_mamba

VOCABULARY = 37
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0}


def stock_model(model_class=MambaForCausalLM, *, seed=0, **changes):
    """A model on transformers' code whose parameters all matter: none is zero, none equal to another."""
    torch.manual_seed(seed)
    config_class = {MambaForCausalLM: MambaConfig, FalconMambaForCausalLM: FalconMambaConfig}[model_class]
    model = model_class(config_class(**SIZES | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def twins(model_class=MambaForCausalLM, **changes):
    """The same model on transformers' code and on this package's."""
    stock = stock_model(model_class, **changes)
    return stock, use_fast_mamba(copy.deepcopy(stock))


def tokens(batch, length, *, seed=1):
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def assert_same(actual, expected, tolerance=1e-5):
    """Equal up to `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, error.item()


def mixers(model):
    return [layer.mixer for layer in model.backbone.layers]
