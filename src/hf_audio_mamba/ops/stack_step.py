"""One step of a stack of Mamba blocks in one kernel, for decoding on a CPU.

With small models, going from block to block in Python takes as long as the blocks' own work in `mixer_step`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_audio_mamba.ops import backends
from hf_audio_mamba.ops.mixer_step import fits, is_plain, may_serve, shapes_of
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm


def serves(
    states: Sequence[Tensor], hidden_states: Tensor, blocks: Sequence[tuple[MixerWeights, Norm]], norm: Norm
) -> bool:
    """Whether `stack_step` takes these arguments here and now, and is the faster way; it must not be called if not.

    That is so where `mixer_step.serves` each block, all are of one size, and all norms have one epsilon.
    """
    if not blocks or not may_serve(hidden_states, blocks[0][0]):
        return False
    first = blocks[0][0]
    shapes = shapes_of(states[0], hidden_states, first)
    for conv_state, state, (weights, block_norm) in zip(states[::2], states[1::2], blocks, strict=True):
        if block_norm.epsilon != norm.epsilon:
            return False
        if not fits(shapes, conv_state, state, hidden_states, weights, block_norm):
            return False
    if norm.weight.shape != hidden_states.shape[2:] or not is_plain(norm.weight) or not norm.weight.is_contiguous():
        return False
    if torch.is_grad_enabled() and norm.weight.requires_grad:
        return False
    variant = (first.conv_weight.shape[-1], first.A_log.shape[1], False)
    return backends.choose(None, "cpu", torch.float32, "stack_step", variant) == "numba"


def stack_step(
    states: Sequence[Tensor], hidden_states: Tensor, blocks: Sequence[tuple[MixerWeights, Norm]], norm: Norm
) -> Tensor:
    """Take one step of a stack of blocks, each of which adds `mixer(norm(x))` to its input x, and of a last norm.

    Args:
        states: Two tensors of each block in turn, both updated in place: the inputs of the convolution before the step
            and the state of the scan, as in `mixer_step`.
        hidden_states: `(batch, 1, hidden)`.
        blocks: Parameters of each block's mixer, and its norm.
        norm: The last norm.

    Returns:
        `(batch, 1, hidden)`. Arguments that `serves` has not been asked about are read past their ends.
    """
    return backends.stack_step_function("numba")(*states, hidden_states, blocks=blocks, norm=norm)
