"""numba kernel of one step of a whole Mamba mixer, with its four projections, or of a block around it.

At a batch of one a step is as fast as the weights come from memory, so they are read in one sweep, row after row (which
is twice as fast as several rows at a time) and once for the whole batch.
"""

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.numba_blocks import ZERO, empty
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, fma, load, load_scalar, splat, store_scalar, sum_lanes
from hf_audio_mamba.ops.numba_masked import load_first, store_first
from hf_audio_mamba.ops.numba_step_kernels import STEP_SCRATCH_BYTES, convolve_row, update_row

_UNROLLED = 4 * LANES
_ONE = np.float32(1.0)


@kernel_part
def _dot(width: int, left: int, right: int) -> float:
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
def _project(
    batch: int, rows: int, width: int, weight: int, bias: int, x: int, x_batch: int, y: int, y_batch: int
) -> None:
    """A linear layer: weight (rows, width)."""
    for row in range(rows):
        for b in range(batch):
            value = _dot(width, weight + 4 * row * width, x + b * x_batch)
            if bias != 0:
                value += load_scalar(bias + 4 * row)
            store_scalar(y + b * y_batch + 4 * row, value)


@kernel_part
def _normalise(batch: int, width: int, x: int, weight: int, epsilon: float, y: int) -> None:
    """Divide rows by their root mean square, and scale."""
    for b in range(batch):
        row, target = x + 4 * b * width, y + 4 * b * width
        mean = _dot(width, row, row) / np.float32(width)
        scale = splat(_ONE / np.sqrt(mean + np.float32(epsilon)))
        for n in range(0, width, LANES):
            count = width - n
            value = load_first(row + 4 * n, count) * scale * load_first(weight + 4 * n, count)
            store_first(target + 4 * n, value, count)


@kernel_part
def _add(width: int, x: int, y: int) -> None:
    """Add one row to another."""
    for n in range(0, width, LANES):
        count = width - n
        store_first(y + 4 * n, load_first(x + 4 * n, count) + load_first(y + 4 * n, count), count)


@kernel_part
def _mix(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    conv_state: int,
    state: int,
    hidden: int,
    weights: tuple[int, ...],
    mixed: int,
    scratch: int,
) -> None:
    batch, features, channels, size, rank, width, history = sizes
    in_weight, in_bias, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight, out_bias = weights
    # Scratch after that of the scan's step: x and z, x after the convolution, dt, y, then dt_proj's input with B and C.
    selected = rank + 2 * size
    xz_batch, channels_batch, selected_batch = 8 * channels, 4 * channels, 4 * selected
    xz = scratch + STEP_SCRATCH_BYTES
    x = xz + batch * xz_batch
    dt = x + batch * channels_batch
    y = dt + batch * channels_batch
    selection = y + batch * channels_batch

    _project(batch, 2 * channels, features, in_weight, in_bias, hidden, 4 * features, xz, xz_batch)
    for b in range(batch):
        past, inputs, output = conv_state + b * strides[0], xz + b * xz_batch, x + b * channels_batch
        convolve_row(channels, width, history, past, strides[2], strides[1], inputs, conv_weight, conv_bias, output)
    _project(batch, selected, channels, x_weight, 0, x, channels_batch, selection, selected_batch)
    _project(batch, channels, rank, dt_weight, dt_bias, selection, selected_batch, dt, channels_batch)
    for b in range(batch):
        place = b * channels_batch
        B = selection + b * selected_batch + 4 * rank
        C, z = B + 4 * size, xz + b * xz_batch + channels_batch
        h = state + place * size
        update_row(channels, 1, size, 1, 1, h, x + place, dt + place, A_log, B, 0, C, 0, D, z, 0, y + place, scratch)
    _project(batch, features, channels, out_weight, out_bias, y, channels_batch, mixed, 4 * features)


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def mix(
        sizes: tuple[int, ...],
        strides: tuple[int, ...],
        conv_state: int,
        state: int,
        hidden: int,
        weights: tuple[int, ...],
        norm_weight: int,
        epsilon: float,
        mixed: int,
        scratch: int,
    ) -> None:
        if stamp != 0:
            batch, features = sizes[0], sizes[1]
            normalised = hidden
            if norm_weight != 0:
                normalised = scratch
                scratch += 4 * batch * features
                _normalise(batch, features, hidden, norm_weight, epsilon, normalised)
            _mix(sizes, strides, conv_state, state, normalised, weights, mixed, scratch)
            if norm_weight != 0:
                _add(batch * features, hidden, mixed)

    return mix


_kernel = _build(SOURCE_STAMP)


def mixer_step(
    conv_state: Tensor,
    state: Tensor,
    hidden_states: Tensor,
    weights: MixerWeights,
    norm: Norm | None,
) -> Tensor:
    """One step of float32 tensors, arguments as in `hf_audio_mamba.ops.mixer_step`; all but conv_state contiguous."""
    batch, _, features = hidden_states.shape
    _, channels, history = conv_state.shape
    size, rank, width = state.shape[2], weights.dt_weight.shape[1], weights.conv_weight.shape[-1]
    mixed = empty(batch, 1, features)
    scratch = empty(STEP_SCRATCH_BYTES // 4 + batch * (features + 5 * channels + rank + 2 * size))
    stride_batch, stride_channel, stride_time = conv_state.stride()
    _kernel(
        (batch, features, channels, size, rank, width, history),
        (4 * stride_batch, 4 * stride_channel, 4 * stride_time),
        conv_state.data_ptr(),
        state.data_ptr(),
        hidden_states.data_ptr(),
        tuple([0 if weight is None else weight.data_ptr() for weight in weights]),
        0 if norm is None else norm.weight.data_ptr(),
        0.0 if norm is None else norm.epsilon,
        mixed.data_ptr(),
        scratch.data_ptr(),
    )
    increment_version((conv_state, state))  # autograd may have kept them for a backward pass
    return mixed
