"""Rows in another order than that of memory, and sequences shorter than the batch: for backends that know neither.

A compiled backend follows a table of row numbers and stops at each sequence's end. The others get their rows gathered
into the order of the visit, steps past the end that change nothing, and their output scattered back.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops.reference import compute_dtype


def check(operation: str, x: Tensor, order: Tensor | None, lengths: Tensor | None) -> None:
    """Check shapes, dtypes and devices of `order` and `lengths`; their values are `check_values`' business.

    Args:
        operation: Name of the operation, for the message.
        x: Its main input `(batch, length, channels)`.
        order: Row visited at each step, `(length,)` or `(batch, length)`, int64.
        lengths: Steps of each sequence, `(batch,)`, int64.

    Raises:
        ShapeError: If one of them is anything else.
    """
    batch, length, _ = x.shape
    for name, tensor, axes, shapes in (
        ("order", order, "(length,) or (batch, length)", [(length,), (batch, length)]),
        ("lengths", lengths, "(batch,)", [(batch,)]),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            raise ShapeError(f"{operation}: {name} must be {axes}, here {shapes[-1]}, got {tuple(tensor.shape)}.")
        if tensor.dtype != torch.int64:
            raise ShapeError(f"{operation}: {name} must be int64, got {tensor.dtype}; convert it with {name}.long().")
        if tensor.device != x.device:
            raise ShapeError(f"{operation}: {name} is on {tensor.device} but x is on {x.device}; move it there.")


def check_values(operation: str, length: int, order: Tensor | None, lengths: Tensor | None) -> None:
    """Check that every row is visited exactly once and that no sequence is longer than the batch.

    Raises:
        ShapeError: If not.
    """
    if lengths is not None and not bool(((lengths >= 0) & (lengths <= length)).all()):
        raise ShapeError(f"{operation}: lengths must lie in 0 to {length}, got {lengths.tolist()}.")
    if order is not None:
        # Every model layer comes here: marking rows takes a fraction of sorting them.
        seen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order.clamp(0, length - 1), True)
        if not bool((seen & (order >= 0) & (order < length)).all()):
            raise ShapeError(f"{operation}: order must name each row from 0 to {length - 1} once.")


def visits(length: int, *, reverse: bool, order: Tensor | None, lengths: Tensor | None, device: torch.device) -> Tensor:
    """The row visited at each step, `(length,)` or `(batch, length)` int64; rows past a sequence's end come last."""
    rows = torch.arange(length, device=device) if order is None else order
    if not reverse:
        return rows
    if lengths is None:
        return rows.flip(-1)
    steps = torch.arange(length, device=device)
    mirrored = lengths[:, None] - 1 - steps
    return rows.expand(len(lengths), length).gather(1, torch.where(mirrored >= 0, mirrored, steps))


def _visits_of(operation: str, x: Tensor, reverse: bool, order: Tensor | None, lengths: Tensor | None) -> Tensor:
    """`visits` of a batch `x`, `(batch, length)`, after a check of the values where they are known."""
    if not torch.compiler.is_compiling():
        check_values(operation, x.shape[1], order, lengths)
    rows = visits(x.shape[1], reverse=reverse, order=order, lengths=lengths, device=x.device)
    return rows.expand(x.shape[0], -1)


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows `(batch, length)` of a tensor `(batch, length, ...)`."""
    index = rows.view(*rows.shape, *[1] * (tensor.ndim - 2))
    return tensor.gather(1, index.expand(-1, -1, *tensor.shape[2:]))


def _past_end(rows: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Where a step is past its sequence's end, `(batch, length)`."""
    if lengths is None:
        return None
    return torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]


def _blank(tensor: Tensor, past_end: Tensor | None) -> Tensor:
    if past_end is None:
        return tensor
    return tensor.masked_fill(past_end.view(*past_end.shape, *[1] * (tensor.ndim - 2)), 0)


def _put_back(y: Tensor, rows: Tensor, past_end: Tensor | None) -> Tensor:
    return _take(_blank(y, past_end), rows.argsort(dim=1))


@cache
def scan_with_order(scan: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A scan with the signature of `reference.selective_scan` that takes `order` and `lengths` too.

    One for each scan, so that `self_check` knows it again.
    """

    def ordered(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        *,
        dt_softplus: bool,
        reverse: bool,
        initial_state: Tensor | None,
        order: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"dt_softplus": dt_softplus, "initial_state": initial_state}
        if order is None and lengths is None:
            return scan(x, dt, A, B, C, D, z, dt_bias, reverse=reverse, **options)
        rows = _visits_of("selective_scan", x, reverse, order, lengths)
        past_end = _past_end(rows, lengths)
        x, dt, B, C = (_take(tensor, rows) for tensor in (x, dt, B, C))
        z = None if z is None else _blank(_take(z, rows), past_end)
        if past_end is not None:
            # A step of size 0 keeps the state as it is. Blanked before softplus too, whose gradient at NaN is NaN.
            dt = _step_size(_blank(dt, past_end).to(compute_dtype(x)), dt_bias, dt_softplus).masked_fill(
                past_end[..., None], 0
            )
            x, B, C = (_blank(tensor, past_end) for tensor in (x, B, C))
            dt_bias, options["dt_softplus"] = None, False
        y, last_state = scan(x, dt, A, B, C, D, z, dt_bias, reverse=False, **options)
        return _put_back(y, rows, past_end), last_state

    return ordered


def _step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    return F.softplus(dt) if dt_softplus else dt


@cache
def conv_with_order(conv: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution with the signature of `reference.causal_conv1d_silu` that takes `order` and `lengths` too."""

    def ordered(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        reverse: bool,
        initial_state: Tensor | None,
        order: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if order is None and lengths is None:
            return conv(x, weight, bias, reverse=reverse, initial_state=initial_state)
        rows = _visits_of("causal_conv1d_silu", x, reverse, order, lengths)
        past_end = _past_end(rows, lengths)
        x = _blank(_take(x, rows), past_end)
        y = conv(x, weight, bias, reverse=False, initial_state=initial_state)
        return _put_back(y, rows, past_end)

    return ordered
