"""numba kernel of the selective scan's backward pass.

Tiles are visited from the last to the first. For each block and state the tile's decay factors and states are computed
again from the checkpoint at its start, then the gradient of the state runs backwards through it in a register. The
gradients of B and C, sums over channels, gather as vectors over the blocks of a work item and are added across lanes
once a tile; `numba_scan_reduce` adds those of the work items in order. No two threads write to one place, and no sum
depends on their number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hf_audio_mamba.ops.numba_blocks import (
    TILE,
    TILE_BYTES,
    ZERO,
    Rows,
    Stream,
    count_steps,
    gather_rows,
    item_place,
    pack_state,
    row_address,
    scatter_rows,
    table_at,
    tile_rows,
    unpack_state,
)
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    broadcast,
    exp2,
    exp2_clamped,
    fma,
    larger_magnitude,
    load,
    max_lanes,
    prefetch,
    sigmoid,
    softplus,
    splat,
    store,
    store_scalar,
    sum_lanes,
)
from hf_audio_mamba.ops.numba_scan_forward import EXP2_RANGE, ScanInputs, ScanLayout, gather_projections, state_address

_LN2 = np.float32(0.6931471805599453)
_ONE = np.float32(1.0)

# Scratch of a thread: rows of one tile of a block ...
_STEP = 0  # step size after softplus
_INFLOW = 1 * TILE_BYTES  # step x input
_OUTPUT = 2 * TILE_BYTES  # output before the gate
_INPUT = 3 * TILE_BYTES
_DY = 4 * TILE_BYTES  # gradient of the output before the gate
_DGATE = 5 * TILE_BYTES  # gradient of z over the output before the gate
_SLOPE = 6 * TILE_BYTES  # derivative of softplus
_DINFLOW = 7 * TILE_BYTES
_DEXPONENT = 8 * TILE_BYTES  # gradient of the step size through the decay, over ln 2
_DECAY = 9 * TILE_BYTES  # of one state
_H = 10 * TILE_BYTES  # states before and after each step: TILE + 1 vectors
_COPIES = 12 * TILE_BYTES  # four inputs and three gradients of a block whose rows are not full vectors in order
# ... then the tile's sums over channels for every state: dB, dC; then copies of B and C.
_SUMS = 19 * TILE_BYTES


class ScanGradients(NamedTuple):
    """Where the backward pass reads and writes gradients."""

    dy: Stream
    dlast_state: int  # (batch, channels, state), 0 if absent
    dx: Stream
    ddt: Stream
    dz: Stream  # absent with z
    dB: Stream  # (batch, length, groups x state) of the first chunk ...
    dC: Stream
    part_size: int  # ... and the bytes from there to the next chunk
    dparameters: int  # (batch, blocks, state + 2, LANES): A, then D, dt_bias
    dstates: int  # (batch, blocks, state, LANES)
    dfirst_state: int  # (batch, channels, state), 0 if not wanted


def scratch_bytes(state: int) -> int:
    """Scratch that one thread of the backward pass needs."""
    return _SUMS + 2 * state * TILE_BYTES + 8 * TILE * state


def _make_recompute(power: Callable[[Any], Any]) -> Any:
    """Decay factors and states of one state over the tile, and what it adds to the output."""

    @kernel_part
    def recompute(scratch: int, rows: int, A: int, state: int, B: Rows, C: Rows) -> None:
        rate = load(A)
        h = load(state)
        store(scratch + _H, h)
        for t in range(rows):
            place = scratch + t * BYTES
            decay = power(load(place + _STEP) * rate)
            store(place + _DECAY, decay)
            h = fma(decay, h, load(place + _INFLOW) * broadcast(B.address + t * B.step))
            store(place + _H + BYTES, h)
            store(place + _OUTPUT, fma(h, broadcast(C.address + t * C.step), load(place + _OUTPUT)))

    return recompute


_recompute = _make_recompute(exp2)
_recompute_clamped = _make_recompute(exp2_clamped)


@kernel_part
def _retreat(scratch: int, rows: int, A: int, dA: int, dstate: int, B: Rows, C: Rows, dB: int, dC: int) -> None:
    """Carry the gradient of one state backwards through the tile."""
    rate = load(A)
    drate = load(dA)
    dh = load(dstate)
    for back in range(rows):
        t = rows - 1 - back
        place = scratch + t * BYTES
        dy = load(place + _DY)
        dh = fma(dy, broadcast(C.address + t * C.step), dh)
        store(dC + t * BYTES, fma(dy, load(place + _H + BYTES), load(dC + t * BYTES)))
        store(dB + t * BYTES, fma(dh, load(place + _INFLOW), load(dB + t * BYTES)))
        inflow = fma(dh, broadcast(B.address + t * B.step), load(place + _DINFLOW))
        store(place + _DINFLOW, inflow)
        dh = dh * load(place + _DECAY)
        dexponent = dh * load(place + _H)
        store(place + _DEXPONENT, fma(dexponent, rate, load(place + _DEXPONENT)))
        drate = fma(dexponent, load(place + _STEP), drate)
    store(dA, drate)
    store(dstate, dh)


@kernel_part
def _enter_tile(
    scratch: int,
    table: int,
    rows: int,
    record: int,
    drecord: int,
    reads: tuple[Rows, Rows, Rows, Rows],
    apply_softplus: bool,
) -> float:
    """Fill the scratch rows, add to the gradient of D, return the largest exponent of the tile."""
    x, dt, z, dy = reads
    skip = load(record)
    bias = load(record + BYTES)
    dskip = load(drecord)
    zero = splat(ZERO)
    one = splat(_ONE)
    largest = zero
    for t in range(rows):
        prefetch(row_address(x, table, t - TILE))
        prefetch(row_address(dt, table, t - TILE))
        prefetch(row_address(dy, table, t - TILE))
        place = scratch + t * BYTES
        value = load(row_address(x, table, t))
        step = load(row_address(dt, table, t)) + bias
        slope = one
        if apply_softplus:
            slope = sigmoid(step)
            step = softplus(step)
        largest = larger_magnitude(step, largest)
        gradient = load(row_address(dy, table, t))
        if z.address != 0:
            prefetch(row_address(z, table, t - TILE))
            gate = load(row_address(z, table, t))
            open_ = sigmoid(gate)
            store(place + _DGATE, gradient * (open_ * fma(gate, one - open_, one)))
            gradient = gradient * (gate * open_)
        dskip = fma(gradient, value, dskip)
        store(place + _STEP, step)
        store(place + _INFLOW, step * value)
        store(place + _OUTPUT, skip * value)
        store(place + _INPUT, value)
        store(place + _DY, gradient)
        store(place + _SLOPE, slope)
        store(place + _DINFLOW, zero)
        store(place + _DEXPONENT, zero)
    store(drecord, dskip)
    exponent: float = max_lanes(largest * load(record + 2 * BYTES))
    return exponent


@kernel_part
def _leave_tile(
    scratch: int, table: int, rows: int, record: int, drecord: int, writes: tuple[Rows, Rows, Rows]
) -> None:
    """Write the gradients of x, dt and z, add to the one of dt_bias."""
    dx, ddt, dz = writes
    skip = load(record)
    dbias = load(drecord + BYTES)
    ln2 = splat(_LN2)
    for t in range(rows):
        place = scratch + t * BYTES
        dinflow = load(place + _DINFLOW)
        through_skip = load(place + _DY) * skip
        store(row_address(dx, table, t), fma(dinflow, load(place + _STEP), through_skip))
        dstep = fma(dinflow, load(place + _INPUT), load(place + _DEXPONENT) * ln2) * load(place + _SLOPE)
        dbias = dbias + dstep
        store(row_address(ddt, table, t), dstep)
        if dz.address != 0:
            store(row_address(dz, table, t), load(place + _DGATE) * load(place + _OUTPUT))
    store(drecord + BYTES, dbias)


@kernel_part
def _backward_states(
    layout: ScanLayout,
    scratch: int,
    rows: int,
    record: int,
    drecord: int,
    state: int,
    dstate: int,
    B: Rows,
    C: Rows,
    inside: bool,
) -> None:
    """All states of one tile of one block."""
    for n in range(layout.state):
        A = record + n * BYTES
        B_n = Rows(B.address + 4 * n, B.step)
        C_n = Rows(C.address + 4 * n, C.step)
        if inside:
            _recompute(scratch, rows, A, state + n * BYTES, B_n, C_n)
        else:
            _recompute_clamped(scratch, rows, A, state + n * BYTES, B_n, C_n)
        dB = scratch + _SUMS + n * TILE_BYTES
        dC = dB + layout.state * TILE_BYTES
        _retreat(scratch, rows, A, drecord + n * BYTES, dstate + n * BYTES, B_n, C_n, dB, dC)


@kernel_part
def _backward_block(
    layout: ScanLayout,
    scratch: int,
    table: int,
    rows: int,
    count: int,
    record: int,
    drecord: int,
    state: int,
    dstate: int,
    reads: tuple[Rows, Rows, Rows, Rows],
    writes: tuple[Rows, Rows, Rows],
    B: Rows,
    C: Rows,
) -> None:
    """One tile of one block; reads are x, dt, z, dy and writes dx, ddt, dz."""
    x, dt, z, dy = reads
    dx, ddt, dz = writes
    copies = scratch + _COPIES
    own_table = table
    if count < LANES:
        x = gather_rows(copies, x, table, rows, count)
        dt = gather_rows(copies + TILE_BYTES, dt, table, rows, count)
        z = gather_rows(copies + 2 * TILE_BYTES, z, table, rows, count)
        dy = gather_rows(copies + 3 * TILE_BYTES, dy, table, rows, count)
        dx = Rows(copies + 4 * TILE_BYTES, BYTES)
        ddt = Rows(copies + 5 * TILE_BYTES, BYTES)
        dz = Rows(copies + 6 * TILE_BYTES if z.address != 0 else 0, BYTES)
        table = 0
    size = layout.state * BYTES
    softplus_ = layout.softplus != 0
    exponent = _enter_tile(scratch, table, rows, record + size, drecord + size, (x, dt, z, dy), softplus_)
    _backward_states(layout, scratch, rows, record, drecord, state, dstate, B, C, exponent < EXP2_RANGE)
    _leave_tile(scratch, table, rows, record + size, drecord + size, (dx, ddt, dz))
    if count < LANES:
        scatter_rows(writes[0], dx.address, own_table, rows, count)
        scatter_rows(writes[1], ddt.address, own_table, rows, count)
        if dz.address != 0:
            scatter_rows(writes[2], dz.address, own_table, rows, count)


@kernel_part
def _write_sums(
    layout: ScanLayout, gradients: ScanGradients, scratch: int, item: int, table: int, start: int, rows: int
) -> None:
    """Add the tile's dB and dC across lanes into this work item's part."""
    state = layout.state
    row, group, _, _, _ = item_place(layout.partition, item)
    offset = item % layout.partition.chunks * gradients.part_size
    dB_rows = tile_rows(gradients.dB, table, row, start, group * state)
    dC_rows = tile_rows(gradients.dC, table, row, start, group * state)
    for n in range(state):
        dB = scratch + _SUMS + n * TILE_BYTES
        dC = dB + state * TILE_BYTES
        place = offset + 4 * n
        for t in range(rows):
            store_scalar(row_address(dB_rows, table, t) + place, sum_lanes(load(dB + t * BYTES)))
            store_scalar(row_address(dC_rows, table, t) + place, sum_lanes(load(dC + t * BYTES)))


@kernel_part
def _backward_tile(
    layout: ScanLayout, inputs: ScanInputs, gradients: ScanGradients, scratch: int, item: int, start: int, rows: int
) -> None:
    row, group, first, last, block = item_place(layout.partition, item)
    for index in range(2 * layout.state * TILE):
        store(scratch + _SUMS + index * BYTES, splat(ZERO))
    table = table_at(inputs.visits, row, start)
    copies = scratch + _SUMS + 2 * layout.state * TILE_BYTES
    B, C = gather_projections(inputs, copies, layout.state, table, (row, group, start, rows))
    blocks = layout.partition.blocks
    for channel in range(first, last, LANES):
        place = row * blocks + block
        reads = (
            tile_rows(inputs.x, table, row, start, channel),
            tile_rows(inputs.dt, table, row, start, channel),
            tile_rows(inputs.z, table, row, start, channel),
            tile_rows(gradients.dy, table, row, start, channel),
        )
        writes = (
            tile_rows(gradients.dx, table, row, start, channel),
            tile_rows(gradients.ddt, table, row, start, channel),
            tile_rows(gradients.dz, table, row, start, channel),
        )
        _backward_block(
            layout,
            scratch,
            table,
            rows,
            last - channel,
            inputs.parameters + block * (layout.state + 3) * BYTES,
            gradients.dparameters + place * (layout.state + 2) * BYTES,
            state_address(layout, inputs.states, row, start // TILE, block),
            gradients.dstates + place * layout.state * BYTES,
            reads,
            writes,
            B,
            C,
        )
        block += 1
    _write_sums(layout, gradients, scratch, item, table, start, rows)


@kernel_part
def _backward_item(layout: ScanLayout, inputs: ScanInputs, gradients: ScanGradients, scratch: int, item: int) -> None:
    row, _, first, last, block = item_place(layout.partition, item)
    state = layout.state
    place = row * layout.partition.blocks + block
    for channel in range(first, last, LANES):
        here = place + (channel - first) // LANES
        offset = 4 * (row * layout.partition.channels + channel) * state
        source = gradients.dlast_state + offset if gradients.dlast_state != 0 else 0
        pack_state(gradients.dstates + here * state * BYTES, source, state, last - channel)
        pack_state(gradients.dparameters + here * (state + 2) * BYTES, 0, state + 2, 0)
    steps = count_steps(inputs.visits, row, layout.length)
    tiles = (steps + TILE - 1) // TILE
    for tile in range(tiles):
        start = (tiles - 1 - tile) * TILE
        _backward_tile(layout, inputs, gradients, scratch, item, start, min(TILE, steps - start))
    if gradients.dfirst_state != 0:
        for channel in range(first, last, LANES):
            here = place + (channel - first) // LANES
            target = gradients.dfirst_state + 4 * (row * layout.partition.channels + channel) * state
            unpack_state(target, gradients.dstates + here * state * BYTES, state, min(LANES, last - channel))


def _build(stamp: int) -> Kernel:
    """The compiled entry point, made in a function so that its cache sees the stamp."""

    @Kernel
    def scan_backward(
        layout: ScanLayout, inputs: ScanInputs, gradients: ScanGradients, scratch: int, first: int, last: int
    ) -> None:
        if stamp != 0:
            for item in range(first, last):
                _backward_item(layout, inputs, gradients, scratch, item)

    return scan_backward


scan_backward = _build(SOURCE_STAMP)
