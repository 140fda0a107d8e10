"""The two-dimensional selective scan (SS2D) of VMamba (arXiv:2401.10166, section 4.2): four routes over one map."""

import torch
from torch import Tensor

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import backends, reference
from hf_audio_mamba.ops.checks import check_argument
from hf_audio_mamba.ops.numba_eager import is_traced
from hf_audio_mamba.ops.selective_scan import selective_scan

NAME = "cross_scan_2d"
ROUTES = reference.ROUTES
"""Along rows, along columns, and both of them backwards."""


def column_order(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Row-major index of each cell of a map in the order of its columns, `(height * width,)` int64."""
    return torch.arange(height * width, device=device).view(height, width).t().flatten()


def cross_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_weight: Tensor | None = None,
    dt_softplus: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Scan a map along four routes, each with parameters of its own, and add the four outputs up.

    The routes run along the rows from the first cell on, along the columns, and along both backwards; route `k` is
    `selective_scan` with the parameters `[k]`. Routes are orders in which the one map in memory is visited: nothing is
    copied, flipped or transposed. Since projections of single cells do not depend on the route, `dt`, `B` and `C` of
    all routes lie in the map's own layout and come from one matrix product.

    Args:
        x: Input `(batch, height, width, channels)`, floating.
        dt: Time step before bias and softplus, `(batch, height, width, 4, channels)`.
        A: Rate of change of the state, `(4, channels, state)`.
        B: Input projection, `(batch, height, width, 4, state)`.
        C: Output projection, shaped as `B`.
        D: Skip connections, `(4, channels)`; none if omitted.
        dt_bias: Biases of the time step, `(4, channels)`; none if omitted.
        dt_weight: Second factor of the time step, `(4, channels, rank)`. With it, `dt` is the first factor,
            `(batch, height, width, 4, rank)`, and their product over `rank` is the time step. With one state, the
            numba backend then runs all routes in one kernel where no gradient is needed.
        dt_softplus: Whether softplus makes the time step positive.
        backend: As in `selective_scan`.

    Returns:
        `(batch, height, width, channels)` in the dtype of `x`.

    Raises:
        ShapeError: If an argument has the wrong rank, size, dtype or device; the message names it.
        BackendError: If the backend asked for is unknown or cannot serve the call.
    """
    _check(x, dt, A, B, C, D, dt_bias, dt_weight)
    tensors = (x, dt, A, B, C, D, dt_bias, dt_weight)
    if dt_weight is not None and A.shape[2] == 1 and _is_plain(tensors):
        rank = dt_weight.shape[2]
        if backends.choose(backend, x.device.type, x.dtype, "cross_scan", (rank, dt_softplus, False)) == "numba":
            scan = backends.cross_scan_function("numba")
            return scan(x, dt, A, B, C, D, dt_bias, dt_weight, dt_softplus=dt_softplus)
    batch, height, width, channels = x.shape
    frames = x.reshape(batch, height * width, channels)
    columns = column_order(height, width, x.device)
    # unbind, not indexing: the backward of an index fills the whole tensor with zeros once a route.
    steps = dt.flatten(1, 2).unbind(2) if dt_weight is None else _time_steps(dt, dt_weight)
    projections = (tensor.flatten(1, 2).unbind(2) for tensor in (B, C))
    sequences = zip(steps, *projections, strict=True)
    parameters = zip(*(_each(parameter) for parameter in (A, D, dt_bias)), strict=True)
    total: Tensor | None = None
    for route, ((dt_k, B_k, C_k), (A_k, D_k, bias_k)) in enumerate(zip(sequences, parameters, strict=True)):
        y = selective_scan(
            frames,
            dt_k,
            A_k,
            B_k,
            C_k,
            D_k,
            dt_bias=bias_k,
            dt_softplus=dt_softplus,
            reverse=route >= ROUTES // 2,
            order=columns if route % 2 else None,
            backend=backend,
        )
        total = y if total is None else total.add_(y)
        del y  # two maps at a time, not three
    assert total is not None
    return total.view(x.shape)


def _each(parameter: Tensor | None) -> tuple[Tensor | None, ...]:
    """The parameter of every route."""
    return (None,) * ROUTES if parameter is None else parameter.unbind(0)


def _time_steps(dt: Tensor, dt_weight: Tensor) -> tuple[Tensor, ...]:
    """The product of both factors for each route, `(batch, height * width, channels)`."""
    steps = torch.bmm(dt.flatten(0, 2).transpose(0, 1), dt_weight.transpose(1, 2).to(dt.dtype))
    return steps.view(ROUTES, dt.shape[0], -1, dt_weight.shape[1]).unbind(0)


def _is_plain(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a call is neither traced nor differentiated, in float32 on the CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    return not is_traced(given) and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in given)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_weight: Tensor | None,
) -> None:
    if x.ndim != 4 or x.numel() == 0:
        raise ShapeError(f"{NAME}: x must be (batch, height, width, channels), not empty, got shape {tuple(x.shape)}.")
    batch, height, width, channels = x.shape
    check_argument(NAME, "x", x, "(batch, height, width, channels)", x.shape, x)
    if A.ndim != 3 or A.shape[2] == 0:
        raise ShapeError(f"{NAME}: A must be ({ROUTES}, channels, state) with state > 0, got shape {tuple(A.shape)}.")
    state = A.shape[2]
    cells = (batch, height, width, ROUTES)
    if dt_weight is None:
        check_argument(NAME, "dt", dt, f"(batch, height, width, {ROUTES}, channels)", (*cells, channels), x)
    else:
        if dt_weight.ndim != 3 or dt_weight.shape[2] == 0:
            axes = f"({ROUTES}, channels, rank) with rank > 0"
            raise ShapeError(f"{NAME}: dt_weight must be {axes}, got shape {tuple(dt_weight.shape)}.")
        rank = dt_weight.shape[2]
        check_argument(NAME, "dt_weight", dt_weight, f"({ROUTES}, channels, rank)", (ROUTES, channels, rank), x)
        check_argument(NAME, "dt", dt, f"(batch, height, width, {ROUTES}, rank)", (*cells, rank), x)
    check_argument(NAME, "A", A, f"({ROUTES}, channels, state)", (ROUTES, channels, state), x)
    for name, projection in (("B", B), ("C", C)):
        check_argument(NAME, name, projection, f"(batch, height, width, {ROUTES}, state)", (*cells, state), x)
    for name, vector in (("D", D), ("dt_bias", dt_bias)):
        if vector is not None:
            check_argument(NAME, name, vector, f"({ROUTES}, channels)", (ROUTES, channels), x)
