"""The short causal depth-wise convolution + SiLU in front of Mamba's scan: checks its arguments, picks a backend."""

import torch
from torch import Tensor

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.checks import check_argument, check_input
from hf_audio_mamba.ops.row_order import check as check_row_order

NAME = "causal_conv1d_silu"


def causal_conv1d_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    order: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolve every channel over time with its own taps, looking at past frames only, then apply SiLU.

    `y_t = silu(bias + sum_j weight[:, j] * x_(t - (width - 1) + j))`: the last tap weighs the frame itself, as in
    `nn.Conv1d(channels, channels, width, groups=channels, padding=width - 1)` cut to the input's length. Differentiable
    (once) in every tensor argument; inputs may be strided views; sums are float32 (float64 if `x` is).

    Args:
        x: Input `(batch, length, channels)`, floating.
        weight: Taps `(channels, width)`, earliest frame first.
        bias: Added before SiLU, `(channels,)`; none if omitted.
        reverse: Whether to look at later frames instead: equals flipping over time, convolving, and flipping back.
        initial_state: The `width - 1` inputs before the first step in scan order, the latest last,
            `(batch, width - 1, channels)`; zeros if omitted.
        lengths: As in `selective_scan`.
        order: As in `selective_scan`.
        backend: As in `selective_scan`.

    Returns:
        `(batch, length, channels)` in the dtype of `x`.

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype or device; the message names it.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    check_input(NAME, x)
    batch, _, channels = x.shape
    if weight.ndim != 2 or weight.shape[1] == 0:
        raise ShapeError(f"{NAME}: weight must be (channels, width) with width > 0, got shape {tuple(weight.shape)}.")
    width = weight.shape[1]
    check_argument(NAME, "weight", weight, "(channels, width)", (channels, width), x)
    if bias is not None:
        check_argument(NAME, "bias", bias, "(channels,)", (channels,), x)
    if initial_state is not None:
        shape = (batch, width - 1, channels)
        check_argument(NAME, "initial_state", initial_state, "(batch, width - 1, channels)", shape, x)
    check_row_order(NAME, x, order, lengths)

    tensors = (x, weight, bias, initial_state)
    needs_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    variant = (width, bias is not None, reverse, needs_backward)
    name = backends.choose(backend, x.device.type, x.dtype, "conv", variant)
    return backends.conv_function(name)(
        x, weight, bias, reverse=reverse, initial_state=initial_state, order=order, lengths=lengths
    )
