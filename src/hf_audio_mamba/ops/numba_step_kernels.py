"""numba kernels of one step of time: the convolution and the scan of a decoder that makes one token after the other.

A step is a few microseconds of work, so there are no threads, no packed copies and no tiles: the convolution goes over
channels one by one, as its state may have any strides, and the scan over runs of `LANES` states of each channel, as
these lie side by side. Strides are in bytes; address 0 stands for an absent operand.
"""

from typing import Any

import numpy as np

from hf_audio_mamba.ops.numba_blocks import ZERO
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    broadcast,
    exp2_clamped,
    fma,
    load,
    load_scalar,
    sigmoid,
    softplus,
    splat,
    store,
    store_scalar,
    sum_lanes,
)
from hf_audio_mamba.ops.numba_masked import load_first, store_first

LOG2_E = np.float32(1.4426950408889634)
STEP_SCRATCH_BYTES = 3 * BYTES


@kernel_part
def _shift_in(state: int, time: int, history: int, newest: float) -> None:
    """Drop the oldest value of one channel and append the newest."""
    for t in range(history - 1):
        store_scalar(state + t * time, load_scalar(state + (t + 1) * time))
    if history > 0:
        store_scalar(state + (history - 1) * time, newest)


@kernel_part
def convolve_row(
    channels: int,
    width: int,
    history: int,
    state: int,
    state_time: int,
    state_channel: int,
    x: int,
    weight: int,
    bias: int,
    y: int,
) -> None:
    """One step of the convolution + SiLU of one batch row; the state has the last `history` >= width - 1 inputs."""
    for first in range(0, channels, LANES):
        count = min(LANES, channels - first)
        for channel in range(first, first + count):
            inputs = state + channel * state_channel
            recent = inputs + (history - (width - 1)) * state_time
            taps = weight + 4 * width * channel
            newest = load_scalar(x + 4 * channel)
            total = load_scalar(taps + 4 * (width - 1)) * newest
            if bias != 0:
                total += load_scalar(bias + 4 * channel)
            for tap in range(width - 1):
                total += load_scalar(taps + 4 * tap) * load_scalar(recent + tap * state_time)
            _shift_in(inputs, state_time, history, newest)
            store_scalar(y + 4 * channel, total)
        sums = load_first(y + 4 * first, count)
        store_first(y + 4 * first, sums * sigmoid(sums), count)


@kernel_part
def _advance(size: int, log_rates: int, A: int, B: int, C: int, state: int, exponent: Any, inflow: Any) -> Any:
    """Move the states of one channel on by a step; returns their weighted values, still to be summed over the lanes."""
    total = splat(ZERO)
    for n in range(0, size, LANES):
        count = size - n
        rate = load_first(A + 4 * n, count)
        if log_rates != 0:
            rate = splat(ZERO) - exp2_clamped(rate * splat(LOG2_E))
        decay = exp2_clamped(exponent * rate)
        h = fma(decay, load_first(state + 4 * n, count), inflow * load_first(B + 4 * n, count))
        store_first(state + 4 * n, h, count)
        total = fma(h, load_first(C + 4 * n, count), total)
    return total


@kernel_part
def update_block(
    count: int,
    size: int,
    apply_softplus: int,
    log_rates: int,
    state: int,
    x: int,
    dt: int,
    A: int,
    B: int,
    C: int,
    D: int,
    z: int,
    dt_bias: int,
    y: int,
    scratch: int,
) -> None:
    """One step of the scan of up to `LANES` channels of one group and batch row."""
    value = load_first(x, count)
    step = load_first(dt, count)
    if dt_bias != 0:
        step = step + load_first(dt_bias, count)
    if apply_softplus != 0:
        step = softplus(step)
    store(scratch, step * splat(LOG2_E))
    store(scratch + BYTES, step * value)
    store(scratch + 2 * BYTES, splat(ZERO))
    for lane in range(count):
        place = scratch + 4 * lane
        row = 4 * lane * size
        exponent, inflow = broadcast(place), broadcast(place + BYTES)
        total = _advance(size, log_rates, A + row, B, C, state + row, exponent, inflow)
        store_scalar(place + 2 * BYTES, sum_lanes(total))
    output = load(scratch + 2 * BYTES)
    if D != 0:
        output = fma(load_first(D, count), value, output)
    if z != 0:
        gate = load_first(z, count)
        output = output * (gate * sigmoid(gate))
    store_first(y, output, count)


@kernel_part
def update_row(
    channels: int,
    groups: int,
    size: int,
    apply_softplus: int,
    log_rates: int,
    state: int,
    x: int,
    dt: int,
    A: int,
    B: int,
    B_group: int,
    C: int,
    C_group: int,
    D: int,
    z: int,
    dt_bias: int,
    y: int,
    scratch: int,
) -> None:
    """One step of the scan of one batch row; with `log_rates`, A holds log(-A)."""
    per_group = channels // groups
    for group in range(groups):
        end = (group + 1) * per_group
        for first in range(group * per_group, end, LANES):
            place = 4 * first
            update_block(
                min(LANES, end - first),
                size,
                apply_softplus,
                log_rates,
                state + place * size,
                x + place,
                dt + place,
                A + place * size,
                B + group * B_group,
                C + group * C_group,
                D + place if D != 0 else 0,
                z + place if z != 0 else 0,
                dt_bias + place if dt_bias != 0 else 0,
                y + place,
                scratch,
            )


@kernel_part
def _convolve(
    sizes: tuple[int, ...], strides: tuple[int, ...], state: int, x: int, weight: int, bias: int, y: int
) -> None:
    batch, channels, width, history = sizes
    state_batch, state_time, state_channel, x_batch = strides
    for row in range(batch):
        past, newest, output = state + row * state_batch, x + row * x_batch, y + 4 * row * channels
        convolve_row(channels, width, history, past, state_time, state_channel, newest, weight, bias, output)


@kernel_part
def _update(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    state: int,
    x: int,
    dt: int,
    A: int,
    B: int,
    C: int,
    D: int,
    z: int,
    dt_bias: int,
    y: int,
    scratch: int,
) -> None:
    batch, channels, groups, size, apply_softplus = sizes
    x_batch, dt_batch, z_batch, B_batch, B_group, C_batch, C_group = strides
    for row in range(batch):
        place = 4 * row * channels
        update_row(
            channels,
            groups,
            size,
            apply_softplus,
            0,
            state + place * size,
            x + row * x_batch,
            dt + row * dt_batch,
            A,
            B + row * B_batch,
            B_group,
            C + row * C_batch,
            C_group,
            D,
            z + row * z_batch if z != 0 else 0,
            dt_bias,
            y + place,
            scratch,
        )


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points; see `numba_compile._source_stamp` for why they are made in a function."""

    @Kernel
    def conv_step(
        sizes: tuple[int, ...], strides: tuple[int, ...], state: int, x: int, weight: int, bias: int, y: int
    ) -> None:
        if stamp != 0:
            _convolve(sizes, strides, state, x, weight, bias, y)

    @Kernel
    def state_step(
        sizes: tuple[int, ...],
        strides: tuple[int, ...],
        state: int,
        x: int,
        dt: int,
        A: int,
        B: int,
        C: int,
        D: int,
        z: int,
        dt_bias: int,
        y: int,
        scratch: int,
    ) -> None:
        if stamp != 0:
            _update(sizes, strides, state, x, dt, A, B, C, D, z, dt_bias, y, scratch)

    return conv_step, state_step


conv_step, state_step = _build(SOURCE_STAMP)
