"""numba kernel of the four-route scan with one state per channel: the outputs of all routes meet in one map.

A work item is one map and one block of `LANES` channels. Its four routes run one after the other over the same cells,
which stay in the cache, and the step sizes are made of their low-rank factors on the way, which costs less than writing
and reading them: they would take four times the memory of the map.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import (
    ZERO,
    Stream,
    address_of,
    count_blocks,
    empty,
    pack_state,
    stream_of,
)
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    broadcast,
    exp2_clamped,
    fma,
    load,
    softplus,
    splat,
    store,
)
from hf_audio_mamba.ops.numba_masked import load_first, store_first
from hf_audio_mamba.ops.numba_threads import run_items

ROUTES = 4
_LOG2_E = np.float32(1.4426950408889634)
_SERIAL_UPDATES = 100_000  # state updates below which starting threads costs more than it saves


class CrossLayout(NamedTuple):
    """Sizes of one scan."""

    height: int
    width: int
    channels: int
    blocks: int
    rank: int
    softplus: int


class CrossInputs(NamedTuple):
    """What the scan reads: cells of x and y, and cells of dt, B and C, with their bytes from route to route."""

    x: Stream
    y: Stream
    dt: Stream
    B: Stream
    C: Stream
    dt_route: int
    B_route: int
    C_route: int
    parameters: int  # (routes, blocks, rank + 2, LANES): factors of the step size, its bias, A log2(e); then the D


class _Walk(NamedTuple):
    """A route: its first cell, and its steps in cells within a row or column and from one to the next."""

    first: int
    step: int
    steps: int
    turn: int
    turns: int


@kernel_part
def _walk(route: int, height: int, width: int) -> Any:
    """The way of a route over the cells of a map, numbered along its rows."""
    if route == 0:
        return _Walk(0, 1, width, width, height)
    if route == 1:
        return _Walk(0, width, height, 1, width)
    last = height * width - 1
    if route == 2:
        return _Walk(last, -1, width, -width, height)
    return _Walk(last, -width, height, -1, width)


@kernel_part
def _record(layout: CrossLayout, parameters: int, route: int, block: int) -> int:
    return parameters + (route * layout.blocks + block) * (layout.rank + 2) * BYTES


@kernel_part
def _skip(layout: CrossLayout, parameters: int, block: int) -> int:
    return parameters + (ROUTES * layout.blocks * (layout.rank + 2) + block) * BYTES


@kernel_part
def _follow(layout: CrossLayout, inputs: CrossInputs, row: int, block: int, route: int, count: int) -> None:
    """One route over one block of channels; the first route sets the output, the others add to it."""
    walk = _walk(route, layout.height, layout.width)
    record = _record(layout, inputs.parameters, route, block)
    bias = load(record + layout.rank * BYTES)
    rate = load(record + (layout.rank + 1) * BYTES)
    skip = load(_skip(layout, inputs.parameters, block))
    x_start = inputs.x.address + row * inputs.x.batch + block * BYTES
    y_start = inputs.y.address + row * inputs.y.batch + block * BYTES
    dt_start = inputs.dt.address + row * inputs.dt.batch + route * inputs.dt_route
    B_start = inputs.B.address + row * inputs.B.batch + route * inputs.B_route
    C_start = inputs.C.address + row * inputs.C.batch + route * inputs.C_route
    h = splat(ZERO)
    for turn in range(walk.turns):
        cell = walk.first + turn * walk.turn
        for _ in range(walk.steps):
            low = dt_start + cell * inputs.dt.step
            step = bias
            for n in range(layout.rank):
                step = fma(broadcast(low + 4 * n), load(record + n * BYTES), step)
            if layout.softplus != 0:
                step = softplus(step)
            value = load_first(x_start + cell * inputs.x.step, count)
            h = fma(exp2_clamped(step * rate), h, step * value * broadcast(B_start + cell * inputs.B.step))
            target = y_start + cell * inputs.y.step
            before = skip * value if route == 0 else load_first(target, count)
            store_first(target, fma(h, broadcast(C_start + cell * inputs.C.step), before), count)
            cell += walk.step


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points; see `numba_compile._source_stamp` for why they are made in a function."""

    @Kernel
    def pack_cross_parameters(layout: CrossLayout, parameters: int, weight: int, bias: int, A: int, D: int) -> None:
        """From (routes, channels, rank), (routes, channels), the same and the same; bias and D may be 0."""
        if stamp == 0:
            return
        channels, rank = layout.channels, layout.rank
        for block in range(layout.blocks):
            count = min(LANES, channels - block * LANES)
            total = splat(ZERO)
            for route in range(ROUTES):
                first = route * channels + block * LANES
                record = _record(layout, parameters, route, block)
                pack_state(record, weight + 4 * first * rank, rank, count)
                pack_state(record + rank * BYTES, bias + 4 * first if bias != 0 else 0, 1, count)
                rate = record + (rank + 1) * BYTES
                pack_state(rate, A + 4 * first, 1, count)
                store(rate, load(rate) * splat(_LOG2_E))
                if D != 0:
                    skip = _skip(layout, parameters, block)
                    pack_state(skip, D + 4 * first, 1, count)
                    total = total + load(skip)
            store(_skip(layout, parameters, block), total)

    @Kernel
    def cross_scan(layout: CrossLayout, inputs: CrossInputs, first: int, last: int) -> None:
        """Work items from first up to but not including last."""
        if stamp == 0:
            return
        for item in range(first, last):
            row = item // layout.blocks
            block = item - row * layout.blocks
            for route in range(ROUTES):
                _follow(layout, inputs, row, block, route, layout.channels - block * LANES)

    return pack_cross_parameters, cross_scan


pack_cross_parameters, cross_scan = _build(SOURCE_STAMP)


def compute_cross_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor,
    *,
    dt_softplus: bool,
) -> Tensor:
    """Run the four routes on float32 tensors, neither traced nor differentiated.

    Args:
        x: (batch, height, width, channels).
        dt: (batch, height, width, routes, rank).
        A: (routes, channels, 1).
        B: (batch, height, width, routes, 1), as is C.
        C: Output projection.
        D: (routes, channels) or None.
        dt_bias: (routes, channels) or None.
        dt_weight: (routes, channels, rank).
        dt_softplus: Whether softplus makes the time step positive.
    """
    batch, height, width, channels = x.shape
    blocks, rank = count_blocks(channels), dt_weight.shape[2]
    layout = CrossLayout(height, width, channels, blocks, rank, int(dt_softplus))
    x, dt, B, C = (_cells(tensor) for tensor in (x, dt, B, C))
    weights = [None if tensor is None else tensor.contiguous() for tensor in (dt_weight, dt_bias, A, D)]
    parameters = empty(ROUTES * blocks * (rank + 2) + blocks, LANES)
    pack_cross_parameters(layout, parameters.data_ptr(), *map(address_of, weights))
    y = empty(batch, height * width, channels)
    inputs = CrossInputs(
        stream_of(x),
        stream_of(y),
        stream_of(dt),
        stream_of(B),
        stream_of(C),
        4 * dt.stride(2),
        4 * B.stride(2),
        4 * C.stride(2),
        parameters.data_ptr(),
    )

    def task(first: int, last: int) -> None:
        cross_scan(layout, inputs, first, last)

    run_items(task, batch * blocks, serial=ROUTES * x.numel() < _SERIAL_UPDATES)
    return y.view(batch, height, width, channels)


def _cells(tensor: Tensor) -> Tensor:
    """A map with its cells in one row, (batch, cells, ...), its last axis without gaps."""
    cells = tensor.flatten(1, 2)
    return cells if cells.stride(-1) == 1 or cells.shape[-1] == 1 else cells.contiguous()
