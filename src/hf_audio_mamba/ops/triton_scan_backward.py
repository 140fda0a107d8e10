"""Triton kernels of the selective scan's gradient.

A program goes through its segment's tiles from the last to the first, a part of a tile at a time. It recomputes the
part's states from the tile's checkpoint, then follows the gradient of the state back. Sums over channels (dB, dC) are
written once a block and those over time (dA, dD, the bias) once a segment and sample, to be added up afterwards: no
atomics, so a gradient is the same at every run with the same blocks.
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
    gated,
    load_columns,
    load_parameters,
    load_rows,
    place_of,
    sigmoid,
    step_sizes,
    store_rows,
    tiles_of,
)
from hf_audio_mamba.ops.triton_tuning import tuned_over_blocks

PART = tl.constexpr(4)
"""Steps whose states and rows are in registers at once: those of a whole tile would not fit."""
PARTS = tl.constexpr(TILE.value // PART.value)


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
    rate, skip, shift = load_parameters(parameters, where[0], channels, (cell, inside), sizes.channels, STATE)
    place = (sample * sizes.segments + segment) * sizes.channels
    g = tl.zeros((STATES, BLOCK), tl.float32)
    if ENDED:
        g = tl.load(gradients.ends + place * STATE + cell, mask=inside, other=0.0)
    dA = tl.zeros((STATES, BLOCK), tl.float32)
    dD = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    first, last = tiles_of(segment, sizes)
    for index in range((last - first) * PARTS):
        part = last * PARTS - 1 - index
        now = part * PART
        xs, dts, steps, pasts, h = replay(
            checkpoints, (cell, inside), rate, shift, inputs, where, channels, part, sizes, STATE, DIRECTIONS, SOFTPLUS
        )
        dys = behind_gate(gradients.dy, inputs.z, where, channels, now, sizes.length, PART, DIRECTIONS, GATED)
        dD += sum_of_products(dys, xs)
        scanned = (pasts, h, g, dA, xs, steps, dys, rate, skip)
        g, dA, dxs, dsteps, ys = follow_back(
            scanned, inputs, gradients, where, block, now, sizes, STATE, STATES, DIRECTIONS, BLOCK
        )
        store_rows(gradients.dx, dxs, where, channels, now, sizes.length, PART, DIRECTIONS)
        dbias += through_steps(
            dsteps, dts, shift, gradients.ddt, where, channels, now, sizes.length, DIRECTIONS, SOFTPLUS
        )
        if GATED:
            through_gate(ys, inputs.z, gradients.dy, gradients.dz, where, channels, now, sizes.length, DIRECTIONS)
    tl.store(gradients.dA + place * STATE + cell, dA, mask=inside)
    store_vectors(gradients, dD, dbias, place, channels)
    if segment == 0:
        tl.store(gradients.starts + sample * sizes.channels * STATE + cell, g, mask=inside)


@triton.jit
def behind_gate(
    dy: tl.tuple,
    z: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    now: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    GATED: tl.constexpr,
) -> tl.tuple:
    """Rows of the gradient of the output before the gate."""
    dys = load_rows(dy, where, channels, now, length, COUNT, DIRECTIONS)
    if GATED:
        dys = gated(dys, load_rows(z, where, channels, now, length, COUNT, DIRECTIONS), COUNT)
    return dys


@triton.jit
def store_vectors(gradients: tl.tuple, dD: tl.tensor, dbias: tl.tensor, place: tl.tensor, channels: tl.tuple) -> None:
    """Write a segment's part of the gradients of D and of the bias."""
    tl.store(gradients.dD + place + channels[0], dD, mask=channels[1])
    tl.store(gradients.dbias + place + channels[0], dbias, mask=channels[1])


@triton.jit
def replay(
    checkpoints: tl.tensor,
    cells: tl.tuple,
    rate: tl.tensor,
    shift: tl.tensor,
    inputs: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    part: tl.tensor,
    sizes: tl.tuple,
    STATE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
) -> tl.tuple:
    """What `advance` returns for a part, from the checkpoint before its tile."""
    slot = (where[0] * sizes.batch + where[1]) * tl.cdiv(sizes.length, TILE) + part // PARTS
    h = tl.load(checkpoints + slot * sizes.channels * STATE + cells[0], mask=cells[1], other=0.0)
    now = part * PART
    for earlier in range(now - part % PARTS * PART, now, PART):
        _, _, _, _, h = advance(
            h, rate, shift, inputs, where, channels, earlier, sizes.length, STATE, DIRECTIONS, SOFTPLUS
        )
    return advance(h, rate, shift, inputs, where, channels, now, sizes.length, STATE, DIRECTIONS, SOFTPLUS)


@triton.jit
def advance(
    h: tl.tensor,
    rate: tl.tensor,
    shift: tl.tensor,
    inputs: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    now: tl.tensor,
    length: tl.tensor,
    STATE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
) -> tl.tuple:
    """Rows of x, rows of dt, step sizes and states before each step of a part, and the state after it."""
    xs = load_rows(inputs.x, where, channels, now, length, PART, DIRECTIONS)
    dts = load_rows(inputs.dt, where, channels, now, length, PART, DIRECTIONS)
    steps = step_sizes(dts, shift, now, length, PART, SOFTPLUS)
    Bs = load_columns(inputs.B, where, now, length, PART, STATE, h.shape[0], DIRECTIONS)
    pasts: tl.tuple = ()
    for index in tl.static_range(PART):
        pasts = pasts + (h,)
        h = tl.exp2(steps[index][None, :] * rate) * h + (steps[index] * xs[index])[None, :] * Bs[index]
    return xs, dts, steps, pasts, h


@triton.jit
def follow_back(
    scanned: tl.tuple,
    inputs: tl.tuple,
    gradients: tl.tuple,
    where: tl.tuple,
    block: tl.tensor,
    now: tl.tensor,
    sizes: tl.tuple,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tuple:
    """The gradient's recurrence over one part, written into dB and dC; `dys` are those behind the gate.

    Returns:
        `g` before the part, `dA` so far, and the part's rows of dx, of the gradient of the step sizes, and of the
        output before the gate.
    """
    pasts, h, g, dA, xs, steps, dys, rate, skip = scanned
    n = tl.arange(0, STATES)
    Bs = load_columns(inputs.B, where, now, sizes.length, PART, STATE, STATES, DIRECTIONS)
    Cs = load_columns(inputs.C, where, now, sizes.length, PART, STATE, STATES, DIRECTIONS)
    dxs: tl.tuple = ()
    dsteps: tl.tuple = ()
    ys: tl.tuple = ()
    for index in tl.static_range(PART - 1, -1, -1):
        decay = tl.exp2(steps[index][None, :] * rate)
        g += dys[index][None, :] * Cs[index]
        gB = tl.sum(g * Bs[index], 0)
        kept = g * decay * pasts[index]
        cells = row_cells(where, block, now + index, sizes, BLOCK) * STATE + n
        is_row = (n < STATE) & (sizes.length > now + index)
        tl.store(gradients.dB + cells, tl.sum(g * (steps[index] * xs[index])[None, :], 1), mask=is_row)
        tl.store(gradients.dC + cells, tl.sum(h * dys[index][None, :], 1), mask=is_row)
        ys = (tl.sum(h * Cs[index], 0) + skip * xs[index],) + ys
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
    """Sum over a part's rows."""
    total = left[0] * right[0]
    for index in tl.static_range(1, PART):
        total += left[index] * right[index]
    return total


@triton.jit
def through_steps(
    dsteps: tl.tuple,
    dts: tl.tuple,
    shift: tl.tensor,
    ddt: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    now: tl.tensor,
    length: tl.tensor,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
) -> tl.tensor:
    """Write a part's rows of ddt, from the gradients of the step sizes; their sum without those past the end."""
    rows: tl.tuple = ()
    total = tl.zeros_like(shift)
    for index in tl.static_range(PART):
        row = dsteps[index]
        if SOFTPLUS:
            row = row * sigmoid(dts[index] + shift)
        rows = rows + (row,)
        total += tl.where(length > now + index, row, 0.0)
    store_rows(ddt, rows, where, channels, now, length, PART, DIRECTIONS)
    return total


@triton.jit
def through_gate(
    ys: tl.tuple,
    z: tl.tuple,
    dy: tl.tuple,
    dz: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    now: tl.tensor,
    length: tl.tensor,
    DIRECTIONS: tl.constexpr,
) -> None:
    """Write a part's rows of dz, from those of the output before the gate."""
    zs = load_rows(z, where, channels, now, length, PART, DIRECTIONS)
    dys = load_rows(dy, where, channels, now, length, PART, DIRECTIONS)
    dzs: tl.tuple = ()
    for index in tl.static_range(PART):
        opened = sigmoid(zs[index])
        dzs = dzs + (dys[index] * ys[index] * opened * (1.0 + zs[index] * (1.0 - opened)),)
    store_rows(dz, dzs, where, channels, now, length, PART, DIRECTIONS)


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
    rate, _, shift = load_parameters(parameters, where[0], channels, (cell, inside), sizes.channels, STATE)
    g = tl.zeros((STATES, BLOCK), tl.float32)
    duration = tl.zeros((BLOCK,), tl.float32)
    first, last = tiles_of(segment, sizes)
    for index in range(last - first):
        tile = last - 1 - index
        now = tile * TILE
        dys = behind_gate(dy, inputs.z, where, channels, now, sizes.length, TILE, DIRECTIONS, GATED)
        steps = load_rows(inputs.dt, where, channels, now, sizes.length, TILE, DIRECTIONS)
        steps = step_sizes(steps, shift, now, sizes.length, TILE, SOFTPLUS)
        Cs = load_columns(inputs.C, where, now, sizes.length, TILE, STATE, STATES, DIRECTIONS)
        for row in tl.static_range(TILE - 1, -1, -1):
            g = tl.exp2(steps[row][None, :] * rate) * (g + dys[row][None, :] * Cs[row])
            duration += steps[row]
    place = ((where[0] * sizes.batch + where[1]) * sizes.segments + segment) * sizes.channels
    tl.store(ends + place * STATE + cell, g, mask=inside)
    tl.store(durations + place + channels[0], duration, mask=channels[1])
