"""One step of a whole Mamba mixer in one kernel, for decoding on a CPU.

What it computes is put together from linear layers and the two updates of `state_update`; it is worth an operation of
its own since at a batch of one torch's matrix products read weights from memory at half of its speed or less.
"""

import torch
from torch import Tensor
from torch.nn import Parameter

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.numba_eager import is_traced

MAX_BATCH = 8
"""Rows from which on matrix products that use a weight more than once for each time it is read are faster."""

FEW_THREADS = 2
"""Threads above which torch's products, which share the rows of a weight between threads, read large weights faster."""

SMALL_WEIGHT = 1_500_000
"""Numbers in the weight of the first projection up to which one thread has read all the mixer's weights before separate
calls have done their half millisecond of work beside that, whatever the number of threads."""

_PLAIN_TYPES = (Tensor, Parameter)


def serves(
    conv_state: Tensor, state: Tensor, hidden_states: Tensor, weights: MixerWeights, norm: Norm | None = None
) -> bool:
    """Whether `mixer_step` takes these arguments here and now, and is the faster way; it must not be called if not.

    That is so for float32 tensors of fitting shapes on the CPU, for a small batch, on few threads if weights are large,
    where no gradient is wanted, nothing traces or casts, and the numba backend is what `auto`, or the backend asked
    for, leads to.
    """
    if not may_serve(hidden_states, weights):
        return False
    if not fits(shapes_of(conv_state, hidden_states, weights), conv_state, state, hidden_states, weights, norm):
        return False
    variant = (weights.conv_weight.shape[-1], weights.A_log.shape[1], norm is not None, False)
    return backends.choose(None, "cpu", torch.float32, "mixer_step", variant) == "numba"


def may_serve(hidden_states: Tensor, weights: MixerWeights) -> bool:
    """Whether a step of mixers with such weights in one kernel is the faster way, and nothing traces or casts."""
    if is_traced((hidden_states,)) or torch.is_autocast_enabled("cpu"):
        return False
    if hidden_states.shape[0] > MAX_BATCH:
        return False
    return weights.in_weight.numel() <= SMALL_WEIGHT or torch.get_num_threads() <= FEW_THREADS


def shapes_of(conv_state: Tensor, hidden_states: Tensor, weights: MixerWeights) -> tuple[tuple[int, ...], ...]:
    """The shapes that belong to the sizes of this step: of its states, its input, its norm's weight, its weights."""
    batch, _, hidden = hidden_states.shape
    channels, size = weights.A_log.shape
    width, rank = weights.conv_weight.shape[-1], weights.dt_weight.shape[-1]
    history = max(conv_state.shape[-1], width - 1)
    return (
        (batch, channels, history),
        (batch, channels, size),
        (batch, 1, hidden),
        (hidden,),
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


def fits(
    shapes: tuple[tuple[int, ...], ...],
    conv_state: Tensor,
    state: Tensor,
    hidden_states: Tensor,
    weights: MixerWeights,
    norm: Norm | None,
) -> bool:
    """Whether shapes, dtypes, devices and layouts are as the kernel takes them for granted."""
    tensors = (conv_state, state, hidden_states, None if norm is None else norm.weight, *weights)
    wants_gradients = torch.is_grad_enabled()
    for tensor, shape in zip(tensors, shapes, strict=True):
        if tensor is None:
            continue
        # Written out for speed: a step asks this of all parameters.
        if tensor.shape != shape or tensor.dtype != torch.float32:
            return False
        if type(tensor) not in _PLAIN_TYPES or not tensor.is_cpu:
            return False
        if wants_gradients and tensor.requires_grad:
            return False
        if not tensor.is_contiguous() and tensor is not conv_state:
            return False
    return 0 not in conv_state.stride()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is float32 numbers in this process's memory, and no subclass that keeps them in another way."""
    return tensor.dtype == torch.float32 and tensor.is_cpu and type(tensor) in _PLAIN_TYPES


def mixer_step(
    conv_state: Tensor, state: Tensor, hidden_states: Tensor, weights: MixerWeights, norm: Norm | None = None
) -> Tensor:
    """Take one step of a mixer: projection in, convolution, scan with the gate, projection out.

    Args:
        conv_state: The inputs of the convolution before the step, the latest last, `(batch, channels, history)` with a
            history of `width - 1` or more, as in the caches of transformers; in any layout; updated in place.
        state: State of the scan, `(batch, channels, state)`; updated in place.
        hidden_states: `(batch, 1, hidden)`.
        weights: Parameters of the mixer.
        norm: If given, the step is that of a block, `hidden_states + mixer(norm(hidden_states))`.

    Returns:
        `(batch, 1, hidden)`. Arguments that `serves` has not been asked about are read past their ends.
    """
    return backends.mixer_step_function("numba")(conv_state, state, hidden_states, weights=weights, norm=norm)
