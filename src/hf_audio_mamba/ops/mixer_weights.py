"""The parameters that one step of a Mamba mixer or block takes."""

from typing import NamedTuple

from torch import Tensor


class MixerWeights(NamedTuple):
    """Parameters of a Mamba mixer, None where it has none."""

    in_weight: Tensor  # (2 channels, hidden)
    in_bias: Tensor | None
    conv_weight: Tensor  # (channels, width), or (channels, 1, width) as in nn.Conv1d
    conv_bias: Tensor | None
    x_weight: Tensor  # (rank + 2 state, channels): the step size, B, C
    dt_weight: Tensor  # (channels, rank)
    dt_bias: Tensor | None
    A_log: Tensor  # (channels, state)
    D: Tensor  # (channels,)
    out_weight: Tensor  # (hidden, channels)
    out_bias: Tensor | None


class Norm(NamedTuple):
    """Root-mean-square normalisation in front of a mixer in a block, which adds its input to the mixer's output."""

    weight: Tensor  # (hidden,)
    epsilon: float
