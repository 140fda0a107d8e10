"""Whether kernels that compute without gradients may read the memory behind tensors."""

import torch
from torch import Tensor


def are_served(*tensors: Tensor | None) -> bool:
    """Whether all are plain contiguous float32 tensors on the CPU and nobody needs to know what is done to them.

    That is so where no gradient is wanted and nothing traces or casts.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    wants_gradients = torch.is_grad_enabled()
    return all(tensor is None or _is_served(tensor, wants_gradients) for tensor in tensors)


def _is_served(tensor: Tensor, wants_gradients: bool) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.is_cpu
        and tensor.is_contiguous()
        and tensor.numel() > 0
        and not (wants_gradients and tensor.requires_grad)
    )
