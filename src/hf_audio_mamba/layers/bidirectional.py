"""Bidirectional Mamba: one mixer forwards in time, another backwards, and a linear layer that joins them."""

from typing import Any

import torch
from torch import nn

from hf_audio_mamba.layers.mamba_mixer import MambaMixer


class _Involution(torch.autograd.Function):
    """Reorder rows by a permutation that is its own inverse, so the gradient is the same reordering.

    Plain indexing would accumulate the gradient row by row, which costs several times as much on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradients[0].index_select(0, index), None


def reverse_frames(hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Reverse each sample's frames.

    Args:
        hidden_states: `(batch, length, hidden_size)`.
        index: `(batch * length,)` from `reversal_index`.

    Returns:
        `(batch, length, hidden_size)`. Applying it twice gives the input back.
    """
    reversed_rows: torch.Tensor = _Involution.apply(hidden_states.flatten(0, 1), index)  # type: ignore[no-untyped-call]
    return reversed_rows.view_as(hidden_states)


def reversal_index(num_padding: torch.Tensor, length: int, token_position: torch.Tensor | None) -> torch.Tensor:
    """Rows of a flattened batch in the order the backward mixer reads them.

    Frames are reversed within each sample's valid part; padding on the left and the class token keep their places
    (MoMamba, section 3.2.1, eq. 4, and section 3.2.3).

    Args:
        num_padding: `(batch,)` integer, padded steps on the left of each sample.
        length: Steps of the sequence, padding and class token included.
        token_position: `(batch,)` integer position of the class token, or None where there is no token.

    Returns:
        `(batch * length,)` integer, its own inverse.
    """
    batch = num_padding.shape[0]
    steps = torch.arange(length, device=num_padding.device)
    first = num_padding[:, None]
    if token_position is None:
        source = first + (length - 1) - steps
    else:
        token = token_position[:, None]
        # Frames are numbered without the token, reversed, and given back their places around it.
        frame = steps - (steps > token).long()
        mirrored = first + (length - 2) - frame
        source = mirrored + (mirrored >= token).long()
        source = torch.where(steps == token, steps, source)
    source = torch.where(steps < first, steps, source)
    offsets = torch.arange(batch, device=num_padding.device)[:, None] * length
    return (source + offsets).flatten()


class BidirectionalMamba(nn.Module):
    """Two unshared Mamba mixers, one over reversed frames, joined by `Linear(concat(forward, backward))`.

    MoMamba section 3.2.3, eq. 5. The backward output is put back into the order of time before the two are joined.

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

    def forward(
        self, hidden_states: torch.Tensor, reversal: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix along time in both directions.

        Args:
            hidden_states: `(batch, length, hidden_size)`.
            reversal: `(batch * length,)` from `reversal_index`.
            mask: `(batch, length, 1)`, 0 at padding on the left.

        Returns:
            `(batch, length, hidden_size)`.
        """
        forwards = self.forward_mixer(hidden_states, mask)
        backwards = self.backward_mixer(reverse_frames(hidden_states, reversal), mask)
        both = torch.cat([forwards, reverse_frames(backwards, reversal)], dim=-1)
        joined: torch.Tensor = self.combine(both)
        return joined
