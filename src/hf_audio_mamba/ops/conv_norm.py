"""Convolution of channels-last maps with the layer normalisation after it, in one go."""

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.kernel_operands import are_served
from hf_audio_mamba.ops.token_layers import TILE_TOKENS
from hf_audio_mamba.ops.token_weights import ConvWeights, NormWeights


def serves(x: Tensor, conv: ConvWeights, norm: NormWeights, *, gelu: bool) -> bool:
    """Whether `conv_norm` takes these arguments here and now, and is the faster way; it must not be called if not.

    That is so for contiguous float32 tensors of fitting shapes on the CPU, with output cells for every thread, where no
    gradient is wanted, nothing traces or casts, and the numba backend is what `auto`, or the backend asked for, leads
    to.
    """
    weight, bias, stride, padding = conv
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[1] != x.shape[3] or weight.shape[2] != weight.shape[3]:
        return False
    outputs, kernel = weight.shape[0], weight.shape[2]
    if any(tensor is not None and tensor.shape != (outputs,) for tensor in (bias, norm.weight, norm.bias)):
        return False
    if not are_served(x, weight, bias, norm.weight, norm.bias):
        return False
    cells = x.shape[0]
    for side in x.shape[1:3]:
        cells *= max(0, (side + 2 * padding - kernel) // stride + 1)
    if cells == 0 or -(-cells // TILE_TOKENS) < torch.get_num_threads():
        return False
    return backends.choose(None, "cpu", torch.float32, "conv_norm", (kernel, stride, padding, gelu, False)) == "numba"


def conv_norm(x: Tensor, conv: ConvWeights, norm: NormWeights, *, gelu: bool) -> Tensor:
    """Convolve a map, normalise the channels of each cell, and take the exact GELU if asked for.

    Args:
        x: `(batch, height, width, channels)`.
        conv: Square convolution with zeros around the map.
        norm: Layer normalisation of its outputs.
        gelu: Whether the GELU follows.

    Returns:
        `(batch, out_height, out_width, out_channels)`. Arguments that `serves` has not been asked about are read past
        their ends.
    """
    return backends.conv_norm_function("numba")(x, conv, norm, gelu=gelu)
