"""The causal convolution's Triton kernels as an operator of torch, registered with torch.library like `triton_scan`."""

from typing import Any

import torch
import triton
from torch import Tensor

from hf_audio_mamba.ops import triton_conv_kernels as kernels
from hf_audio_mamba.ops.triton_blocks import Stream, on_device, stream_of
from hf_audio_mamba.ops.triton_tuning import SMALLEST_ROWS, tuning_key

MAX_WIDTH = 16
"""Taps up to which a kernel is compiled: they are unrolled."""


def _options(x: Tensor, weight: Tensor, initial_state: Tensor | None, reverse: bool) -> dict[str, Any]:
    """What all kernels are given."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    return {
        "length": length,
        "channels": channels,
        "tuning_key": tuning_key(batch, length, channels),
        "WIDTH": width,
        "REVERSE": reverse,
        "HAS_PAST": initial_state is not None and width > 1,
    }


def _grid(x: Tensor, steps: int, used: dict[str, int]) -> Any:
    """The number of programs for a tile size, which is noted in `used`: the last one noted is the one that ran."""
    batch, _, channels = x.shape

    def grid(options: dict[str, int]) -> tuple[int]:
        used["tiles"] = triton.cdiv(steps, options["ROWS"])
        return (batch * used["tiles"] * triton.cdiv(channels, options["BLOCK"]),)

    return grid


def _operands(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Stream, Tensor, Tensor, Tensor]:
    """Kernel arguments: frames where they lie, and float32 copies (width, channels), (channels,) and of the past."""
    taps = weight.to(torch.float32).t().contiguous()
    shift = taps.new_zeros(taps.shape[1]) if bias is None else bias.to(torch.float32).contiguous()
    past = taps if initial_state is None else initial_state.to(torch.float32).contiguous()
    return stream_of([x]), taps, shift, past


@torch.library.custom_op("hf_audio_mamba::triton_conv", mutates_args=())
def conv(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool) -> Tensor:
    """SiLU of the convolution, in the dtype of x: float32, bfloat16 or float16.

    Args:
        x: (batch, length, channels).
        weight: (channels, width), width up to `MAX_WIDTH`.
        bias: (channels,) or None.
        initial_state: The inputs before the first, (batch, width - 1, channels) in scan order, or None for zeros.
        reverse: Whether time runs from the last row to the first.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    with on_device(x):
        kernels.conv_kernel[_grid(x, x.shape[1], {})](
            *_operands(x, weight, bias, initial_state), y, **_options(x, weight, initial_state, reverse)
        )
    return y


@conv.register_fake
def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("hf_audio_mamba::triton_conv_backward", mutates_args=())
def conv_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool
) -> list[Tensor]:
    """Gradients of x, weight, bias, initial_state in their dtypes; an empty tensor where the operand is None."""
    batch, length, channels = x.shape
    frames, taps, shift, past = _operands(x, weight, bias, initial_state)
    options = _options(x, weight, initial_state, reverse)
    width = weight.shape[1]
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dvalues = taps.new_empty(batch, length, channels)
    dtaps = taps.new_empty(batch * triton.cdiv(length, SMALLEST_ROWS) * (width + 1) * channels)
    dpast = torch.empty_like(past) if initial_state is not None else taps.new_empty(0)
    used: dict[str, int] = {}
    with on_device(x):
        kernels.conv_sums_kernel[_grid(x, length, used)](
            stream_of([dy]), frames, taps, shift, past, dvalues, dtaps, **options
        )
        steps = length + width - 1 if options["HAS_PAST"] else length
        kernels.conv_frames_kernel[_grid(x, steps, {})](dvalues, taps, dx, dpast, **options)
    parts = batch * used["tiles"]
    sums = dtaps[: parts * (width + 1) * channels].view(parts, width + 1, channels).sum(0)
    dbias = x.new_empty(0) if bias is None else sums[width].to(bias.dtype, copy=True)
    dinitial = x.new_empty(0) if initial_state is None else dpast.to(initial_state.dtype)
    return [dx, sums[:width].t().to(weight.dtype, copy=True).contiguous(), dbias, dinitial]


@conv_gradients.register_fake
def _conv_gradients_fake(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool
) -> list[Tensor]:
    operands = (x, weight, bias, initial_state)
    return [x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in operands]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.reverse = inputs
    ctx.save_for_backward(*operands)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    operands = ctx.saved_tensors
    gradients = conv_gradients(dy, *operands, ctx.reverse)
    wanted = [None if tensor is None else gradient for tensor, gradient in zip(operands, gradients, strict=True)]
    return (*wanted, None)


conv.register_autograd(_differentiate, setup_context=_setup_context)
