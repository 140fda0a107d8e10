"""The GPU backend of Triton kernels: the door to it, which can be imported where triton is missing.

Kernels are compiled and tuned at their first call of each kind (some seconds to a minute) and kept on disk by triton
for later processes; no nvcc is needed. Triton comes with torch's CUDA builds for Linux. Results have been checked in
Triton's interpreter (`TRITON_INTERPRET=1`, which serves tensors on the CPU) and the kernels have been compiled for
NVIDIA GPUs; their speed on one has not been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_audio_mamba.errors import BackendError

if TYPE_CHECKING:
    from hf_audio_mamba.ops.bidirectional_scan import ScanOperands

MAX_STATE = 64


@cache
def unavailable_reason() -> str | None:
    """Why this backend cannot be used here, or None if it can."""
    if torch.version.hip is not None:
        return "the Triton kernels have not been tested on AMD GPUs"
    try:
        import hf_audio_mamba.ops.triton_conv
        import hf_audio_mamba.ops.triton_scan  # noqa: F401  # whether this works is the question
    except Exception as error:  # a triton that does not suit torch or the driver fails with errors of many types
        return f"triton does not work here ({type(error).__name__}: {error}); install it with: pip install -U triton"
    if not is_interpreted() and not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    return None


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU only: `TRITON_INTERPRET=1` when triton was imported."""
    try:
        from hf_audio_mamba.ops import triton_blocks
    except Exception:  # as in `unavailable_reason`, which says what is wrong
        return False
    return triton_blocks.is_interpreted()


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
    """Selective scan; arguments and results as in `hf_audio_mamba.ops.reference.selective_scan`.

    Differentiable once in every tensor, and through both results. Gradients are sums in a fixed order; which order may
    differ between processes, as the block size is measured. Tensors may be any views; only those whose last dimension
    is not contiguous are copied. Half precision is read and written as it is; states and sums are float32.

    Raises:
        BackendError: If there are more states than a program has registers for.
    """
    (y,), last_state = _scan(x, A, (x, dt, A, B, C, D, z, dt_bias, initial_state), dt_softplus, reverse)
    return y, last_state[0]


def bidirectional_scan(
    forwards: ScanOperands, backwards: ScanOperands, *, dt_softplus: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two scans in one launch, the second of them in reverse.

    Args:
        forwards: What is scanned forwards in time.
        backwards: What is scanned in reverse, alike in shapes, dtypes and what is None.
        dt_softplus: Whether softplus makes the step sizes positive.

    Returns:
        Output and last state of the first scan, and those of the second.

    Raises:
        BackendError: If the scans are not alike, or have too many states.
    """
    if not are_alike(forwards, backwards):
        raise BackendError("bidirectional_scan: scans that differ in shapes or dtypes cannot share a launch.")
    (y, other_y), last_state = _scan(forwards.x, forwards.A, (*forwards, *backwards), dt_softplus, False)
    return (y, last_state[0]), (other_y, last_state[1])


def are_alike(forwards: ScanOperands, backwards: ScanOperands) -> bool:
    """Whether two scans can share a launch."""
    kinds = [
        [None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in operands]
        for operands in (forwards, backwards)
    ]
    return kinds[0] == kinds[1]


def _scan(
    x: Tensor, A: Tensor, operands: Sequence[Tensor | None], dt_softplus: bool, reverse: bool
) -> tuple[list[Tensor], Tensor]:
    from hf_audio_mamba.ops.triton_scan import scan

    if A.shape[1] > MAX_STATE:
        raise BackendError(
            f"selective_scan: the triton backend takes up to {MAX_STATE} states, A has {A.shape[1]}; "
            "use backend='torch'."
        )
    present = [x.new_empty(0) if tensor is None else tensor for tensor in operands]
    checkpoints = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in present)
    last_state, _, *outputs = scan(present, dt_softplus, reverse, checkpoints)
    return outputs, last_state


def causal_conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool, initial_state: Tensor | None
) -> Tensor:
    """Causal convolution + SiLU; arguments and result as in `hf_audio_mamba.ops.reference.causal_conv1d_silu`.

    Differentiable once in every tensor; views, dtypes and gradients as for `selective_scan`.

    Raises:
        BackendError: If the kernel is wider than what is compiled.
    """
    from hf_audio_mamba.ops.triton_conv import MAX_WIDTH, conv

    if weight.shape[1] > MAX_WIDTH:
        raise BackendError(
            f"causal_conv1d_silu: the triton backend takes up to {MAX_WIDTH} taps, weight has {weight.shape[1]}; "
            "use backend='torch'."
        )
    y: Tensor = conv(x, weight, bias, initial_state, reverse)
    return y
