"""numba kernel of one step of a whole Mamba mixer, with its four projections.

At a batch of one a step is as fast as the weights come from memory, so they are read in one sweep, row after row, and
once for the whole batch.
"""

from torch import Tensor

from hf_audio_mamba.ops.numba_blocks import ZERO, address_of, empty
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, fma, load, load_scalar, splat, store_scalar, sum_lanes
from hf_audio_mamba.ops.numba_masked import load_first
from hf_audio_mamba.ops.numba_step_kernels import STEP_SCRATCH_BYTES, convolve_row, update_row

_UNROLLED = 4 * LANES


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
    # Scratch after that of the scan's step: x and z, x after the convolution, dt with B and C, dt, y; for each row.
    selected = rank + 2 * size
    xz_batch, channels_batch, selected_batch = 8 * channels, 4 * channels, 4 * selected
    xz = scratch + STEP_SCRATCH_BYTES
    x = xz + batch * xz_batch
    dt = x + batch * channels_batch
    y = dt + batch * channels_batch
    dt_B_C = y + batch * channels_batch

    _project(batch, 2 * channels, features, in_weight, in_bias, hidden, 4 * features, xz, xz_batch)
    for b in range(batch):
        inputs, output = xz + b * xz_batch, x + b * channels_batch
        place = conv_state + b * strides[0]
        convolve_row(
            channels, width, history, place, strides[1], strides[2], inputs, conv_weight, conv_bias, output
        )
    _project(batch, selected, channels, x_weight, 0, x, channels_batch, dt_B_C, selected_batch)
    _project(batch, channels, rank, dt_weight, dt_bias, dt_B_C, selected_batch, dt, channels_batch)
    for b in range(batch):
        place = b * channels_batch
        B = dt_B_C + b * selected_batch + 4 * rank
        update_row(
            channels,
            1,
            size,
            1,
            1,
            state + place * size,
            x + place,
            dt + place,
            A_log,
            B,
            0,
            B + 4 * size,
            0,
            D,
            xz + b * xz_batch + channels_batch,
            0,
            y + place,
            scratch,
        )
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
        mixed: int,
        scratch: int,
    ) -> None:
        if stamp != 0:
            _mix(sizes, strides, conv_state, state, hidden, weights, mixed, scratch)

    return mix


_kernel = _build(SOURCE_STAMP)


def mixer_step(
    conv_state: Tensor,
    state: Tensor,
    hidden_states: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor | None,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
) -> Tensor:
    """One step of float32 tensors, arguments as in `hf_audio_mamba.ops.mixer_step`; all but conv_state contiguous."""
    batch, features = hidden_states.shape
    channels, size = A_log.shape
    rank, history = dt_weight.shape[1], conv_state.shape[1]
    weights = (in_weight, in_bias, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight, out_bias)
    mixed = empty(batch, features)
    scratch = empty(STEP_SCRATCH_BYTES // 4 + batch * (5 * channels + rank + 2 * size))
    stride_batch, stride_time, stride_channel = conv_state.stride()
    _kernel(
        (batch, features, channels, size, rank, conv_weight.shape[-1], history),
        (4 * stride_batch, 4 * stride_time, 4 * stride_channel),
        address_of(conv_state),
        state.data_ptr(),
        hidden_states.data_ptr(),
        tuple([address_of(weight) for weight in weights]),
        mixed.data_ptr(),
        scratch.data_ptr(),
    )
    return mixed
