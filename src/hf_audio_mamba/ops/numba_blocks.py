"""How numba kernels see tensors: rows of float32 channels in memory, cut into work items, blocks and tiles.

A work item is one batch row and a run of channels (a chunk) of one group. Kernels walk over time in tiles of `TILE`
steps and within a tile over blocks of `LANES` channels. The cut depends on sizes alone, never on threads, so neither
do sums. Everything is addressed in bytes; time that runs backwards is a negative step from the last row, any other
order of rows a table of their numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from hf_audio_mamba.ops.numba_compile import kernel_part
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    copy_float,
    copy_floats,
    load,
    load_int,
    splat,
    store,
)
from hf_audio_mamba.ops.row_order import visits

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


class Visits(NamedTuple):
    """Which rows a pass visits: tables of int64."""

    table: int  # (batch, length) row numbers in the order of the visit; 0: rows in the order of a stream's steps
    batch: int  # bytes from one batch row's table to the next, 0 where all share one
    lengths: int  # (batch,) numbers of steps; 0: as many as there are rows


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


@dataclass(frozen=True)
class RowOrder:
    """A pass over time as kernels see it, and the memory behind it."""

    visits: Visits
    backwards: bool  # whether streams step from the last row to the first
    partial: bool  # whether rows are left out, so that what kernels do not write must be zero
    memory: tuple[Tensor, ...]  # must stay alive while they run

    @classmethod
    def of(cls, length: int, reverse: bool, order: Tensor | None, lengths: Tensor | None) -> "RowOrder":
        """The pass over `length` rows with `order` and `lengths` as in `selective_scan`."""
        memory: tuple[Tensor, ...] = ()
        steps = 0
        if lengths is not None:
            lengths = lengths.contiguous()
            steps, memory = lengths.data_ptr(), (lengths,)
        if order is None and (lengths is None or not reverse):
            return cls(Visits(0, 0, steps), reverse, lengths is not None, memory)
        rows = visits(length, reverse=reverse, order=order, lengths=lengths, device=torch.device("cpu"))
        # Rows are prefetched one tile ahead, so the table goes on for a tile on either side.
        padded = np.zeros((rows.numel() // length, length + 2 * TILE), np.int64)
        padded[:, TILE : TILE + length] = rows.numpy()
        table = torch.from_numpy(padded)
        batch = 8 * table.stride(0) if rows.ndim == 2 else 0
        return cls(Visits(table.data_ptr() + 8 * TILE, batch, steps), False, lengths is not None, (*memory, table))

    def stream(self, tensor: Tensor | None) -> Stream:
        """A tensor whose rows this pass visits."""
        return stream_of(tensor, self.backwards)

    def memory_for(self, *shape: int) -> Tensor:
        """Float32 memory for what a kernel writes row by row: zeros where it will leave rows out."""
        # Not torch.zeros, which may enter OpenMP: that hangs in forked workers.
        return torch.from_numpy(np.zeros(shape, np.float32)) if self.partial else empty(*shape)


def address_of(tensor: Tensor | None) -> int:
    """Address of the first element; 0 for None and for a tensor without elements."""
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


@overload
def with_unit_stride(tensor: Tensor) -> Tensor: ...
@overload
def with_unit_stride(tensor: None) -> None: ...
def with_unit_stride(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself, or a copy if its last dimension is not contiguous or its memory holds the negated values."""
    if tensor is None:
        return None
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


@overload
def contiguous(tensor: Tensor) -> Tensor: ...
@overload
def contiguous(tensor: None) -> None: ...
def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor itself, or a contiguous copy."""
    return None if tensor is None else tensor.contiguous().resolve_neg()


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
def count_steps(visits: Visits, row: int, length: int) -> int:
    """Rows of a batch row that are visited."""
    return load_int(visits.lengths + 8 * row) if visits.lengths != 0 else length


@kernel_part
def table_at(visits: Visits, row: int, step: int) -> int:
    """Where the table of a batch row goes on at a step; 0 if there is none."""
    return visits.table + row * visits.batch + 8 * step if visits.table != 0 else 0


@kernel_part
def tile_rows(stream: Stream, table: int, row: int, start: int, channel: int) -> Rows:
    """Rows of a stream for a tile: from its first one on, or all where a table numbers them."""
    rows: Rows = rows_of(stream, row, 0 if table != 0 else start, channel)
    return rows


@kernel_part
def row_address(rows: Rows, table: int, step: int) -> int:
    """Address of the row visited at a step of a tile."""
    return rows.address + (load_int(table + 8 * step) if table != 0 else step) * rows.step


@kernel_part
def gather_rows(target: int, source: Rows, table: int, rows: int, count: int) -> Rows:
    """Copy a tile's rows of `count` channels into full vectors, zeros behind; returns these rows."""
    if source.address == 0:
        return source
    for step in range(rows):
        place = row_address(source, table, step)
        if count < LANES:
            store(target + step * BYTES, splat(ZERO))
            copy_floats(target + step * BYTES, place, count)
        else:
            store(target + step * BYTES, load(place))
    return Rows(target, BYTES)


@kernel_part
def scatter_rows(target: Rows, source: int, table: int, rows: int, count: int) -> None:
    """Copy the first `count` values of a tile's vectors to its rows."""
    for step in range(rows):
        place = row_address(target, table, step)
        if count < LANES:
            copy_floats(place, source + step * BYTES, count)
        else:
            store(place, load(source + step * BYTES))


@kernel_part
def gather_values(target: int, source: Rows, table: int, rows: int, count: int) -> Rows:
    """Copy a tile's rows of `count` values side by side; returns these rows."""
    for step in range(rows):
        copy_floats(target + 4 * step * count, row_address(source, table, step), count)
    return Rows(target, 4 * count)


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
