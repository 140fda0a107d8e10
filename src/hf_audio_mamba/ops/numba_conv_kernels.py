"""numba kernels of the causal depth-wise convolution + SiLU.

Each tile of a block (see `numba_blocks`) is copied to scratch behind the `width - 1` rows before it, so that the taps
are loops over fixed places there, whatever the width, the strides and the number of channels.
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
    gather_lanes,
    item_place,
    pack_state,
    rows_of,
    scatter_lanes,
    sum_leading,
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

# Scratch of a thread: the rows before a tile, its rows, and two tiles of a block with fewer channels than lanes ...
_WINDOW = 0
_PADDED = 2 * TILE_BYTES
# ... and, in the backward pass, gradients before SiLU of a tile and of the rows after it, then of the rows after each
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


class ConvGradients(NamedTuple):
    """Where the backward pass reads and writes gradients."""

    dy: Stream
    dx: Stream
    dpast: Stream  # absent with past
    dparameters: int  # (batch, blocks, width + 1, LANES)


@kernel_part
def _copy_rows(target: int, source: Rows, rows: int, count: int) -> None:
    """Full vectors from rows of `count` channels; zeros if the rows are absent."""
    if source.address == 0:
        for t in range(rows):
            store(target + t * BYTES, splat(ZERO))
    elif count < LANES:
        gather_lanes(target, source, rows, count)
    else:
        for t in range(rows):
            prefetch(source.address + (t + TILE) * source.step)
            store(target + t * BYTES, load(source.address + t * source.step))


@kernel_part
def _fill_window(
    layout: ConvLayout, inputs: ConvInputs, scratch: int, row: int, start: int, rows: int, channel: int, count: int
) -> None:
    """Copy a tile's rows and the `width - 1` before them to the scratch."""
    past = layout.width - 1
    before = rows_of(inputs.past, row, 0, channel) if start == 0 else rows_of(inputs.x, row, start - past, channel)
    _copy_rows(scratch + _WINDOW, before, past, count)
    _copy_rows(scratch + _WINDOW + past * BYTES, rows_of(inputs.x, row, start, channel), rows, count)


@kernel_part
def _weighted_sum(window: int, record: int, width: int) -> Any:
    """Bias plus the sum of taps times rows, from the first row of a window on."""
    total = load(record + width * BYTES)
    for tap in range(width):
        total = fma(load(window + tap * BYTES), load(record + tap * BYTES), total)
    return total


@kernel_part
def _forward_item(layout: ConvLayout, inputs: ConvInputs, y: Stream, scratch: int, item: int) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    width = layout.width
    for start in range(0, layout.length, TILE):
        rows = min(TILE, layout.length - start)
        for channel in range(first, last, LANES):
            count = last - channel
            _fill_window(layout, inputs, scratch, row, start, rows, channel, count)
            record = inputs.parameters + (first_block + (channel - first) // LANES) * (width + 1) * BYTES
            target = rows_of(y, row, start, channel)
            out = Rows(scratch + _PADDED, BYTES) if count < LANES else target
            for t in range(rows):
                total = _weighted_sum(scratch + _WINDOW + t * BYTES, record, width)
                store(out.address + t * out.step, total * sigmoid(total))
            if count < LANES:
                scatter_lanes(target, out.address, rows, count)


@kernel_part
def _sum_gradients(scratch: int, rows: int, record: int, drecord: int, dy: Rows, width: int) -> None:
    """Gradients of the weighted sums of a tile, added also to those of the taps and the bias."""
    one = splat(_ONE)
    dbias = load(drecord + width * BYTES)
    for t in range(rows):
        prefetch(dy.address + (t - TILE) * dy.step)
        total = _weighted_sum(scratch + _WINDOW + t * BYTES, record, width)
        gate = sigmoid(total)
        dsum = load(dy.address + t * dy.step) * (gate * fma(total, one - gate, one))
        store(scratch + _DSUMS + t * BYTES, dsum)
        dbias = dbias + dsum
    store(drecord + width * BYTES, dbias)
    for tap in range(width):
        dtap = load(drecord + tap * BYTES)
        for t in range(rows):
            dtap = fma(load(scratch + _DSUMS + t * BYTES), load(scratch + _WINDOW + (t + tap) * BYTES), dtap)
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
    layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, item: int, start: int
) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    width = layout.width
    past = width - 1
    rows = min(TILE, layout.length - start)
    for channel in range(first, last, LANES):
        count = last - channel
        index = (channel - first) // LANES
        record = inputs.parameters + (first_block + index) * (width + 1) * BYTES
        drecord = (row * layout.partition.blocks + first_block + index) * (width + 1) * BYTES + gradients.dparameters
        carried = Rows(scratch + _CARRIED + index * TILE_BYTES, BYTES)
        _fill_window(layout, inputs, scratch, row, start, rows, channel, count)
        dy = rows_of(gradients.dy, row, start, channel)
        target = rows_of(gradients.dx, row, start, channel)
        dx = target
        if count < LANES:
            dy = gather_lanes(scratch + _PADDED, dy, rows, count)
            dx = Rows(scratch + _PADDED + TILE_BYTES, BYTES)
        _sum_gradients(scratch, rows, record, drecord, dy, width)
        _copy_rows(scratch + _DSUMS + rows * BYTES, carried, past, LANES)
        _input_gradients(scratch + _DSUMS, rows, record, dx, width)
        _copy_rows(carried.address, Rows(scratch + _DSUMS, BYTES), past, LANES)
        if count < LANES:
            scatter_lanes(target, dx.address, rows, count)


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
        _copy_rows(scratch + _DSUMS + past * BYTES, carried, past, LANES)
        _input_gradients(scratch + _DSUMS, past, record, Rows(scratch + _PADDED, BYTES), width)
        target = rows_of(gradients.dpast, row, 0, channel)
        scatter_lanes(target, scratch + _PADDED, past, min(LANES, last - channel))


@kernel_part
def _backward_item(layout: ConvLayout, inputs: ConvInputs, gradients: ConvGradients, scratch: int, item: int) -> None:
    row, _, first, last, first_block = item_place(layout.partition, item)
    blocks = (last - first + LANES - 1) // LANES
    place = (row * layout.partition.blocks + first_block) * (layout.width + 1) * BYTES
    _copy_rows(gradients.dparameters + place, Rows(0, 0), blocks * (layout.width + 1), LANES)
    _copy_rows(scratch + _CARRIED, Rows(0, 0), blocks * TILE, LANES)
    tiles = (layout.length + TILE - 1) // TILE
    for tile in range(tiles):
        _backward_tile(layout, inputs, gradients, scratch, item, (tiles - 1 - tile) * TILE)
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
