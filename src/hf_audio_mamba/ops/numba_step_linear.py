"""numba kernels of a linear layer for few rows, and what else works on whole rows of a step.

At a batch of one a layer is as fast as its weights come from memory, so they are read in one sweep, row after row
(which is twice as fast as several rows at a time) and once for the whole batch.
"""

import numpy as np
from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import ZERO, address_of, empty
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, fma, load, load_scalar, splat, store_scalar, sum_lanes
from hf_audio_mamba.ops.numba_masked import load_first, store_first

_UNROLLED = 4 * LANES
_ONE = np.float32(1.0)


@kernel_part
def dot(width: int, left: int, right: int) -> float:
    """The inner product of two rows."""
    sum0, sum1, sum2, sum3 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    whole = width - width % _UNROLLED
    for place in range(0, 4 * whole, 4 * _UNROLLED):
        sum0 = fma(load(left + place), load(right + place), sum0)
        sum1 = fma(load(left + place + BYTES), load(right + place + BYTES), sum1)
        sum2 = fma(load(left + place + 2 * BYTES), load(right + place + 2 * BYTES), sum2)
        sum3 = fma(load(left + place + 3 * BYTES), load(right + place + 3 * BYTES), sum3)
    for n in range(whole, width, LANES):
        sum0 = fma(load_first(left + 4 * n, width - n), load_first(right + 4 * n, width - n), sum0)
    total: float = sum_lanes((sum0 + sum1) + (sum2 + sum3))
    return total


@kernel_part
def project(
    batch: int, rows: int, width: int, weight: int, bias: int, x: int, x_batch: int, y: int, y_batch: int
) -> None:
    """A linear layer: weight (rows, width)."""
    for row in range(rows):
        for b in range(batch):
            value = dot(width, weight + 4 * row * width, x + b * x_batch)
            if bias != 0:
                value += load_scalar(bias + 4 * row)
            store_scalar(y + b * y_batch + 4 * row, value)


@kernel_part
def normalise(batch: int, width: int, x: int, weight: int, epsilon: float, y: int) -> None:
    """Divide rows by their root mean square, and scale; y may be x."""
    for b in range(batch):
        row, target = x + 4 * b * width, y + 4 * b * width
        mean = dot(width, row, row) / np.float32(width)
        scale = splat(_ONE / np.sqrt(mean + np.float32(epsilon)))
        for n in range(0, width, LANES):
            count = width - n
            value = load_first(row + 4 * n, count) * scale * load_first(weight + 4 * n, count)
            store_first(target + 4 * n, value, count)


@kernel_part
def add(width: int, x: int, y: int, total: int) -> None:
    """Write the sum of two rows, which may be one of them."""
    for n in range(0, width, LANES):
        count = width - n
        store_first(total + 4 * n, load_first(x + 4 * n, count) + load_first(y + 4 * n, count), count)


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def linear(sizes: tuple[int, ...], x: int, weight: int, bias: int, y: int) -> None:
        if stamp != 0:
            batch, rows, width = sizes
            project(batch, rows, width, weight, bias, x, 4 * width, y, 4 * rows)

    return linear


_kernel = _build(SOURCE_STAMP)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of contiguous float32 tensors: x (batch, in), weight (out, in), bias (out,)."""
    batch, width = x.shape
    rows = weight.shape[0]
    y = empty(batch, rows)
    _kernel((batch, rows, width), x.data_ptr(), weight.data_ptr(), address_of(bias), y.data_ptr())
    return y
