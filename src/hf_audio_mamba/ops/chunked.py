"""Selective scan in plain PyTorch, chunk by chunk: any device, any floating dtype, nothing to compile.

Only `CHUNK` steps of the state exist at a time. Within a chunk one in-place multiply-add per step carries the state,
then one batched matrix product with `C` reads all outputs. Nothing is divided by a product of decays, so arbitrarily
large time steps decay to exactly zero and stay finite. For the backward the state at each chunk's start is kept
(length / CHUNK states); the states in between are computed again.

Buffers are laid out `(steps, batch, groups, state, channels of a group)`: channels are innermost in all inputs, so
every elementwise operation runs over contiguous memory, also for a state size of one.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba.ops.reference import compute_dtype

CHUNK = 16


def selective_scan(
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
) -> tuple[Tensor, Tensor]:
    """Chunked selective scan; arguments and results as in `hf_audio_mamba.ops.reference.selective_scan`.

    Differentiable once in every tensor, and through both results. Under autocast it still computes in float32.
    """
    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    needs_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, last_state, _ = scan(*inputs, dt_softplus, reverse, needs_backward)
    return y, last_state


class _ChunkWalk:
    """The recurrence, one chunk in memory at a time.

    After `enter(rows)` the attributes below hold that chunk, `q` steps in order of time. Per-channel tensors are
    `(q, batch, groups, 1, per_group)`, per-state ones `(q, batch, groups, state, 1)`, and `decay`, `before`, `after`
    (the state around each step) `(q, batch, groups, state, per_group)`.
    """

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        reverse: bool,
    ) -> None:
        batch, length, channels = x.shape
        _, _, groups, state_size = B.shape
        self.dtype = compute_dtype(x)
        self._x, self._dt, self._B, self._C = x, dt, B, C
        self.softplus, self.reverse = dt_softplus, reverse
        self._groups = groups
        self.A = self.by_group(A.t()).transpose(0, 1).contiguous()  # (groups, state, per_group)
        self._dt_bias = None if dt_bias is None else self.by_group(dt_bias)[:, None]
        self.state_shape = (batch, groups, state_size, channels // groups)
        steps = min(CHUNK, length)
        self._decay = x.new_empty((steps, *self.state_shape), dtype=self.dtype)
        self._states = x.new_empty((steps + 1, *self.state_shape), dtype=self.dtype)

    def by_group(self, channels_last: Tensor) -> Tensor:
        """`(..., channels)` to `(..., groups, per_group)` in compute precision."""
        return torch.unflatten(channels_last.to(self.dtype), -1, (self._groups, -1))

    def chunk_of(self, sequence: Tensor, rows: slice) -> Tensor:
        """Rows of `(batch, length, channels)` as `(q, batch, groups, 1, per_group)`."""
        return self.by_group(sequence[:, rows].transpose(0, 1)).unsqueeze(3)

    def in_scan_order(self) -> Iterator[slice]:
        """Rows of each chunk, first visited first."""
        starts = range(0, self._x.shape[1], CHUNK)
        for start in reversed(starts) if self.reverse else starts:
            yield slice(start, min(start + CHUNK, self._x.shape[1]))

    def enter(self, rows: slice, start_state: Tensor) -> None:
        """Compute the states of a chunk from the state before it."""
        steps = rows.stop - rows.start
        self.u = self.chunk_of(self._x, rows)
        self.dt_raw = self.chunk_of(self._dt, rows)
        if self._dt_bias is not None:
            self.dt_raw = self.dt_raw + self._dt_bias
        self.delta = F.softplus(self.dt_raw) if self.softplus else self.dt_raw
        self.B, self.C = (t[:, rows].transpose(0, 1).unsqueeze(-1).to(self.dtype) for t in (self._B, self._C))
        self.decay = torch.mul(self.delta, self.A, out=self._decay[:steps]).exp_()
        states = self._states[: steps + 1]
        self.before, self.after = (states[1:], states[:-1]) if self.reverse else (states[:-1], states[1:])
        states[-1 if self.reverse else 0].copy_(start_state)
        torch.mul(self.delta * self.u, self.B, out=self.after)
        for after, decay, before in self.steps(self.after, self.decay, self.before):
            after.addcmul_(decay, before)

    def steps(self, *buffers: Tensor) -> list[tuple[Tensor, ...]]:
        """Buffers of a chunk cut into steps, in scan order."""
        cut = list(zip(*(buffer.unbind(0) for buffer in buffers), strict=True))
        return cut[::-1] if self.reverse else cut

    def end_state(self) -> Tensor:
        """View of the state after the chunk's last step in scan order, `(batch, groups, state, per_group)`."""
        return self.after[0 if self.reverse else -1]

    def read_out(self) -> Tensor:
        """`C` applied to all states of the chunk, per channel."""
        return torch.matmul(self.C.transpose(-1, -2), self.after)


def _group_states(state: Tensor, groups: int) -> Tensor:
    """`(batch, channels, state)` to `(batch, groups, state, per_group)`."""
    return torch.unflatten(state, 1, (groups, -1)).transpose(-1, -2)


def _channel_states(state: Tensor) -> Tensor:
    """`(batch, groups, state, per_group)` to `(batch, channels, state)`."""
    return state.transpose(-1, -2).flatten(1, 2).contiguous()


# Custom operators are opaque to torch.compile and torch.export, which would otherwise unroll every step of time.
@torch.library.custom_op("hf_audio_mamba::chunked_scan", mutates_args=())
def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    keep_starts: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `y`, the last state, and the state at each chunk's start (none unless `keep_starts`)."""
    with torch.autocast(x.device.type, enabled=False):
        walk = _ChunkWalk(x, dt, A, B, C, dt_bias, dt_softplus, reverse)
        skip = None if D is None else walk.by_group(D)[:, None]
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        starts = y.new_empty(_starts_shape(B, x, keep_starts), dtype=walk.dtype)
        state = y.new_zeros(walk.state_shape, dtype=walk.dtype)
        if initial_state is not None:
            state.copy_(_group_states(initial_state, B.shape[2]))
        for index, rows in enumerate(walk.in_scan_order()):
            if keep_starts:
                starts[index] = state
            walk.enter(rows, state)
            state.copy_(walk.end_state())
            y_chunk = walk.read_out()
            if skip is not None:
                y_chunk.addcmul_(skip, walk.u)
            if z is not None:
                y_chunk.mul_(F.silu(walk.chunk_of(z, rows)))
            y[:, rows] = y_chunk.flatten(2).transpose(0, 1)
        return y, _channel_states(state), starts


def _starts_shape(B: Tensor, x: Tensor, keep_starts: bool) -> tuple[int, ...]:
    groups, state_size = B.shape[2:]
    chunks = -(-x.shape[1] // CHUNK) if keep_starts else 0
    return chunks, x.shape[0], groups, state_size, x.shape[2] // groups


@scan.register_fake
def _scan_fake(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    keep_starts: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(x)
    last_state = x.new_empty((x.shape[0], x.shape[2], A.shape[1]), dtype=dtype)
    starts = x.new_empty(_starts_shape(B, x, keep_starts), dtype=dtype)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), last_state, starts


@torch.library.custom_op("hf_audio_mamba::chunked_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    starts: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias, initial state, in this order; empty where the input is None."""
    with torch.autocast(x.device.type, enabled=False):
        walk = _ChunkWalk(x, dt, A, B, C, dt_bias, dt_softplus, reverse)
        grads = _Gradients(walk, x, dt, B, C, D, z)
        d_state = _group_states(grad_last_state, B.shape[2]).to(walk.dtype, copy=True)
        for index, rows in reversed(list(enumerate(walk.in_scan_order()))):
            walk.enter(rows, starts[index])
            grads.add_chunk(rows, grad_y, d_state)
        return grads.result(A, D, dt_bias, d_state)


class _Gradients:
    """Sums and per-frame gradients, filled chunk by chunk against the scan order."""

    def __init__(
        self, walk: _ChunkWalk, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None
    ) -> None:
        self._walk, self._z = walk, z
        self._skip = None if D is None else walk.by_group(D)[:, None]
        self.x, self.dt, self.B, self.C = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, dt, B, C))
        self.z = x.new_empty(0) if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
        self.A = torch.zeros_like(walk.A)
        _, groups, _, per_group = walk.state_shape
        self.D, self.dt_bias = (walk.A.new_zeros(groups, 1, per_group) for _ in range(2))

    def add_chunk(self, rows: slice, grad_y: Tensor, d_state: Tensor) -> None:
        """Go back through the chunk that `walk` has entered.

        Args:
            rows: Rows of the chunk.
            grad_y: Gradient of the whole output, `(batch, length, channels)`.
            d_state: Gradient of the state after the chunk, replaced by that of the state before it.
        """
        walk = self._walk
        d_out = self._through_gate(rows, walk.chunk_of(grad_y, rows))
        d_states = self._state_gradients(d_out, d_state)
        delta_u = walk.delta * walk.u
        d_delta_u = torch.matmul(walk.B.transpose(-1, -2), d_states)
        self._store(self.C, rows, torch.matmul(walk.after, d_out.transpose(-1, -2)).squeeze(-1))
        self._store(self.B, rows, torch.matmul(d_states, delta_u.transpose(-1, -2)).squeeze(-1))

        # From here on d_states is the gradient of delta * A, then of A itself: the buffer is reused.
        d_exponent = d_states.mul_(walk.decay).mul_(walk.before)
        d_delta = torch.mul(d_exponent, walk.A, out=walk.decay).sum(-2, keepdim=True).addcmul_(d_delta_u, walk.u)
        self.A += d_exponent.mul_(walk.delta).sum((0, 1))
        d_dt = d_delta * torch.sigmoid(walk.dt_raw) if walk.softplus else d_delta
        self.dt_bias += d_dt.sum((0, 1))
        d_u = d_delta_u * walk.delta
        if self._skip is not None:
            d_u.addcmul_(self._skip, d_out)
            self.D += (d_out * walk.u).sum((0, 1))
        self._store(self.x, rows, d_u.flatten(2))
        self._store(self.dt, rows, d_dt.flatten(2))

    def _through_gate(self, rows: slice, d_y: Tensor) -> Tensor:
        """Store the gradient of `z`, return that of the output before the gate."""
        if self._z is None:
            return d_y
        walk = self._walk
        z = walk.chunk_of(self._z, rows)
        ungated = walk.read_out()
        if self._skip is not None:
            ungated.addcmul_(self._skip, walk.u)
        sigmoid = torch.sigmoid(z)
        silu = z * sigmoid
        self._store(self.z, rows, (d_y * ungated * (sigmoid + silu * (1 - sigmoid))).flatten(2))
        return d_y * silu

    def _state_gradients(self, d_out: Tensor, d_state: Tensor) -> Tensor:
        """Gradients of all states of the chunk; `d_state` becomes the gradient of the state before it."""
        walk = self._walk
        d_states = torch.mul(walk.C, d_out)
        following = None
        for d_after, decay in reversed(walk.steps(d_states, walk.decay)):
            if following is None:
                d_after.add_(d_state)
            else:
                d_after.addcmul_(*following)
            following = (decay, d_after)
        assert following is not None  # a chunk has at least one step
        torch.mul(*following, out=d_state)
        return d_states

    @staticmethod
    def _store(whole: Tensor, rows: slice, chunk: Tensor) -> None:
        whole[:, rows] = chunk.transpose(0, 1)

    def result(self, A: Tensor, D: Tensor | None, dt_bias: Tensor | None, d_state: Tensor) -> list[Tensor]:
        """All gradients, in the dtypes of their inputs."""
        d_A = _channel_states(self.A[None]).squeeze(0).to(A.dtype)
        d_D, d_bias = (
            self.x.new_empty(0) if parameter is None else total.flatten().to(parameter.dtype)
            for parameter, total in ((D, self.D), (dt_bias, self.dt_bias))
        )
        return [self.x, self.dt, d_A, self.B, self.C, d_D, self.z, d_bias, _channel_states(d_state)]


@_scan_backward.register_fake
def _scan_backward_fake(
    grad_y: Tensor,
    grad_last_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    starts: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> list[Tensor]:
    like = [
        x.new_empty(0) if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (x, dt, A, B, C, D, z, dt_bias)
    ]
    return [*like, torch.empty(grad_last_state.shape, dtype=compute_dtype(x), device=x.device)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, initial_state, dt_softplus, reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.flags = (dt_softplus, reverse)
    ctx.initial_dtype = None if initial_state is None else initial_state.dtype


def _differentiate(ctx: Any, grad_y: Tensor, grad_last_state: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, starts = ctx.saved_tensors
    *grads, grad_initial = _scan_backward(grad_y, grad_last_state, *tensors, starts, *ctx.flags)
    present = [grad if tensor is not None else None for grad, tensor in zip(grads, tensors, strict=True)]
    first = None if ctx.initial_dtype is None else grad_initial.to(ctx.initial_dtype)
    return (*present, first, None, None, None)


scan.register_autograd(_differentiate, setup_context=_setup_context)
