"""Triton kernels of the selective scan's forward pass, and of its cut into segments.

A program goes through the steps of its segment in tiles, the state in registers. It keeps the state at the beginning
of every tile where a backward pass will want it.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hf_audio_mamba.ops.triton_blocks import (
    TILE,
    cells_of,
    gated,
    load_columns,
    load_parameters,
    load_rates,
    load_rows,
    place_of,
    step_sizes,
    store_rows,
    tiles_of,
)
from hf_audio_mamba.ops.triton_tuning import tuned_over_blocks


class States(NamedTuple):
    """States in float32; any tensor where one is not wanted."""

    starts: Tensor  # before each segment, (directions, batch, segments, channels, state)
    last: Tensor  # after the last step, (directions, batch, channels, state)
    checkpoints: Tensor  # before each tile, (directions, batch, tiles, channels, state)


@tuned_over_blocks
@triton.jit(do_not_specialize=["sizes", "tuning_key"])
def scan_kernel(
    inputs: tl.tuple,
    parameters: tl.tuple,
    states: tl.tuple,
    y: tl.tuple,
    sizes: tl.tuple,
    tuning_key: int,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    STARTED: tl.constexpr,
    CHECKPOINTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Output, last state and checkpoints of a segment."""
    where, segment, _, channels = place_of(sizes, BACKWARDS, BLOCK)
    direction, sample = where[0], where[0] * sizes.batch + where[1]
    cell, inside = cells_of(channels, STATE, STATES)
    state_size = sizes.channels * STATE
    rate, skip, shift = load_parameters(parameters, direction, channels, (cell, inside), sizes.channels, STATE)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    if STARTED:
        h = tl.load(states.starts + (sample * sizes.segments + segment) * state_size + cell, mask=inside, other=0.0)
    first, last = tiles_of(segment, sizes)
    for tile in range(first, last):
        now = tile * TILE
        if CHECKPOINTS:
            slot = sample * tl.cdiv(sizes.length, TILE) + tile
            tl.store(states.checkpoints + slot * state_size + cell, h, mask=inside)
        xs = load_rows(inputs.x, where, channels, now, sizes.length, TILE, DIRECTIONS)
        steps = load_rows(inputs.dt, where, channels, now, sizes.length, TILE, DIRECTIONS)
        steps = step_sizes(steps, shift, now, sizes.length, TILE, SOFTPLUS)
        Bs = load_columns(inputs.B, where, now, sizes.length, TILE, STATE, STATES, DIRECTIONS)
        Cs = load_columns(inputs.C, where, now, sizes.length, TILE, STATE, STATES, DIRECTIONS)
        ys: tl.tuple = ()
        for index in tl.static_range(TILE):
            h = tl.exp2(steps[index][None, :] * rate) * h + (steps[index] * xs[index])[None, :] * Bs[index]
            ys = ys + (tl.sum(h * Cs[index], 0) + skip * xs[index],)
        if GATED:
            ys = gated(ys, load_rows(inputs.z, where, channels, now, sizes.length, TILE, DIRECTIONS), TILE)
        store_rows(y, ys, where, channels, now, sizes.length, TILE, DIRECTIONS)
    if segment == sizes.segments - 1:
        tl.store(states.last + sample * state_size + cell, h, mask=inside)


@tuned_over_blocks
@triton.jit(do_not_specialize=["sizes", "tuning_key"])
def segment_states_kernel(
    inputs: tl.tuple,
    parameters: tl.tuple,
    states: tl.tensor,  # (directions, batch, segments, channels, state)
    durations: tl.tensor,  # (directions, batch, segments, channels)
    sizes: tl.tuple,
    tuning_key: int,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What each segment makes of a state of 0, and the sum of its step sizes, which says what it keeps of any other."""
    where, segment, _, channels = place_of(sizes, BACKWARDS, BLOCK)
    direction, sample = where[0], where[0] * sizes.batch + where[1]
    cell, inside = cells_of(channels, STATE, STATES)
    rate, _, shift = load_parameters(parameters, direction, channels, (cell, inside), sizes.channels, STATE)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    duration = tl.zeros((BLOCK,), tl.float32)
    first, last = tiles_of(segment, sizes)
    for tile in range(first, last):
        now = tile * TILE
        xs = load_rows(inputs.x, where, channels, now, sizes.length, TILE, DIRECTIONS)
        steps = load_rows(inputs.dt, where, channels, now, sizes.length, TILE, DIRECTIONS)
        steps = step_sizes(steps, shift, now, sizes.length, TILE, SOFTPLUS)
        Bs = load_columns(inputs.B, where, now, sizes.length, TILE, STATE, STATES, DIRECTIONS)
        for index in tl.static_range(TILE):
            h = tl.exp2(steps[index][None, :] * rate) * h + (steps[index] * xs[index])[None, :] * Bs[index]
            duration += steps[index]
    place = (sample * sizes.segments + segment) * sizes.channels
    tl.store(states + place * STATE + cell, h, mask=inside)
    tl.store(durations + place + channels[0], duration, mask=channels[1])


@triton.jit(do_not_specialize=["sizes", "segments"])
def carry_kernel(
    A: tl.tensor,  # (directions, channels, state)
    carried: tl.tensor,  # (directions, batch, segments, channels, state)
    states: tl.tensor,  # (directions, batch, segments, channels, state)
    durations: tl.tensor,  # (directions, batch, segments, channels)
    given: tl.tensor,  # (directions, batch, channels, state)
    sizes: tl.tuple,  # with one segment and one group: a program goes through all segments
    segments: int,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    GIVEN: tl.constexpr,
    DESCENDING: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What reaches each segment from what they leave behind, in ascending or descending order."""
    where, _, _, channels = place_of(sizes, -1, BLOCK)
    sample = where[0] * sizes.batch + where[1]
    cell, inside = cells_of(channels, STATE, STATES)
    rate = load_rates(A, where[0], (cell, inside), sizes.channels, STATE)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    if GIVEN:
        h = tl.load(given + sample * sizes.channels * STATE + cell, mask=inside, other=0.0)
    for index in range(segments):
        segment = index
        if DESCENDING:
            segment = segments - 1 - index
        place = (sample * segments + segment) * sizes.channels
        left = tl.load(states + place * STATE + cell, mask=inside, other=0.0)
        duration = tl.load(durations + place + channels[0], mask=channels[1], other=0.0)
        tl.store(carried + place * STATE + cell, h, mask=inside)
        h = tl.exp2(duration[None, :] * rate) * h + left
