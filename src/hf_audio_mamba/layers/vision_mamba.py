"""The two bidirectional mixers of Vision Mamba (Zhu et al. 2024, section 3.3) and AuM (Erol et al. 2024, section 3).

Both share the projections in and out, and have the tensor names of the published weights, where `_b` marks what is the
backward direction's own. Nothing is flipped: convolution and scan visit the tokens the other way round.
"""

import math

import torch
from torch import nn
from transformers import initialization as init

from hf_audio_mamba.layers.mamba_mixer import MambaMixer
from hf_audio_mamba.ops import ScanOperands, bidirectional_scan, causal_conv1d_silu


class FoBiMamba(MambaMixer):
    """One causal convolution, scanned in both directions with a decay of its own each (Fo-Bi, v1).

    `out_proj((y_f + y_b) * silu(z))`: both scans read the same convolved tokens, steps and projections. The skip `D`
    is in both.

    Args:
        hidden_size: Width of the sequence that goes in and out.
        state_size: State values per channel.
        conv_kernel: Width of the causal depth-wise convolution, in tokens.
        expand: Inner width as a multiple of `hidden_size`.
    """

    def __init__(self, hidden_size: int, *, state_size: int = 16, conv_kernel: int = 4, expand: int = 2) -> None:
        super().__init__(hidden_size, state_size=state_size, conv_kernel=conv_kernel, expand=expand)
        self.A_b_log = nn.Parameter(torch.empty_like(self.A_log))
        self.A_b_log._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise what a generic rule for linear layers would get wrong; loaded tensors are left alone."""
        super().init_weights()
        init.copy_(self.A_b_log, self._initial_a_log())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # all tokens exist
        """Mix along the sequence, both ways.

        Args:
            hidden_states: `(batch, length, hidden_size)`.

        Returns:
            `(batch, length, hidden_size)`.
        """
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        x = causal_conv1d_silu(x, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        dt, b, c = self.x_proj(x).split([self.time_step_rank, self.state_size, self.state_size], dim=-1)
        a, a_backward = -torch.exp(self.A_log.float()), -torch.exp(self.A_b_log.float())
        forwards = ScanOperands(x, self.dt_proj(dt), a, b, c, self.D.float(), z)
        (y, _), (y_backward, _) = bidirectional_scan(forwards, forwards._replace(A=a_backward))
        mixed: torch.Tensor = self.out_proj(y + y_backward)
        return mixed


class BiBiMamba(MambaMixer):
    """Convolution and scan in both directions, each with parameters of its own (Bi-Bi, v2).

    `out_proj((y_f + y_b) / 2)`, each gated with `silu(z)`.

    Args:
        hidden_size: Width of the sequence that goes in and out.
        state_size: State values per channel.
        conv_kernel: Width of the causal depth-wise convolutions, in tokens.
        expand: Inner width as a multiple of `hidden_size`.
        divide_output: Whether the sum of both directions is halved.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        state_size: int = 16,
        conv_kernel: int = 4,
        expand: int = 2,
        divide_output: bool = True,
    ) -> None:
        super().__init__(hidden_size, state_size=state_size, conv_kernel=conv_kernel, expand=expand)
        self.divide_output = divide_output
        inner = self.intermediate_size
        self.conv1d_b = nn.Conv1d(inner, inner, conv_kernel, groups=inner)
        self.x_proj_b = nn.Linear(inner, self.time_step_rank + 2 * state_size, bias=False)
        self.dt_proj_b = nn.Linear(self.time_step_rank, inner)
        self.A_b_log = nn.Parameter(torch.empty_like(self.A_log))
        self.D_b = nn.Parameter(torch.empty_like(self.D))
        self.A_b_log._no_weight_decay = True  # type: ignore[attr-defined]
        self.D_b._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise what a generic rule for linear layers would get wrong; loaded tensors are left alone.

        As in the published code the backward step sizes get no range of their own: `dt_proj_b` starts as any linear
        layer with a bias of 0.
        """
        super().init_weights()
        init.copy_(self.A_b_log, self._initial_a_log())
        init.ones_(self.D_b)
        init.kaiming_uniform_(self.conv1d_b.weight, a=math.sqrt(5))
        init.kaiming_uniform_(self.dt_proj_b.weight, a=math.sqrt(5))
        init.zeros_(self.dt_proj_b.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # all tokens exist
        """Mix along the sequence, both ways.

        Args:
            hidden_states: `(batch, length, hidden_size)`.

        Returns:
            `(batch, length, hidden_size)`.
        """
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        sizes = [self.time_step_rank, self.state_size, self.state_size]
        forwards = causal_conv1d_silu(x, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        dt, b, c = self.x_proj(forwards).split(sizes, dim=-1)
        a = -torch.exp(self.A_log.float())
        backwards = causal_conv1d_silu(x, self.conv1d_b.weight.squeeze(1), self.conv1d_b.bias, reverse=True)
        dt_b, b_b, c_b = self.x_proj_b(backwards).split(sizes, dim=-1)
        a_b = -torch.exp(self.A_b_log.float())
        (y, _), (y_backward, _) = bidirectional_scan(
            ScanOperands(forwards, self.dt_proj(dt), a, b, c, self.D.float(), z),
            ScanOperands(backwards, self.dt_proj_b(dt_b), a_b, b_b, c_b, self.D_b.float(), z),
        )
        y = y + y_backward
        mixed: torch.Tensor = self.out_proj(y / 2 if self.divide_output else y)
        return mixed
