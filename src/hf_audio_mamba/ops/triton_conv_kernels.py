"""Triton kernels of the causal depth-wise convolution + SiLU and of its gradient.

A program computes a tile of (`ROWS` steps, `BLOCK` channels), reading the frames once a tap: all but the first reading
come from the cache. Gradients take two passes: the gradient at the convolution's output with its sums for the taps, a
part a program, then that of the frames. No atomics, so a gradient is the same at every run with the same tiles.
"""

import triton
import triton.language as tl

from hf_audio_mamba.ops.triton_blocks import sigmoid
from hf_audio_mamba.ops.triton_tuning import tuned_over_tiles


@triton.jit
def tile_of(channels: tl.tensor, steps: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr) -> tl.tuple:
    """A program's sample, number of its tile over time, steps (rows, 1), channels (1, block), and which of these exist.

    Args:
        channels: Number of channels.
        steps: Number of steps that the programs of a sample cover.
        ROWS: Steps of a tile.
        BLOCK: Channels of a tile.
    """
    blocks = tl.cdiv(channels, BLOCK)
    tiles = tl.cdiv(steps, ROWS)
    program = tl.program_id(0)
    channel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile = (program // blocks) % tiles
    step = tile * ROWS + tl.arange(0, ROWS)[:, None]
    return (program // (blocks * tiles)).to(tl.int64), tile, step, channel, channel < channels


@triton.jit
def load_frames(
    x: tl.tuple,
    past: tl.tensor,
    sample: tl.tensor,
    step: tl.tensor,
    channel: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_PAST: tl.constexpr,
) -> tl.tensor:
    """Frames at steps of the scan in float32; before step 0 those of the past, or zeros."""
    row = step
    if REVERSE:
        row = length - 1 - step
    inside = (channel < channels) & (step >= 0) & (step < length)
    frames = tl.load(x.data + sample * x.batch + row.to(tl.int64) * x.time + channel, mask=inside, other=0.0)
    frames = frames.to(tl.float32)
    if HAS_PAST:
        before = (sample * (WIDTH - 1) + WIDTH - 1 + step) * channels + channel
        frames += tl.load(past + before, mask=(channel < channels) & (step < 0), other=0.0)
    return frames


@triton.jit
def convolve(
    x: tl.tuple,
    weight: tl.tensor,
    bias: tl.tensor,
    past: tl.tensor,
    sample: tl.tensor,
    step: tl.tensor,
    channel: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_PAST: tl.constexpr,
) -> tl.tensor:
    """The convolution before SiLU."""
    values = tl.load(bias + channel, mask=channel < channels, other=0.0)
    for tap in tl.static_range(WIDTH):
        earlier = step - (WIDTH - 1 - tap)
        frames = load_frames(x, past, sample, earlier, channel, length, channels, WIDTH, REVERSE, HAS_PAST)
        values = values + frames * tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0)
    return values


@tuned_over_tiles
@triton.jit(do_not_specialize=["length", "tuning_key"])
def conv_kernel(
    x: tl.tuple,
    weight: tl.tensor,  # (width, channels)
    bias: tl.tensor,  # (channels,)
    past: tl.tensor,  # (batch, width - 1, channels)
    y: tl.tensor,  # (batch, length, channels)
    length: int,
    channels: int,
    tuning_key: int,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_PAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A tile of the output."""
    sample, _, step, channel, is_channel = tile_of(channels, length, ROWS, BLOCK)
    values = convolve(x, weight, bias, past, sample, step, channel, length, channels, WIDTH, REVERSE, HAS_PAST)
    row = step
    if REVERSE:
        row = length - 1 - step
    cell = (sample * length + row) * channels + channel
    tl.store(y + cell, values * sigmoid(values), mask=is_channel & (step < length))


@tuned_over_tiles
@triton.jit(do_not_specialize=["length", "tuning_key"])
def conv_sums_kernel(
    dy: tl.tuple,
    x: tl.tuple,
    weight: tl.tensor,
    bias: tl.tensor,
    past: tl.tensor,
    dvalues: tl.tensor,  # (batch, length, channels), in scan order
    dtaps: tl.tensor,  # (batch, tiles, width + 1, channels): parts of the gradients of the weight, and of the bias
    length: int,
    channels: int,
    tuning_key: int,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_PAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gradient at the convolution's output, and what a tile adds to those of the taps and the bias."""
    sample, tile, step, channel, is_channel = tile_of(channels, length, ROWS, BLOCK)
    values = convolve(x, weight, bias, past, sample, step, channel, length, channels, WIDTH, REVERSE, HAS_PAST)
    opened = sigmoid(values)
    d = load_frames(dy, past, sample, step, channel, length, channels, WIDTH, REVERSE, False)
    d = d * opened * (1.0 + values * (1.0 - opened))
    d = tl.where(is_channel & (step < length), d, 0.0)
    tl.store(dvalues + (sample * length + step) * channels + channel, d, mask=is_channel & (step < length))
    part = dtaps + (sample * tl.cdiv(length, ROWS) + tile) * (WIDTH + 1) * channels + channel
    for tap in tl.static_range(WIDTH):
        earlier = step - (WIDTH - 1 - tap)
        frames = load_frames(x, past, sample, earlier, channel, length, channels, WIDTH, REVERSE, HAS_PAST)
        tl.store(part + tap * channels, tl.sum(d * frames, 0)[None, :], mask=is_channel)
    tl.store(part + WIDTH * channels, tl.sum(d, 0)[None, :], mask=is_channel)


@tuned_over_tiles
@triton.jit(do_not_specialize=["length", "tuning_key"])
def conv_frames_kernel(
    dvalues: tl.tensor,  # (batch, length, channels), in scan order
    weight: tl.tensor,
    dx: tl.tensor,  # (batch, length, channels)
    dpast: tl.tensor,  # (batch, width - 1, channels)
    length: int,
    channels: int,
    tuning_key: int,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_PAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gradient of a tile of frames, those of the past among them: each is seen by itself and the steps behind it."""
    reach = WIDTH - 1 if HAS_PAST else 0
    sample, _, step, channel, is_channel = tile_of(channels, length + reach, ROWS, BLOCK)
    step = step - reach
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for tap in tl.static_range(WIDTH):
        later = step + (WIDTH - 1 - tap)
        mask = is_channel & (later >= 0) & (later < length)
        d = tl.load(dvalues + (sample * length + later) * channels + channel, mask=mask, other=0.0)
        total += d * tl.load(weight + tap * channels + channel, mask=is_channel, other=0.0)
    row = step
    if REVERSE:
        row = length - 1 - step
    tl.store(dx + (sample * length + row) * channels + channel, total, mask=is_channel & (step >= 0) & (step < length))
    if HAS_PAST:
        before = (sample * (WIDTH - 1) + WIDTH - 1 + step) * channels + channel
        tl.store(dpast + before, total, mask=is_channel & (step < 0))
