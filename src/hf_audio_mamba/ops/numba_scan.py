"""The selective scan's numba kernels as an operator of torch: memory, work items, threads, gradients.

Registered with torch.library, so that torch.compile and torch.export see one opaque node and its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from hf_audio_mamba.ops import numba_scan_backward as backward_kernels
from hf_audio_mamba.ops import numba_scan_forward as forward_kernels
from hf_audio_mamba.ops.numba_blocks import (
    TILE,
    RowOrder,
    Stream,
    address_of,
    contiguous,
    count_blocks,
    empty,
    partition_channels,
    scratch_memory,
    with_unit_stride,
)
from hf_audio_mamba.ops.numba_eager import eager
from hf_audio_mamba.ops.numba_intrinsics import LANES
from hf_audio_mamba.ops.numba_scan_forward import ScanInputs, ScanLayout
from hf_audio_mamba.ops.numba_scan_reduce import reduce_parameters, reduce_parts
from hf_audio_mamba.ops.numba_threads import run_items
from hf_audio_mamba.ops.row_order import check_values

# Outputs so large that caches cannot keep them for the next operation are better not drawn through them.
_STREAMED_BYTES = 32 * 2**20
_SERIAL_UPDATES = 100_000  # state updates below which starting threads costs more than it saves


@dataclass(frozen=True)
class ScanTensors:
    """Operands of one scan: float32 on the CPU."""

    x: Tensor  # (batch, length, channels), as are dt and z
    dt: Tensor
    A: Tensor  # (channels, state)
    B: Tensor  # (batch, length, groups, state)
    C: Tensor
    D: Tensor | None  # (channels,)
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None  # (batch, channels, state)

    def __post_init__(self) -> None:
        """Copy what kernels cannot read where it lies."""
        for name in ("x", "dt", "B", "C", "z"):
            object.__setattr__(self, name, with_unit_stride(getattr(self, name)))
        for name in ("A", "D", "dt_bias", "initial_state"):
            object.__setattr__(self, name, contiguous(getattr(self, name)))


def _count_slots(length: int) -> int:
    """State slots of a batch row with checkpoints: one a tile, and one for the last state."""
    return -(-length // TILE) + 1


def _layout(x: Tensor, B: Tensor, dt_softplus: bool, checkpoints: bool) -> ScanLayout:
    batch, length, channels = x.shape
    groups, state = B.shape[2:]
    slots = _count_slots(length) if checkpoints else 1
    streaming = 4 * x.numel() >= _STREAMED_BYTES
    partition = partition_channels(batch, channels, groups)
    return ScanLayout(partition, length, state, slots, int(dt_softplus), int(streaming))


def _inputs(operands: ScanTensors, states: Tensor, layout: ScanLayout, order: RowOrder) -> tuple[ScanInputs, Tensor]:
    """Kernel arguments, and the packed parameters that must outlive the kernel."""
    parameters = empty(layout.partition.blocks, layout.state + 3, LANES)
    addresses = [address_of(tensor) for tensor in (operands.A, operands.D, operands.dt_bias)]
    forward_kernels.pack_parameters(layout, parameters.data_ptr(), *addresses)
    inputs = ScanInputs(
        order.stream(operands.x),
        order.stream(operands.dt),
        order.stream(operands.z),
        order.stream(operands.B),
        order.stream(operands.C),
        operands.B.stride(2),
        operands.C.stride(2),
        parameters.data_ptr(),
        states.data_ptr(),
        order.visits,
    )
    return inputs, parameters


def _parts_of_sums(gradient: Tensor, chunks: int, order: RowOrder) -> Tensor:
    """Memory for what each chunk of channels adds to dB and dC, in whole vectors: (2, chunks, values and padding)."""
    return order.memory_for(2, chunks, -(-gradient.numel() // LANES) * LANES)


def _first_part(parts: Tensor, gradient: Tensor, order: RowOrder) -> Stream:
    """Where the first chunk puts its part of a gradient (batch, length, groups, state)."""
    batch, length = gradient.shape[:2]
    return order.stream(parts[0, : gradient.numel()].view(batch, length, -1))


def _add_parts(parts: Tensor, totals: tuple[Tensor, Tensor], chunks: int) -> None:
    """Add up what the chunks of channels add to dB and dC, in order."""
    for total, part in zip(totals, parts, strict=True):
        reduce_parts(total.data_ptr(), part.data_ptr(), chunks, total.numel())


def _is_small(layout: ScanLayout, batch: int) -> bool:
    return batch * layout.length * layout.partition.channels * layout.state < _SERIAL_UPDATES


def _row_order(x: Tensor, reverse: bool, order: Tensor | None, lengths: Tensor | None) -> RowOrder:
    # Here and not in front of the operator: the values are unknown while torch.compile traces.
    check_values("selective_scan", x.shape[1], order, lengths)
    return RowOrder.of(x.shape[1], reverse, order, lengths)


def compute_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    checkpoints: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan on float32 tensors, not traced.

    Shapes are those of `ScanTensors`; `order` and `lengths` are as in `selective_scan`.

    Returns:
        Output (batch, length, channels), last state (batch, channels, state), and with `checkpoints` the states
        (batch, slots, blocks, state, lanes) that the gradient needs, else an empty tensor.
    """
    operands = ScanTensors(x, dt, A, B, C, D, z, dt_bias, initial_state)
    rows = _row_order(x, reverse, order, lengths)
    y = rows.memory_for(*x.shape)
    last_state, states = scan_into(y, operands, rows, dt_softplus=dt_softplus, checkpoints=checkpoints)
    return y, last_state, states if checkpoints else empty(0)


def scan_into(
    y: Tensor, operands: ScanTensors, rows: RowOrder, *, dt_softplus: bool, checkpoints: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the scan and write its output to `y (batch, length, channels)`; returns the last state and the checkpoints.

    Rows that are not visited keep their values in `y`.
    """
    batch, _, channels = y.shape
    layout = _layout(operands.x, operands.B, dt_softplus, checkpoints)
    last_state = empty(batch, channels, layout.state)
    states = rows.memory_for(batch, layout.slots, layout.partition.blocks, layout.state, LANES)
    inputs, _parameters = _inputs(operands, states, layout, rows)
    first_state = address_of(operands.initial_state)

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(forward_kernels.forward_scratch_bytes(layout.state))
        forward_kernels.scan_forward(
            layout, inputs, rows.stream(y), first_state, last_state.data_ptr(), scratch, first, last
        )

    run_items(task, batch * layout.partition.groups * layout.partition.chunks, serial=_is_small(layout, batch))
    return last_state, states


def scan_out(out: Tensor, *arguments: Any) -> Tensor:
    """Run the scan on the arguments of `scan` but `checkpoints`, write its output to `out`, return the last state."""
    *operands, dt_softplus, reverse, order, lengths = arguments
    rows = _row_order(out, reverse, order, lengths)
    direct = out.stride(-1) == 1 and not out.is_neg()
    y = out if direct else rows.memory_for(*out.shape)
    if rows.partial:
        y.zero_()
    last_state, _ = scan_into(y, ScanTensors(*operands), rows, dt_softplus=dt_softplus)
    if direct:
        increment_version(out)  # autograd may have kept it for a backward pass
    else:
        out.copy_(y)
    return last_state


scan = torch.library.custom_op("hf_audio_mamba::numba_scan", mutates_args=())(compute_scan)
"""`compute_scan` for torch.compile and torch.export."""


@scan.register_fake
def _scan_fake(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    checkpoints: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = x.shape
    groups, state = B.shape[2:]
    states = (batch, _count_slots(length), count_blocks(channels, groups), state, LANES) if checkpoints else (0,)
    return x.new_empty(x.shape), x.new_empty(batch, channels, state), x.new_empty(states)


def _memory_for_gradient(name: str, tensor: Tensor | None, rows: RowOrder) -> Tensor:
    if tensor is None:
        return empty(0)
    return rows.memory_for(*tensor.shape) if name in ("x", "dt", "z") else empty(*tensor.shape)


def compute_scan_gradients(
    dy: Tensor,
    dlast_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    dt_softplus: bool,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias, initial_state; an empty tensor where the operand is None."""
    operands = ScanTensors(x, dt, A, B, C, D, z, dt_bias, initial_state)
    layout = _layout(x, B, dt_softplus, checkpoints=True)
    batch, state, partition = x.shape[0], layout.state, layout.partition
    rows = RowOrder.of(x.shape[1], reverse, order, lengths)  # checked by the forward pass
    inputs, _parameters = _inputs(operands, states, layout, rows)
    results = [_memory_for_gradient(name, tensor, rows) for name, tensor in vars(operands).items()]
    dx, ddt, dA, dB, dC, dD, dz, dbias, dinitial = results
    parts = _parts_of_sums(dB, partition.chunks, rows)
    dparameters, dstates = (empty(batch, partition.blocks, size, LANES) for size in (state + 2, state))
    dy, dlast_state = with_unit_stride(dy), contiguous(dlast_state)
    gradients = backward_kernels.ScanGradients(
        rows.stream(dy),
        address_of(dlast_state),
        rows.stream(dx),
        rows.stream(ddt),
        rows.stream(dz),
        _first_part(parts[0], dB, rows),
        _first_part(parts[1], dC, rows),
        4 * parts.stride(1),
        dparameters.data_ptr(),
        dstates.data_ptr(),
        address_of(dinitial),
    )

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(backward_kernels.scratch_bytes(state))
        backward_kernels.scan_backward(layout, inputs, gradients, scratch, first, last)

    run_items(task, batch * partition.groups * partition.chunks, serial=_is_small(layout, batch))
    reduce_parameters(layout, batch, dparameters.data_ptr(), *map(address_of, (dA, dD, dbias)))
    _add_parts(parts, (dB, dC), partition.chunks)
    return results


scan_gradients = torch.library.custom_op("hf_audio_mamba::numba_scan_backward", mutates_args=())(compute_scan_gradients)


@scan_gradients.register_fake
def _scan_gradients_fake(
    dy: Tensor,
    dlast_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    dt_softplus: bool,
    reverse: bool,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> list[Tensor]:
    operands = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    return [x.new_empty(0 if tensor is None else tensor.shape) for tensor in operands]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *operands, dt_softplus, reverse, _, order, lengths = inputs
    ctx.save_for_backward(*operands, output[2], order, lengths)
    ctx.flags = (dt_softplus, reverse)
    ctx.set_materialize_grads(False)


def _differentiate(
    gradients_of: Callable[..., list[Tensor]], ctx: Any, dy: Tensor | None, dlast_state: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    *operands, states, order, lengths = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(operands[0])
    gradients = gradients_of(dy, dlast_state, *operands, states, *ctx.flags, order, lengths)
    wanted = [None if tensor is None else gradient for tensor, gradient in zip(operands, gradients, strict=True)]
    return (*wanted, None, None, None, None, None)


def _setup_eager_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[2])
    _setup_context(ctx, inputs, output)


scan.register_autograd(partial(_differentiate, scan_gradients), setup_context=_setup_context)
differentiable_scan = eager(compute_scan, _setup_eager_context, partial(_differentiate, compute_scan_gradients))
"""`compute_scan` with its gradient, not traced."""
