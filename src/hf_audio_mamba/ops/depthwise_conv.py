"""Depth-wise 3 x 3 convolution of channels-last maps, and SiLU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.checks import check_argument
from hf_audio_mamba.ops.kernel_operands import are_served

NAME = "depthwise_conv2d_silu"


def depthwise_conv2d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Convolve each channel of a map with a 3 x 3 kernel of its own, zeros around the map, and take the SiLU.

    Where no gradient is wanted, float32 maps on the CPU are done by a compiled kernel; else by torch, which the same
    memory serves without a copy. Differentiable.

    Args:
        x: `(batch, height, width, channels)`.
        weight: `(channels, 1, 3, 3)`.
        bias: `(channels,)`; none if omitted.
        backend: As in `selective_scan`.

    Returns:
        `(batch, height, width, channels)`, contiguous.

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype or device; the message names it.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    if x.ndim != 4 or x.numel() == 0:
        raise ShapeError(f"{NAME}: x must be (batch, height, width, channels), not empty, got shape {tuple(x.shape)}.")
    channels = x.shape[3]
    check_argument(NAME, "weight", weight, "(channels, 1, 3, 3)", (channels, 1, 3, 3), x)
    if bias is not None:
        check_argument(NAME, "bias", bias, "(channels,)", (channels,), x)
    if are_served(x, weight, bias):
        variant = (bias is not None, False)
        if backends.choose(backend, "cpu", torch.float32, "depthwise_conv", variant) == "numba":
            return backends.depthwise_conv_function("numba")(x, weight, bias)
    # Channels-last memory seen as channels-first: what torch's convolutions take without a copy.
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=channels)
    return F.silu(y).permute(0, 2, 3, 1).contiguous()
