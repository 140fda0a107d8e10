"""numba kernel of a convolution over channels-last maps with the layer normalisation, and if wanted the GELU, after it.

A work item is a tile of `TOKENS` cells of the output. What each of them sees is gathered as features of a token, in the
order in which the weight has it in memory, and from there on it is a linear layer (see `numba_token_layers`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import ZERO, address_of, empty, scratch_memory
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, copy_float, load_scalar, splat, store, store_scalar
from hf_audio_mamba.ops.numba_masked import load_first
from hf_audio_mamba.ops.numba_threads import run_items
from hf_audio_mamba.ops.numba_tiles import ROW_BYTES, TILE_VECTORS, TOKENS, transpose_square
from hf_audio_mamba.ops.numba_token_layers import activate, begin, multiply, normalise, padded, scatter

Int64Array = npt.NDArray[np.int64]


class PatchLayout(NamedTuple):
    """Sizes of one call."""

    tokens: int  # cells of all output maps
    height: int  # of the input
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    gelu: int
    epsilon: float


class PatchWeights(NamedTuple):
    """Addresses of contiguous float32 tensors; 0 for what is absent."""

    weight: int  # (out_channels, channels, kernel, kernel)
    bias: int
    norm_weight: int
    norm_bias: int


@kernel_part
def _locate(layout: PatchLayout, x: int, first: int, count: int, corners: Int64Array) -> None:
    """For each token of a tile (address of its map, row and column of the first cell that it sees)."""
    size = 4 * layout.height * layout.width * layout.channels
    cells = layout.out_height * layout.out_width
    for token in range(count):
        image, cell = divmod(first + token, cells)
        row, column = divmod(cell, layout.out_width)
        corners[token, 0] = x + image * size
        corners[token, 1] = row * layout.stride - layout.padding
        corners[token, 2] = column * layout.stride - layout.padding


@kernel_part
def _sources(layout: PatchLayout, corners: Int64Array, first: int, present: int, tap: int, sources: Int64Array) -> None:
    """Addresses of the cells that a tap sees for LANES tokens; 0 outside of the map and beyond the last token."""
    line, place = divmod(tap, layout.kernel)
    for token in range(LANES):
        sources[token] = 0
        if token < present:
            row = corners[first + token, 1] + line
            column = corners[first + token, 2] + place
            if 0 <= row < layout.height and 0 <= column < layout.width:
                cell = row * layout.width + column
                sources[token] = corners[first + token, 0] + 4 * cell * layout.channels


@kernel_part
def _run(layout: PatchLayout, corners: Int64Array, first: int, present: int, tap: int) -> int:
    """Address of the cell that a tap sees for the first of LANES tokens if theirs follow in one row, else 0."""
    last = first + LANES - 1
    if present < LANES or corners[first, 0] != corners[last, 0] or corners[first, 1] != corners[last, 1]:
        return 0
    line, place = divmod(tap, layout.kernel)
    row, column = corners[first, 1] + line, corners[first, 2] + place
    if row < 0 or row >= layout.height or column < 0 or corners[last, 2] + place >= layout.width:
        return 0
    source: int = corners[first, 0] + 4 * (row * layout.width + column) * layout.channels
    return source


@kernel_part
def _gather_tap(
    layout: PatchLayout, corners: Int64Array, present: int, sources: Int64Array, square: int, place: tuple[int, ...]
) -> None:
    """What one tap sees for LANES tokens; place is (first token, tap, address of its first row, end of the maps)."""
    first, tap, row, end = place
    taps = layout.kernel * layout.kernel
    step = 4 * layout.stride * layout.channels
    run = _run(layout, corners, first, present, tap)
    if run == 0:
        _sources(layout, corners, first, present, tap, sources)
    for channel in range(0, layout.channels, LANES):
        target = row + channel * taps * ROW_BYTES
        # Features beyond the last channel are read, too, but their rows are not.
        if run != 0 and run + (LANES - 1) * step + 4 * channel + BYTES <= end:
            transpose_square(run + 4 * channel, step, target, taps * ROW_BYTES)
            continue
        for token in range(LANES):
            source = run + token * step if run != 0 else sources[token]
            value = splat(ZERO)
            if source != 0:
                value = load_first(source + 4 * channel, layout.channels - channel)
            store(square + token * BYTES, value)
        transpose_square(square, BYTES, target, taps * ROW_BYTES)


@kernel_part
def _gather_single(
    layout: PatchLayout, corners: Int64Array, present: int, sources: Int64Array, first: int, tap: int, row: int
) -> None:
    """`_gather_tap` for maps of one channel."""
    run = _run(layout, corners, first, present, tap)
    if run != 0:
        for token in range(LANES):
            store_scalar(row + 4 * token, load_scalar(run + 4 * layout.stride * token))
        return
    _sources(layout, corners, first, present, tap, sources)
    store(row, splat(ZERO))
    for token in range(LANES):
        if sources[token] != 0:
            copy_float(row + 4 * token, sources[token])


@kernel_part
def _gather(
    layout: PatchLayout, corners: Int64Array, count: int, sources: Int64Array, square: int, target: int, end: int
) -> None:
    """What the tokens of a tile see as rows of features, channel by channel, within a channel tap by tap."""
    for vector in range(TILE_VECTORS):
        first = vector * LANES
        for tap in range(layout.kernel * layout.kernel):
            row = target + tap * ROW_BYTES + vector * BYTES
            if layout.channels == 1:
                _gather_single(layout, corners, count - first, sources, first, tap, row)
            else:
                _gather_tap(layout, corners, count - first, sources, square, (first, tap, row, end))


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def conv_norm(
        layout: PatchLayout, weights: PatchWeights, x: int, y: int, scratch: int, first: int, last: int
    ) -> None:
        """Tiles from first up to but not including last."""
        if stamp == 0:
            return
        taps = layout.kernel * layout.kernel
        depth = taps * layout.channels
        inputs = scratch + LANES * BYTES
        outputs = inputs + taps * ((layout.channels + LANES - 1) // LANES * LANES) * ROW_BYTES
        corners = np.empty((TOKENS, 3), np.int64)
        sources = np.empty(LANES, np.int64)
        maps = layout.tokens // (layout.out_height * layout.out_width)
        end = x + 4 * maps * layout.height * layout.width * layout.channels
        for tile in range(first, last):
            token = tile * TOKENS
            count = min(TOKENS, layout.tokens - token)
            _locate(layout, x, token, count, corners)
            _gather(layout, corners, count, sources, scratch, inputs, end)
            begin(outputs, layout.out_channels, weights.bias)
            multiply(weights.weight, 4 * depth, depth, inputs, outputs, layout.out_channels)
            normalise(outputs, layout.out_channels, weights.norm_weight, weights.norm_bias, layout.epsilon)
            if layout.gelu != 0:
                activate(outputs, layout.out_channels)
            scatter(outputs, layout.out_channels, count, scratch, 0, 0, y + 4 * token * layout.out_channels)

    return conv_norm


conv_norm = _build(SOURCE_STAMP)


def compute_conv_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple[Tensor, Tensor, float],
    *,
    stride: int,
    padding: int,
    gelu: bool,
) -> Tensor:
    """Convolution, layer normalisation over channels and GELU of contiguous float32 tensors, without gradients.

    Args:
        x: (batch, height, width, channels).
        weight: (out_channels, channels, kernel, kernel).
        bias: (out_channels,) or None.
        norm: Weight and bias (out_channels,) of layer normalisation and its epsilon.
        stride: Cells from output to output.
        padding: Cells of zeros around the map.
        gelu: Whether the GELU follows.
    """
    batch, height, width, channels = x.shape
    out_channels, _, kernel, _ = weight.shape
    out_height, out_width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    y = empty(batch, out_height, out_width, out_channels)
    layout = PatchLayout(
        tokens=batch * out_height * out_width,
        height=height,
        width=width,
        channels=channels,
        out_height=out_height,
        out_width=out_width,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        gelu=int(gelu),
        epsilon=norm[2],
    )
    weights = PatchWeights(weight.data_ptr(), address_of(bias), norm[0].data_ptr(), norm[1].data_ptr())
    scratch_rows = kernel * kernel * padded(channels) + padded(out_channels)

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(LANES * BYTES + scratch_rows * ROW_BYTES)
        conv_norm(layout, weights, x.data_ptr(), y.data_ptr(), scratch, first, last)

    run_items(task, -(-layout.tokens // TOKENS), serial=False)
    return y
