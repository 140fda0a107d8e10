"""One step of the scan and of the convolution against float64 loops, whole sequences, and bad arguments."""

import pytest
import torch

from hf_audio_mamba.errors import BackendError, GradientError, ShapeError
from hf_audio_mamba.ops import (
    available_backends,
    causal_conv1d_silu,
    causal_conv1d_silu_update,
    scan_backend,
    selective_scan,
    selective_state_update,
)
from tests.ops import naive
from tests.ops.numba_cases import relative_error

BACKENDS = [
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")),
    "torch",
    "reference",
]
SCAN_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")


def scan_step(batch=2, channels=40, size=16, groups=1, *, optional=True, seed=0):
    """Operands of one step by name, the state among them."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    return {
        "state": normal(batch, channels, size),
        "x": normal(batch, channels),
        "dt": normal(batch, channels) - 1,
        "A": -torch.rand(channels, size, generator=draw) * size - 0.1,
        "B": normal(batch, groups, size),
        "C": normal(batch, groups, size),
        "D": normal(channels) if optional else None,
        "z": normal(batch, channels) if optional else None,
        "dt_bias": normal(channels) if optional else None,
    }


def conv_step(batch=2, channels=40, width=4, history=None, *, bias=True, seed=0):
    draw = torch.Generator().manual_seed(seed)
    history = width - 1 if history is None else history
    return {
        "conv_state": torch.randn(batch, history, channels, generator=draw),
        "x": torch.randn(batch, channels, generator=draw),
        "weight": torch.randn(channels, width, generator=draw),
        "bias": torch.randn(channels, generator=draw) if bias else None,
    }


def copied(operands, change=torch.Tensor.clone):
    return {name: None if tensor is None else change(tensor) for name, tensor in operands.items()}


def scan_oracle(operands, *, dt_softplus=True):
    """Output and new state in float64, from the loop over one frame."""
    frames = {name: None if operands[name] is None else operands[name][:, None] for name in ("x", "dt", "B", "C", "z")}
    rest = {name: operands[name] for name in ("A", "D", "dt_bias")}
    y, state = naive.scan(**frames, **rest, dt_softplus=dt_softplus, initial_state=operands["state"])
    return torch.from_numpy(y)[:, 0], torch.from_numpy(state)


def conv_oracle(operands):
    past = operands["conv_state"][:, operands["conv_state"].shape[1] - operands["weight"].shape[1] + 1 :]
    y = naive.convolution(operands["x"][:, None], operands["weight"], operands["bias"], initial_state=past)
    state = torch.cat([operands["conv_state"], operands["x"][:, None]], dim=1)[:, 1:]
    return torch.from_numpy(y)[:, 0], state


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("channels", "size", "groups"), [(40, 16, 1), (16, 1, 1), (33, 5, 3), (48, 64, 2), (7, 20, 7), (1, 4, 1)]
)
@pytest.mark.parametrize("optional", [True, False])
def test_a_step_of_the_scan_matches_float64(backend, channels, size, groups, optional):
    operands = scan_step(2, channels, size, groups, optional=optional)
    expected, new_state = scan_oracle(operands)
    state = operands["state"]
    y = selective_state_update(**operands, backend=backend)
    assert relative_error(y, expected) < 2e-6
    assert relative_error(state, new_state) < 2e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("channels", "width", "history"), [(40, 4, 3), (40, 4, 6), (17, 1, 0), (16, 2, 1), (5, 7, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_of_the_convolution_matches_float64(backend, channels, width, history, bias):
    operands = conv_step(3, channels, width, history, bias=bias)
    expected, new_state = conv_oracle(operands)
    y = causal_conv1d_silu_update(**operands, backend=backend)
    assert relative_error(y, expected) < 2e-6
    assert torch.equal(operands["conv_state"], new_state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_the_operations_over_the_whole_sequence(backend):
    length = 9
    draw = torch.Generator().manual_seed(1)
    x, dt, z = (torch.randn(2, length, 24, generator=draw) for _ in range(3))
    B, C = (torch.randn(2, length, 8, generator=draw) for _ in range(2))
    operands = scan_step(2, 24, 8)
    A, D, dt_bias, state = (operands[name] for name in ("A", "D", "dt_bias", "state"))
    weight, bias, past = (conv_step(2, 24)[name] for name in ("weight", "bias", "conv_state"))
    convolved = causal_conv1d_silu(x, weight, bias, initial_state=past, backend="reference")
    expected, last_state = selective_scan(
        convolved, dt, A, B, C, D, z, dt_bias, initial_state=state, return_last_state=True, backend="reference"
    )
    outputs = []
    for t in range(length):
        step = causal_conv1d_silu_update(past, x[:, t], weight, bias, backend=backend)
        y = selective_state_update(state, step, dt[:, t], A, B[:, t], C[:, t], D, z[:, t], dt_bias, backend=backend)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last_state, rtol=1e-5, atol=1e-5)
    assert torch.equal(past, x[:, -3:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_serve_as_they_are(backend):
    """Halves of one projection, B and C behind one another, and a state stored (batch, channels, width)."""
    operands = scan_step(2, 24, 8)
    expected, new_state = scan_oracle(operands)
    xz = torch.cat([operands["x"], operands["z"]], dim=1)
    selection = torch.cat([operands["B"][:, 0], operands["C"][:, 0]], dim=1)
    views = operands | {"x": xz[:, :24], "z": xz[:, 24:], "B": selection[:, :8], "C": selection[:, 8:]}
    views["dt"] = torch.empty(24, 2).copy_(operands["dt"].t()).t()  # the channels do not lie side by side
    assert relative_error(selective_state_update(**views, backend=backend), expected) < 2e-6
    assert relative_error(views["state"], new_state) < 2e-6

    operands = conv_step(2, 24, history=4)
    expected, new_state = conv_oracle(operands)
    stored = operands["conv_state"].transpose(1, 2).contiguous()
    y = causal_conv1d_silu_update(**operands | {"conv_state": stored.transpose(1, 2)}, backend=backend)
    assert relative_error(y, expected) < 2e-6
    assert torch.equal(stored.transpose(1, 2), new_state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_single_precision_state(backend, dtype):
    operands = copied(scan_step(2, 24, 8), lambda tensor: tensor.to(dtype))
    operands["state"] = operands["state"].float()
    expected, new_state = scan_oracle(operands)
    y = selective_state_update(**operands, backend=backend)
    assert y.dtype == dtype
    assert relative_error(y, expected) < torch.finfo(dtype).eps
    assert relative_error(operands["state"], new_state) < 2e-6

    operands = copied(conv_step(2, 24), lambda tensor: tensor.to(dtype))
    expected, new_state = conv_oracle(operands)
    y = causal_conv1d_silu_update(**operands, backend=backend)
    assert y.dtype == dtype
    assert relative_error(y, expected) < torch.finfo(dtype).eps
    assert torch.equal(operands["conv_state"], new_state)


def test_double_precision_stays_double():
    operands = copied(scan_step(), torch.Tensor.double)
    expected, new_state = scan_oracle(operands)
    assert relative_error(selective_state_update(**operands), expected) < 1e-14
    assert relative_error(operands["state"], new_state) < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_without_softplus_and_of_any_size_stay_finite(backend):
    operands = scan_step(1, 16, 16)
    operands["dt"] = torch.tensor([0.0, 1e-6, 0.5, 1e4]).repeat(4)[None]
    operands["dt_bias"] = None
    expected, new_state = scan_oracle(operands, dt_softplus=False)
    y = selective_state_update(**operands, dt_softplus=False, backend=backend)
    assert relative_error(y, expected) < 2e-6
    assert relative_error(operands["state"], new_state) < 2e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_a_number_stays_in_its_row(backend):
    operands = scan_step(2, 24, 8)
    clean = selective_state_update(**copied(operands), backend=backend)
    operands["x"][0, 3] = torch.nan
    y = selective_state_update(**operands, backend=backend)
    assert y[0, 3].isnan()
    assert torch.equal(y[1], clean[1])
    assert not operands["state"][0, [c for c in range(24) if c != 3]].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autograd_notices_a_state_that_it_still_needs(backend):
    operands = scan_step(2, 24, 8)
    x = operands["x"][:, None].clone().requires_grad_()
    sequence = {name: operands[name][:, None] for name in ("dt", "B", "C")}
    y = selective_scan(x, A=operands["A"], **sequence, initial_state=operands["state"])
    selective_state_update(**operands, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_backend_of_a_context_is_used():
    operands = copied(scan_step(), torch.Tensor.double)
    if "numba" in available_backends():
        with scan_backend("numba"), pytest.raises(BackendError, match="float64"):
            selective_state_update(**operands)
    with pytest.raises(BackendError, match="unknown"):
        selective_state_update(**operands, backend="cobol")


@pytest.mark.parametrize("name", ["x", "A", "D", "state"])
def test_gradients_are_refused(name):
    operands = scan_step()
    operands[name].requires_grad_()
    with pytest.raises(GradientError, match=f"{name} requires a gradient"):
        selective_state_update(**operands)
    with torch.no_grad():
        assert not selective_state_update(**operands).requires_grad


def test_gradients_of_the_convolution_are_refused():
    operands = conv_step()
    operands["weight"].requires_grad_()
    with pytest.raises(GradientError, match="weight requires a gradient"):
        causal_conv1d_silu_update(**operands)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x", torch.zeros(2, 3, 40)),
        ("x", torch.zeros(0, 40)),
        ("x", torch.zeros(2, 40, dtype=torch.int64)),
        ("dt", torch.zeros(2, 41)),
        ("A", torch.zeros(40)),
        ("A", torch.zeros(41, 16)),
        ("B", torch.zeros(2, 3, 16)),
        ("B", torch.zeros(2, 17)),
        ("C", torch.zeros(3, 1, 16)),
        ("D", torch.zeros(1)),
        ("z", torch.zeros(1, 40)),
        ("dt_bias", torch.zeros(40, 1)),
        ("state", torch.zeros(2, 16, 40)),
        ("state", torch.zeros(2, 40, 16, dtype=torch.bfloat16)),
        ("state", torch.zeros(2, 16, 40).transpose(1, 2)),
        ("z", torch.zeros(2, 40, device="meta")),
    ],
)
def test_wrong_arguments_of_the_scan_are_named(name, wrong):
    operands = scan_step() | {name: wrong}
    with pytest.raises(ShapeError, match=rf"selective_state_update: {name}\b"):
        selective_state_update(**operands)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x", torch.zeros(2, 1, 40)),
        ("weight", torch.zeros(40)),
        ("weight", torch.zeros(40, 0)),
        ("weight", torch.zeros(4, 40)),
        ("bias", torch.zeros(4)),
        ("conv_state", torch.zeros(2, 2, 40)),
        ("conv_state", torch.zeros(2, 40, 3)),
        ("conv_state", torch.zeros(3, 40)),
        ("conv_state", torch.zeros(1, 3, 40).expand(2, -1, -1)),
        ("conv_state", torch.zeros(2, 3, 40, dtype=torch.int32)),
    ],
)
def test_wrong_arguments_of_the_convolution_are_named(name, wrong):
    operands = conv_step() | {name: wrong}
    with pytest.raises(ShapeError, match=rf"causal_conv1d_silu_update: {name}\b"):
        causal_conv1d_silu_update(**operands)


def test_compiled_steps_match():
    operands, past = scan_step(1, 16, 4), conv_step(1, 16)

    def step(state, conv_state, rest, conv_rest):
        x = causal_conv1d_silu_update(conv_state, **conv_rest)
        return selective_state_update(state, x, **rest)

    rest = {name: operands[name] for name in SCAN_NAMES if name != "x"}
    conv_rest = {name: past[name] for name in ("x", "weight", "bias")}
    states = operands["state"].clone(), past["conv_state"].clone()
    expected = step(*states, rest, conv_rest)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    y = compiled(operands["state"], past["conv_state"], rest, conv_rest)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(operands["state"], states[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(past["conv_state"], states[1])
