"""Two selective scans over the same steps, one forwards in time and one backwards."""

from typing import NamedTuple

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.selective_scan import check_operands, selective_scan


class ScanOperands(NamedTuple):
    """Tensors of one scan, as `selective_scan` takes them."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    dt_bias: Tensor | None = None
    initial_state: Tensor | None = None


def bidirectional_scan(
    forwards: ScanOperands, backwards: ScanOperands, *, dt_softplus: bool = True, backend: str | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Scan one set of tensors forwards in time and another one backwards.

    Equals `selective_scan(*forwards)` and `selective_scan(*backwards, reverse=True)`. On the triton backend both run in
    one launch if they are alike in shapes and dtypes, so that a short batch keeps more of the GPU busy.

    Args:
        forwards: What is scanned from the earliest frame to the latest.
        backwards: What is scanned from the latest frame to the earliest.
        dt_softplus: Whether softplus makes the time step positive.
        backend: As in `selective_scan`.

    Returns:
        For each of the two, `y (batch, length, channels)` and the last state `(batch, channels, state)`.

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype or device; the message names it.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    forwards, backwards = _checked(forwards, "forwards"), _checked(backwards, "backwards")
    x, A, B, z = forwards.x, forwards.A, forwards.B, forwards.z
    tensors = (*forwards, *backwards)
    needs_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    variant = (A.shape[1], B.shape[2], dt_softplus, z is not None, True, needs_backward)
    name = backends.choose(backend, x.device.type, x.dtype, "scan", variant)
    if name == "triton":
        from hf_audio_mamba.ops import triton_gpu

        if triton_gpu.are_alike(forwards, backwards):
            return triton_gpu.bidirectional_scan(forwards, backwards, dt_softplus=dt_softplus)
    return (
        _scan(forwards, dt_softplus=dt_softplus, reverse=False, backend=backend),
        _scan(backwards, dt_softplus=dt_softplus, reverse=True, backend=backend),
    )


def _checked(operands: ScanOperands, direction: str) -> ScanOperands:
    check_operands(*operands, operation=f"bidirectional_scan: {direction}")
    if operands.B.ndim == 4:
        return operands
    return operands._replace(B=operands.B.unsqueeze(2), C=operands.C.unsqueeze(2))


def _scan(operands: ScanOperands, *, dt_softplus: bool, reverse: bool, backend: str | None) -> tuple[Tensor, Tensor]:
    y, last_state = selective_scan(
        *operands[:-1],
        dt_softplus=dt_softplus,
        reverse=reverse,
        initial_state=operands.initial_state,
        return_last_state=True,
        backend=backend,
    )
    return y, last_state
