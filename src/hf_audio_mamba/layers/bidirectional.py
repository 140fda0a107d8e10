"""The bidirectional Mamba layer of MoMamba (section 3.2.3)."""

import torch
from torch import nn

from hf_audio_mamba.layers.frame_orders import FrameOrders
from hf_audio_mamba.layers.mamba_mixer import MambaMixer


class BidirectionalMamba(nn.Module):
    """Two unshared Mamba mixers, one over reversed frames, joined by `Linear(concat(forward, backward))`.

    MoMamba section 3.2.3, eq. 5. Nothing is flipped: the backward mixer visits the rows in another order.

    Args:
        hidden_size: Width of the sequence that goes in and out.
        state_size: State values per channel.
        conv_kernel: Width of the causal depth-wise convolution, in frames.
        expand: Inner width of each mixer as a multiple of `hidden_size`.
    """

    def __init__(self, hidden_size: int, *, state_size: int, conv_kernel: int, expand: int) -> None:
        super().__init__()
        sizes = {"state_size": state_size, "conv_kernel": conv_kernel, "expand": expand}
        self.forward_mixer = MambaMixer(hidden_size, **sizes)
        self.backward_mixer = MambaMixer(hidden_size, **sizes)
        self.combine = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, orders: FrameOrders) -> torch.Tensor:
        """Mix along time in both directions.

        Args:
            hidden_states: `(batch, length, hidden_size)`.
            orders: From `frame_orders`.

        Returns:
            `(batch, length, hidden_size)`. Rows of padding are not read, and depend on nothing but `combine`'s bias.
        """
        forwards = self.forward_mixer(hidden_states, order=orders.forward, lengths=orders.lengths)
        backwards = self.backward_mixer(
            hidden_states, reverse=orders.reverse, order=orders.backward, lengths=orders.lengths
        )
        joined: torch.Tensor = self.combine(torch.cat([forwards, backwards], dim=-1))
        return joined
