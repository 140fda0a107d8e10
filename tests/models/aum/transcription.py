"""AuM's published formulas (arXiv:2406.03344, section 3; Vision Mamba, arXiv:2401.09417, algorithm 1), step by step.

In float64, one clip and one token at a time, with sequences flipped where the formulas flip them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def convolution(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Causal depth-wise convolution and SiLU of `(length, channels)`."""
    width = kernel.shape[-1]
    padded = torch.cat([x.new_zeros(width - 1, x.shape[1]), x])
    return F.silu(torch.stack([(padded[t : t + width] * kernel[:, 0].T).sum(0) + bias for t in range(len(x))]))


def scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The recurrence over `(length, channels)`, with steps after softplus."""
    h, outputs = torch.zeros_like(a), []
    for t in range(len(x)):
        h = torch.exp(dt[t][:, None] * a) * h + dt[t][:, None] * b[t][None] * x[t][:, None]
        outputs.append(h @ c[t] + d * x[t])
    return torch.stack(outputs)


def projections(w: Weights, x: Tensor, suffix: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Steps, input and output projections of convolved tokens."""
    rank = w[f"dt_proj{suffix}.weight"].shape[1]
    states = w["A_log"].shape[1]
    low, b, c = (x @ w[f"x_proj{suffix}.weight"].T).split([rank, states, states], dim=1)
    return F.softplus(low @ w[f"dt_proj{suffix}.weight"].T + w[f"dt_proj{suffix}.bias"]), b, c


def mixer(w: Weights, u: Tensor, bimamba_type: str, divide: bool) -> Tensor:
    """One sequence `(length, width)` through Fo-Fo, Fo-Bi or Bi-Bi."""
    xz = u @ w["in_proj.weight"].T
    x, z = xz.chunk(2, dim=1)
    convolved = convolution(x, w["conv1d.weight"], w["conv1d.bias"])
    dt, b, c = projections(w, convolved)
    y = scan(convolved, dt, -w["A_log"].exp(), b, c, w["D"]) * F.silu(z)
    if bimamba_type == "fo-bi":
        reversed_ones = (tensor.flip(0) for tensor in (convolved, dt))
        backward = scan(*reversed_ones, -w["A_b_log"].exp(), b.flip(0), c.flip(0), w["D"]) * F.silu(z.flip(0))
        y = y + backward.flip(0)
    elif bimamba_type == "bi-bi":
        x, z = xz.flip(0).chunk(2, dim=1)
        convolved = convolution(x, w["conv1d_b.weight"], w["conv1d_b.bias"])
        dt, b, c = projections(w, convolved, "_b")
        backward = scan(convolved, dt, -w["A_b_log"].exp(), b, c, w["D_b"]) * F.silu(z)
        y = (y + backward.flip(0)) / (2 if divide else 1)
    return y @ w["out_proj.weight"].T


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def tokens(w: Weights, clip: Tensor, config: object) -> tuple[Tensor, list[int]]:
    """The sequence `(length, width)` of a clip `(frames, bands)`, and where its class tokens are."""
    kernel, size = w["patch_embed.proj.weight"][:, 0], config.patch_size
    table = w["pos_embed.pos_embed"][0]
    names = [name for name in ("cls_token", "cls_token_head", "cls_token_tail") if name in w]
    leading = [w[name][0, 0] + table[row] for row, name in enumerate(names)]
    bands, times = config.num_mel_bins // size, config.max_length // size
    grid = {}
    for f in range(bands):
        for t in range(times):
            patch = clip[t * size : (t + 1) * size, f * size : (f + 1) * size].T  # bands first
            embedding = (kernel * patch).sum((1, 2)) + w["patch_embed.proj.bias"]
            grid[f, t] = embedding + table[len(leading) + f * times + t]
    places = sorted(grid, key=lambda place: (place[1], place[0]) if config.transpose_token_sequence else place)
    sequence = [grid[place] for place in places]
    count = len(sequence)
    if config.cls_position == "double":
        return torch.stack([leading[0], *sequence, leading[1]]), [0, count + 1]
    if config.cls_position == "none":
        return torch.stack(sequence), list(range(count))
    where = {"front": 0, "middle": count // 2, "end": count}[config.cls_position]
    return torch.stack([*sequence[:where], leading[0], *sequence[where:]]), [where]


def logits(model: torch.nn.Module, clip: Tensor) -> Tensor:
    """Logits of a clip `(frames, bands)` that is as long as the model hears at once."""
    w = {name.removeprefix("aum."): tensor.double() for name, tensor in model.state_dict().items()}
    config = model.config
    residual, read = tokens(w, clip.double(), config)
    for n in range(config.num_hidden_layers):
        prefix = f"layers.{n}."
        block = {name.removeprefix(prefix + "mixer."): w[name] for name in w if name.startswith(prefix)}
        normed = rms_norm(residual, w[prefix + "norm.weight"], config.rms_norm_eps)
        residual = residual + mixer(block, normed, config.bimamba_type, config.divide_output)
    embedding = rms_norm(residual, w["norm_f.weight"], config.rms_norm_eps)[read].mean(0)
    return embedding @ w["head.weight"].T + w["head.bias"]
