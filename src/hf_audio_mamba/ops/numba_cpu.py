"""The CPU backend of compiled numba kernels: the door to it, which can be imported where numba is missing.

Kernels are compiled at their first call (some seconds) and kept on disk for later processes, where numba finds a place
for them that can be written to.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import single_step
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.token_weights import ConvWeights, LinearWeights, NormWeights


@cache
def unavailable_reason() -> str | None:
    """Why this backend cannot be used here, or None if it can."""
    try:
        import numba

        import hf_audio_mamba.ops.numba_scan  # noqa: F401  # whether this works is the question
    except Exception as error:  # numba refuses some versions of numpy and Python with errors of many types
        return f"numba does not work here ({type(error).__name__}: {error}); install it with: pip install -U numba"
    if numba.config.DISABLE_JIT:
        return "numba compiles nothing while NUMBA_DISABLE_JIT is set"
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
    order: Tensor | None = None,
    lengths: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Selective scan; arguments and results as in `hf_audio_mamba.ops.reference.selective_scan`, all on the CPU.

    `order`, `lengths` and `out` are those of `hf_audio_mamba.ops.selective_scan`.

    Differentiable once in every tensor, and through both results. Gradients do not depend on the number of threads,
    not even in their last bit. Tensors may be any views; only those whose last dimension is not contiguous are copied.
    Half precision is converted to float32 (a copy) and the output back.
    """
    operands = [
        tensor if tensor is None or tensor.dtype == torch.float32 else tensor.float()
        for tensor in (x, dt, A, B, C, D, z, dt_bias, initial_state)
    ]
    from hf_audio_mamba.ops import numba_scan
    from hf_audio_mamba.ops.numba_eager import is_traced

    checkpoints = _needs_gradient(operands)
    traced = is_traced((*operands, out))
    if out is not None and out.dtype == torch.float32 and not traced:
        return out, numba_scan.scan_out(out, *operands, dt_softplus, reverse, order, lengths)
    untraced: Callable[..., Any] = numba_scan.differentiable_scan if checkpoints else numba_scan.compute_scan
    run = numba_scan.scan if traced else untraced
    y, last_state, _ = run(*operands, dt_softplus, reverse, checkpoints, order, lengths)
    return (y.to(x.dtype) if out is None else out.copy_(y)), last_state


def _needs_gradient(operands: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in operands)


def cross_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor,
    *,
    dt_softplus: bool,
) -> Tensor:
    """Four routes over a map; arguments and result as in `hf_audio_mamba.ops.reference.cross_scan_2d`.

    One state, float32, not differentiable.
    """
    from hf_audio_mamba.ops.numba_cross_scan import compute_cross_scan

    return compute_cross_scan(x, dt, A, B, C, D, dt_bias, dt_weight, dt_softplus=dt_softplus)


def causal_conv1d_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    reverse: bool,
    initial_state: Tensor | None,
    order: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Causal convolution + SiLU; arguments and result as in `hf_audio_mamba.ops.reference.causal_conv1d_silu`.

    Differentiable once in every tensor; any views, dtypes and threads as for `selective_scan`.

    Raises:
        BackendError: If the kernel is wider than this backend's scratch memory.
    """
    from hf_audio_mamba.ops import numba_conv
    from hf_audio_mamba.ops.numba_conv_kernels import MAX_WIDTH
    from hf_audio_mamba.ops.numba_eager import is_traced

    if weight.shape[1] > MAX_WIDTH:
        raise BackendError(
            f"causal_conv1d_silu: the numba backend takes up to {MAX_WIDTH} taps, weight has {weight.shape[1]}; "
            "use backend='torch'."
        )
    operands = [
        tensor if tensor is None or tensor.dtype == torch.float32 else tensor.float()
        for tensor in (x, weight, bias, initial_state)
    ]
    differentiable = _needs_gradient(operands)
    untraced: Callable[..., Tensor] = numba_conv.differentiable_conv if differentiable else numba_conv.compute_conv
    run = numba_conv.conv if is_traced(operands) else untraced
    y: Tensor = run(*operands, reverse, order, lengths)
    return y.to(x.dtype)


def selective_state_update(
    state: Tensor,
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
) -> Tensor:
    """One step of the scan; arguments and result as in `hf_audio_mamba.ops.reference.selective_state_update`.

    Half precision is converted to float32 and the output back; the state is float32. Inside traces and transforms of
    torch, which no kernel can read memory in, plain PyTorch takes the step.
    """
    from hf_audio_mamba.ops.numba_eager import is_traced
    from hf_audio_mamba.ops.numba_step import state_step

    if is_traced((state, x, dt, A, B, C, D, z, dt_bias)):
        return single_step.selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=dt_softplus)
    y = state_step(
        state,
        _single(x),
        _single(dt),
        _single(A),
        _single(B),
        _single(C),
        None if D is None else _single(D),
        None if z is None else _single(z),
        None if dt_bias is None else _single(dt_bias),
        dt_softplus,
    )
    return y.to(x.dtype)


def causal_conv1d_silu_update(conv_state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One step of the convolution; arguments and result as in `hf_audio_mamba.ops.reference.causal_conv1d_silu_update`.

    Half precision is converted to float32 and back, states too. Inside traces and transforms plain PyTorch takes over,
    as in `selective_state_update`.
    """
    from hf_audio_mamba.ops.numba_eager import is_traced
    from hf_audio_mamba.ops.numba_step import convolution_step

    if is_traced((conv_state, x, weight, bias)):
        return single_step.causal_conv1d_silu_update(conv_state, x, weight, bias)
    recent = _single(conv_state)
    y = convolution_step(recent, _single(x), _single(weight), None if bias is None else _single(bias))
    if recent is not conv_state:
        conv_state.copy_(recent)
    return y.to(x.dtype)


def mixer_step(
    conv_state: Tensor,
    state: Tensor,
    hidden_states: Tensor,
    weights: MixerWeights,
    norm: Norm | None,
) -> Tensor:
    """One step of a mixer or block; arguments and result as in `hf_audio_mamba.ops.reference.mixer_step`, float32."""
    return stack_step(conv_state, state, hidden_states, blocks=((weights, norm),), norm=None)


def stack_step(*tensors: Tensor, blocks: Sequence[tuple[MixerWeights, Norm | None]], norm: Norm | None) -> Tensor:
    """One step of a stack of blocks; arguments and result as in `hf_audio_mamba.ops.reference.stack_step`, float32."""
    from hf_audio_mamba.ops.numba_step_stack import stack_step as step

    return step(tensors[:-1], tensors[-1], blocks, norm)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of few rows; arguments and result as in `hf_audio_mamba.ops.reference.few_rows_linear`."""
    from hf_audio_mamba.ops.numba_step_linear import linear

    return linear(x, weight, bias)


def depthwise_conv2d_silu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise 3 x 3 convolution + SiLU; as `hf_audio_mamba.ops.reference.depthwise_conv2d_silu`.

    Contiguous float32 tensors, not differentiable.
    """
    from hf_audio_mamba.ops.numba_depthwise import compute_depthwise_silu

    return compute_depthwise_silu(x, weight, bias)


def conv_norm(x: Tensor, conv: ConvWeights, norm: NormWeights, *, gelu: bool) -> Tensor:
    """Convolution, layer normalisation and GELU; arguments and result as in `hf_audio_mamba.ops.reference.conv_norm`.

    Contiguous float32 tensors, not differentiable.
    """
    from hf_audio_mamba.ops.numba_patches import compute_conv_norm

    return compute_conv_norm(x, conv.weight, conv.bias, norm, stride=conv.stride, padding=conv.padding, gelu=gelu)


def token_layers(
    x: Tensor,
    last: LinearWeights,
    *,
    norm: NormWeights | None,
    first: LinearWeights | None,
    skip: Tensor | None,
) -> Tensor:
    """Norm, linear, GELU, linear and skip; arguments and result as in `hf_audio_mamba.ops.reference.token_layers`.

    Contiguous float32 tensors, not differentiable.
    """
    from hf_audio_mamba.ops.numba_token_layers import compute_token_layers

    tokens = x.view(-1, x.shape[-1])
    skipped = None if skip is None else skip.view(-1, skip.shape[-1])
    y = compute_token_layers(tokens, last, norm=norm, first=first, skip=skipped)
    return y.view(*x.shape[:-1], -1)


def _single(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float32 and not tensor.is_neg() else tensor.float().resolve_neg()
