"""The causal convolution's numba kernels as an operator of torch, registered with torch.library like `numba_scan`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.ops import numba_conv_kernels as kernels
from hf_audio_mamba.ops.numba_blocks import (
    RowOrder,
    address_of,
    contiguous,
    empty,
    partition_channels,
    scratch_memory,
    stream_of,
    with_unit_stride,
)
from hf_audio_mamba.ops.numba_conv_kernels import ConvGradients, ConvInputs, ConvLayout
from hf_audio_mamba.ops.numba_eager import eager
from hf_audio_mamba.ops.numba_intrinsics import LANES
from hf_audio_mamba.ops.numba_threads import run_items
from hf_audio_mamba.ops.row_order import check_values

_SERIAL_ELEMENTS = 100_000  # outputs below which starting threads costs more than it saves


def _layout(x: Tensor, weight: Tensor) -> ConvLayout:
    batch, length, channels = x.shape
    return ConvLayout(partition_channels(batch, channels), length, weight.shape[1])


def _pack(layout: ConvLayout, weight: Tensor, bias: Tensor | None) -> Tensor:
    parameters = empty(layout.partition.blocks, layout.width + 1, LANES)
    weight, bias = contiguous(weight), contiguous(bias)
    kernels.conv_pack(layout, parameters.data_ptr(), weight.data_ptr(), address_of(bias))
    return parameters


def _row_order(x: Tensor, reverse: bool, order: Tensor | None, lengths: Tensor | None) -> RowOrder:
    check_values("causal_conv1d_silu", x.shape[1], order, lengths)
    return RowOrder.of(x.shape[1], reverse, order, lengths)


def compute_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """SiLU of the convolution of float32 tensors, not traced.

    Args:
        x: (batch, length, channels).
        weight: (channels, width), width up to `numba_conv_kernels.MAX_WIDTH`.
        bias: (channels,) or None.
        initial_state: The inputs before the first, (batch, width - 1, channels) in scan order, or None for zeros.
        reverse: Whether time runs from the last row to the first.
        order: As in `causal_conv1d_silu`.
        lengths: As in `causal_conv1d_silu`.
    """
    layout = _layout(x, weight)
    x, initial_state = with_unit_stride(x), contiguous(initial_state)
    parameters = _pack(layout, weight, bias)
    rows = _row_order(x, reverse, order, lengths)
    y = rows.memory_for(*x.shape)
    inputs = ConvInputs(rows.stream(x), stream_of(initial_state), parameters.data_ptr(), rows.visits)

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(kernels.FORWARD_SCRATCH_BYTES)
        kernels.conv_forward(layout, inputs, rows.stream(y), scratch, first, last)

    run_items(task, x.shape[0] * layout.partition.chunks, serial=y.numel() < _SERIAL_ELEMENTS)
    return y


conv = torch.library.custom_op("hf_audio_mamba::numba_conv", mutates_args=())(compute_conv)
"""`compute_conv` for torch.compile and torch.export."""


@conv.register_fake
def _conv_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    return x.new_empty(x.shape)


def compute_conv_gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of x, weight, bias, initial_state; an empty tensor where the operand is None."""
    layout = _layout(x, weight)
    x, dy, initial_state = with_unit_stride(x), with_unit_stride(dy), contiguous(initial_state)
    parameters = _pack(layout, weight, bias)
    rows = RowOrder.of(x.shape[1], reverse, order, lengths)  # checked by the forward pass
    dx, dweight = rows.memory_for(*x.shape), empty(*weight.shape)
    dbias, dinitial = (empty(*(0,) if tensor is None else tensor.shape) for tensor in (bias, initial_state))
    dparameters = empty(x.shape[0], layout.partition.blocks, layout.width + 1, LANES)
    inputs = ConvInputs(rows.stream(x), stream_of(initial_state), parameters.data_ptr(), rows.visits)
    gradients = ConvGradients(rows.stream(dy), rows.stream(dx), stream_of(dinitial), dparameters.data_ptr())

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(kernels.backward_scratch_bytes(layout.partition.chunk))
        kernels.conv_backward(layout, inputs, gradients, scratch, first, last)

    run_items(task, x.shape[0] * layout.partition.chunks, serial=x.numel() < _SERIAL_ELEMENTS)
    kernels.conv_reduce(layout, x.shape[0], dparameters.data_ptr(), dweight.data_ptr(), address_of(dbias))
    return [dx, dweight, dbias, dinitial]


conv_gradients = torch.library.custom_op("hf_audio_mamba::numba_conv_backward", mutates_args=())(compute_conv_gradients)


@conv_gradients.register_fake
def _conv_gradients_fake(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> list[Tensor]:
    return [x.new_empty(0 if tensor is None else tensor.shape) for tensor in (x, weight, bias, initial_state)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.reverse, order, lengths = inputs
    ctx.save_for_backward(*operands, order, lengths)


def _differentiate(gradients_of: Callable[..., list[Tensor]], ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    *operands, order, lengths = ctx.saved_tensors
    gradients = gradients_of(dy, *operands, ctx.reverse, order, lengths)
    wanted = [None if tensor is None else gradient for tensor, gradient in zip(operands, gradients, strict=True)]
    return (*wanted, None, None, None)


conv.register_autograd(partial(_differentiate, conv_gradients), setup_context=_setup_context)
differentiable_conv = eager(compute_conv, _setup_context, partial(_differentiate, compute_conv_gradients))
"""`compute_conv` with its gradient, not traced."""
