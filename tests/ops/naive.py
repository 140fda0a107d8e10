"""Both recurrences written a second time, in float64 numpy from their definition; shares nothing with the package."""

import numpy as np
from torch import Tensor


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().double().numpy()


def _silu(values: np.ndarray) -> np.ndarray:
    return values / (1 + np.exp(-values))


def scan(x, dt, A, B, C, D=None, z=None, dt_bias=None, *, dt_softplus=True, reverse=False, initial_state=None):
    """Output (batch, length, channels) and last state (batch, channels, state); B and C with a groups axis."""
    x, dt, A, B, C, D, z, dt_bias = (_array(tensor) for tensor in (x, dt, A, B, C, D, z, dt_bias))
    batch, length, channels = x.shape
    groups = B.shape[2]
    last = np.zeros((batch, *A.shape)) if initial_state is None else _array(initial_state).copy()
    y = np.zeros_like(x)
    for b in range(batch):
        for c in range(channels):
            group = c // (channels // groups)
            state = last[b, c]
            for t in reversed(range(length)) if reverse else range(length):
                step = dt[b, t, c] + (0 if dt_bias is None else dt_bias[c])
                step = np.logaddexp(0, step) if dt_softplus else step
                state = np.exp(step * A[c]) * state + step * B[b, t, group] * x[b, t, c]
                y[b, t, c] = C[b, t, group] @ state + (0 if D is None else D[c] * x[b, t, c])
            last[b, c] = state
    return (y if z is None else y * _silu(z)), last


def convolution(x, weight, bias=None, *, reverse=False, initial_state=None):
    """Output (batch, length, channels)."""
    x, weight, bias = _array(x), _array(weight), _array(bias)
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = np.zeros((batch, width - 1, channels)) if initial_state is None else _array(initial_state)
    frames = np.concatenate([past, x[:, ::-1] if reverse else x], axis=1)
    y = np.zeros_like(x)
    for t in range(length):
        for tap in range(width):
            y[:, t] += weight[:, tap] * frames[:, t + tap]
        if bias is not None:
            y[:, t] += bias
    y = _silu(y)
    return y[:, ::-1].copy() if reverse else y
