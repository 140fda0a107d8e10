"""Layers that treat every token alike, in one go: norm, linear, GELU, linear, and the skip around them.

It is an operation of its own because on a CPU torch spends as much time on drawing memory for what lies between these
layers as on the layers.
"""

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.kernel_operands import are_served
from hf_audio_mamba.ops.token_weights import LinearWeights, NormWeights

TILE_TOKENS = 64
"""Tokens that the kernel takes at a time; a thread has at least so many to do."""


def serves(
    x: Tensor,
    last: LinearWeights,
    *,
    norm: NormWeights | None = None,
    first: LinearWeights | None = None,
    skip: Tensor | None = None,
) -> bool:
    """Whether `token_layers` takes these arguments here and now, and is the faster way; it must not be called if not.

    That is so for contiguous float32 tensors of fitting shapes on the CPU, with tokens for every thread, where no
    gradient is wanted, nothing traces or casts, and the numba backend is what `auto`, or the backend asked for, leads
    to.
    """
    inputs, outputs = x.shape[-1], last.weight.shape[0]
    middle = inputs if first is None else first.weight.shape[0]
    expected = [(x, x.shape), (last.weight, (outputs, middle)), (last.bias, (outputs,))]
    if norm is not None:
        expected += [(norm.weight, (inputs,)), (norm.bias, (inputs,))]
    if first is not None:
        expected += [(first.weight, (middle, inputs)), (first.bias, (middle,))]
    expected.append((skip, (*x.shape[:-1], outputs)))
    if any(tensor is not None and tensor.shape != shape for tensor, shape in expected):
        return False
    if not are_served(*(tensor for tensor, _ in expected)):
        return False
    if -(-x.numel() // inputs // TILE_TOKENS) < torch.get_num_threads():
        return False
    variant = (norm is not None, first is not None, last.bias is not None, skip is not None, False)
    return backends.choose(None, "cpu", torch.float32, "token_layers", variant) == "numba"


def token_layers(
    x: Tensor,
    last: LinearWeights,
    *,
    norm: NormWeights | None = None,
    first: LinearWeights | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """Compute `last(gelu(first(norm(x)))) + skip`; without `first`, `last(norm(x)) + skip`.

    Args:
        x: `(..., inputs)`.
        last: Linear layer.
        norm: Layer normalisation; none if omitted.
        first: Linear layer before the GELU (the exact one); none if omitted.
        skip: Added to the result, `(..., outputs)`; none if omitted.

    Returns:
        `(..., outputs)`. Arguments that `serves` has not been asked about are read past their ends.
    """
    return backends.token_layers_function("numba")(x, last, norm=norm, first=first, skip=skip)
