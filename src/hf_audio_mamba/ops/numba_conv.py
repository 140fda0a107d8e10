"""The causal convolution's numba kernels as an operator of torch, registered with torch.library like `numba_scan`."""

from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.ops import numba_conv_kernels as kernels
from hf_audio_mamba.ops.numba_blocks import (
    address_of,
    contiguous,
    empty,
    partition_channels,
    scratch_memory,
    stream_of,
    with_unit_stride,
)
from hf_audio_mamba.ops.numba_conv_kernels import ConvGradients, ConvInputs, ConvLayout
from hf_audio_mamba.ops.numba_intrinsics import LANES
from hf_audio_mamba.ops.numba_threads import run_items

_SERIAL_ELEMENTS = 100_000  # outputs below which starting threads costs more than it saves


def _layout(x: Tensor, weight: Tensor) -> ConvLayout:
    batch, length, channels = x.shape
    return ConvLayout(partition_channels(batch, channels), length, weight.shape[1])


def _pack(layout: ConvLayout, weight: Tensor, bias: Tensor | None) -> Tensor:
    parameters = empty(layout.partition.blocks, layout.width + 1, LANES)
    weight, bias = weight.contiguous(), contiguous(bias)
    kernels.conv_pack(layout, parameters.data_ptr(), weight.data_ptr(), address_of(bias))
    return parameters


@torch.library.custom_op("hf_audio_mamba::numba_conv", mutates_args=())
def conv(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool) -> Tensor:
    """SiLU of the convolution of float32 tensors.

    Args:
        x: (batch, length, channels).
        weight: (channels, width), width up to `numba_conv_kernels.MAX_WIDTH`.
        bias: (channels,) or None.
        initial_state: The inputs before the first, (batch, width - 1, channels) in scan order, or None for zeros.
        reverse: Whether time runs from the last row to the first.
    """
    layout = _layout(x, weight)
    x, initial_state = with_unit_stride(x), contiguous(initial_state)
    parameters = _pack(layout, weight, bias)
    y = empty(*x.shape)
    inputs = ConvInputs(stream_of(x, reverse), stream_of(initial_state), parameters.data_ptr())

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(kernels.FORWARD_SCRATCH_BYTES)
        kernels.conv_forward(layout, inputs, stream_of(y, reverse), scratch, first, last)

    run_items(task, x.shape[0] * layout.partition.chunks, serial=y.numel() < _SERIAL_ELEMENTS)
    return y


@conv.register_fake
def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("hf_audio_mamba::numba_conv_backward", mutates_args=())
def conv_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool
) -> list[Tensor]:
    """Gradients of x, weight, bias, initial_state; an empty tensor where the operand is None."""
    layout = _layout(x, weight)
    x, dy, initial_state = with_unit_stride(x), with_unit_stride(dy), contiguous(initial_state)
    parameters = _pack(layout, weight, bias)
    results = [empty(*(0,) if tensor is None else tensor.shape) for tensor in (x, weight, bias, initial_state)]
    dx, dweight, dbias, dinitial = results
    dparameters = empty(x.shape[0], layout.partition.blocks, layout.width + 1, LANES)
    inputs = ConvInputs(stream_of(x, reverse), stream_of(initial_state), parameters.data_ptr())
    gradients = ConvGradients(
        stream_of(dy, reverse), stream_of(dx, reverse), stream_of(dinitial), dparameters.data_ptr()
    )

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(kernels.backward_scratch_bytes(layout.partition.chunk))
        kernels.conv_backward(layout, inputs, gradients, scratch, first, last)

    run_items(task, x.shape[0] * layout.partition.chunks, serial=x.numel() < _SERIAL_ELEMENTS)
    kernels.conv_reduce(layout, x.shape[0], dparameters.data_ptr(), dweight.data_ptr(), address_of(dbias))
    return results


@conv_gradients.register_fake
def _conv_gradients_fake(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool
) -> list[Tensor]:
    return [x.new_empty(0 if tensor is None else tensor.shape) for tensor in (x, weight, bias, initial_state)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.reverse = inputs
    ctx.save_for_backward(*operands)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    operands = ctx.saved_tensors
    gradients = conv_gradients(dy, *operands, ctx.reverse)
    wanted = [None if tensor is None else gradient for tensor, gradient in zip(operands, gradients, strict=True)]
    return (*wanted, None)


conv.register_autograd(_differentiate, setup_context=_setup_context)
