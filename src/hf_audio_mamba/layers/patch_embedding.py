"""Stems and down-sampling of VMamba (arXiv:2401.10166) over channels-last maps, with the names of its checkpoints.

VMamba numbers its sequences of layers, transpositions included. Maps here need no transposition; `nn.Identity` stands
where VMamba has one, so that the numbers in the tensors' names agree.
"""

import torch
from torch import nn

from hf_audio_mamba.layers.token_layers import apply_token_layers, is_plain, layer_norm_weights
from hf_audio_mamba.ops import conv_norm as kernels
from hf_audio_mamba.ops.token_weights import ConvWeights

PATCH_SIZE = 4
"""Side of a patch in cells of the input, in every stem."""


class ChannelsLastConv2d(nn.Conv2d):
    """Convolution of `(batch, height, width, channels)`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve; the result is channels-last, too."""
        # Channels-last memory seen as channels-first: what torch's convolutions take without a copy.
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNormSequence(nn.Sequential):
    """Convolutions, each with the layer normalisation and perhaps the GELU that follow it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map `(batch, height, width, channels)` through all layers."""
        layers = [layer for layer in self if type(layer) is not nn.Identity]
        while layers:
            conv, norm = layers[:2]
            activation = layers[2] if len(layers) > 2 and isinstance(layers[2], nn.GELU) else None
            input = _conv_norm(input, conv, norm, activation)
            layers = layers[2:] if activation is None else layers[3:]
        return input


def _conv_norm(maps: torch.Tensor, conv: nn.Module, norm: nn.Module, activation: nn.Module | None) -> torch.Tensor:
    """Two or three layers in one kernel where that serves and the layers are plain ones."""
    weights = layer_norm_weights(norm)
    plain = is_plain(conv, ChannelsLastConv2d) and (activation is None or is_plain(activation, nn.GELU))
    if plain and weights is not None:
        assert isinstance(conv, nn.Conv2d)
        stride, padding = conv.stride[0], conv.padding[0]
        assert isinstance(padding, int)
        operands = ConvWeights(conv.weight, conv.bias, stride, padding)
        if kernels.serves(maps, operands, weights, gelu=activation is not None):
            return kernels.conv_norm(maps, operands, weights, gelu=activation is not None)
    maps = norm(conv(maps))
    return maps if activation is None else activation(maps)


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
        return apply_token_layers(torch.cat(corners, dim=-1), self.reduction, norm=self.norm)


def patch_embedding(version: str, embed_dim: int, layer_norm_eps: float) -> ConvNormSequence:
    """Build a stem: `(batch, height, width, 1)` to `(batch, height / 4, width / 4, embed_dim)`.

    Args:
        version: `"v1"`, one convolution of 4 x 4, stride 4; or `"v2"`, two of 3 x 3, stride 2.
        embed_dim: Channels.
        layer_norm_eps: Added to the variance in layer normalisation.
    """
    if version == "v1":
        projection = ChannelsLastConv2d(1, embed_dim, PATCH_SIZE, stride=PATCH_SIZE)
        return ConvNormSequence(projection, nn.Identity(), nn.LayerNorm(embed_dim, eps=layer_norm_eps))
    half = embed_dim // 2
    return ConvNormSequence(
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
    return ConvNormSequence(
        nn.Identity(),
        ChannelsLastConv2d(channels, 2 * channels, kernel, stride=2, padding=padding),
        nn.Identity(),
        nn.LayerNorm(2 * channels, eps=layer_norm_eps),
    )
