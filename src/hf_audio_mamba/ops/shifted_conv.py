"""Causal depth-wise convolution + SiLU in plain PyTorch: one multiply-add of shifted frames per tap.

On CPU the frames are cut into tiles that stay in cache over all taps. On one thread, in float32 with four taps, this is
1.5 to 5 times as fast as `conv1d` and SiLU on transposed views, and 1.3 to 2.8 times with the gradient, at
(batch, length, channels) of (8, 512, 512), (1, 3001, 1024) and (32, 300, 512).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_audio_mamba.ops.reference import compute_dtype

TILE_ELEMENTS = 2**16
"""Elements (batch x frames x channels) of a tile: 256 kB in float32, within a core's cache."""


def causal_conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool, initial_state: Tensor | None
) -> Tensor:
    """Arguments and result as in `hf_audio_mamba.ops.reference.causal_conv1d_silu`; differentiable once."""
    y: Tensor = _CausalConvSiLU.apply(x, weight, bias, initial_state, reverse)  # type: ignore[no-untyped-call]  # torch's
    return y


def _tiles(x: Tensor) -> list[slice]:
    batch, length, channels = x.shape
    rows = max(16, TILE_ELEMENTS // (batch * channels)) if x.device.type == "cpu" else length
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]


def _window(x: Tensor, past: Tensor, rows: slice, reverse: bool) -> Tensor:
    """The frames that a tile of `q` outputs sees, in order of time: `(batch, q + width - 1, channels)`."""
    reach, length = past.shape[1], x.shape[1]
    start, stop = (rows.start, rows.stop + reach) if reverse else (rows.start - reach, rows.stop)
    window = x[:, max(start, 0) : min(stop, length)].to(past.dtype)
    if start < 0:
        window = torch.cat([past[:, start:], window], dim=1)
    if stop > length:
        window = torch.cat([window, past.flip(1)[:, : stop - length]], dim=1)
    return window


def _convolve(window: Tensor, taps: Tensor, bias: Tensor | None = None) -> Tensor:
    """Correlate `(batch, q + width - 1, channels)` with `taps (width, channels)` into `(batch, q, channels)`."""
    width = taps.shape[0]
    frames = window.shape[1] - width + 1
    y = window[:, :frames] * taps[0]
    if bias is not None:
        y += bias
    for shift in range(1, width):
        y.addcmul_(window[:, shift : shift + frames], taps[shift])
    return y


def _taps(weight: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    """`weight (channels, width)` as `(width, channels)` in the order of time."""
    taps = weight.to(dtype).t()
    return (taps.flip(0) if reverse else taps).contiguous()


class _CausalConvSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reverse: bool
    ) -> Tensor:
        dtype = compute_dtype(x)
        if initial_state is None:
            past = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2], dtype=dtype)
        else:
            past = initial_state.to(dtype)
        ctx.save_for_backward(x, weight, bias, past)
        ctx.reverse = reverse
        ctx.initial_dtype = None if initial_state is None else initial_state.dtype
        taps, shift = _taps(weight, dtype, reverse), None if bias is None else bias.to(dtype)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for rows in _tiles(x):
            y[:, rows] = F.silu(_convolve(_window(x, past, rows, reverse), taps, shift), inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, past = ctx.saved_tensors
        taps, shift = _taps(weight, past.dtype, ctx.reverse), None if bias is None else bias.to(past.dtype)
        # The gradient at the convolution's output: all frames, since those of the input mix the tiles.
        d_conv = torch.empty(x.shape, dtype=past.dtype, device=x.device)
        d_taps = torch.zeros_like(taps)
        for rows in _tiles(x):
            window = _window(x, past, rows, ctx.reverse)
            y = _convolve(window, taps, shift)
            sigmoid = torch.sigmoid(y)
            d_tile = torch.mul(grad_y[:, rows], sigmoid * (1 + y * (1 - sigmoid)), out=d_conv[:, rows])
            for index in range(taps.shape[0]):
                d_taps[index] += (window[:, index : index + d_tile.shape[1]] * d_tile).sum((0, 1))

        # Each input frame is seen by the outputs that follow it: the same convolution, looking the other way.
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        nothing = torch.zeros_like(past)
        for rows in _tiles(x):
            d_x[:, rows] = _convolve(_window(d_conv, nothing, rows, not ctx.reverse), taps.flip(0))
        d_weight = (d_taps.flip(0) if ctx.reverse else d_taps).t().to(weight.dtype)
        d_bias = None if bias is None else d_conv.sum((0, 1)).to(bias.dtype)
        d_past = None
        if ctx.initial_dtype is not None:
            in_scan_order = d_conv.flip(1) if ctx.reverse else d_conv
            d_past = _gradient_of_past(in_scan_order, weight, past.shape[1]).to(ctx.initial_dtype)
        return d_x, d_weight, d_bias, d_past, None


def _gradient_of_past(d_conv: Tensor, weight: Tensor, reach: int) -> Tensor:
    """Past frame `i` is weighted by tap `i - t` in output `t`, all in scan order."""
    d_past = d_conv.new_zeros(d_conv.shape[0], reach, d_conv.shape[2])
    for i in range(reach):
        for t in range(min(i + 1, d_conv.shape[1])):
            d_past[:, i].addcmul_(d_conv[:, t], weight[:, i - t].to(d_conv.dtype))
    return d_past
