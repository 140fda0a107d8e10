"""A linear layer of few rows in one sweep over its weight, for the head of a model that decodes on a CPU.

torch's matrix products read a large weight at half of the memory's speed where there is one row, and two to six times
over where there are a few.
"""

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.mixer_step import FEW_THREADS, MAX_BATCH, is_plain
from hf_audio_mamba.ops.numba_eager import is_traced


def serves(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `few_rows_linear` takes these arguments here and now, and is the faster way; else it must not be called.

    That is so for float32 tensors of fitting shapes on the CPU, for one to `MAX_BATCH` rows, on few threads, where no
    gradient is wanted, nothing traces or casts, and the numba backend is what `auto`, or the backend asked for, leads
    to.
    """
    if is_traced((x,)) or torch.is_autocast_enabled("cpu") or torch.get_num_threads() > FEW_THREADS:
        return False
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1] or 0 in weight.shape:
        return False
    if not 0 < x.numel() <= MAX_BATCH * weight.shape[1] or not weight.is_contiguous():
        return False
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):
        return False
    wants_gradients = torch.is_grad_enabled()
    for tensor in (x, weight, bias):
        if tensor is not None and (not is_plain(tensor) or (wants_gradients and tensor.requires_grad)):
            return False
    return backends.choose(None, "cpu", torch.float32, "few_rows_linear", (bias is not None, False)) == "numba"


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`.

    Args:
        x: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)`; none if omitted.

    Returns:
        `(..., out)`. Arguments that `serves` has not been asked about are read past their ends.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = backends.few_rows_linear_function("numba")(rows, weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])
