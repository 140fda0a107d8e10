"""A transformer block over a map, in windows or globally, and the feed-forward network that it shares with others."""

import torch
import torch.nn.functional as F
from torch import nn

from hf_audio_mamba.layers.drop_path import DropPath
from hf_audio_mamba.layers.token_layers import apply_token_layers

HEAD_WIDTH = 32
"""Channels of an attention head, as in Swin."""
WINDOW_SIDE = 8
"""Largest side of an attention window in cells, as in HTS-AT (Chen et al. 2022, section 3)."""


class FeedForward(nn.Module):
    """Linear, GELU, linear.

    Args:
        hidden_size: Width that goes in and out.
        ratio: Inner width as a multiple of `hidden_size`.
    """

    def __init__(self, hidden_size: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(ratio * hidden_size))
        self.fc2 = nn.Linear(int(ratio * hidden_size), hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, *, norm: nn.Module | None = None, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map every cell.

        Args:
            hidden_states: `(..., hidden_size)`.
            norm: Layer that is applied to them first; none if omitted.
            skip: Added to the result, which has the same shape; none if omitted.
        """
        return apply_token_layers(hidden_states, self.fc2, norm=norm, first=self.fc1, skip=skip)


def count_heads(hidden_size: int) -> int:
    """Attention heads of at least 32 channels: as many as divide `hidden_size` evenly, and at least one."""
    most = max(1, hidden_size // HEAD_WIDTH)
    return next(heads for heads in range(most, 0, -1) if hidden_size % heads == 0)


def window_side(side: int) -> int:
    """Side of the attention windows of a map: the largest divisor of its side up to 8."""
    return next(cells for cells in range(min(side, WINDOW_SIDE), 0, -1) if side % cells == 0)


class MapAttention(nn.Module):
    """Multi-head self-attention among the cells of a window, or of the whole map.

    Args:
        hidden_size: Width of the map.
        windowed: Whether cells attend within windows of (at most) 8 x 8, without shifts, or to the whole map.
    """

    def __init__(self, hidden_size: int, *, windowed: bool) -> None:
        super().__init__()
        self.num_heads = count_heads(hidden_size)
        self.windowed = windowed
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, *, norm: nn.Module | None = None, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend among the cells of a map.

        Args:
            hidden_states: `(batch, height, width, hidden_size)`.
            norm: Layer that is applied to them first; none if omitted.
            skip: Added to the result, which has the same shape; none if omitted.
        """
        batch, height, width, channels = hidden_states.shape
        rows = window_side(height) if self.windowed else height
        columns = window_side(width) if self.windowed else width
        # (batch, vertical windows, rows, horizontal windows, columns, query/key/value, heads, head width)
        grid = (batch, height // rows, rows, width // columns, columns)
        qkv = apply_token_layers(hidden_states, self.qkv, norm=norm).view(
            *grid, 3, self.num_heads, channels // self.num_heads
        )
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(1, 3)
        query, key, value = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.view(batch, grid[1], grid[3], self.num_heads, rows, columns, -1)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(hidden_states.shape)
        return apply_token_layers(attended, self.proj, skip=skip)


class MapTransformer(nn.Module):
    """Transformer block with normalisation before each branch.

    Args:
        hidden_size: Width of the map.
        windowed: As in `MapAttention`.
        mlp_ratio: Inner width of the feed-forward network as a multiple of `hidden_size`.
        drop_path: Probability of leaving out a branch of a sample during training.
        layer_norm_eps: Added to the variance in layer normalisation.
    """

    def __init__(
        self, hidden_size: int, *, windowed: bool, mlp_ratio: float, drop_path: float, layer_norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attn = MapAttention(hidden_size, windowed=windowed)
        self.norm2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = FeedForward(hidden_size, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, height, width, hidden_size)` to the same shape."""
        hidden_states = self.drop_path.residual(hidden_states, self.attn, self.norm1)
        return self.drop_path.residual(hidden_states, self.mlp, self.norm2)
