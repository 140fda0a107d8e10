"""One step of the scan and of the convolution in plain PyTorch, for any device; states are updated in place."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Arguments and result as in `hf_audio_mamba.ops.selective_state_update`, B and C with their axis of groups."""
    dtype = state.dtype
    u, delta = x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    groups, per_group = B.shape[1], x.shape[1] // B.shape[1]
    inflow = (delta * u).view(-1, groups, per_group, 1) * B.to(dtype)[:, :, None]
    state.mul_(torch.exp(delta[..., None] * A.to(dtype))).add_(inflow.flatten(1, 2))
    y = (state.view(*inflow.shape) * C.to(dtype)[:, :, None]).sum(-1).flatten(1, 2)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype)


def causal_conv1d_silu_update(conv_state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Arguments and result as in `hf_audio_mamba.ops.causal_conv1d_silu_update`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs = torch.cat([conv_state.to(dtype), x.to(dtype)[:, None]], dim=1)
    y = torch.einsum("btc,ct->bc", inputs[:, -weight.shape[1] :], weight.to(dtype))
    if bias is not None:
        y = y + bias.to(dtype)
    conv_state.copy_(inputs[:, 1:])
    return F.silu(y).to(x.dtype)
