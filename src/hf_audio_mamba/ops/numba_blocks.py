"""How numba kernels see tensors: rows of float32 channels in memory, cut into work items, blocks and tiles.

A work item is one batch row and a run of channels (a chunk) of one group. Kernels walk over time in tiles of `TILE`
steps and within a tile over blocks of `LANES` channels. The cut depends on sizes alone, never on threads, so neither
do sums. Everything is addressed in bytes; time that runs backwards is a negative step from the last row.
"""

from typing import NamedTuple, overload

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, load_scalar, store_scalar

TILE = 16  # steps of a tile, and between two checkpoints of the scan; 8 and 32 are slower on AVX-512
TILE_BYTES = TILE * BYTES
ZERO = np.float32(0.0)
_WIDE_CHUNK = 128  # channels of a work item ...
_NARROW_CHUNK = 64  # ... and where there would be few items
_FEW_ITEMS = 16


class Stream(NamedTuple):
    """A (batch, length, channels) float32 tensor whose channels lie side by side; address 0 if it is absent."""

    address: int
    batch: int
    step: int


class Rows(NamedTuple):
    """Address of the first of some rows, and the way from one to the next; address 0 if they are absent."""

    address: int
    step: int


class Partition(NamedTuple):
    """How the channels of a batch row are cut into work items."""

    channels: int
    groups: int
    chunk: int  # channels of a work item, a multiple of LANES
    chunks: int  # work items of one group of one batch row
    blocks: int  # blocks of LANES channels of one batch row; groups start with a new block


ABSENT = Stream(0, 0, 0)


def count_blocks(channels: int, groups: int = 1) -> int:
    """Blocks of a batch row, whatever the work items."""
    return groups * -(-(channels // groups) // LANES)


def partition_channels(batch: int, channels: int, groups: int = 1) -> Partition:
    """Cut channels so that sums over channels stay short and many threads find work."""
    group_channels = channels // groups
    chunk = _WIDE_CHUNK
    if batch * groups * -(-group_channels // chunk) < _FEW_ITEMS:
        chunk = _NARROW_CHUNK
    chunks = -(-group_channels // chunk)
    chunk = -(-group_channels // (chunks * LANES)) * LANES
    return Partition(channels, groups, chunk, -(-group_channels // chunk), count_blocks(channels, groups))


def stream_of(tensor: Tensor | None, reverse: bool = False) -> Stream:
    """A tensor as kernels see it; its memory must stay alive while they run."""
    if tensor is None or tensor.numel() == 0:
        return ABSENT
    batch, step = 4 * tensor.stride(0), 4 * tensor.stride(1)
    if reverse:
        return Stream(tensor.data_ptr() + (tensor.shape[1] - 1) * step, batch, -step)
    return Stream(tensor.data_ptr(), batch, step)


def address_of(tensor: Tensor | None) -> int:
    """Address of the first element; 0 for None and for a tensor without elements."""
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


@overload
def with_unit_stride(tensor: Tensor) -> Tensor: ...
@overload
def with_unit_stride(tensor: None) -> None: ...
def with_unit_stride(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself, or a copy if its last dimension is not contiguous."""
    if tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] == 1:
        return tensor
    return tensor.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself, or a contiguous copy."""
    return None if tensor is None else tensor.contiguous()


def scratch_memory(size: int) -> tuple[Tensor, int]:
    """Memory for one thread, and the first address in it on a cache line."""
    memory = torch.empty(size + 64, dtype=torch.uint8)
    return memory, -(-memory.data_ptr() // 64) * 64


@njit
def item_place(partition: Partition, item: int) -> tuple[int, int, int, int, int]:
    """(batch row, group, first channel, channel after the last, first block) of a work item."""
    per_row = partition.groups * partition.chunks
    row = item // per_row
    part = item - row * per_row
    group = part // partition.chunks
    group_channels = partition.channels // partition.groups
    start = (part - group * partition.chunks) * partition.chunk
    first = group * group_channels + start
    last = min(first + partition.chunk, (group + 1) * group_channels)
    block = group * (partition.blocks // partition.groups) + start // LANES
    return row, group, first, last, block


@njit
def rows_of(stream: Stream, row: int, time: int, channel: int) -> Rows:
    """Rows of a stream from one place on; absent if the stream is."""
    if stream.address == 0:
        return Rows(0, 0)
    return Rows(stream.address + row * stream.batch + time * stream.step + 4 * channel, stream.step)


@njit
def gather_lanes(target: int, source: Rows, rows: int, count: int) -> Rows:
    """Copy `rows` rows of `count` < LANES values into full vectors with zeros behind; returns these rows."""
    if source.address == 0:
        return source
    for row in range(rows):
        for lane in range(LANES):
            value = load_scalar(source.address + row * source.step + 4 * lane) if lane < count else ZERO
            store_scalar(target + row * BYTES + 4 * lane, value)
    return Rows(target, BYTES)


@njit
def scatter_lanes(target: Rows, source: int, rows: int, count: int) -> None:
    """Copy the first `count` values of `rows` vectors out."""
    for row in range(rows):
        for lane in range(count):
            value = load_scalar(source + row * BYTES + 4 * lane)
            store_scalar(target.address + row * target.step + 4 * lane, value)


@njit
def pack_state(target: int, source: int, state: int, count: int) -> None:
    """(count, state) values to (state, LANES) vectors; zeros for lanes that do not exist, or if source is 0."""
    for n in range(state):
        for lane in range(LANES):
            value = load_scalar(source + 4 * (lane * state + n)) if source != 0 and lane < count else ZERO
            store_scalar(target + n * BYTES + 4 * lane, value)


@njit
def unpack_state(target: int, source: int, state: int, count: int) -> None:
    """(state, LANES) vectors to (count, state) values."""
    for n in range(state):
        for lane in range(count):
            store_scalar(target + 4 * (lane * state + n), load_scalar(source + n * BYTES + 4 * lane))
