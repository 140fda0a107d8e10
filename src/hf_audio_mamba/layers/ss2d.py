"""SS2D, the two-dimensional state-space layer of VMamba (Liu et al. 2024, arXiv:2401.10166, section 4.2, figure 3).

Tensor names and shapes are those of VMamba's checkpoints. Maps are channels-last throughout, `(batch, height, width,
channels)`: no projection, norm or scan needs a transposed copy.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from hf_audio_mamba.layers.mamba_mixer import TIME_STEP_FLOOR, TIME_STEP_MAX, TIME_STEP_MIN
from hf_audio_mamba.layers.token_layers import apply_linear, apply_token_layers, is_plain
from hf_audio_mamba.ops import cross_scan_2d, depthwise_conv2d_silu
from hf_audio_mamba.ops.cross_scan import ROUTES


class SS2D(nn.Module):
    """Depth-wise convolution, SiLU, and a selective scan along four routes over a map.

    Args:
        hidden_size: Width of the map that goes in and out.
        state_size: State values per channel and route.
        expand: Inner width as a multiple of `hidden_size`.
        gated: Whether a second half of the input projection gates the output, as in VMamba's first version.
        conv_bias: Whether the depth-wise convolution has a bias, as in VMamba's first version.
        layer_norm_eps: Added to the variance in layer normalisation.

    The rank of the step-size projection is `ceil(hidden_size / 16)`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        state_size: int = 1,
        expand: float = 2.0,
        gated: bool = False,
        conv_bias: bool = False,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        inner = int(expand * hidden_size)
        rank = math.ceil(hidden_size / 16)
        self.gated = gated
        self.state_size = state_size
        self.time_step_rank = rank
        self.in_proj = nn.Linear(hidden_size, 2 * inner if gated else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(ROUTES, rank + 2 * state_size, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(ROUTES, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(ROUTES, inner))
        self.A_logs = nn.Parameter(torch.empty(ROUTES * inner, state_size))
        self.Ds = nn.Parameter(torch.empty(ROUTES * inner))
        self.out_norm = nn.LayerNorm(inner, eps=layer_norm_eps)
        self.out_proj = nn.Linear(inner, hidden_size, bias=False)
        # These set time scales and a skip, not a mapping; pulling them towards zero is no regularisation (Mamba code).
        for parameter in (self.A_logs, self.Ds, self.dt_projs_bias):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise what rules for linear layers would get wrong, each route as in Mamba; loaded tensors stay."""
        inner = self.Ds.shape[0] // ROUTES
        states = torch.arange(1, self.state_size + 1, dtype=torch.float32)
        init.copy_(self.A_logs, torch.log(states).expand(ROUTES * inner, -1))
        init.ones_(self.Ds)
        init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        init.uniform_(self.dt_projs_weight, -(self.time_step_rank**-0.5), self.time_step_rank**-0.5)
        log_range = math.log(TIME_STEP_MAX) - math.log(TIME_STEP_MIN)
        dt = torch.exp(torch.rand(ROUTES, inner) * log_range + math.log(TIME_STEP_MIN)).clamp(min=TIME_STEP_FLOOR)
        # The inverse of softplus, so that softplus(bias) is the drawn step size.
        init.copy_(self.dt_projs_bias, dt + torch.log(-torch.expm1(-dt)))

    def forward(
        self, hidden_states: torch.Tensor, *, norm: nn.Module | None = None, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix over both axes of a map.

        Args:
            hidden_states: `(batch, height, width, hidden_size)`.
            norm: Layer that is applied to them first; none if omitted.
            skip: Added to the result, which has the same shape; none if omitted.
        """
        x = apply_token_layers(hidden_states, self.in_proj, norm=norm)
        gate = None
        if self.gated:
            x, gate = x.chunk(2, dim=-1)
        if is_plain(self.conv2d, nn.Conv2d):
            x = depthwise_conv2d_silu(x, self.conv2d.weight, self.conv2d.bias)
        else:
            x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).contiguous()
        y = self._scan(x)
        if gate is None:
            return apply_token_layers(y, self.out_proj, norm=self.out_norm, skip=skip)
        return apply_token_layers(self.out_norm(y) * F.silu(gate), self.out_proj, skip=skip)

    def _scan(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, inner = x.shape
        projections = apply_linear(x, self.x_proj_weight.flatten(0, 1)).view(batch, height, width, ROUTES, -1)
        low, b, c = torch.split(projections, [self.time_step_rank, self.state_size, self.state_size], dim=-1)
        return cross_scan_2d(
            x,
            low,
            -torch.exp(self.A_logs.float()).view(ROUTES, inner, -1),
            b,
            c,
            self.Ds.float().view(ROUTES, inner),
            self.dt_projs_bias.float(),
            dt_weight=self.dt_projs_weight,
        )
