"""Parameters of the layers that treat every token alike, as `token_layers` takes them."""

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
