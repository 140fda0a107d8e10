"""Parameters of layers, as `token_layers` and `conv_norm` take them."""

from typing import NamedTuple

from torch import Tensor


class LinearWeights(NamedTuple):
    """Weight `(outputs, inputs)` and bias `(outputs,)` of a linear layer."""

    weight: Tensor
    bias: Tensor | None


class NormWeights(NamedTuple):
    """Weight and bias `(inputs,)` of layer normalisation, and its epsilon."""

    weight: Tensor
    bias: Tensor
    epsilon: float


class ConvWeights(NamedTuple):
    """Weight `(outputs, channels, kernel, kernel)` and bias `(outputs,)` of a convolution, its stride and padding."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
