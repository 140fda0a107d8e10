"""Modules that treat every token alike, called together so that one kernel can do their work."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from hf_audio_mamba.ops import token_layers as kernels
from hf_audio_mamba.ops.token_weights import LinearWeights, NormWeights


def apply_token_layers(
    x: torch.Tensor,
    last: nn.Module,
    *,
    norm: nn.Module | None = None,
    first: nn.Module | None = None,
    skip: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `last(gelu(first(norm(x)))) + skip`; without `first`, `last(norm(x)) + skip`.

    Where no gradient is wanted on a CPU this may be one kernel. Modules that are not exactly torch's own, or that have
    hooks, are always called: adapters and quantised layers among them.

    Args:
        x: `(..., inputs)`.
        last: Linear layer.
        norm: Layer normalisation; none if omitted.
        first: Linear layer before the GELU; none if omitted.
        skip: Added to the result, `(..., outputs)`; none if omitted.

    Returns:
        `(..., outputs)`.
    """
    linear, normed, hidden = _linear(last), None if norm is None else layer_norm_weights(norm), _linear(first)
    plain = linear is not None and (norm is None or normed is not None) and (first is None or hidden is not None)
    if plain and linear is not None and kernels.serves(x, linear, norm=normed, first=hidden, skip=skip):
        return kernels.token_layers(x, linear, norm=normed, first=hidden, skip=skip)
    if norm is not None:
        x = norm(x)
    if first is not None:
        x = F.gelu(first(x))
    mapped: torch.Tensor = last(x)
    return mapped if skip is None else skip + mapped


def apply_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear`, by the kernel where that serves.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`; none if omitted.
    """
    weights = LinearWeights(weight, bias)
    if kernels.serves(x, weights):
        return kernels.token_layers(x, weights)
    return F.linear(x, weight, bias)


def is_plain(module: nn.Module, expected: type[nn.Module]) -> bool:
    """Whether calling a module does nothing but what this class does, so that its tensors can be used without it."""
    if type(module) is not expected or "forward" in vars(module):
        return False
    hooked = module._forward_hooks or module._forward_pre_hooks or _has_any_global_hook()  # type: ignore[no-untyped-call]
    return not hooked


def _linear(module: nn.Module | None) -> LinearWeights | None:
    if module is None or not is_plain(module, nn.Linear):
        return None
    assert isinstance(module, nn.Linear)
    return LinearWeights(module.weight, module.bias)


def layer_norm_weights(module: nn.Module) -> NormWeights | None:
    """The weights of a plain layer normalisation over the last axis; None for any other module."""
    if not is_plain(module, nn.LayerNorm):
        return None
    assert isinstance(module, nn.LayerNorm)
    if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
        return None
    return NormWeights(module.weight, module.bias, module.eps)
