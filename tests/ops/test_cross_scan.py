"""The scan along four routes against copied routes in float64, and its symmetries."""

import pytest
import torch
from torch import Tensor

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import available_backends, cross_scan_2d, selective_scan
from tests.ops.numba_cases import assert_close, relative_error

BATCH, CHANNELS, STATE = 2, 20, 3


def operands(height: int, width: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(height + 100 * width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    cells = (BATCH, height, width)
    return {
        "x": normal(*cells, CHANNELS),
        "dt": normal(*cells, 4, CHANNELS) - 2,
        "A": -normal(4, CHANNELS, STATE).abs() - 0.1,
        "B": normal(*cells, 4, STATE),
        "C": normal(*cells, 4, STATE),
        "D": normal(4, CHANNELS),
        "dt_bias": normal(4, CHANNELS),
    }


def route_of(cells: Tensor, route: int) -> Tensor:
    """A map `(batch, height, width, ...)` as the sequence of one route, copied."""
    cells = cells.transpose(1, 2) if route % 2 else cells
    sequence = cells.flatten(1, 2)
    return sequence.flip(1) if route >= 2 else sequence


def map_of(sequence: Tensor, route: int, height: int, width: int) -> Tensor:
    """`route_of` undone."""
    sequence = sequence.flip(1) if route >= 2 else sequence
    if route % 2:
        return sequence.unflatten(1, (width, height)).transpose(1, 2)
    return sequence.unflatten(1, (height, width))


def copied_routes(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for route in range(4):
        own = [route_of(tensor[..., route, :], route) for tensor in (dt, B, C)]
        y = selective_scan(
            route_of(x, route), own[0], A[route], own[1], own[2], D[route], None, dt_bias[route], backend="reference"
        )
        total = total + map_of(y, route, *x.shape[1:3])
    return total


def results(function, values: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    y = function(**leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    y.backward(weights)
    return {"y": y.detach()} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (4, 4), (3, 11)])
def test_equals_copied_routes(height, width, backend):
    dtype = torch.float32 if backend == "numba" else torch.float64
    values = operands(height, width, dtype)
    expected = results(copied_routes, {name: value.double() for name, value in values.items()})
    actual = results(lambda **leaves: cross_scan_2d(**leaves, backend=backend), values)
    limits = {"values": 1e-6, "gradients": 5e-6} if backend == "numba" else {"values": 1e-12, "gradients": 1e-11}
    assert_close({name: relative_error(actual[name], expected[name]) for name in expected}, **limits)


def test_transposing_the_map_exchanges_rows_and_columns():
    values = operands(4, 6)
    exchanged = {
        "x": values["x"].transpose(1, 2),
        **{name: values[name].transpose(1, 2)[..., [1, 0, 3, 2], :] for name in ("dt", "B", "C")},
        **{name: values[name][[1, 0, 3, 2]] for name in ("A", "D", "dt_bias")},
    }
    torch.testing.assert_close(cross_scan_2d(**exchanged).transpose(1, 2), cross_scan_2d(**values))


def test_every_cell_sees_every_other():
    values = operands(4, 5)
    x = values.pop("x").requires_grad_()
    y = cross_scan_2d(x, **values)
    (gradient,) = torch.autograd.grad(y[0, 1, 3].sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).all()
    assert (gradient[1] == 0).all()


def test_views_are_read_where_they_lie():
    values = operands(4, 5)
    wide = torch.full((BATCH, 4, 5, 2 * CHANNELS), torch.nan)
    wide[..., CHANNELS:] = values["x"]
    expected = cross_scan_2d(**values)
    assert torch.equal(cross_scan_2d(**{**values, "x": wide[..., CHANNELS:]}), expected)


def test_compiles_whole():
    torch.compiler.reset()
    values = operands(3, 4)
    compiled = torch.compile(cross_scan_2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**values), cross_scan_2d(**values))


class _Map(torch.nn.Module):
    def forward(self, values: dict[str, Tensor]) -> Tensor:
        return cross_scan_2d(**values)


def test_exports_with_any_size_of_the_map():
    height, width = torch.export.Dim("height"), torch.export.Dim("width")
    sizes = {name: {1: height, 2: width} if value.ndim >= 4 else None for name, value in operands(3, 4).items()}
    exported = torch.export.export(_Map(), (operands(3, 4),), dynamic_shapes=({**sizes},)).module()
    for values in (operands(3, 4), operands(7, 2)):
        torch.testing.assert_close(exported(values), cross_scan_2d(**values))


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, backend):
    values = {name: value.to(dtype) for name, value in operands(5, 9).items()}
    expected = copied_routes(**{name: value.double() for name, value in values.items()})
    found = results(lambda **leaves: cross_scan_2d(**leaves, backend=backend), values)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    # Routes are added up in the dtype of x.
    assert relative_error(found["y"], expected) < 2 * torch.finfo(dtype).eps


def test_wrong_dtypes_and_devices_are_named():
    for name, value in operands(3, 4).items():
        for wrong, message in (
            (value.int(), f"cross_scan_2d: {name} must be float16"),
            (value.to_sparse(), "be dense"),
        ):
            with pytest.raises(ShapeError, match=message):
                cross_scan_2d(**operands(3, 4) | {name: wrong})
        if name != "x":
            with pytest.raises(ShapeError, match=f"cross_scan_2d: {name} is on meta but x is on cpu"):
                cross_scan_2d(**operands(3, 4) | {name: value.to("meta")})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 4, CHANNELS), r"x must be \(batch, height, width, channels\)"),
        ("x", (2, 0, 4, CHANNELS), "not empty"),
        ("dt", (2, 3, 4, CHANNELS), "dt must be"),
        ("A", (CHANNELS, STATE), r"A must be \(4, channels, state\)"),
        ("A", (3, CHANNELS, STATE), "A must be"),
        ("B", (2, 3, 4, 4, STATE + 1), "B must be"),
        ("C", (2, 3, 4, 3, STATE), "C must be"),
        ("D", (CHANNELS,), "D must be"),
        ("dt_bias", (4, CHANNELS + 1), "dt_bias must be"),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    values = {**operands(3, 4), name: torch.zeros(shape)}
    with pytest.raises(ShapeError, match=message):
        cross_scan_2d(**values)
