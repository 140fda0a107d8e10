"""One step of time of the scan and of the convolution, for decoding: checks arguments, picks a backend."""

import torch
from torch import Tensor

from hf_audio_mamba.errors import GradientError, ShapeError
from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.checks import check_argument
from hf_audio_mamba.ops.reference import compute_dtype

SCAN_NAME = "selective_state_update"
CONV_NAME = "causal_conv1d_silu_update"


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Take one step of `selective_scan`, from the state after the last step, which is overwritten.

    As many calls as there are frames give what one call of `selective_scan` with `initial_state=state` and
    `return_last_state=True` does. Not differentiable.

    Args:
        state: State before the step, `(batch, channels, state)`, contiguous, float32 (float64 if `x` is); becomes the
            state after the step.
        x: Input `(batch, channels)`, floating.
        dt: Time step before bias and softplus, `(batch, channels)`.
        A: Rate of change of the state, negative where it decays, `(channels, state)`.
        B: Input projection, `(batch, state)`, or `(batch, groups, state)` as in `selective_scan`.
        C: Output projection, shaped as `B`.
        D: Skip connection `(channels,)`; none if omitted.
        z: Gate `(batch, channels)`; none if omitted.
        dt_bias: Bias of the time step `(channels,)`; none if omitted.
        dt_softplus: Whether softplus makes the time step positive.
        backend: As in `selective_scan`; all backends but `"numba"` and `"reference"` compute in plain PyTorch here.

    Returns:
        `y (batch, channels)` in the dtype of `x`.

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype, device or layout; the message names it.
        GradientError: If an argument requires a gradient and gradients are enabled.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    tensors = {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    _refuse_gradients(SCAN_NAME, tensors)
    _check_step(SCAN_NAME, x)
    batch, channels = x.shape
    if A.ndim != 2 or A.shape[1] == 0:
        raise ShapeError(f"{SCAN_NAME}: A must be (channels, state) with state > 0, got shape {tuple(A.shape)}.")
    size = A.shape[1]
    _check_projections(B, C, size, x)
    check_argument(SCAN_NAME, "A", A, "(channels, state)", (channels, size), x)
    check_argument(SCAN_NAME, "dt", dt, "(batch, channels)", (batch, channels), x)
    if z is not None:
        check_argument(SCAN_NAME, "z", z, "(batch, channels)", (batch, channels), x)
    for name, vector in (("D", D), ("dt_bias", dt_bias)):
        if vector is not None:
            check_argument(SCAN_NAME, name, vector, "(channels,)", (channels,), x)
    check_argument(SCAN_NAME, "state", state, "(batch, channels, state)", (batch, channels, size), x)
    if state.dtype != compute_dtype(x) or not state.is_contiguous():
        raise ShapeError(
            f"{SCAN_NAME}: state must be contiguous and {compute_dtype(x)} for x in {x.dtype}, got {state.dtype} "
            f"with strides {state.stride()}."
        )
    if B.ndim == 2:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    variant = (size, B.shape[1], dt_softplus, z is not None, False)
    name = _choose(backend, x, "state_update", variant)
    return backends.state_update_function(name)(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=dt_softplus)


def causal_conv1d_silu_update(
    conv_state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Take one step of `causal_conv1d_silu`, from the inputs before it, of which the oldest is replaced by `x`.

    Not differentiable.

    Args:
        conv_state: The inputs before the step, the latest last, `(batch, history, channels)` with a history of
            `width - 1` frames or more, floating, in any layout: `state.transpose(1, 2)` of a `(batch, channels, width)`
            state serves as it is. Updated in place.
        x: Input `(batch, channels)`, floating.
        weight: Taps `(channels, width)`, earliest frame first.
        bias: Added before SiLU, `(channels,)`; none if omitted.
        backend: As in `selective_state_update`.

    Returns:
        `(batch, channels)` in the dtype of `x`; sums are float32 (float64 if `x` is).

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype, device or layout; the message names it.
        GradientError: If an argument requires a gradient and gradients are enabled.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    _refuse_gradients(CONV_NAME, {"conv_state": conv_state, "x": x, "weight": weight, "bias": bias})
    _check_step(CONV_NAME, x)
    batch, channels = x.shape
    if weight.ndim != 2 or weight.shape[1] == 0:
        raise ShapeError(
            f"{CONV_NAME}: weight must be (channels, width) with width > 0, got shape {tuple(weight.shape)}."
        )
    width = weight.shape[1]
    check_argument(CONV_NAME, "weight", weight, "(channels, width)", (channels, width), x)
    if bias is not None:
        check_argument(CONV_NAME, "bias", bias, "(channels,)", (channels,), x)
    axes = "(batch, history, channels) with history >= width - 1"
    history = max(conv_state.shape[1], width - 1) if conv_state.ndim == 3 else width - 1
    check_argument(CONV_NAME, "conv_state", conv_state, axes, (batch, history, channels), x)
    overlapping = [s == 0 and n > 1 for s, n in zip(conv_state.stride(), conv_state.shape, strict=True)]
    if any(overlapping):
        raise ShapeError(
            f"{CONV_NAME}: conv_state is updated in place, but its elements share memory (strides "
            f"{conv_state.stride()}); pass conv_state.clone()."
        )
    name = _choose(backend, x, "conv_update", (width, bias is not None, False))
    return backends.conv_update_function(name)(conv_state, x, weight, bias)


def _refuse_gradients(operation: str, tensors: dict[str, Tensor | None]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise GradientError(
                f"{operation}: {name} requires a gradient, which an update in place does not have; call it under "
                "torch.no_grad(), or use the operation over whole sequences."
            )


def _check_step(operation: str, x: Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(f"{operation}: x must be (batch, channels) and not empty, got shape {tuple(x.shape)}.")
    check_argument(operation, "x", x, "(batch, channels)", x.shape, x)


def _check_projections(B: Tensor, C: Tensor, size: int, x: Tensor) -> None:
    batch, channels = x.shape
    if B.ndim == 3:
        groups = B.shape[1]
        if groups == 0 or channels % groups:
            raise ShapeError(f"{SCAN_NAME}: B has {groups} groups, which do not divide the {channels} channels of x.")
        axes, sizes = "(batch, groups, state)", [batch, groups, size]
    else:
        axes, sizes = "(batch, state)", [batch, size]
    check_argument(SCAN_NAME, "B", B, axes, sizes, x)
    check_argument(SCAN_NAME, "C", C, f"shaped as B, {axes}", sizes, x)


def _choose(backend: str | None, x: Tensor, operation: str, variant: tuple[int, ...]) -> str:
    if torch.compiler.is_compiling() and backend is None:
        return "torch"  # a graph takes plain operations as they are, and fuses them
    return backends.choose(backend, x.device.type, x.dtype, operation, variant)
