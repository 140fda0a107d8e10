"""numba kernels of the causal depth-wise convolution + SiLU.

A window is a tile's rows (see `numba_blocks`) behind the `width - 1` rows before it. The forward pass reads it in place
if it can; it is copied to scratch at a sequence's start, where rows have fewer channels than lanes, and in the backward
pass, which reads it several times.
"""

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
    item_place,
    pack_state,
    row_address,
    rows_of,
    scatter_rows,
    sum_leading,
    table_at,
    tile_rows,
    unpack_state,
)
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    copy_floats,
    fma,
    load,
    prefetch,
    sigmoid,
    splat,
    store,
)

MAX_WIDTH = TILE  # a tile needs at most the one before it
_ONE = np.float32(1.0)

# Scratch of a thread: the rows before a tile, its rows; two tiles of a block whose rows are not full vectors in order;
_WINDOW = 0
_COPIES = 2 * TILE_BYTES
# and, in the backward pass, gradients before SiLU of a tile and of the rows after it, then of the rows after each
# block's tile.
_DSUMS = 4 * TILE_BYTES
_CARRIED = 6 * TILE_BYTES
FORWARD_SCRATCH_BYTES = 4 * TILE_BYTES


def backward_scratch_bytes(chunk: int) -> int:
    """Scratch that one thread of the backward pass needs."""
    return _CARRIED + chunk // LANES * TILE_BYTES


class ConvLayout(NamedTuple):
    """Sizes of one convolution."""

    partition: Partition
    length: int
    width: int


class ConvInputs(NamedTuple):
    """What the convolution reads."""

    x: Stream
    past: Stream  # (batch, width - 1, channels) in scan order; absent for zeros
    parameters: int  # (blocks, width + 1, LANES): taps, then the bias
    visits: Visits


class ConvGradients(NamedTuple):
    """Where the backward pass reads and writes gradients."""

    dy: Stream
    dx: Stream
    dpast: Stream  # absent with past
    dparameters: int  # (batch, blocks, width + 1, LANES)


@kernel_part
def _copy_rows(target: int, source: Rows, table: int, rows: int, count: int) -> None:
    """Full vectors from rows of `count` channels; zeros if the rows are absent."""
    if source.address == 0:
        for t in range(rows):
            store(target + t * BYTES, splat(ZERO))
    elif count < LANES or table != 0:
        gather_rows(target, source, table, rows, count)
    else:
        for t in range(rows):
            store(target + t * BYTES, load(source.address + t * source.step))


@kernel_part
def _window(
    layout: ConvLayout, inputs: ConvInputs, scratch: int, row: int, start: int, rows: int, channel: int, count: int
) -> Rows:
    """Copy of a tile's rows behind the `width - 1` before them."""
    past = layout.width - 1
    table = table_at(inputs.visits, row, start)
    if start == 0:
        _copy_rows(scratch + _WINDOW, rows_of(inputs.past, row, 0, channel), 0, past, count)
    else:
        before = table_at(inputs.visits, row, start - past)
        _copy_rows(scratch + _WINDOW, tile_rows(inputs.x, before, row, start - past, channel), before, past, count)
    own = tile_rows(inputs.x, table, row, start, channel)
    _copy_rows(scratch + _WINDOW + past * BYTES, own, table, rows, count)
    return Rows(scratch + _WINDOW, BYTES)


@kernel_part
def _weighted_sum(window: Rows, t: int, record: int, width: int) -> Any:
    """Bias plus the sum of taps times rows, from row `t` of a window on."""
    total = load(record + width * BYTES)
    for tap in range(width):
        total = fma(load(window.address + (t + tap) * window.step), load(record + tap * BYTES), total)
    return total


@kernel_part
def _convolve_tile(window: Rows, rows: int, record: int, width: int, out: Rows, table: int) -> None:
    """Any width, from a window without a table."""
    for t in range(rows):
        prefetch(window.address + (t + width - 1 + TILE) * window.step)
        total = _weighted_sum(window, t, record, width)
        store(row_address(out, table, t), total * sigmoid(total))


@kernel_part
def _convolve_tile_of_four(window: Rows, before: int, rows: int, record: int, out: Rows, table: int) -> None:
    """The width of all published models: taps and rows stay in registers; `before` is the window's table, if any."""
    first = load(record)
    second = load(record + BYTES)
    third = load(record + 2 * BYTES)
    fourth = load(record + 3 * BYTES)
    bias = load(record + 4 * BYTES)
    oldest = load(row_address(window, before, 0))
    older = load(row_address(window, before, 1))
    old = load(row_address(window, before, 2))
    for t in range(rows):
        prefetch(row_address(window, before, t + 3 + TILE))
        newest = load(row_address(window, before, t + 3))
        total = fma(newest, fourth, fma(old, third, fma(older, second, fma(oldest, first, bias))))
        store(row_address(out, table, t), total * sigmoid(total))
        oldest, older, old = older, old, newest


@kernel_part
def _forward_item(layout: ConvLayout, inputs: ConvInputs, y: Stream, scratch: int, item: int) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    width = layout.width
    steps = count_steps(inputs.visits, row, layout.length)
    for start in range(0, steps, TILE):
        rows = min(TILE, steps - start)
        table = table_at(inputs.visits, row, start)
        for channel in range(first, last, LANES):
            count = last - channel
            record = inputs.parameters + (first_block + (channel - first) // LANES) * (width + 1) * BYTES
            target = tile_rows(y, table, row, start, channel)
            in_place = start > 0 and count >= LANES and (width == 4 or table == 0)
            before = table_at(inputs.visits, row, start - width + 1) if in_place else 0
            if in_place:
                window = tile_rows(inputs.x, before, row, start - width + 1, channel)
            else:
                window = _window(layout, inputs, scratch, row, start, rows, channel, count)
            out = Rows(scratch + _COPIES, BYTES) if count < LANES else target
            out_table = 0 if count < LANES else table
            if width == 4:
                _convolve_tile_of_four(window, before, rows, record, out, out_table)
            else:
                _convolve_tile(window, rows, record, width, out, out_table)
            if count < LANES:
                scatter_rows(target, out.address, table, rows, count)


@kernel_part
def _sum_gradients(window: Rows, scratch: int, rows: int, record: int, drecord: int, dy: Rows, width: int) -> None:
    """Gradients of the weighted sums of a tile, added also to those of the taps and the bias."""
    one = splat(_ONE)
    dbias = load(drecord + width * BYTES)
    for t in range(rows):
        prefetch(dy.address + (t - TILE) * dy.step)
        total = _weighted_sum(window, t, record, width)
        gate = sigmoid(total)
        dsum = load(dy.address + t * dy.step) * (gate * fma(total, one - gate, one))
        store(scratch + _DSUMS + t * BYTES, dsum)
        dbias = dbias + dsum
    store(drecord + width * BYTES, dbias)
    for tap in range(width):
        dtap = load(drecord + tap * BYTES)
        for t in range(rows):
            dtap = fma(load(scratch + _DSUMS + t * BYTES), load(window.address + (t + tap) * window.step), dtap)
        store(drecord + tap * BYTES, dtap)


@kernel_part
def _input_gradients(dsums: int, rows: int, record: int, dx: Rows, width: int) -> None:
    """Gradient of each row: taps times the sums that it entered, which begin at its own."""
    for t in range(rows):
        total = splat(ZERO)
        for tap in range(width):
            total = fma(load(dsums + (t + tap) * BYTES), load(record + (width - 1 - tap) * BYTES), total)
        store(dx.address + t * dx.step, total)


@kernel_part
def _backward_tile(
    layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, item: int, start: int, rows: int
) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    width = layout.width
    past = width - 1
    table = table_at(inputs.visits, row, start)
    for channel in range(first, last, LANES):
        count = last - channel
        index = (channel - first) // LANES
        record = inputs.parameters + (first_block + index) * (width + 1) * BYTES
        drecord = (row * layout.partition.blocks + first_block + index) * (width + 1) * BYTES + gradients.dparameters
        carried = Rows(scratch + _CARRIED + index * TILE_BYTES, BYTES)
        window = _window(layout, inputs, scratch, row, start, rows, channel, count)
        dy = tile_rows(gradients.dy, table, row, start, channel)
        target = tile_rows(gradients.dx, table, row, start, channel)
        dx = target
        gathered = count < LANES or table != 0
        if gathered:
            dy = gather_rows(scratch + _COPIES, dy, table, rows, count)
            dx = Rows(scratch + _COPIES + TILE_BYTES, BYTES)
        _sum_gradients(window, scratch, rows, record, drecord, dy, width)
        _copy_rows(scratch + _DSUMS + rows * BYTES, carried, 0, past, LANES)
        _input_gradients(scratch + _DSUMS, rows, record, dx, width)
        _copy_rows(carried.address, Rows(scratch + _DSUMS, BYTES), 0, past, LANES)
        if gathered:
            scatter_rows(target, dx.address, table, rows, count)


@kernel_part
def _past_gradients(layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, item: int) -> None:
    """Gradients of the rows before the first, from the sums that the last tile carried on."""
    row, _, first, last, first_block = item_place(layout.partition, item)
    width = layout.width
    past = width - 1
    for channel in range(first, last, LANES):
        index = (channel - first) // LANES
        record = inputs.parameters + (first_block + index) * (width + 1) * BYTES
        for t in range(past):  # these rows lie before the sums: zeros there
            store(scratch + _DSUMS + t * BYTES, splat(ZERO))
        carried = Rows(scratch + _CARRIED + index * TILE_BYTES, BYTES)
        _copy_rows(scratch + _DSUMS + past * BYTES, carried, 0, past, LANES)
        _input_gradients(scratch + _DSUMS, past, record, Rows(scratch + _COPIES, BYTES), width)
        target = rows_of(gradients.dpast, row, 0, channel)
        scatter_rows(target, scratch + _COPIES, 0, past, min(LANES, last - channel))


@kernel_part
def _backward_item(layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, item: int) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    blocks = (last - first + LANES - 1) // LANES
    place = (row * layout.partition.blocks + first_block) * (layout.width + 1) * BYTES
    _copy_rows(gradients.dparameters + place, Rows(0, 0), 0, blocks * (layout.width + 1), LANES)
    _copy_rows(scratch + _CARRIED, Rows(0, 0), 0, blocks * TILE, LANES)
    steps = count_steps(inputs.visits, row, layout.length)
    tiles = (steps + TILE - 1) // TILE
    for tile in range(tiles):
        start = (tiles - 1 - tile) * TILE
        _backward_tile(layout, inputs, gradients, scratch, item, start, min(TILE, steps - start))
    if gradients.dpast.address != 0:
        _past_gradients(layout, inputs, gradients, scratch, item)


@kernel_part
def _unpack_parameters(layout: ConvLayout, sums: int, dweight: int, dbias: int) -> None:
    """(blocks, width + 1, LANES) to (channels, width) and (channels,); dbias is 0 where not wanted."""
    width, channels = layout.width, layout.partition.channels
    for channel in range(0, channels, LANES):
        count = min(LANES, channels - channel)
        record = sums + (channel // LANES) * (width + 1) * BYTES
        unpack_state(dweight + 4 * channel * width, record, width, count)
        if dbias != 0:
            copy_floats(dbias + 4 * channel, record + width * BYTES, count)


@kernel_part
def _pack_block(layout: ConvLayout, parameters: int, weight: int, bias: int, block: int) -> None:
    channel = block * LANES
    count = min(LANES, layout.partition.channels - channel)
    record = parameters + block * (layout.width + 1) * BYTES
    pack_state(record, weight + 4 * channel * layout.width, layout.width, count)
    pack_state(record + layout.width * BYTES, bias + 4 * channel if bias != 0 else 0, 1, count)


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points; see `numba_compile._source_stamp` for why they are made in a function."""

    @Kernel
    def conv_pack(layout: ConvLayout, parameters: int, weight: int, bias: int) -> None:
        if stamp != 0:
            for block in range(layout.partition.blocks):
                _pack_block(layout, parameters, weight, bias, block)

    @Kernel
    def conv_forward(layout: ConvLayout, inputs: ConvInputs, y: Stream, scratch: int, first: int, last: int) -> None:
        if stamp != 0:
            for item in range(first, last):
                _forward_item(layout, inputs, y, scratch, item)

    @Kernel
    def conv_backward(
        layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, first: int, last: int
    ) -> None:
        if stamp != 0:
            for item in range(first, last):
                _backward_item(layout, inputs, gradients, scratch, item)

    @Kernel
    def conv_reduce(layout: ConvLayout, batch: int, dparameters: int, dweight: int, dbias: int) -> None:
        if stamp != 0:
            sum_leading(dparameters, dparameters, batch, layout.partition.blocks * (layout.width + 1))
            _unpack_parameters(layout, dparameters, dweight, dbias)

    return conv_pack, conv_forward, conv_backward, conv_reduce


conv_pack, conv_forward, conv_backward, conv_reduce = _build(SOURCE_STAMP)
