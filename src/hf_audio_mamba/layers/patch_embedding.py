"""Stems and down-sampling of VMamba (arXiv:2401.10166) over channels-last maps, with the names of its checkpoints.

VMamba numbers its sequences of layers, transpositions included. Maps here need no transposition; `nn.Identity` stands
where VMamba has one, so that the numbers in the tensors' names agree.
"""

import torch
from torch import nn

PATCH_SIZE = 4
"""Side of a patch in cells of the input, in every stem."""


class ChannelsLastConv2d(nn.Conv2d):
    """Convolution of `(batch, height, width, channels)`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve; the result is channels-last, too."""
        # Channels-last memory seen as channels-first: what torch's convolutions take without a copy.
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """Down-sampling of Swin and of VMamba's first version: 2 x 2 neighbours side by side, norm, projection.

    Args:
        channels: Width of the map that goes in; twice as much comes out.
        layer_norm_eps: Added to the variance in layer normalisation.
    """

    def __init__(self, channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=layer_norm_eps)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map `(batch, height, width, channels)`, sides even, to half the sides and twice the channels."""
        # Neighbours in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column).
        corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: torch.Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


def patch_embedding(version: str, embed_dim: int, layer_norm_eps: float) -> nn.Sequential:
    """Build a stem: `(batch, height, width, 1)` to `(batch, height / 4, width / 4, embed_dim)`.

    Args:
        version: `"v1"`, one convolution of 4 x 4, stride 4; or `"v2"`, two of 3 x 3, stride 2.
        embed_dim: Channels.
        layer_norm_eps: Added to the variance in layer normalisation.
    """
    if version == "v1":
        projection = ChannelsLastConv2d(1, embed_dim, PATCH_SIZE, stride=PATCH_SIZE)
        return nn.Sequential(projection, nn.Identity(), nn.LayerNorm(embed_dim, eps=layer_norm_eps))
    half = embed_dim // 2
    return nn.Sequential(
        ChannelsLastConv2d(1, half, 3, stride=2, padding=1),
        nn.Identity(),
        nn.LayerNorm(half, eps=layer_norm_eps),
        nn.Identity(),
        nn.GELU(),
        ChannelsLastConv2d(half, embed_dim, 3, stride=2, padding=1),
        nn.Identity(),
        nn.LayerNorm(embed_dim, eps=layer_norm_eps),
    )


def downsampling(version: str, channels: int, layer_norm_eps: float) -> nn.Module:
    """Build a layer that halves the sides of a map and doubles its channels.

    Args:
        version: `"v1"`, patch merging; `"v2"`, a convolution of 2 x 2; or `"v3"`, one of 3 x 3, both with stride 2.
        channels: Of the map that goes in.
        layer_norm_eps: Added to the variance in layer normalisation.
    """
    if version == "v1":
        return PatchMerging(channels, layer_norm_eps)
    kernel, padding = (2, 0) if version == "v2" else (3, 1)
    return nn.Sequential(
        nn.Identity(),
        ChannelsLastConv2d(channels, 2 * channels, kernel, stride=2, padding=padding),
        nn.Identity(),
        nn.LayerNorm(2 * channels, eps=layer_norm_eps),
    )
