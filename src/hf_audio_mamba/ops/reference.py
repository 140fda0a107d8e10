"""The recurrences as their papers write them: plain time loops that every backend is judged by.

They favour being obviously right over speed and memory, compute in float64 where `x` is float64 (float32 otherwise),
and leave differentiation to autograd.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.token_weights import ConvWeights, LinearWeights, NormWeights

ROUTES = 4
"""Of `cross_scan_2d`: along rows, along columns, and both of them backwards."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """Precision of states and sums for an input `x`: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


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
    """Selective scan, one step of time after the other (Mamba, arXiv:2312.00752, equations 2a and 4, algorithm 2).

    Arguments as in `hf_audio_mamba.ops.selective_scan`, with `B` and `C` as `(batch, length, groups, state)`.

    Returns:
        `y (batch, length, channels)` in the dtype of `x`, and the last state `(batch, channels, state)`.
    """
    dtype = compute_dtype(x)
    channels, state_size = A.shape
    per_group = channels // B.shape[2]
    u, decay_rate = x.to(dtype), A.to(dtype)
    delta = dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    start = u.new_zeros(x.shape[0], channels, state_size) if initial_state is None else initial_state
    state = start.to(dtype)

    # unbind, not indexing: the backward of an index fills the whole tensor with zeros once a step.
    steps = list(zip(u.unbind(1), delta.unbind(1), B.to(dtype).unbind(1), C.to(dtype).unbind(1), strict=True))
    outputs: list[Tensor] = []
    for u_t, delta_t, B_t, C_t in reversed(steps) if reverse else steps:
        B_channels = B_t.repeat_interleave(per_group, dim=1)
        C_channels = C_t.repeat_interleave(per_group, dim=1)
        state = torch.exp(delta_t[..., None] * decay_rate) * state + (delta_t * u_t)[..., None] * B_channels
        outputs.append((state * C_channels).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)

    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), state


def causal_conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool, initial_state: Tensor | None
) -> Tensor:
    """Depth-wise convolution with past frames only, then SiLU: a weighted sum over windows of `width` frames.

    Arguments as in `hf_audio_mamba.ops.causal_conv1d_silu`.
    """
    dtype = compute_dtype(x)
    frames = x.to(dtype).flip(1) if reverse else x.to(dtype)
    if initial_state is None:
        past = frames.new_zeros(frames.shape[0], weight.shape[1] - 1, frames.shape[2])
    else:
        past = initial_state.to(dtype)
    windows = torch.cat([past, frames], dim=1).unfold(1, weight.shape[1], 1)
    y = (windows * weight.to(dtype)).sum(-1)
    if bias is not None:
        y = y + bias.to(dtype)
    y = F.silu(y)
    return (y.flip(1) if reverse else y).to(x.dtype)


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
    """One step of the scan, as a sequence of one frame; `state` is updated in place.

    Arguments as in `hf_audio_mamba.ops.selective_state_update`, with `B` and `C` as `(batch, groups, state)`.
    """
    y, last_state = selective_scan(
        x[:, None],
        dt[:, None],
        A,
        B[:, None],
        C[:, None],
        D,
        None if z is None else z[:, None],
        dt_bias,
        dt_softplus=dt_softplus,
        reverse=False,
        initial_state=state,
    )
    state.copy_(last_state)
    return y[:, 0]


def causal_conv1d_silu_update(conv_state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One step of the convolution, as a sequence of one frame; `conv_state` is updated in place.

    Arguments as in `hf_audio_mamba.ops.causal_conv1d_silu_update`.
    """
    past = conv_state[:, conv_state.shape[1] - (weight.shape[1] - 1) :]
    y = causal_conv1d_silu(x[:, None], weight, bias, reverse=False, initial_state=past)
    conv_state.copy_(torch.cat([conv_state, x[:, None]], dim=1)[:, 1:])
    return y[:, 0]


def mixer_step(
    conv_state: Tensor,
    state: Tensor,
    hidden_states: Tensor,
    weights: MixerWeights,
    norm: Norm | None,
) -> Tensor:
    """One step of a Mamba mixer or block; arguments as in `hf_audio_mamba.ops.mixer_step`, states updated in place."""
    hidden = hidden_states[:, 0]
    if norm is not None:
        hidden = _normalise(hidden, norm)
    x, z = F.linear(hidden, weights.in_weight, weights.in_bias).chunk(2, dim=-1)
    x = causal_conv1d_silu_update(conv_state.transpose(1, 2), x, weights.conv_weight.flatten(1), weights.conv_bias)
    sizes = [weights.dt_weight.shape[1], state.shape[2], state.shape[2]]
    dt, B, C = torch.split(F.linear(x, weights.x_weight), sizes, dim=-1)
    dt = F.linear(dt, weights.dt_weight, weights.dt_bias)
    A = -torch.exp(weights.A_log)
    y = selective_state_update(state, x, dt, A, B[:, None], C[:, None], weights.D, z, None, dt_softplus=True)
    mixed = F.linear(y, weights.out_weight, weights.out_bias)[:, None]
    return mixed if norm is None else mixed + hidden_states


def stack_step(*tensors: Tensor, blocks: Sequence[tuple[MixerWeights, Norm | None]], norm: Norm | None) -> Tensor:
    """One step of a stack of Mamba blocks, arguments as in `hf_audio_mamba.ops.stack_step`.

    The tensors are the states, two of each block in turn and updated in place, and then the input.
    """
    *states, hidden_states = tensors
    for conv_state, state, (weights, block_norm) in zip(states[::2], states[1::2], blocks, strict=True):
        hidden_states = mixer_step(conv_state, state, hidden_states, weights, block_norm)
    return hidden_states if norm is None else _normalise(hidden_states, norm)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer: x (batch, in), weight (out, in), bias (out,) or None."""
    return F.linear(x, weight, bias)


def _normalise(x: Tensor, norm: Norm) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.epsilon) * norm.weight


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
    """Four scans of a map (VMamba, arXiv:2401.10166, section 4.2), each over a copy of the cells in its own order.

    Arguments as in `hf_audio_mamba.ops.cross_scan_2d`.
    """
    height, width = x.shape[1:3]
    cells = torch.arange(height * width, device=x.device).view(height, width)
    orders = [cells.flatten(), cells.t().flatten(), cells.flatten().flip(0), cells.t().flatten().flip(0)]
    steps = torch.einsum("bhwkr,kcr->bhwkc", dt, dt_weight)
    total = torch.zeros_like(x).flatten(1, 2)
    for route, order in enumerate(orders):
        u, delta = x.flatten(1, 2)[:, order], steps[..., route, :].flatten(1, 2)[:, order]
        B_t, C_t = (projection[..., route, :].flatten(1, 2)[:, order, None] for projection in (B, C))
        skip = None if D is None else D[route]
        bias = None if dt_bias is None else dt_bias[route]
        y, _ = selective_scan(
            u, delta, A[route], B_t, C_t, skip, None, bias, dt_softplus=dt_softplus, reverse=False, initial_state=None
        )
        total = total.index_add(1, order, y)
    return total.view(x.shape)


def depthwise_conv2d_silu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weighted sum of each cell's 3 x 3 neighbours, then SiLU; arguments as in `hf_audio_mamba.ops`."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    taps = [padded[:, i : i + height, j : j + width] * weight[:, 0, i, j] for i in range(3) for j in range(3)]
    y = torch.stack(taps).sum(0)
    return F.silu(y if bias is None else y + bias)


def token_layers(
    x: Tensor,
    last: LinearWeights,
    *,
    norm: NormWeights | None,
    first: LinearWeights | None,
    skip: Tensor | None,
) -> Tensor:
    """Norm, linear, GELU, linear and skip; arguments as in `hf_audio_mamba.ops.token_layers`."""
    hidden = x
    if norm is not None:
        hidden = F.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.epsilon)
    if first is not None:
        hidden = F.gelu(F.linear(hidden, *first))
    mapped = F.linear(hidden, *last)
    return mapped if skip is None else mapped + skip


def conv_norm(x: Tensor, conv: ConvWeights, norm: NormWeights, *, gelu: bool) -> Tensor:
    """Convolution, layer normalisation over channels, GELU; arguments as in `hf_audio_mamba.ops.conv_norm`."""
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, conv.padding).permute(0, 2, 3, 1)
    y = F.layer_norm(y, y.shape[-1:], norm.weight, norm.bias, norm.epsilon)
    return F.gelu(y) if gelu else y
