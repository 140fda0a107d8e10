"""AudioMamba written down step by step in float64, from the papers' formulas and the names of VMamba's tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba import AudioMambaConfig
from tests.layers.ss2d_formulas import ss2d

Tensors = dict[str, Tensor]


def norm(w: Tensors, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def convolve(w: Tensors, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
    """`(height, width, channels)`."""
    images = F.conv2d(x.permute(2, 0, 1)[None], w[name + ".weight"], w[name + ".bias"], stride, padding)
    return images[0].permute(1, 2, 0)


def feed_forward(w: Tensors, prefix: str, x: Tensor) -> Tensor:
    hidden = gelu(x @ w[prefix + "fc1.weight"].T + w[prefix + "fc1.bias"])
    return hidden @ w[prefix + "fc2.weight"].T + w[prefix + "fc2.bias"]


def fold(config: AudioMambaConfig, frames: Tensor) -> Tensor:
    """Pixel (r, c) is mel r mod F at frame (r div F) * S + c."""
    size, bands = config.spec_size, config.num_mel_bins
    image = frames.new_zeros(size, size)
    for r in range(size):
        for c in range(size):
            image[r, c] = frames[(r // bands) * size + c, r % bands]
    return image


def stem(w: Tensors, config: AudioMambaConfig, image: Tensor) -> Tensor:
    x = image[..., None]
    if config.stem == "v1":
        return norm(w, "patch_embed.2", convolve(w, "patch_embed.0", x, 4, 0))
    x = gelu(norm(w, "patch_embed.2", convolve(w, "patch_embed.0", x, 2, 1)))
    return norm(w, "patch_embed.7", convolve(w, "patch_embed.5", x, 2, 1))


def downsample(w: Tensors, config: AudioMambaConfig, prefix: str, x: Tensor) -> Tensor:
    if config.downsample != "v1":
        kernel = {"v2": (2, 0), "v3": (2, 1)}[config.downsample]
        return norm(w, prefix + "3", convolve(w, prefix + "1", x, *kernel))
    height, width, _ = x.shape
    merged = torch.stack(
        [
            torch.stack([torch.cat([x[i, j], x[i + 1, j], x[i, j + 1], x[i + 1, j + 1]]) for j in range(0, width, 2)])
            for i in range(0, height, 2)
        ]
    )
    return norm(w, prefix + "norm", merged) @ w[prefix + "reduction.weight"].T


def attention(w: Tensors, prefix: str, x: Tensor, heads: int) -> Tensor:
    """Among the rows of `(cells, channels)`."""
    q, k, v = (x @ w[prefix + "qkv.weight"].T + w[prefix + "qkv.bias"]).chunk(3, dim=-1)
    outputs = []
    for one in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = one[0] @ one[1].T / one[0].shape[1] ** 0.5
        outputs.append(torch.softmax(scores, -1) @ one[2])
    return torch.cat(outputs, -1) @ w[prefix + "proj.weight"].T + w[prefix + "proj.bias"]


def transformer(w: Tensors, config: AudioMambaConfig, prefix: str, x: Tensor, heads: int, side: int) -> Tensor:
    normed, attended = norm(w, prefix + "norm1", x), torch.zeros_like(x)
    rows, columns = (side, side) if config.transformer_block == "windowed" else x.shape[:2]
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            window = normed[i : i + rows, j : j + columns]
            mixed = attention(w, prefix + "attn.", window.reshape(-1, x.shape[2]), heads)
            attended[i : i + rows, j : j + columns] = mixed.view(window.shape)
    x = x + attended
    return x + feed_forward(w, prefix + "mlp.", norm(w, prefix + "norm2", x))


def features(w: Tensors, config: AudioMambaConfig, image: Tensor, *, heads: int = 1, side: int = 8) -> Tensor:
    """Final map of an image `(height, width)`: `(height / 4 ..., width / 4 ..., channels)`."""
    x = stem(w, config, image)
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}."
            x = x + ss2d(w, prefix + "op.", norm(w, prefix + "norm", x))
            if config.mlp_ratio:
                x = x + feed_forward(w, prefix + "mlp.", norm(w, prefix + "norm2", x))
            if config.transformer_block != "none":
                x = transformer(w, config, prefix + "transformer.", x, heads, side)
        if stage < len(config.depths) - 1:
            x = downsample(w, config, f"layers.{stage}.downsample.", x)
    return norm(w, "norm", x)


def framewise(w: Tensors, config: AudioMambaConfig, frames: Tensor, **attention_sizes: int) -> Tensor:
    """Scores `(time steps, labels)` of one window `(frames, bands)`."""
    body = {name.removeprefix("audio_mamba."): tensor for name, tensor in w.items()}
    frames = (frames - body["bn0.running_mean"]) / (body["bn0.running_var"] + 1e-5).sqrt()
    frames = frames * body["bn0.weight"] + body["bn0.bias"]
    x = features(body, config, fold(config, frames), **attention_sizes)
    rows = config.num_mel_bins // config.frames_per_step
    # Rows of the map are windows of time times frequency rows: put the windows side by side.
    windows = [x[i : i + rows] for i in range(0, x.shape[0], rows)]
    over_time = torch.cat(windows, dim=1)
    if config.head == "linear":
        return over_time.mean(0) @ w["classifier.weight"].T + w["classifier.bias"]
    kernel = w["classifier.weight"]
    padded = F.pad(over_time, (0, 0, 1, 1))
    return torch.stack(
        [
            torch.einsum("rtc,lcrt->l", padded[:, t : t + 3], kernel) + w["classifier.bias"]
            for t in range(over_time.shape[1])
        ]
    )
