"""numba kernel of the selective scan's forward pass, and the layout that the backward pass shares.

Within a tile of a block (see `numba_blocks`) the kernel goes over the states one at a time, its row of `h` in a
register for the whole tile. So nothing depends on the number of states but the length of a loop, and no machine has
too few registers. The state is written once a tile: to the next slot of `states` when the backward pass will want it
as a checkpoint, else to the same slot again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hf_audio_mamba.ops.numba_blocks import (
    TILE,
    TILE_BYTES,
    ZERO,
    Partition,
    Rows,
    Stream,
    Visits,
    count_steps,
    gather_rows,
    gather_values,
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
    stream_store,
)

LOG2_E = 1.4426950408889634
EXP2_RANGE = np.float32(126.0)  # exponents inside which exp2 needs no clamp

# Scratch of a thread: step sizes, step x input, output; copies of x, dt, z and y; then copies of B and C.
_PROJECTIONS = 7 * TILE_BYTES


class ScanLayout(NamedTuple):
    """Sizes of one scan."""

    partition: Partition
    length: int
    state: int
    slots: int  # state slots of a batch row: 1, or one a tile and one for the last state
    softplus: int
    streaming: int  # whether outputs go past the caches


class ScanInputs(NamedTuple):
    """What the scan reads: x, dt, z and B, C (which also step over groups), and the packed parameters and states."""

    x: Stream
    dt: Stream
    z: Stream
    B: Stream
    C: Stream
    B_group: int  # floats from one group's B to the next group's
    C_group: int
    parameters: int  # (blocks, state + 3, LANES): A log2(e), then D, dt_bias and the largest |A log2(e)|
    states: int  # (batch, slots, blocks, state, LANES)
    visits: Visits


def forward_scratch_bytes(state: int) -> int:
    """Scratch that one thread of the forward pass needs."""
    return _PROJECTIONS + 8 * TILE * state


@kernel_part
def _pack_item(layout: ScanLayout, parameters: int, A: int, D: int, bias: int, item: int) -> None:
    state = layout.state
    _, _, first, last, block = item_place(layout.partition, item)
    for channel in range(first, last, LANES):
        record = parameters + block * (state + 3) * BYTES
        count = min(LANES, last - channel)
        pack_state(record, A + 4 * channel * state, state, count)
        largest = splat(ZERO)
        for n in range(state):
            row = load(record + n * BYTES) * splat(np.float32(LOG2_E))
            largest = larger_magnitude(row, largest)
            store(record + n * BYTES, row)
        pack_state(record + state * BYTES, D + 4 * channel if D != 0 else 0, 1, count)
        pack_state(record + (state + 1) * BYTES, bias + 4 * channel if bias != 0 else 0, 1, count)
        store(record + (state + 2) * BYTES, splat(max_lanes(largest)))
        block += 1


@kernel_part
def state_address(layout: ScanLayout, states: int, row: int, slot: int, block: int) -> int:
    """Address of the (state, LANES) vectors of one slot and block."""
    return states + ((row * layout.slots + slot) * layout.partition.blocks + block) * layout.state * BYTES


def _make_advance(power: Callable[[Any], Any]) -> Any:
    """The time loop over one state; scratch rows are step sizes, step x input, output."""

    @kernel_part
    def advance(scratch: int, rows: int, A: int, state: int, B: Rows, C: Rows) -> Any:
        rate = load(A)
        h = load(state)
        for t in range(rows):
            place = scratch + t * BYTES
            inflow = load(place + TILE_BYTES) * broadcast(B.address + t * B.step)
            h = fma(power(load(place) * rate), h, inflow)
            output = place + 2 * TILE_BYTES
            store(output, fma(h, broadcast(C.address + t * C.step), load(output)))
        return h

    return advance


_advance = _make_advance(exp2)
_advance_clamped = _make_advance(exp2_clamped)


@kernel_part
def _enter_tile(scratch: int, table: int, rows: int, record: int, x: Rows, dt: Rows, apply_softplus: bool) -> float:
    """Fill the scratch rows and return the largest exponent of the tile; record is (D, dt_bias, max |A|)."""
    skip = load(record)
    bias = load(record + BYTES)
    largest = splat(ZERO)
    for t in range(rows):
        prefetch(row_address(x, table, t + TILE))
        prefetch(row_address(dt, table, t + TILE))
        value = load(row_address(x, table, t))
        step = load(row_address(dt, table, t)) + bias
        if apply_softplus:
            step = softplus(step)
        largest = larger_magnitude(step, largest)
        place = scratch + t * BYTES
        store(place, step)
        store(place + TILE_BYTES, step * value)
        store(place + 2 * TILE_BYTES, skip * value)
    exponent: float = max_lanes(largest * load(record + 2 * BYTES))
    return exponent


@kernel_part
def _leave_tile(scratch: int, table: int, rows: int, y: Rows, z: Rows) -> None:
    """Gate the output rows and write them."""
    for t in range(rows):
        output = load(scratch + 2 * TILE_BYTES + t * BYTES)
        if z.address != 0:
            prefetch(row_address(z, table, t + TILE))
            gate = load(row_address(z, table, t))
            output = output * (gate * sigmoid(gate))
        store(row_address(y, table, t), output)


@kernel_part
def _forward_single_state(
    layout: ScanLayout,
    table: int,
    rows: int,
    record: int,
    streams: tuple[Rows, Rows, Rows, Rows],
    B: Rows,
    C: Rows,
    h: Any,
) -> Any:
    """The tile of a block with one state, in one go; streams are x, dt, z, y. Returns the new state."""
    x, dt, z, y = streams
    rate = load(record)
    skip = load(record + BYTES)
    bias = load(record + 2 * BYTES)
    for t in range(rows):
        prefetch(row_address(x, table, t + TILE))
        prefetch(row_address(dt, table, t + TILE))
        value = load(row_address(x, table, t))
        step = load(row_address(dt, table, t)) + bias
        if layout.softplus != 0:
            step = softplus(step)
        h = fma(exp2_clamped(step * rate), h, step * value * broadcast(B.address + t * B.step))
        output = fma(h, broadcast(C.address + t * C.step), skip * value)
        if z.address != 0:
            prefetch(row_address(z, table, t + TILE))
            gate = load(row_address(z, table, t))
            output = output * (gate * sigmoid(gate))
        if layout.streaming != 0 and (y.address | y.step) % BYTES == 0:
            stream_store(row_address(y, table, t), output)
        else:
            store(row_address(y, table, t), output)
    return h


@kernel_part
def _forward_states(
    layout: ScanLayout, scratch: int, rows: int, record: int, before: int, after: int, B: Rows, C: Rows, inside: bool
) -> None:
    """All states of one tile of one block."""
    for n in range(layout.state):
        A = record + n * BYTES
        B_n = Rows(B.address + 4 * n, B.step)
        C_n = Rows(C.address + 4 * n, C.step)
        if inside:
            h = _advance(scratch, rows, A, before + n * BYTES, B_n, C_n)
        else:
            h = _advance_clamped(scratch, rows, A, before + n * BYTES, B_n, C_n)
        store(after + n * BYTES, h)


@kernel_part
def _forward_block(
    layout: ScanLayout,
    scratch: int,
    table: int,
    rows: int,
    count: int,
    record: int,
    before: int,
    after: int,
    x: Rows,
    dt: Rows,
    z: Rows,
    y: Rows,
    B: Rows,
    C: Rows,
) -> None:
    """One tile of one block of channels, whose state goes from address `before` to address `after`."""
    target = y
    own_table = table
    if count < LANES:
        copies = scratch + 3 * TILE_BYTES
        x = gather_rows(copies, x, table, rows, count)
        dt = gather_rows(copies + TILE_BYTES, dt, table, rows, count)
        z = gather_rows(copies + 2 * TILE_BYTES, z, table, rows, count)
        y = Rows(copies + 3 * TILE_BYTES, BYTES)
        table = 0
    state = layout.state
    if state == 1:
        store(after, _forward_single_state(layout, table, rows, record, (x, dt, z, y), B, C, load(before)))
    else:
        exponent = _enter_tile(scratch, table, rows, record + state * BYTES, x, dt, layout.softplus != 0)
        _forward_states(layout, scratch, rows, record, before, after, B, C, exponent < EXP2_RANGE)
        _leave_tile(scratch, table, rows, y, z)
    if count < LANES:
        scatter_rows(target, y.address, own_table, rows, count)


@kernel_part
def gather_projections(
    inputs: ScanInputs, target: int, state: int, table: int, place: tuple[int, int, int, int]
) -> Any:
    """Rows of B and C for a tile at (batch row, group, first step, steps), copied where a table numbers them."""
    row, group, start, rows = place
    B = tile_rows(inputs.B, table, row, start, group * inputs.B_group)
    C = tile_rows(inputs.C, table, row, start, group * inputs.C_group)
    if table != 0:
        B = gather_values(target, B, table, rows, state)
        C = gather_values(target + 4 * TILE * state, C, table, rows, state)
    return B, C


@kernel_part
def _forward_tile(
    layout: ScanLayout, inputs: ScanInputs, y: Stream, scratch: int, item: int, start: int, rows: int
) -> None:
    """One tile of all channels of a work item."""
    row, group, first, last, block = item_place(layout.partition, item)
    slot = start // TILE if layout.slots > 1 else 0
    next_slot = slot + 1 if layout.slots > 1 else 0
    table = table_at(inputs.visits, row, start)
    B, C = gather_projections(inputs, scratch + _PROJECTIONS, layout.state, table, (row, group, start, rows))
    for channel in range(first, last, LANES):
        _forward_block(
            layout,
            scratch,
            table,
            rows,
            last - channel,
            inputs.parameters + block * (layout.state + 3) * BYTES,
            state_address(layout, inputs.states, row, slot, block),
            state_address(layout, inputs.states, row, next_slot, block),
            tile_rows(inputs.x, table, row, start, channel),
            tile_rows(inputs.dt, table, row, start, channel),
            tile_rows(inputs.z, table, row, start, channel),
            tile_rows(y, table, row, start, channel),
            B,
            C,
        )
        block += 1


@kernel_part
def _forward_item(
    layout: ScanLayout, inputs: ScanInputs, y: Stream, first_state: int, last_state: int, scratch: int, item: int
) -> None:
    row, _, first, last, block = item_place(layout.partition, item)
    size = 4 * layout.state
    for channel in range(first, last, LANES):
        source = first_state + (row * layout.partition.channels + channel) * size if first_state != 0 else 0
        target = state_address(layout, inputs.states, row, 0, block + (channel - first) // LANES)
        pack_state(target, source, layout.state, last - channel)
    steps = count_steps(inputs.visits, row, layout.length)
    for start in range(0, steps, TILE):
        _forward_tile(layout, inputs, y, scratch, item, start, min(TILE, steps - start))
    slot = (steps + TILE - 1) // TILE if layout.slots > 1 else 0
    for channel in range(first, last, LANES):
        source = state_address(layout, inputs.states, row, slot, block + (channel - first) // LANES)
        target = last_state + (row * layout.partition.channels + channel) * size
        unpack_state(target, source, layout.state, min(LANES, last - channel))


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points; see `numba_compile._source_stamp` for why they are made in a function."""

    @Kernel
    def pack_parameters(layout: ScanLayout, parameters: int, A: int, D: int, bias: int) -> None:
        if stamp != 0:
            for part in range(layout.partition.groups * layout.partition.chunks):
                _pack_item(layout, parameters, A, D, bias, part)

    @Kernel
    def scan_forward(
        layout: ScanLayout,
        inputs: ScanInputs,
        y: Stream,
        first_state: int,
        last_state: int,
        scratch: int,
        first: int,
        last: int,
    ) -> None:
        if stamp != 0:
            for item in range(first, last):
                _forward_item(layout, inputs, y, first_state, last_state, scratch, item)

    return pack_parameters, scan_forward


pack_parameters, scan_forward = _build(SOURCE_STAMP)
