"""Depth-wise convolution of maps with SiLU, against its formula in float64."""

import pytest
import torch

from hf_audio_mamba.errors import BackendError, ShapeError
from hf_audio_mamba.ops import available_backends, depthwise_conv2d_silu, reference
from tests.ops.numba_cases import relative_error

BACKENDS = [name for name in available_backends() if name in ("numba", "torch")]


def operands(height, width, channels, *, bias=True, batch=2):
    draw = torch.Generator().manual_seed(height + 10 * width + 100 * channels)
    x = torch.randn(batch, height, width, channels, generator=draw)
    weight = torch.randn(channels, 1, 3, 3, generator=draw)
    return x, weight, torch.randn(channels, generator=draw) if bias else None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 16), (1, 6, 1), (5, 1, 17), (2, 2, 16), (3, 3, 40), (7, 4, 33)]
)
def test_equals_the_formula(height, width, channels, bias, backend):
    x, weight, bias = operands(height, width, channels, bias=bias)
    exact = [None if tensor is None else tensor.double() for tensor in (x, weight, bias)]
    found = depthwise_conv2d_silu(x, weight, bias, backend=backend)
    assert found.is_contiguous()
    assert relative_error(found, reference.depthwise_conv2d_silu(*exact)) < 1e-6


def test_gradients_equal_those_of_the_formula():
    leaves = [tensor.double().requires_grad_() for tensor in operands(4, 5, 3)]
    assert torch.autograd.gradcheck(depthwise_conv2d_silu, leaves)
    single = [tensor.detach().float().requires_grad_() for tensor in leaves]
    depthwise_conv2d_silu(*single).square().sum().backward()
    reference.depthwise_conv2d_silu(*leaves).square().sum().backward()
    for leaf, exact in zip(single, leaves, strict=True):
        assert relative_error(leaf.grad, exact.grad) < 1e-5


def test_views_and_half_precision_are_taken():
    x, weight, bias = operands(4, 5, 32)
    expected = depthwise_conv2d_silu(x, weight, bias)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(depthwise_conv2d_silu(turned, weight, bias), expected)
    half = depthwise_conv2d_silu(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.05)


def test_threads_change_nothing():
    arguments = operands(40, 40, 48)
    threads = torch.get_num_threads()
    one = depthwise_conv2d_silu(*arguments)
    try:
        torch.set_num_threads(3)
        assert torch.equal(depthwise_conv2d_silu(*arguments), one)
    finally:
        torch.set_num_threads(threads)


def test_compiles_whole():
    torch.compiler.reset()
    arguments = operands(3, 4, 16)
    compiled = torch.compile(depthwise_conv2d_silu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), depthwise_conv2d_silu(*arguments))


@pytest.mark.parametrize(
    ("name", "shape"), [("x", (2, 4, 16)), ("x", (2, 0, 4, 16)), ("weight", (16, 3, 3)), ("bias", (15,))]
)
def test_wrong_shapes_are_named(name, shape):
    arguments = dict(zip(("x", "weight", "bias"), operands(3, 4, 16), strict=True))
    with pytest.raises(ShapeError, match=name):
        depthwise_conv2d_silu(**{**arguments, name: torch.zeros(shape)})


def test_an_unknown_backend_is_refused():
    with pytest.raises(BackendError, match="'cudnn' is unknown"):
        depthwise_conv2d_silu(*operands(3, 4, 16), backend="cudnn")
