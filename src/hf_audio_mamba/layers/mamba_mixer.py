"""The Mamba-1 mixer (Gu & Dao 2024, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, section 3).

Tensor names and shapes are those of `transformers.models.mamba.modeling_mamba.MambaMixer`, so weights pass between the
two without renaming.
"""

import math

import torch
from torch import nn
from transformers import initialization as init

from hf_audio_mamba.ops import causal_conv1d_silu, selective_scan

# Step sizes at initialisation are log-uniform in this range and not below the floor (Mamba reference code).
TIME_STEP_MIN = 1e-3
TIME_STEP_MAX = 1e-1
TIME_STEP_FLOOR = 1e-4


class MambaMixer(nn.Module):
    """Selective state-space mixer over a sequence, causal in time.

    Args:
        hidden_size: Width of the sequence that goes in and out.
        state_size: State values per channel.
        conv_kernel: Width of the causal depth-wise convolution, in frames.
        expand: Inner width as a multiple of `hidden_size`.

    The rank of the step-size projection is `ceil(hidden_size / 16)` as in the reference code.

    For LoRA use `target_modules=["in_proj", "x_proj", "dt_proj", "out_proj"]`: every projection is called as a module,
    so an adapter on any of them receives a gradient.
    """

    def __init__(self, hidden_size: int, *, state_size: int = 16, conv_kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.intermediate_size = expand * hidden_size
        self.state_size = state_size
        self.time_step_rank = math.ceil(hidden_size / 16)

        self.in_proj = nn.Linear(hidden_size, 2 * self.intermediate_size, bias=False)
        # Holds the weights under the usual names; the convolution itself runs time-major in ops.
        self.conv1d = nn.Conv1d(
            self.intermediate_size, self.intermediate_size, conv_kernel, groups=self.intermediate_size
        )
        self.x_proj = nn.Linear(self.intermediate_size, self.time_step_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.time_step_rank, self.intermediate_size)
        self.A_log = nn.Parameter(torch.empty(self.intermediate_size, state_size))
        self.D = nn.Parameter(torch.empty(self.intermediate_size))
        self.out_proj = nn.Linear(self.intermediate_size, hidden_size, bias=False)
        # These set time scales and a skip, not a mapping; pulling them towards zero is no regularisation (Mamba code).
        self.A_log._no_weight_decay = True  # type: ignore[attr-defined]
        self.D._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise what a generic rule for linear layers would get wrong; loaded tensors are left alone."""
        init.copy_(self.A_log, self._initial_a_log())
        init.ones_(self.D)
        init.kaiming_uniform_(self.conv1d.weight, a=math.sqrt(5))
        init.uniform_(self.dt_proj.weight, -(self.time_step_rank**-0.5), self.time_step_rank**-0.5)
        log_range = math.log(TIME_STEP_MAX) - math.log(TIME_STEP_MIN)
        dt = torch.exp(torch.rand(self.intermediate_size) * log_range + math.log(TIME_STEP_MIN))
        dt = dt.clamp(min=TIME_STEP_FLOOR)
        # The inverse of softplus, so that softplus(bias) is the drawn step size.
        init.copy_(self.dt_proj.bias, dt + torch.log(-torch.expm1(-dt)))

    def _initial_a_log(self) -> torch.Tensor:
        """State n decays at rate n, in every channel: `(intermediate_size, state_size)`."""
        states = torch.arange(1, self.state_size + 1, dtype=torch.float32)
        return torch.log(states).expand(self.intermediate_size, -1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        reverse: bool = False,
        order: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mix along time.

        Args:
            hidden_states: `(batch, length, hidden_size)`.
            reverse: Whether to visit the rows from the last to the first.
            order: Row visited at each step, `(length,)` or `(batch, length)`, as in `ops.selective_scan`.
            lengths: Rows of each sample that are visited, `(batch,)`; the others (padding) are not read.

        Returns:
            `(batch, length, hidden_size)`; zero at rows that are not visited.
        """
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        weight = self.conv1d.weight.squeeze(1)
        x = causal_conv1d_silu(x, weight, self.conv1d.bias, reverse=reverse, order=order, lengths=lengths)
        dt, b, c = self.x_proj(x).split([self.time_step_rank, self.state_size, self.state_size], dim=-1)
        a = -torch.exp(self.A_log.float())
        dt = self.dt_proj(dt)
        y = selective_scan(x, dt, a, b, c, self.D.float(), z, reverse=reverse, order=order, lengths=lengths)
        mixed: torch.Tensor = self.out_proj(y)
        return mixed
