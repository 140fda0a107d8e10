"""The backend of mamba_ssm's compiled CUDA kernel, for those who ask for it by name: as an oracle, or to compare.

The kernel reads `(batch, channels, length)`, so this is the only place where time-major tensors are transposed. It
runs forwards in time from a zero state: `reverse` costs a flip of every sequence, an initial state cannot be given.
"""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.errors import BackendError

KERNEL_MODULE = "selective_scan_cuda"
MAX_STATE = 256
"""Largest state size that the kernel is compiled for."""

_INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation"


def unserved_reason(device: str, dtype: torch.dtype) -> str | None:
    """Why this backend is not made for such tensors, or None if it is.

    Args:
        device: Device type.
        dtype: Floating dtype.
    """
    if device != "cuda":
        return f"computes on CUDA devices only, not on {device!r}"
    if dtype == torch.float64:
        return "computes in float32 only, not in float64"
    return None


def unavailable_reason() -> str | None:
    """Why this backend cannot be used here, or None if it can.

    That mamba_ssm can be imported says nothing, as it installs without its kernel; what counts is that the kernel's
    extension module loads.
    """
    if importlib.util.find_spec("mamba_ssm") is None:
        return f"mamba_ssm is not installed; install it with: {_INSTALL}"
    try:
        importlib.import_module(KERNEL_MODULE)
    except ImportError as error:  # missing, or built for another version of torch (an undefined symbol)
        return (
            f"mamba_ssm is installed, but its kernel {KERNEL_MODULE} does not load ({error}); build it with: {_INSTALL}"
        )
    try:
        _interface()
    except Exception as error:  # it draws in triton and more, whose errors are of many types
        return f"mamba_ssm cannot be imported ({type(error).__name__}: {error})"
    return None


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    *,
    dt_softplus: bool,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Selective scan; arguments and results as in `hf_audio_mamba.ops.reference.selective_scan`, all on one GPU.

    Differentiable once in every tensor, through `y` alone: mamba_ssm ignores the gradient of the last state, so asking
    for it is an error here. Sequences are converted to the dtype of `x`, parameters to float32.

    Raises:
        BackendError: If `initial_state` is given or there are more than `MAX_STATE` states; in the backward pass, if a
            gradient comes through the last state.
    """
    if initial_state is not None:
        raise BackendError(
            "selective_scan: the kernel of mamba_ssm starts from zeros and takes no initial_state; use backend='torch' "
            "or 'auto'."
        )
    if A.shape[1] > MAX_STATE:
        raise BackendError(
            f"selective_scan: the kernel of mamba_ssm takes up to {MAX_STATE} states, A has {A.shape[1]}; "
            "use backend='torch'."
        )

    def channels_first(sequence: Tensor) -> Tensor:
        """(batch, length, ...) to (batch, ..., length), in the order of the scan."""
        return (sequence.flip(1) if reverse else sequence).movedim(1, -1).to(x.dtype).contiguous()

    def parameter(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.float().contiguous()

    y, last_state = _interface().selective_scan_fn(
        channels_first(x),
        channels_first(dt),
        parameter(A),
        channels_first(B),
        channels_first(C),
        D=parameter(D),
        z=None if z is None else channels_first(z),
        delta_bias=parameter(dt_bias),
        delta_softplus=dt_softplus,
        return_last_state=True,
    )
    y = y.transpose(1, 2)
    guarded: Tensor = _GradientRefused.apply(last_state)  # type: ignore[no-untyped-call]  # torch's
    return (y.flip(1) if reverse else y.contiguous()), guarded


def _interface() -> Any:
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface")


class _GradientRefused(torch.autograd.Function):
    """The last state as it is; mamba_ssm would silently take its gradient for zero."""

    @staticmethod
    def forward(ctx: Any, last_state: Tensor) -> Tensor:
        return last_state.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise BackendError(
            "selective_scan: the mamba_ssm backend has no gradient of the last state; use another backend, or "
            "last_state.detach()."
        )
