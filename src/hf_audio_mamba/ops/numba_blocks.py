"""How numba kernels see tensors: rows of float32 channels in memory, cut into work items, blocks and tiles.

A work item is one batch row and a run of channels (a chunk) of one group. Kernels walk over time in tiles of `TILE`
steps and within a tile over blocks of `LANES` channels. The cut depends on sizes alone, never on threads, so neither
do sums. Everything is addressed in bytes; time that runs backwards is a negative step from the last row.
"""

from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from hf_audio_mamba.ops.numba_compile import kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, copy_float, copy_floats, load, splat, store

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


def empty(*shape: int) -> Tensor:
    """Uninitialised float32 memory, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def scratch_memory(size: int) -> tuple[Tensor, int]:
    """Memory for one thread, and the first address in it on a cache line."""
    memory = torch.empty(size + 64, dtype=torch.uint8, device="cpu")
    return memory, -(-memory.data_ptr() // 64) * 64


@kernel_part
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


@kernel_part
def rows_of(stream: Stream, row: int, time: int, channel: int) -> Rows:
    """Rows of a stream from one place on; absent if the stream is."""
    if stream.address == 0:
        return Rows(0, 0)
    return Rows(stream.address + row * stream.batch + time * stream.step + 4 * channel, stream.step)


@kernel_part
def gather_lanes(target: int, source: Rows, rows: int, count: int) -> Rows:
    """Copy `rows` rows of `count` < LANES values into full vectors with zeros behind; returns these rows."""
    if source.address == 0:
        return source
    for row in range(rows):
        store(target + row * BYTES, splat(ZERO))
        copy_floats(target + row * BYTES, source.address + row * source.step, count)
    return Rows(target, BYTES)


@kernel_part
def scatter_lanes(target: Rows, source: int, rows: int, count: int) -> None:
    """Copy the first `count` values of `rows` vectors out."""
    for row in range(rows):
        copy_floats(target.address + row * target.step, source + row * BYTES, count)


@kernel_part
def sum_leading(target: int, parts: int, count: int, vectors: int) -> None:
    """Add up `count` runs of vectors that lie one behind the other, first to last."""
    for index in range(vectors):
        total = splat(ZERO)
        for part in range(count):
            total = total + load(parts + (part * vectors + index) * BYTES)
        store(target + index * BYTES, total)


@kernel_part
def pack_state(target: int, source: int, state: int, count: int) -> None:
    """(count, state) values to (state, LANES) vectors; zeros for lanes that do not exist, or if source is 0."""
    for n in range(state):
        store(target + n * BYTES, splat(ZERO))
        if source != 0:
            for lane in range(min(LANES, count)):
                copy_float(target + n * BYTES + 4 * lane, source + 4 * (lane * state + n))


@kernel_part
def unpack_state(target: int, source: int, state: int, count: int) -> None:
    """(state, LANES) vectors to (count, state) values."""
    for n in range(state):
        for lane in range(count):
            copy_float(target + 4 * (lane * state + n), source + n * BYTES + 4 * lane)
