"""The selective scan of Mamba (arXiv:2312.00752): checks its arguments, picks a backend."""

from typing import Literal, overload

import torch
from torch import Tensor

from hf_audio_mamba.errors import ShapeError, UsageError
from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.checks import check_argument, check_input
from hf_audio_mamba.ops.row_order import check as check_row_order

NAME = "selective_scan"


@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    *,
    dt_softplus: bool = ...,
    reverse: bool = ...,
    initial_state: Tensor | None = ...,
    return_last_state: Literal[False] = ...,
    lengths: Tensor | None = ...,
    order: Tensor | None = ...,
    backend: str | None = ...,
    out: Tensor | None = ...,
) -> Tensor: ...


@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    *,
    dt_softplus: bool = ...,
    reverse: bool = ...,
    initial_state: Tensor | None = ...,
    return_last_state: Literal[True],
    lengths: Tensor | None = ...,
    order: Tensor | None = ...,
    backend: str | None = ...,
    out: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
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
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    lengths: Tensor | None = None,
    order: Tensor | None = None,
    backend: str | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the input-dependent linear recurrence of Mamba over time.

    For every channel with state `h`, step `t` does, with `delta = softplus(dt + dt_bias)`:

        h_t = exp(delta_t * A) * h_(t-1) + delta_t * B_t * x_t
        y_t = (C_t · h_t + D * x_t) * silu(z_t)

    Differentiable (once) in every tensor argument and through both results. Inputs may be strided views. States and
    sums are float64 if `x` is float64, float32 otherwise, also under autocast.

    Args:
        x: Input `(batch, length, channels)`, floating.
        dt: Time step before bias and softplus, `(batch, length, channels)`.
        A: Rate of change of the state, negative where it decays, `(channels, state)`.
        B: Input projection, `(batch, length, state)`, or `(batch, length, groups, state)` where channel `c` belongs to
            group `c // (channels // groups)`.
        C: Output projection, shaped as `B`.
        D: Skip connection `(channels,)`; none if omitted.
        z: Gate `(batch, length, channels)`; none if omitted.
        dt_bias: Bias of the time step `(channels,)`; none if omitted.
        dt_softplus: Whether softplus makes the time step positive.
        reverse: Whether to run from the latest frame to the earliest: equals flipping all sequences over time,
            scanning, and flipping the output.
        initial_state: State before the first step in scan order, `(batch, channels, state)`; zeros if omitted.
        return_last_state: Whether to return the state after the last step in scan order too (the earliest frame
            if `reverse`).
        lengths: Number of rows of each sequence that exist, `(batch,)` int64 in 0 to length: the first ones (in
            `order` if given). The others are never read, get no gradient, and are 0 in `y`.
        order: Row visited at each step, a permutation, `(length,)` or `(batch, length)` int64. `reverse` visits the
            same rows the other way round. By default the order of memory.
        backend: Name of a backend (see `available_backends`); by default that of `scan_backend(...)`, of the
            environment variable `HF_AUDIO_MAMBA_SCAN`, or the fastest one, in this order.
        out: Tensor like `x` that `y` is written to and that is returned as `y`; spares large outputs the page
            faults of fresh memory. It must not overlap an input, and nothing may require a gradient.

    Returns:
        `y (batch, length, channels)` in the dtype of `x`; with `return_last_state`, a pair of it and the last state
        `(batch, channels, state)` in float32 (float64 if `x` is).

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype, device or (`order`, `lengths`) values; the message
            names it.
        UsageError: If `out` is given where a gradient is needed.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    check_operands(x, dt, A, B, C, D, z, dt_bias, initial_state)
    check_row_order(NAME, x, order, lengths)
    if B.ndim == 3:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    needs_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if out is not None:
        _check_out(out, x, needs_backward)
    variant = (A.shape[1], B.shape[2], dt_softplus, z is not None, reverse, needs_backward)
    name = backends.choose(backend, x.device.type, x.dtype, "scan", variant)
    options = {"reverse": reverse, "initial_state": initial_state, "order": order, "lengths": lengths}
    if out is not None and backends.takes_out(name):
        options["out"] = out
    y, last_state = backends.scan_function(name)(x, dt, A, B, C, D, z, dt_bias, dt_softplus=dt_softplus, **options)
    if out is not None and y is not out:
        y = out.copy_(y)
    return (y, last_state) if return_last_state else y


def _check_out(out: Tensor, x: Tensor, needs_backward: bool) -> None:
    check_argument(NAME, "out", out, "(batch, length, channels)", x.shape, x)
    if out.dtype != x.dtype:
        raise ShapeError(f"{NAME}: out must have the dtype of x, {x.dtype}, got {out.dtype}.")
    if any(step == 0 and size > 1 for step, size in zip(out.stride(), out.shape, strict=True)):
        raise ShapeError(
            f"{NAME}: out is written to, but its elements share memory (strides {out.stride()}); pass out.clone()."
        )
    if needs_backward or (torch.is_grad_enabled() and out.requires_grad):
        raise UsageError(f"{NAME}: out cannot be used where a gradient is needed; leave it out or use torch.no_grad().")


def check_operands(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    *,
    operation: str = NAME,
) -> None:
    """Check ranks, sizes, dtypes and devices of what `selective_scan` is given.

    Raises:
        ShapeError: If one is wrong; the message names it.
    """
    check_input(operation, x)
    batch, length, channels = x.shape
    if A.ndim != 2 or A.shape[1] == 0:
        raise ShapeError(f"{operation}: A must be (channels, state) with state > 0, got shape {tuple(A.shape)}.")
    state = A.shape[1]
    check_argument(operation, "dt", dt, "(batch, length, channels)", x.shape, x)
    check_argument(operation, "A", A, "(channels, state)", (channels, state), x)
    if B.ndim == 4:
        groups = B.shape[2]
        if groups == 0 or channels % groups:
            raise ShapeError(f"{operation}: B has {groups} groups, which do not divide the {channels} channels of x.")
        axes, sizes = "(batch, length, groups, state)", [batch, length, groups, state]
    else:
        axes, sizes = "(batch, length, state)", [batch, length, state]
    check_argument(operation, "B", B, axes, sizes, x)
    check_argument(operation, "C", C, f"shaped as B, {axes}", sizes, x)
    for name, vector in (("D", D), ("dt_bias", dt_bias)):
        if vector is not None:
            check_argument(operation, name, vector, "(channels,)", (channels,), x)
    if z is not None:
        check_argument(operation, "z", z, "(batch, length, channels)", x.shape, x)
    if initial_state is not None:
        shape = (batch, channels, state)
        check_argument(operation, "initial_state", initial_state, "(batch, channels, state)", shape, x)
