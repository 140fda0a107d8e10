"""numba kernel of the layers that treat every token alike: norm, linear, GELU, linear, and the skip around them.

A work item is a tile of `TOKENS` tokens. It is turned so that features are rows (see `numba_tiles`), goes through all
layers in the cache of a core, and is turned back, so that nothing in between is written to memory: on a CPU, drawing
fresh memory for the wide middle of a feed-forward network costs more than its GELU.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import ZERO, address_of, empty, scratch_memory
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, broadcast, fma, load, splat, store
from hf_audio_mamba.ops.numba_masked import load_first, store_first
from hf_audio_mamba.ops.numba_threads import run_items
from hf_audio_mamba.ops.numba_tiles import (
    ROW_BYTES,
    ROWS_AT_ONCE,
    TILE_VECTORS,
    TOKENS,
    VECTORS_AT_ONCE,
    add_products_of_1,
    add_products_of_2,
    add_products_of_6,
    gelu,
    reciprocal_root,
    transpose_square,
)

# Rows of the hidden layer at a time, as much as stays in the innermost cache; a multiple of ROWS_AT_ONCE.
_HIDDEN_ROWS = 96
_ONE = np.float32(1.0)


class TokenLayout(NamedTuple):
    """Sizes of one call."""

    tokens: int
    inputs: int
    hidden: int  # 0 without a hidden layer
    outputs: int
    x_step: int  # bytes from token to token
    epsilon: float


class TokenWeights(NamedTuple):
    """Addresses of contiguous float32 tensors; 0 for what is absent."""

    norm_weight: int
    norm_bias: int
    first: int  # (hidden, inputs); absent without a hidden layer
    first_bias: int
    last: int  # (outputs, hidden or inputs)
    last_bias: int


def padded(features: int) -> int:
    """Rows that are turned for so many features."""
    return -(-features // LANES) * LANES


@kernel_part
def _gather(source: int, step: int, features: int, count: int, square: int, target: int) -> None:
    """`count` tokens, `step` bytes from one to the next, to rows of features; tokens beyond are zeros."""
    for vector in range(TILE_VECTORS):
        present = count - vector * LANES
        for first in range(0, features, LANES):
            place = source + vector * LANES * step + 4 * first
            row = target + first * ROW_BYTES + vector * BYTES
            if present >= LANES and features - first >= LANES:
                transpose_square(place, step, row, ROW_BYTES)
            else:
                for token in range(LANES):
                    value = splat(ZERO)
                    if token < present:
                        value = load_first(place + token * step, features - first)
                    store(square + token * BYTES, value)
                transpose_square(square, BYTES, row, ROW_BYTES)


@kernel_part
def scatter(source: int, features: int, count: int, square: int, skip: int, skip_step: int, target: int) -> None:
    """Rows of features back to `count` tokens side by side, with those at `skip` added unless it is 0."""
    step = 4 * features
    for vector in range(TILE_VECTORS):
        present = min(LANES, count - vector * LANES)
        for first in range(0, features, LANES):
            transpose_square(source + first * ROW_BYTES + vector * BYTES, ROW_BYTES, square, BYTES)
            left = features - first
            for token in range(present):
                place = (vector * LANES + token) * step + 4 * first
                value = load(square + token * BYTES)
                if skip != 0:
                    value = value + load_first(skip + (vector * LANES + token) * skip_step + 4 * first, left)
                store_first(target + place, value, left)


@kernel_part
def _mean_and_scale(rows: int, features: int, epsilon: float) -> Any:
    """Means and inverse deviations of two vectors of tokens: side by side, as each sum waits for its last addition."""
    share = splat(_ONE / np.float32(features))
    sum0, sum1 = splat(ZERO), splat(ZERO)
    for place in range(rows, rows + features * ROW_BYTES, ROW_BYTES):
        sum0 = sum0 + load(place)
        sum1 = sum1 + load(place + BYTES)
    mean0, mean1 = sum0 * share, sum1 * share
    squares0, squares1 = splat(ZERO), splat(ZERO)
    for place in range(rows, rows + features * ROW_BYTES, ROW_BYTES):
        centred0, centred1 = load(place) - mean0, load(place + BYTES) - mean1
        squares0 = fma(centred0, centred0, squares0)
        squares1 = fma(centred1, centred1, squares1)
    offset = splat(np.float32(epsilon))
    scale0, scale1 = reciprocal_root(fma(squares0, share, offset)), reciprocal_root(fma(squares1, share, offset))
    return mean0, mean1, scale0, scale1


@kernel_part
def normalise(rows: int, features: int, weight: int, bias: int, epsilon: float) -> None:
    """Layer normalisation of each token, in place."""
    for vector in range(0, TILE_VECTORS, 2):
        start = rows + vector * BYTES
        mean0, mean1, scale0, scale1 = _mean_and_scale(start, features, epsilon)
        for n in range(features):
            place = start + n * ROW_BYTES
            factor, offset = broadcast(weight + 4 * n), broadcast(bias + 4 * n)
            store(place, fma((load(place) - mean0) * scale0, factor, offset))
            store(place + BYTES, fma((load(place + BYTES) - mean1) * scale1, factor, offset))


@kernel_part
def begin(rows: int, count: int, bias: int) -> None:
    """Set rows to their biases, or to 0."""
    for n in range(count):
        value = splat(ZERO)
        if bias != 0:
            value = broadcast(bias + 4 * n)
        for vector in range(TILE_VECTORS):
            store(rows + n * ROW_BYTES + vector * BYTES, value)


@kernel_part
def multiply(weight: int, weight_step: int, depth: int, x: int, out: int, rows: int) -> None:
    """Add the products of `rows` rows of a weight with `depth` rows of `x` to rows of `out`."""
    whole = rows - rows % ROWS_AT_ONCE
    pairs = rows - rows % 2
    for vector in range(0, TILE_VECTORS, VECTORS_AT_ONCE):
        place = vector * BYTES
        for n in range(0, whole, ROWS_AT_ONCE):
            add_products_of_6(weight + n * weight_step, weight_step, x + place, depth, out + n * ROW_BYTES + place)
        for n in range(whole, pairs, 2):
            add_products_of_2(weight + n * weight_step, weight_step, x + place, depth, out + n * ROW_BYTES + place)
        for n in range(pairs, rows):
            add_products_of_1(weight + n * weight_step, weight_step, x + place, depth, out + n * ROW_BYTES + place)


@kernel_part
def activate(rows: int, count: int) -> None:
    """GELU, in place."""
    for place in range(rows, rows + count * ROW_BYTES, BYTES):
        store(place, gelu(load(place)))


@kernel_part
def _layers(layout: TokenLayout, weights: TokenWeights, x: int, y: int, hidden: int) -> None:
    """From rows of inputs at `x` to rows of outputs at `y`."""
    if weights.norm_weight != 0:
        normalise(x, layout.inputs, weights.norm_weight, weights.norm_bias, layout.epsilon)
    begin(y, layout.outputs, weights.last_bias)
    if layout.hidden == 0:
        multiply(weights.last, 4 * layout.inputs, layout.inputs, x, y, layout.outputs)
    for start in range(0, layout.hidden, _HIDDEN_ROWS):
        rows = min(_HIDDEN_ROWS, layout.hidden - start)
        begin(hidden, rows, weights.first_bias + 4 * start if weights.first_bias != 0 else 0)
        multiply(weights.first + 4 * start * layout.inputs, 4 * layout.inputs, layout.inputs, x, hidden, rows)
        activate(hidden, rows)
        multiply(weights.last + 4 * start, 4 * layout.hidden, rows, hidden, y, layout.outputs)


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def token_layers(
        layout: TokenLayout,
        weights: TokenWeights,
        x: int,
        skip: int,
        skip_step: int,
        y: int,
        scratch: int,
        first: int,
        last: int,
    ) -> None:
        """Tiles from first up to but not including last."""
        if stamp == 0:
            return
        inputs = scratch + LANES * BYTES
        outputs = inputs + (layout.inputs + LANES - 1) // LANES * LANES * ROW_BYTES
        hidden = outputs + (layout.outputs + LANES - 1) // LANES * LANES * ROW_BYTES
        for tile in range(first, last):
            token = tile * TOKENS
            count = min(TOKENS, layout.tokens - token)
            _gather(x + token * layout.x_step, layout.x_step, layout.inputs, count, scratch, inputs)
            _layers(layout, weights, inputs, outputs, hidden)
            added = skip + token * skip_step if skip != 0 else 0
            target = y + 4 * token * layout.outputs
            scatter(outputs, layout.outputs, count, scratch, added, skip_step, target)

    return token_layers


token_layers = _build(SOURCE_STAMP)


def compute_token_layers(
    x: Tensor,
    last: tuple[Tensor, Tensor | None],
    *,
    norm: tuple[Tensor, Tensor, float] | None = None,
    first: tuple[Tensor, Tensor | None] | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """`last(gelu(first(norm(x)))) + skip`, each part but `last` optional, on float32 tensors without gradients.

    Args:
        x: (tokens, inputs), its last axis without gaps.
        last: Weight (outputs, hidden or inputs) and bias (outputs,) or None; all weights are contiguous.
        norm: Weight and bias (inputs,) of layer normalisation and its epsilon.
        first: Weight (hidden, inputs) and bias (hidden,) or None of a hidden layer.
        skip: (tokens, outputs), its last axis without gaps.
    """
    (tokens, inputs), outputs = x.shape, last[0].shape[0]
    hidden = 0 if first is None else first[0].shape[0]
    y = empty(tokens, outputs)
    layout = TokenLayout(tokens, inputs, hidden, outputs, 4 * x.stride(0), 0.0 if norm is None else norm[2])
    parts = [*(norm or (None, None))[:2], *(first or (None, None)), *last]
    weights = TokenWeights(*[address_of(part) for part in parts])
    scratch_rows = padded(inputs) + padded(outputs) + (_HIDDEN_ROWS if hidden else 0)
    skip_step = 0 if skip is None else 4 * skip.stride(0)

    def task(first_tile: int, last_tile: int) -> None:
        _memory, scratch = scratch_memory(LANES * BYTES + scratch_rows * ROW_BYTES)
        addresses = x.data_ptr(), address_of(skip), skip_step, y.data_ptr(), scratch
        token_layers(layout, weights, *addresses, first_tile, last_tile)

    run_items(task, -(-tokens // TOKENS), serial=False)
    return y
