"""What the Triton kernels share: how they see tensors, which part of the work a program does, and a little mathematics.

A program computes some channels (`BLOCK`, all of one group) of one sample, in one direction, over one segment of the
length. Tensors of states are (states, channels), with 32 consecutive channels to a warp: up to 16 states a thread holds
all states of its channel, sums over states need no communication, and the rows of B and C are read once a warp.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LARGEST = tl.constexpr(3.4028234663852886e38)
TILE = tl.constexpr(8)
"""Steps between checkpoints; the forward pass has their rows in registers at once."""
LANES = 32


class Stream(NamedTuple):
    """A tensor over time for each direction, with unit stride over channels (or states) and equal other strides."""

    data: Tensor  # of direction 0
    other: Tensor  # of direction 1; any tensor where there is but one
    batch: int  # strides, in elements
    time: int
    group: int


class Inputs(NamedTuple):
    """What a scan reads over time: x, dt and z over channels, B and C over groups and states."""

    x: Stream
    dt: Stream
    z: Stream  # any stream where there is no gate
    B: Stream
    C: Stream


class Parameters(NamedTuple):
    """What a scan's channels have, contiguous in float32."""

    A: Tensor  # (directions, channels, state)
    D: Tensor  # (directions, channels)
    bias: Tensor  # (directions, channels)


class Sizes(NamedTuple):
    """Sizes of one scan."""

    batch: int
    length: int
    channels: int
    groups: int
    segments: int
    segment_tiles: int  # tiles of a segment; the last one may have fewer


@triton.jit
def place_of(sizes: tl.tuple, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr) -> tl.tuple:
    """What a program works on.

    Returns:
        `(direction, sample, group, whether time runs backwards)`, its segment, its block within the group, and
        `(channels, which of them exist)`.
    """
    per_group = sizes.channels // sizes.groups
    blocks = tl.cdiv(per_group, BLOCK)
    program = tl.program_id(0)
    block = program % blocks
    group = (program // blocks) % sizes.groups
    row = program // (blocks * sizes.groups)
    sample = (row % sizes.batch).to(tl.int64)
    segment = (row // sizes.batch) % sizes.segments
    direction = (row // (sizes.batch * sizes.segments)).to(tl.int64)
    within = block * BLOCK + tl.arange(0, BLOCK)
    where = (direction, sample, group.to(tl.int64), direction == BACKWARDS)
    return where, segment, block, (group * per_group + within, within < per_group)


@triton.jit
def tiles_of(segment: tl.tensor, sizes: tl.tuple) -> tl.tuple:
    """First tile of a segment and the one after its last; a segment may be empty."""
    first = segment * sizes.segment_tiles
    return first, tl.minimum(first + sizes.segment_tiles, tl.cdiv(sizes.length, TILE))


@triton.jit
def addresses_of(
    stream: tl.tuple,
    where: tl.tuple,
    first: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    DIRECTIONS: tl.constexpr,
) -> tl.tuple:
    """Where the rows begin that are visited at `COUNT` steps of the scan from `first` on."""
    direction, sample, group, backwards = where
    start = stream.data
    if DIRECTIONS == 2:
        if direction == 1:
            start = stream.other
    start += sample * stream.batch + group * stream.group
    addresses: tl.tuple = ()
    for index in tl.static_range(COUNT):
        row = tl.where(backwards, length - 1 - first - index, first + index).to(tl.int64)
        addresses = addresses + (start + row * stream.time,)
    return addresses


@triton.jit
def load_rows(
    stream: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    first: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    DIRECTIONS: tl.constexpr,
) -> tl.tuple:
    """`COUNT` rows of a stream in float32, each asked for before any is needed; zeros past the end."""
    channel, is_channel = channels
    addresses = addresses_of(stream, where, first, length, COUNT, DIRECTIONS)
    rows: tl.tuple = ()
    for index in tl.static_range(COUNT):
        mask = is_channel & (length > first + index)
        rows = rows + (tl.load(addresses[index] + channel, mask=mask, other=0.0).to(tl.float32),)
    return rows


@triton.jit
def load_columns(
    stream: tl.tuple,
    where: tl.tuple,
    first: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    STATE: tl.constexpr,
    STATES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
) -> tl.tuple:
    """`COUNT` rows of B or C as (states, 1) columns in float32; zeros past the end."""
    n = tl.arange(0, STATES)
    addresses = addresses_of(stream, where, first, length, COUNT, DIRECTIONS)
    columns: tl.tuple = ()
    for index in tl.static_range(COUNT):
        mask = (n < STATE) & (length > first + index)
        columns = columns + (tl.load(addresses[index] + n, mask=mask, other=0.0).to(tl.float32)[:, None],)
    return columns


@triton.jit
def store_rows(
    stream: tl.tuple,
    rows: tl.tuple,
    where: tl.tuple,
    channels: tl.tuple,
    first: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    DIRECTIONS: tl.constexpr,
) -> None:
    """Write `COUNT` rows, but none past the end."""
    channel, is_channel = channels
    addresses = addresses_of(stream, where, first, length, COUNT, DIRECTIONS)
    for index in tl.static_range(COUNT):
        tl.store(addresses[index] + channel, rows[index], mask=is_channel & (length > first + index))


@triton.jit
def cells_of(channels: tl.tuple, STATE: tl.constexpr, STATES: tl.constexpr) -> tl.tuple:
    """Places of a block's (states, channels) in memory shaped (channels, state), and which of them exist."""
    channel, is_channel = channels
    n = tl.arange(0, STATES)
    return channel[None, :] * STATE + n[:, None], (n < STATE)[:, None] & is_channel[None, :]


@triton.jit
def load_parameters(
    parameters: tl.tuple,
    direction: tl.tensor,
    channels: tl.tuple,
    cells: tl.tuple,
    count: tl.tensor,
    STATE: tl.constexpr,
) -> tl.tuple:
    """A block's rates `A log2(e)`, values of D and biases; `count` is the number of channels."""
    first = direction * count + channels[0]
    skip = tl.load(parameters.D + first, mask=channels[1], other=0.0)
    shift = tl.load(parameters.bias + first, mask=channels[1], other=0.0)
    return load_rates(parameters.A, direction, cells, count, STATE), skip, shift


@triton.jit
def load_rates(A: tl.tensor, direction: tl.tensor, cells: tl.tuple, count: tl.tensor, STATE: tl.constexpr) -> tl.tensor:
    """`A log2(e)`, with infinities made finite so that steps of size 0 keep the state; NaN stays."""
    cell, inside = cells
    rate = tl.load(A + direction * count * STATE + cell, mask=inside, other=0.0) * LOG2_E
    rate = tl.minimum(rate, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(rate, -LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sigmoid(value: tl.tensor) -> tl.tensor:
    """Logistic function."""
    return 1.0 / (1.0 + tl.exp2(value * -LOG2_E))


@triton.jit
def softplus(value: tl.tensor) -> tl.tensor:
    """`log(1 + exp(value))`, to float32's precision for very negative values too.

    With `q = exp(-|value|)`, it is `max(value, 0) + 2 artanh(q / (2 + q))`; the argument is at most 1/3, where eight
    terms of artanh's series suffice.
    """
    power = tl.exp2(tl.abs(value) * -LOG2_E)
    ratio = power / (2.0 + power)
    square = ratio * ratio
    series = square * (1.0 / 15.0) + 1.0 / 13.0
    for index in tl.static_range(6):
        series = series * square + 1.0 / (11.0 - 2.0 * index)
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL) + 2.0 * ratio * series


@triton.jit
def step_sizes(
    rows: tl.tuple,
    shift: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    COUNT: tl.constexpr,
    SOFTPLUS: tl.constexpr,
) -> tl.tuple:
    """Step sizes from rows of dt and the bias; zeros past the end, which leave the state as it is."""
    steps: tl.tuple = ()
    for index in tl.static_range(COUNT):
        size = rows[index] + shift
        if SOFTPLUS:
            size = softplus(size)
        steps = steps + (tl.where(length > first + index, size, 0.0),)
    return steps


@triton.jit
def gated(values: tl.tuple, zs: tl.tuple, COUNT: tl.constexpr) -> tl.tuple:
    """Rows times SiLU of those of z."""
    products: tl.tuple = ()
    for index in tl.static_range(COUNT):
        products = products + (values[index] * zs[index] * sigmoid(zs[index]),)
    return products


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter on the CPU: `TRITON_INTERPRET=1` was set when triton was imported."""
    return not isinstance(sigmoid, JITFunction)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Context in which kernels are launched on a tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def stream_of(tensors: list[Tensor]) -> Stream:
    """Stream of the tensors (batch, length, channels) or (batch, length, groups, state) of one or two directions.

    Copies what kernels cannot read where it lies.
    """
    data, other = tensors[0], tensors[-1]
    if any(tensor.shape[-1] > 1 and tensor.stride(-1) != 1 for tensor in tensors):
        data, other = data.contiguous(), other.contiguous()
    differing = [a != b and size > 1 for a, b, size in zip(data.stride(), other.stride(), data.shape, strict=True)]
    if any(differing):
        data, other = data.contiguous(), other.contiguous()
    batch, time = data.stride()[:2]
    return Stream(data, other, batch, time, data.stride(2) if data.ndim == 4 else 0)
