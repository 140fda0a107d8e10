"""numba kernel of one step of a stack of Mamba blocks, each with its four projections; or of a mixer alone."""

from array import array
from collections.abc import Sequence

from torch import Tensor
from torch.autograd.graph import increment_version

from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.numba_blocks import empty
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import load_int
from hf_audio_mamba.ops.numba_step_kernels import STEP_SCRATCH_BYTES, convolve_row, update_row
from hf_audio_mamba.ops.numba_step_linear import add, normalise, project

_WEIGHTS = len(MixerWeights._fields)
_COLUMNS = 6 + _WEIGHTS  # of the table of blocks: the two states, three strides, the norm's weight, the mixer's weights


@kernel_part
def _mix(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    states: tuple[int, ...],
    hidden: int,
    weights: tuple[int, ...],
    mixed: int,
    scratch: int,
) -> None:
    batch, features, channels, size, rank, width, history = sizes
    in_weight, in_bias, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, out_weight, out_bias = weights
    conv_state, state = states
    # Scratch after that of the scan's step: x and z, x after the convolution, dt, y, then dt_proj's input with B and C.
    selected = rank + 2 * size
    xz_batch, channels_batch, selected_batch = 8 * channels, 4 * channels, 4 * selected
    xz = scratch + STEP_SCRATCH_BYTES
    x = xz + batch * xz_batch
    dt = x + batch * channels_batch
    y = dt + batch * channels_batch
    selection = y + batch * channels_batch

    project(batch, 2 * channels, features, in_weight, in_bias, hidden, 4 * features, xz, xz_batch)
    for b in range(batch):
        past, inputs, output = conv_state + b * strides[0], xz + b * xz_batch, x + b * channels_batch
        convolve_row(channels, width, history, past, strides[2], strides[1], inputs, conv_weight, conv_bias, output)
    project(batch, selected, channels, x_weight, 0, x, channels_batch, selection, selected_batch)
    project(batch, channels, rank, dt_weight, dt_bias, selection, selected_batch, dt, channels_batch)
    for b in range(batch):
        place = b * channels_batch
        B = selection + b * selected_batch + 4 * rank
        C, z = B + 4 * size, xz + b * xz_batch + channels_batch
        h = state + place * size
        update_row(channels, 1, size, 1, 1, h, x + place, dt + place, A_log, B, 0, C, 0, D, z, 0, y + place, scratch)
    project(batch, features, channels, out_weight, out_bias, y, channels_batch, mixed, 4 * features)


@kernel_part
def _column(block: int, number: int) -> int:
    """One number of a block's row of the table."""
    value: int = load_int(block + 8 * number)
    return value


@kernel_part
def _take_block(sizes: tuple[int, ...], block: int, hidden: int, epsilon: float, output: int, scratch: int) -> None:
    """One block of the table: `hidden + mixer(norm(hidden))`, or the mixer alone if there is no norm."""
    batch, features = sizes[0], sizes[1]
    norm_weight = _column(block, 5)
    normalised, mixed = hidden, output
    if norm_weight != 0:
        normalised = scratch
        mixed = normalised + 4 * batch * features
        scratch = mixed + 4 * batch * features
        normalise(batch, features, hidden, norm_weight, epsilon, normalised)
    states = (_column(block, 0), _column(block, 1))
    strides = (_column(block, 2), _column(block, 3), _column(block, 4))
    weights = (
        _column(block, 6),
        _column(block, 7),
        _column(block, 8),
        _column(block, 9),
        _column(block, 10),
        _column(block, 11),
        _column(block, 12),
        _column(block, 13),
        _column(block, 14),
        _column(block, 15),
        _column(block, 16),
    )
    _mix(sizes, strides, states, normalised, weights, mixed, scratch)
    if norm_weight != 0:
        add(batch * features, hidden, mixed, output)


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def step(
        sizes: tuple[int, ...],
        blocks: int,
        table: int,
        hidden: int,
        norm_weight: int,
        epsilon: float,
        output: int,
        scratch: int,
    ) -> None:
        if stamp != 0:
            for number in range(blocks):
                source = hidden if number == 0 else output
                _take_block(sizes, table + 8 * _COLUMNS * number, source, epsilon, output, scratch)
            if norm_weight != 0:
                normalise(sizes[0], sizes[1], output, norm_weight, epsilon, output)

    return step


_kernel = _build(SOURCE_STAMP)


def stack_step(
    states: Sequence[Tensor],
    hidden_states: Tensor,
    blocks: Sequence[tuple[MixerWeights, Norm | None]],
    norm: Norm | None,
) -> Tensor:
    """One step of float32 tensors, arguments as in `hf_audio_mamba.ops.stack_step`, or of one mixer without norms.

    All but the states of the convolution are contiguous, and all norms have one epsilon.
    """
    batch, _, features = hidden_states.shape
    conv_state, state, weights = states[0], states[1], blocks[0][0]
    _, channels, history = conv_state.shape
    size, rank, width = state.shape[2], weights.dt_weight.shape[1], weights.conv_weight.shape[-1]
    output = empty(batch, 1, features)
    scratch = empty(STEP_SCRATCH_BYTES // 4 + batch * (2 * features + 5 * channels + rank + 2 * size))
    table = _table(states, blocks)
    some_norm = norm or blocks[0][1]
    _kernel(
        (batch, features, channels, size, rank, width, history),
        len(blocks),
        table.buffer_info()[0],
        hidden_states.data_ptr(),
        0 if norm is None else norm.weight.data_ptr(),
        0.0 if some_norm is None else some_norm.epsilon,
        output.data_ptr(),
        scratch.data_ptr(),
    )
    increment_version(states)  # autograd may have kept them for a backward pass
    return output


def _table(states: Sequence[Tensor], blocks: Sequence[tuple[MixerWeights, Norm | None]]) -> "array[int]":
    """The table of blocks; what it points to must stay alive while the kernel runs."""
    numbers: list[int] = []
    for conv_state, state, (weights, norm) in zip(states[::2], states[1::2], blocks, strict=True):
        stride_batch, stride_channel, stride_time = conv_state.stride()
        numbers += (conv_state.data_ptr(), state.data_ptr(), 4 * stride_batch, 4 * stride_channel, 4 * stride_time)
        numbers.append(0 if norm is None else norm.weight.data_ptr())
        numbers += [0 if weight is None else weight.data_ptr() for weight in weights]
    return array("q", numbers)
