"""MoMamba's parts made of transformers' own mixers, with the same parameters under the same names."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from hf_audio_mamba.layers import BidirectionalMamba
from hf_audio_mamba.models.momamba import MoMambaConfig


class StockBidirectional(nn.Module):
    """`BidirectionalMamba` as one would write it with transformers: two `MambaMixer`, flips, and a linear layer.

    For sequences without padding and without a class token, whose reversal is a plain flip.
    """

    def __init__(self, hidden_size: int, *, state_size: int, conv_kernel: int, expand: int) -> None:
        super().__init__()
        config = MambaConfig(
            hidden_size=hidden_size,
            state_size=state_size,
            conv_kernel=conv_kernel,
            expand=expand,
            num_hidden_layers=1,
            vocab_size=1,
        )
        self.forward_mixer = MambaMixer(config, 0)
        self.backward_mixer = MambaMixer(config, 0)
        self.combine = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, *_: Any) -> torch.Tensor:
        """Map `(batch, length, hidden_size)` to the same shape; what else our layer takes is for padding."""
        backwards = self.backward_mixer(hidden_states.flip(1)).flip(1)
        joined: torch.Tensor = self.combine(torch.cat([self.forward_mixer(hidden_states), backwards], dim=-1))
        return joined


def stock_copy_of_layer(layer: BidirectionalMamba, hidden_size: int, **sizes: int) -> StockBidirectional:
    """A stock layer with a layer's parameters.

    Args:
        layer: Ours.
        hidden_size: Its width.
        sizes: `state_size`, `conv_kernel` and `expand` with which it was made.
    """
    stock = StockBidirectional(hidden_size, **sizes)
    stock.load_state_dict(layer.state_dict())
    return stock.to(layer.combine.weight.dtype)


def stock_copy_of_model(model: nn.Module) -> nn.Module:
    """A copy of a MoMamba without class token whose bidirectional layers are stock ones with the same parameters."""
    stock = copy.deepcopy(model)
    config: MoMambaConfig = model.config  # type: ignore[assignment]  # torch types attributes as tensors or modules
    sizes = {name: getattr(config, name) for name in ("hidden_size", "state_size", "conv_kernel", "expand")}
    for block in [
        module for module in stock.modules() if isinstance(getattr(module, "mixer", None), BidirectionalMamba)
    ]:
        block.mixer = stock_copy_of_layer(block.mixer, **sizes)  # type: ignore[arg-type]  # as above
    return stock
