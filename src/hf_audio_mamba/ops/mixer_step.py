"""One step of a whole Mamba mixer in one kernel, for decoding on a CPU.

What it computes is put together from linear layers and the two updates of `state_update`; it is worth an operation of
its own since at a batch of one torch's matrix products read weights from memory at half of its speed or less.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends

MAX_BATCH = 8
"""Rows from which on matrix products that use a weight more than once for each time it is read are faster."""

MAX_THREADS = 2
"""Threads above which torch's products, which share the rows of a weight between threads, read it faster."""


class MixerWeights(NamedTuple):
    """Parameters of a Mamba mixer, None where it has none."""

    in_weight: Tensor  # (2 channels, hidden)
    in_bias: Tensor | None
    conv_weight: Tensor  # (channels, width), or (channels, 1, width) as in nn.Conv1d
    conv_bias: Tensor | None
    x_weight: Tensor  # (rank + 2 state, channels): the step size, B, C
    dt_weight: Tensor  # (channels, rank)
    dt_bias: Tensor | None
    A_log: Tensor  # (channels, state)
    D: Tensor  # (channels,)
    out_weight: Tensor  # (hidden, channels)
    out_bias: Tensor | None


def serves(conv_state: Tensor, state: Tensor, hidden_states: Tensor, weights: MixerWeights) -> bool:
    """Whether `mixer_step` takes these arguments here and now, and is the faster way; it must not be called if not.

    That is so for float32 tensors of fitting shapes on the CPU, for a small batch and on few threads, where no gradient
    is wanted, nothing traces or casts, and the numba backend is what `auto`, or the backend asked for, leads to.
    """
    if hidden_states.device.type != "cpu" or hidden_states.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if hidden_states.shape[0] > MAX_BATCH or torch.get_num_threads() > MAX_THREADS:
        return False
    if not _fit(conv_state, state, hidden_states, weights):
        return False
    width, size = weights.conv_weight.shape[-1], weights.A_log.shape[1]
    biases = [getattr(weights, name) is not None for name in ("in_bias", "conv_bias", "dt_bias", "out_bias")]
    return backends.choose(None, "cpu", torch.float32, "mixer_step", (width, size, *biases, False)) == "numba"


def _fit(conv_state: Tensor, state: Tensor, hidden_states: Tensor, weights: MixerWeights) -> bool:
    """Whether shapes, dtypes, devices and layouts are as the kernel takes them for granted."""
    batch, hidden = hidden_states.shape
    channels, size = weights.A_log.shape
    width, rank = weights.conv_weight.shape[-1], weights.dt_weight.shape[-1]
    shapes = (
        (2 * channels, hidden),
        (2 * channels,),
        (channels, 1, width) if weights.conv_weight.ndim == 3 else (channels, width),
        (channels,),
        (rank + 2 * size, channels),
        (channels, rank),
        (channels,),
        (channels, size),
        (channels,),
        (hidden, channels),
        (hidden,),
    )
    tensors = (state, hidden_states, *weights)
    expected = ((batch, channels, size), (batch, hidden), *shapes)
    differentiates = torch.is_grad_enabled()
    for tensor, shape in zip(tensors, expected, strict=True):
        if tensor is None:
            continue
        if tensor.shape != shape or not tensor.is_contiguous() or (differentiates and tensor.requires_grad):
            return False
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            return False
    fits = conv_state.ndim == 3 and conv_state.shape[0] == batch and conv_state.shape[2] == channels
    fits = fits and conv_state.shape[1] >= width - 1 and conv_state.dtype == torch.float32 and conv_state.is_cpu
    return fits and 0 not in conv_state.stride()


def mixer_step(conv_state: Tensor, state: Tensor, hidden_states: Tensor, weights: MixerWeights) -> Tensor:
    """Take one step of a mixer: projection in, convolution, scan with the gate, projection out.

    Args:
        conv_state: The inputs of the convolution before the step, the latest last, `(batch, history, channels)` with a
            history of `width - 1` or more, in any layout; updated in place.
        state: State of the scan, `(batch, channels, state)`; updated in place.
        hidden_states: `(batch, hidden)`.
        weights: Parameters of the mixer.

    Returns:
        `(batch, hidden)`. Arguments that `serves` has not been asked about are read past their ends.
    """
    mixed: Tensor = backends.mixer_step_function("numba")(conv_state, state, hidden_states, *weights)
    return mixed
