"""One step of time by numba kernels, for tensors: states are updated where they lie, outputs are new.

Not operators of torch: their calls would cost more than the work. Nothing here may be traced or differentiated.
"""

from torch import Tensor
from torch.autograd.graph import increment_version

from hf_audio_mamba.ops import numba_step_kernels as kernels
from hf_audio_mamba.ops.numba_blocks import address_of, contiguous, empty, scratch_memory, with_unit_stride


def convolution_step(conv_state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One step of the convolution + SiLU of float32 tensors.

    Args:
        conv_state: Last inputs (batch, history, channels), history >= width - 1, any strides; updated in place.
        x: (batch, channels).
        weight: (channels, width).
        bias: (channels,) or None.
    """
    x, weight, bias = with_unit_stride(x), weight.contiguous(), contiguous(bias)
    batch, channels = x.shape
    history = conv_state.shape[1]
    y = empty(batch, channels)
    stride_batch, stride_time, stride_channel = conv_state.stride()
    kernels.conv_step(
        (batch, channels, weight.shape[1], history),
        (4 * stride_batch, 4 * stride_time, 4 * stride_channel, 4 * x.stride(0)),
        address_of(conv_state),
        x.data_ptr(),
        weight.data_ptr(),
        address_of(bias),
        y.data_ptr(),
    )
    increment_version(conv_state)  # autograd may have kept it for a backward pass
    return y


def state_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """One step of the scan of float32 tensors.

    Args:
        state: (batch, channels, state), contiguous; updated in place.
        x: (batch, channels), as are dt and z.
        dt: Time step before bias and softplus.
        A: (channels, state).
        B: (batch, groups, state), as is C.
        C: Output projection.
        D: (channels,), as is dt_bias, or None.
        z: Gate or None.
        dt_bias: Bias of the time step or None.
        dt_softplus: Whether softplus makes the time step positive.
    """
    x, dt, B, C = (with_unit_stride(tensor) for tensor in (x, dt, B, C))
    z = with_unit_stride(z)
    A, D, dt_bias = A.contiguous(), contiguous(D), contiguous(dt_bias)
    batch, channels = x.shape
    groups, size = B.shape[1:]
    y = empty(batch, channels)
    _memory, scratch = scratch_memory(kernels.STEP_SCRATCH_BYTES)
    strides = (x.stride(0), dt.stride(0), 0 if z is None else z.stride(0), *B.stride()[:2], *C.stride()[:2])
    kernels.state_step(
        (batch, channels, groups, size, int(dt_softplus)),
        tuple([4 * stride for stride in strides]),
        state.data_ptr(),
        x.data_ptr(),
        dt.data_ptr(),
        A.data_ptr(),
        B.data_ptr(),
        C.data_ptr(),
        address_of(D),
        address_of(z),
        address_of(dt_bias),
        y.data_ptr(),
        scratch,
    )
    increment_version(state)  # autograd may have kept it for a backward pass
    return y
