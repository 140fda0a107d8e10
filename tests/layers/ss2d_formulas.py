"""SS2D written down step by step from VMamba's formulas (arXiv:2401.10166, section 4.2), for one map in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor


def routes(height: int, width: int) -> list[list[tuple[int, int]]]:
    """Cells in the order of each route: along rows, along columns, and both backwards."""
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def depthwise_3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`(height, width, channels)`, zeros around it."""
    height, width, channels = x.shape
    padded = x.new_zeros(height + 2, width + 2, channels)
    padded[1:-1, 1:-1] = x
    taps = [padded[i : i + height, j : j + width] * weight[:, 0, i, j] for i in range(3) for j in range(3)]
    return torch.stack(taps).sum(0) + (0 if bias is None else bias)


def ss2d(w: dict[str, Tensor], prefix: str, u: Tensor) -> Tensor:
    """One map `(height, width, width of the model)`; `w` holds the layer's tensors under `prefix`."""
    inner = w[prefix + "out_norm.weight"].shape[0]
    x = torch.einsum("hwd,ed->hwe", u, w[prefix + "in_proj.weight"])
    x, z = x[..., :inner], x[..., inner:]
    x = depthwise_3x3(x, w[prefix + "conv2d.weight"], w.get(prefix + "conv2d.bias"))
    x = x * torch.sigmoid(x)
    a = -w[prefix + "A_logs"].exp().view(4, inner, -1)
    skip = w[prefix + "Ds"].view(4, inner)
    rank, states = w[prefix + "dt_projs_weight"].shape[2], a.shape[2]
    y = torch.zeros_like(x)
    for k, route in enumerate(routes(*x.shape[:2])):
        h = torch.zeros_like(a[k])
        for cell in route:
            low, b, c = torch.einsum("re,e->r", w[prefix + "x_proj_weight"][k], x[cell]).split([rank, states, states])
            step = torch.einsum("er,r->e", w[prefix + "dt_projs_weight"][k], low) + w[prefix + "dt_projs_bias"][k]
            step = torch.log1p(step.exp())
            h = torch.exp(step[:, None] * a[k]) * h + (step * x[cell])[:, None] * b
            y[cell] += h @ c + skip[k] * x[cell]
    y = F.layer_norm(y, (inner,), w[prefix + "out_norm.weight"], w[prefix + "out_norm.bias"])
    if z.shape[-1]:
        y = y * z * torch.sigmoid(z)
    return torch.einsum("hwe,de->hwd", y, w[prefix + "out_proj.weight"])
