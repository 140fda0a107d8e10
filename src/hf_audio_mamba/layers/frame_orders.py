"""The orders in which a bidirectional layer visits a batch of left-padded sequences."""

from typing import NamedTuple

import torch


class FrameOrders(NamedTuple):
    """Arguments of `ops.selective_scan` and `ops.causal_conv1d_silu` for both directions.

    Attributes:
        forward: Row visited at each step, or None for the order of memory.
        backward: The same for the backward mixer, with `reverse`.
        reverse: Whether the backward mixer visits its rows the other way round.
        lengths: Rows of each sequence that are not padding, `(batch,)`, or None where there is no padding.
    """

    forward: torch.Tensor | None
    backward: torch.Tensor | None
    reverse: bool
    lengths: torch.Tensor | None


def frame_orders(
    length: int, num_padding: torch.Tensor | None = None, token_position: torch.Tensor | None = None
) -> FrameOrders:
    """Orders that skip padding and, backwards, reverse the frames while the class token keeps its place.

    MoMamba, section 3.2.1, eq. 4, and section 3.2.3.

    Args:
        length: Steps of the sequence, padding and class token included.
        num_padding: Padded steps on the left of each sample, `(batch,)` integer; None where no sample has any.
        token_position: Position of the class token, `(batch,)` integer, the same for all samples where there is no
            padding; None where there is no token.

    Returns:
        Orders of shape `(length,)`, or `(batch, length)` with padding.
    """
    if num_padding is None:
        if token_position is None:
            return FrameOrders(None, None, True, None)
        mirrored = _mirrored(length, torch.zeros_like(token_position[:1]), token_position[:1])
        return FrameOrders(None, mirrored[0], False, None)
    lengths = length - num_padding
    steps = torch.arange(length, device=num_padding.device)
    # Valid rows first, in the order of time; padding last.
    forward = torch.where(steps < lengths[:, None], steps + num_padding[:, None], steps - lengths[:, None])
    if token_position is None:
        return FrameOrders(forward, forward, True, lengths)
    return FrameOrders(forward, _mirrored(length, num_padding, token_position).gather(1, forward), False, lengths)


def _mirrored(length: int, num_padding: torch.Tensor, token_position: torch.Tensor) -> torch.Tensor:
    """Row that stands at each place once the frames are reversed around the token: `(batch, length)`."""
    steps = torch.arange(length, device=num_padding.device)
    first, token = num_padding[:, None], token_position[:, None]
    # Frames are numbered without the token, reversed, and given back their places around it.
    frame = steps - (steps > token).long()
    source = first + (length - 2) - frame
    source = source + (source >= token).long()
    source = torch.where(steps == token, steps, source)
    return torch.where(steps < first, steps, source)
