"""numba kernel of a depth-wise 3 x 3 convolution over channels-last maps, with SiLU on its way out."""

from typing import Any, NamedTuple

from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import address_of, count_blocks, empty, pack_state
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, fma, load, sigmoid
from hf_audio_mamba.ops.numba_masked import load_first, store_first
from hf_audio_mamba.ops.numba_threads import run_items

_TAPS = 9
_SERIAL_CELLS = 100_000  # values below which starting threads costs more than it saves


class DepthwiseLayout(NamedTuple):
    """Sizes of one call."""

    height: int
    width: int
    channels: int
    blocks: int
    parameters: int  # (blocks, taps + 1, LANES): weights and bias


@kernel_part
def _column(cell: int, row: int, weights: int, above: bool, below: bool, count: int, total: Any) -> Any:
    """Add what the three cells of a column contribute; `weights` is that of the one above."""
    if above:
        total = fma(load_first(cell - row, count), load(weights), total)
    total = fma(load_first(cell, count), load(weights + 3 * BYTES), total)
    if below:
        total = fma(load_first(cell + row, count), load(weights + 6 * BYTES), total)
    return total


@kernel_part
def _inner(cell: int, step: int, row: int, weights: int, count: int) -> Any:
    """The sum over all nine cells."""
    total = load(weights + _TAPS * BYTES)
    for line in range(3):
        place = cell + (line - 1) * row
        tap = weights + 3 * line * BYTES
        total = fma(load_first(place - step, count), load(tap), total)
        total = fma(load_first(place, count), load(tap + BYTES), total)
        total = fma(load_first(place + step, count), load(tap + 2 * BYTES), total)
    return total


@kernel_part
def _line(layout: DepthwiseLayout, x: int, y: int, line: int, block: int) -> None:
    """One row of a map, one block of channels; x and y are those of the row's first cell."""
    step = 4 * layout.channels
    row = layout.width * step
    weights = layout.parameters + block * (_TAPS + 1) * BYTES
    count = layout.channels - block * LANES
    above, below = line > 0, line < layout.height - 1
    for place in range(layout.width):
        cell = x + place * step
        if above and below and place > 0 and place < layout.width - 1:
            total = _inner(cell, step, row, weights, count)
        else:
            total = load(weights + _TAPS * BYTES)
            if place > 0:
                total = _column(cell - step, row, weights, above, below, count, total)
            total = _column(cell, row, weights + BYTES, above, below, count, total)
            if place < layout.width - 1:
                total = _column(cell + step, row, weights + 2 * BYTES, above, below, count, total)
        store_first(y + place * step, total * sigmoid(total), count)


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points; see `numba_compile._source_stamp` for why they are made in a function."""

    @Kernel
    def pack_taps(layout: DepthwiseLayout, weight: int, bias: int) -> None:
        """From (channels, taps) and (channels,) or 0."""
        if stamp == 0:
            return
        for block in range(layout.blocks):
            first = block * LANES
            count = min(LANES, layout.channels - first)
            record = layout.parameters + block * (_TAPS + 1) * BYTES
            pack_state(record, weight + 4 * first * _TAPS, _TAPS, count)
            pack_state(record + _TAPS * BYTES, bias + 4 * first if bias != 0 else 0, 1, count)

    @Kernel
    def depthwise_silu(layout: DepthwiseLayout, x: int, y: int, first: int, last: int) -> None:
        """Rows of all maps from first up to but not including last."""
        if stamp == 0:
            return
        size = 4 * layout.width * layout.channels
        for block in range(layout.blocks):
            for item in range(first, last):
                place = item * size + block * BYTES
                _line(layout, x + place, y + place, item % layout.height, block)

    return pack_taps, depthwise_silu


pack_taps, depthwise_silu = _build(SOURCE_STAMP)


def compute_depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """SiLU of the convolution of contiguous float32 tensors, zeros around the map, without gradients.

    Args:
        x: (batch, height, width, channels).
        weight: (channels, 1, 3, 3).
        bias: (channels,) or None.
    """
    batch, height, width, channels = x.shape
    blocks = count_blocks(channels)
    parameters, y = empty(blocks, _TAPS + 1, LANES), empty(*x.shape)
    layout = DepthwiseLayout(height, width, channels, blocks, parameters.data_ptr())
    pack_taps(layout, weight.data_ptr(), address_of(bias))

    def task(first: int, last: int) -> None:
        depthwise_silu(layout, x.data_ptr(), y.data_ptr(), first, last)

    run_items(task, batch * height, serial=x.numel() < _SERIAL_CELLS)
    return y
