"""Triton kernels of the selective scan's gradient.

A program goes through the tiles of its segment from the last to the first. In each it recomputes the states from the
tile's checkpoint, then follows the gradient of the state back. Sums over channels (dB, dC) are written once a block and
those over time (dA, dD, the bias) once a segment and sample, to be added up afterwards: no atomics, so a gradient is
the same at every run with the same blocks.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hf_audio_mamba.ops.triton_blocks import (
    LN_2,
    TILE,
    Stream,
    cells_of,
    load_rates,
    load_rows,
    load_states,
    load_vector,
    place_of,
    sigmoid,
    step_sizes,
    store_rows,
    tiles_of,
)
from hf_audio_mamba.ops.triton_scan_forward import checkpoint_cells, gated
from hf_audio_mamba.ops.triton_tuning import tuned_over_blocks


class Gradients(NamedTuple):
    """Gradients that come in (dy, ends) and go out; parts are float32 and added up over blocks, segments, samples."""

    dy: Stream
    dx: Stream
    ddt: Stream
    dz: Stream
    ends: Tensor  # of the state after each segment, (directions, batch, segments, channels, state)
    starts: Tensor  # of the initial state, (directions, batch, channels, state)
    dB: Tensor  # (directions, blocks of a group, batch, length, groups, state), as is dC
    dC: Tensor
    dA: Tensor  # (directions, batch, segments, channels, state)
    dD: Tensor  # (directions, batch, segments, channels), as is dbias
    dbias: Tensor


@tuned_over_blocks
@triton.jit(do_not_specialize=["sizes", "tuning_key"])
def gradients_kernel(
    inputs: tl.tuple,
    parameters: tl.tuple,
    checkpoints: tl.tensor,
    gradients: tl.tuple,
    sizes: tl.tuple,
    tuning_key: int,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    ENDED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """All gradients of a segment."""
    where, segment, block, channels = place_of(sizes, BACKWARDS, BLOCK)
    sample = where[0] * sizes.batch + where[1]
    cell, inside = cells_of(channels, STATE, STATES)
    rate = load_rates(parameters.A, where[0], (cell, inside), sizes.channels, STATE)
    skip = load_vector(parameters.D, where[0], channels, sizes.channels)
    shift = load_vector(parameters.bias, where[0], channels, sizes.channels)
    place = (sample * sizes.segments + segment) * sizes.channels
    g = tl.zeros((STATES, BLOCK), tl.float32)
    if ENDED:
        g = tl.load(gradients.ends + place * STATE + cell, mask=inside, other=0.0)
    dA = tl.zeros((STATES, BLOCK), tl.float32)
    dD = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    first, last = tiles_of(segment, sizes)
    for index in range(last - first):
        tile = last - 1 - index
        xs = load_rows(inputs.x, where, channels, tile, sizes.length, DIRECTIONS)
        dts = load_rows(inputs.dt, where, channels, tile, sizes.length, DIRECTIONS)
        dys = load_rows(gradients.dy, where, channels, tile, sizes.length, DIRECTIONS)
        zs = dys
        if GATED:
            zs = load_rows(inputs.z, where, channels, tile, sizes.length, DIRECTIONS)
            dys = gated(dys, zs)
        steps = step_sizes(dts, shift, tile, sizes.length, SOFTPLUS)
        h = load_checkpoint(checkpoints, sample, tile, channels, sizes, STATE, STATES)
        pasts, h = recompute(h, rate, steps, xs, inputs.B, where, tile, sizes.length, STATE, STATES, DIRECTIONS)
        now = (pasts, h, g, dA, xs, steps, dys)
        g, dA, dxs, dsteps, ys = follow_back(
            now, inputs, gradients, (rate, skip), where, block, tile, sizes, STATE, STATES, DIRECTIONS, BLOCK
        )
        ddts, tile_dbias = through_steps(dsteps, dts, shift, tile, sizes.length, SOFTPLUS)
        dbias += tile_dbias
        dD += sum_of_products(dys, xs)
        store_rows(gradients.dx, dxs, where, channels, tile, sizes.length, DIRECTIONS)
        store_rows(gradients.ddt, ddts, where, channels, tile, sizes.length, DIRECTIONS)
        if GATED:
            dys = load_rows(gradients.dy, where, channels, tile, sizes.length, DIRECTIONS)
            store_rows(gradients.dz, through_gate(dys, ys, zs), where, channels, tile, sizes.length, DIRECTIONS)
    tl.store(gradients.dA + place * STATE + cell, dA, mask=inside)
    tl.store(gradients.dD + place + channels[0], dD, mask=channels[1])
    tl.store(gradients.dbias + place + channels[0], dbias, mask=channels[1])
    if segment == 0:
        tl.store(gradients.starts + sample * sizes.channels * STATE + cell, g, mask=inside)


@triton.jit
def load_checkpoint(
    checkpoints: tl.tensor,
    sample: tl.tensor,
    tile: tl.tensor,
    channels: tl.tuple,
    sizes: tl.tuple,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
) -> tl.tensor:
    """The state before a tile."""
    inside = (tl.arange(0, STATES) < STATE)[:, None] & channels[1][None, :]
    cells = checkpoint_cells(sample, tile, channels, sizes, STATE, STATES)
    return tl.load(checkpoints + cells, mask=inside, other=0.0)


@triton.jit
def recompute(
    h: tl.tensor,
    rate: tl.tensor,
    steps: tl.tuple,
    xs: tl.tuple,
    B: tl.tuple,
    where: tl.tuple,
    tile: tl.tensor,
    length: tl.tensor,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
) -> tl.tuple:
    """States before each step of a tile, and the one after its last."""
    pasts = ()
    for index in tl.static_range(TILE):
        pasts = pasts + (h,)
        column = load_states(B, where, tile * TILE + index, length, STATE, STATES, DIRECTIONS)
        h = tl.exp2(steps[index][None, :] * rate) * h + (steps[index] * xs[index])[None, :] * column
    return pasts, h


@triton.jit
def follow_back(
    now: tl.tuple,
    inputs: tl.tuple,
    gradients: tl.tuple,
    parameters: tl.tuple,
    where: tl.tuple,
    block: tl.tensor,
    tile: tl.tensor,
    sizes: tl.tuple,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tuple:
    """One tile of the gradient's recurrence, written into dB and dC; `dys` are those behind the gate.

    Returns:
        `g` before the tile, `dA` so far, and the tile's rows of dx, of the gradient of the step sizes, and of the
        output before the gate.
    """
    pasts, h, g, dA, xs, steps, dys = now
    rate, skip = parameters
    dxs, dsteps, ys = (), (), ()
    for index in tl.static_range(TILE - 1, -1, -1):
        step = tile * TILE + index
        B = load_states(inputs.B, where, step, sizes.length, STATE, STATES, DIRECTIONS)
        C = load_states(inputs.C, where, step, sizes.length, STATE, STATES, DIRECTIONS)
        decay = tl.exp2(steps[index][None, :] * rate)
        g += dys[index][None, :] * C
        gB = tl.sum(g * B, 0)
        kept = g * decay * pasts[index]
        cells = row_cells(where, block, step, sizes, BLOCK) * STATE + tl.arange(0, STATES)
        is_row = (tl.arange(0, STATES) < STATE) & (step < sizes.length)
        tl.store(gradients.dB + cells, tl.sum(g * (steps[index] * xs[index])[None, :], 1), mask=is_row)
        tl.store(gradients.dC + cells, tl.sum(h * dys[index][None, :], 1), mask=is_row)
        ys = (tl.sum(h * C, 0) + skip * xs[index],) + ys
        dxs = (skip * dys[index] + steps[index] * gB,) + dxs
        dsteps = (xs[index] * gB + LN_2 * tl.sum(kept * rate, 0),) + dsteps
        dA += kept * steps[index][None, :]
        g = g * decay
        h = pasts[index]
    return g, dA, dxs, dsteps, ys


@triton.jit
def row_cells(where: tl.tuple, block: tl.tensor, step: tl.tensor, sizes: tl.tuple, BLOCK: tl.constexpr) -> tl.tensor:
    """Place of a row among the parts of dB and dC, in rows."""
    direction, sample, group, backwards = where
    blocks = tl.cdiv(sizes.channels // sizes.groups, BLOCK)
    row = tl.where(backwards, sizes.length - 1 - step, step)
    return (((direction * blocks + block) * sizes.batch + sample) * sizes.length + row) * sizes.groups + group


@triton.jit
def sum_of_products(left: tl.tuple, right: tl.tuple) -> tl.tensor:
    """Sum over a tile's rows."""
    total = left[0] * right[0]
    for index in tl.static_range(1, TILE):
        total += left[index] * right[index]
    return total


@triton.jit
def through_steps(
    dsteps: tl.tuple,
    dts: tl.tuple,
    shift: tl.tensor,
    tile: tl.tensor,
    length: tl.tensor,
    SOFTPLUS: tl.constexpr,
) -> tl.tuple:
    """Rows of ddt from the gradients of the step sizes, and their sum, without those past the end."""
    rows = ()
    total = tl.zeros_like(shift)
    for index in tl.static_range(TILE):
        row = dsteps[index]
        if SOFTPLUS:
            row = row * sigmoid(dts[index] + shift)
        rows = rows + (row,)
        step = tile * TILE + index
        total += tl.where(step < length, row, 0.0)
    return rows, total


@triton.jit
def through_gate(dys: tl.tuple, ys: tl.tuple, zs: tl.tuple) -> tl.tuple:
    """Rows of dz from those of dy, of the output before the gate, and of z."""
    rows = ()
    for index in tl.static_range(TILE):
        open_part = sigmoid(zs[index])
        rows = rows + (dys[index] * ys[index] * open_part * (1.0 + zs[index] * (1.0 - open_part)),)
    return rows


@tuned_over_blocks
@triton.jit(do_not_specialize=["sizes", "tuning_key"])
def segment_gradients_kernel(
    inputs: tl.tuple,
    parameters: tl.tuple,
    dy: tl.tuple,
    ends: tl.tensor,  # (directions, batch, segments, channels, state)
    durations: tl.tensor,  # (directions, batch, segments, channels)
    sizes: tl.tuple,
    tuning_key: int,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What each segment adds to the gradient of the state before it, and the sum of its step sizes."""
    where, segment, _, channels = place_of(sizes, BACKWARDS, BLOCK)
    cell, inside = cells_of(channels, STATE, STATES)
    rate = load_rates(parameters.A, where[0], (cell, inside), sizes.channels, STATE)
    shift = load_vector(parameters.bias, where[0], channels, sizes.channels)
    g = tl.zeros((STATES, BLOCK), tl.float32)
    duration = tl.zeros((BLOCK,), tl.float32)
    first, last = tiles_of(segment, sizes)
    for index in range(last - first):
        tile = last - 1 - index
        dys = load_rows(dy, where, channels, tile, sizes.length, DIRECTIONS)
        if GATED:
            dys = gated(dys, load_rows(inputs.z, where, channels, tile, sizes.length, DIRECTIONS))
        steps = load_rows(inputs.dt, where, channels, tile, sizes.length, DIRECTIONS)
        steps = step_sizes(steps, shift, tile, sizes.length, SOFTPLUS)
        for row in tl.static_range(TILE - 1, -1, -1):
            C = load_states(inputs.C, where, tile * TILE + row, sizes.length, STATE, STATES, DIRECTIONS)
            g = tl.exp2(steps[row][None, :] * rate) * (g + dys[row][None, :] * C)
            duration += steps[row]
    place = ((where[0] * sizes.batch + where[1]) * sizes.segments + segment) * sizes.channels
    tl.store(ends + place * STATE + cell, g, mask=inside)
    tl.store(durations + place + channels[0], duration, mask=channels[1])
