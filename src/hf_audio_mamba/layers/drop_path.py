"""Stochastic depth: residual branches that are left out at random during training."""

import torch
from torch import nn


class DropPath(nn.Module):
    """Leaves out whole samples of a residual branch, and scales the others up so that the mean stays.

    Huang et al. 2016, Deep Networks with Stochastic Depth, drawn for each sample as in Swin and VMamba.

    Args:
        probability: Of leaving a sample out, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Drop samples of `(batch, ...)` while training; outside of training nothing changes."""
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        mask = branch.new_empty(branch.shape[:1] + (1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * (mask / keep)

    def residual(self, x: torch.Tensor, layer: nn.Module, norm: nn.Module) -> torch.Tensor:
        """`x` plus the branch `layer(norm(x))`, whole samples of which are left out.

        Args:
            x: `(batch, ...)`.
            layer: Takes `norm` and `skip` as keywords, so that norm and sum can be part of its work.
            norm: Layer before it.
        """
        if self.training and self.probability > 0:
            total: torch.Tensor = x + self(layer(x, norm=norm))
        else:
            total = layer(x, norm=norm, skip=x)
        return total

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"probability={self.probability}"
