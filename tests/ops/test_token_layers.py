"""Norm, linear layers, GELU and skip in one kernel, against torch in float64."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba.ops import available_backends, reference, scan_backend, token_layers
from hf_audio_mamba.ops.token_weights import LinearWeights, NormWeights
from tests.ops.numba_cases import relative_error

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(shape=(70,), inputs=20, hidden=0, outputs=24, *, norm=True, bias=True, skip=True, seed=0):
    """Arguments of `token_layers`."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=draw)

    middle = hidden or inputs
    return {
        "x": 3 * normal(*shape, inputs) + 1,
        "last": LinearWeights(normal(outputs, middle) / math.sqrt(middle), normal(outputs) if bias else None),
        "norm": NormWeights(normal(inputs), normal(inputs), 1e-5) if norm else None,
        "first": LinearWeights(normal(hidden, inputs), normal(hidden) if bias else None) if hidden else None,
        "skip": normal(*shape, outputs) if skip else None,
    }


def doubled(value):
    if isinstance(value, Tensor):
        return value.double()
    if isinstance(value, tuple):
        return type(value)(*(part if isinstance(part, float) else doubled(part) for part in value))
    return value


# Widths that fill vectors and rows of six and others, tiles that are full and others, several chunks of hidden rows.
SIZES = [
    {},
    {"hidden": 96},
    {"hidden": 101, "outputs": 20},
    {"shape": (1,), "inputs": 1, "outputs": 1, "norm": False},
    {"shape": (64,), "inputs": 16, "outputs": 6},
    {"shape": (129,), "inputs": 33, "outputs": 7, "hidden": 200},
    {"shape": (2, 5, 13), "inputs": 40, "outputs": 40, "hidden": 160},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("parts", [{}, {"norm": False}, {"bias": False}, {"skip": False, "norm": False, "bias": False}])
def test_equals_torch_in_double_precision(sizes, parts):
    arguments = call(**{**sizes, **parts})
    expected = reference.token_layers(**{name: doubled(value) for name, value in arguments.items()})
    assert token_layers.serves(**arguments)
    found = token_layers.token_layers(**arguments)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < 2e-6


def test_the_reference_is_what_it_says():
    arguments = {name: doubled(value) for name, value in call(hidden=30).items()}
    x, norm = arguments["x"], arguments["norm"]
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    hidden = (normed * norm.weight + norm.bias) @ arguments["first"].weight.T + arguments["first"].bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = hidden @ arguments["last"].weight.T + arguments["last"].bias + arguments["skip"]
    torch.testing.assert_close(reference.token_layers(**arguments), expected)


def gelu_of(values: Tensor) -> Tensor:
    """The kernel's GELU, through two layers that change nothing."""
    unit = LinearWeights(torch.eye(1), None)
    return token_layers.token_layers(values[:, None].contiguous(), unit, first=unit)[:, 0]


def test_gelu_is_exact_to_float32():
    values = torch.cat([torch.linspace(-12, 12, 20001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4, 3e38])])
    exact = F.gelu(values.double())
    error = (gelu_of(values).double() - exact).abs()
    assert (error <= 5e-7 + 2e-7 * exact.abs()).all()


def test_what_is_not_finite_stays_so():
    found = gelu_of(torch.tensor([float("nan"), float("inf"), 1.0]))
    assert found[:2].isnan().tolist() == [True, False]
    assert found[1] == math.inf
    assert found[2] == pytest.approx(0.8413447)


def test_a_token_gives_the_same_wherever_it_stands():
    arguments = call(shape=(200,), hidden=101)
    whole = token_layers.token_layers(**arguments)
    for first, last in ((0, 1), (63, 65), (70, 199)):
        part = {**arguments, "x": arguments["x"][first:last], "skip": arguments["skip"][first:last]}
        assert torch.equal(token_layers.token_layers(**part), whole[first:last])


def test_nothing_but_the_result_is_written():
    arguments = call(hidden=101)
    tensors = [arguments["x"], arguments["skip"], *arguments["first"], *arguments["last"], *arguments["norm"][:2]]
    copies = [tensor.clone() for tensor in tensors]
    token_layers.token_layers(**arguments)
    assert all(torch.equal(now, before) for now, before in zip(tensors, copies, strict=True))


def test_threads_change_nothing():
    arguments = call(shape=(1000,), hidden=101)
    one = token_layers.token_layers(**arguments)
    torch.set_num_threads(3)
    assert torch.equal(token_layers.token_layers(**arguments), one)


def test_it_leaves_to_torch_what_it_cannot_do():
    arguments = call(hidden=30)
    x, last = arguments["x"], arguments["last"]
    refused = [
        {"x": x.double()},
        {"x": x.half()},
        {"x": x[:, ::2]},
        {"x": x[:0]},
        {"x": x.to("meta")},
        {"x": x.clone().requires_grad_()},
        {"x": torch.cat([x, x], dim=1)},
        {"last": last._replace(weight=last.weight[:, 1:])},
        {"last": last._replace(bias=last.bias[1:])},
        {"last": last._replace(weight=torch.nn.Parameter(last.weight))},
        {"skip": arguments["skip"][1:]},
        {"norm": arguments["norm"]._replace(bias=torch.zeros(21))},
        {"first": LinearWeights(torch.zeros(31, 20), None)},
    ]
    for change in refused:
        assert not token_layers.serves(**{**arguments, **change}), change
    assert token_layers.serves(**arguments)
    with torch.no_grad():
        assert token_layers.serves(**{**arguments, "last": last._replace(weight=torch.nn.Parameter(last.weight))})
    with torch.autocast("cpu", torch.bfloat16):
        assert not token_layers.serves(**arguments)
    with scan_backend("torch"):
        assert not token_layers.serves(**arguments)
    torch.set_num_threads(3)  # more than there are tiles
    assert not token_layers.serves(**arguments)


def test_another_processor_gives_the_same():
    """On AVX2, products are taken one vector of tokens at a time."""
    code = (
        "import torch; from tests.ops.test_token_layers import call; torch.set_num_threads(1);"
        "from hf_audio_mamba.ops import reference, token_layers; from hf_audio_mamba.ops.numba_tiles import *;"
        "arguments = call(hidden=30); found = token_layers.token_layers(**arguments);"
        "print(VECTORS_AT_ONCE, torch.allclose(found, reference.token_layers(**arguments), atol=1e-5))"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["1", "True"], done.stderr
