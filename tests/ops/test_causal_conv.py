"""causal_conv1d_silu: against its definition, torch's own convolution and autograd, for every backend."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import deterministic

from hf_audio_mamba.ops import available_backends, causal_conv1d_silu, shifted_conv
from tests.ops import naive
from tests.ops.numba_cases import Case, assert_close, conv_case, converted, relative_error, with_gradients

EXACT = ("reference", "torch")


def convolve(case: Case, backend: str) -> Tensor:
    """Output of a case by the public function."""
    return causal_conv1d_silu(**case.operands, reverse=case.reverse, backend=backend)


def errors(case: Case, backend: str, oracle: Case) -> dict[str, float]:
    """Errors of the result and all gradients against the reference on another form of the same operands."""
    actual, expected = with_gradients(case, convolve, backend), with_gradients(oracle, convolve, "reference")
    assert actual.keys() == expected.keys()
    return {name: relative_error(actual[name], expected[name]) for name in actual if actual[name].numel()}


def double(case: Case) -> Case:
    return converted(case, Tensor.double)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 frames, so that short sequences have several, and NaN in memory that was never written."""
    monkeypatch.setattr(shifted_conv, "TILE_ELEMENTS", 1)
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 63])
def test_matches_the_definition(length, width, optional, reverse, backend):
    case = double(conv_case(2, length, 24, width, optional=optional, reverse=reverse))
    expected = naive.convolution(**case.operands, reverse=reverse)
    assert_close({"y": relative_error(convolve(case, backend), torch.from_numpy(expected))}, values=1e-13)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 63])
def test_gradients_are_those_of_autograd_through_the_definition(length, width, optional, reverse):
    case = double(conv_case(2, length, 8, width, optional=optional, reverse=reverse))
    assert_close(errors(case, "torch", case), values=1e-13, gradients=1e-12)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(reverse, backend):
    case = double(conv_case(2, 9, 3, 4, reverse=reverse))

    def run(*tensors: Tensor) -> Tensor:
        return convolve(Case(dict(zip(case.operands, tensors, strict=True)), reverse=reverse), backend)

    leaves = [tensor.detach().requires_grad_() for tensor in case.operands.values()]
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("backend", available_backends())
def test_is_the_convolution_of_a_mamba_mixer(backend):
    case = conv_case(2, 50, 24, 4, optional=False)
    x, weight = case.operands["x"], case.operands["weight"]
    bias = torch.randn(24, generator=torch.Generator().manual_seed(2))
    module = F.conv1d(x.mT, weight[:, None], bias, padding=3, groups=24)[..., :50]
    y = causal_conv1d_silu(x, weight, bias, backend=backend)
    assert_close({"y": relative_error(y, F.silu(module).mT.double())})


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("reverse", [False, True])
def test_float32_stays_close_to_float64(reverse, backend):
    case = conv_case(2, 300, 40, 4, reverse=reverse)
    assert_close(errors(case, backend, double(case)), values=1e-6, gradients=1e-6)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_in_two_parts_joined_by_its_inputs_is_the_whole(reverse, backend):
    case = conv_case(2, 40, 24, 4, reverse=reverse)
    x = case.operands["x"]
    first, second = (x[:, 17:], x[:, :17]) if reverse else (x[:, :17], x[:, 17:])
    between = first[:, :3].flip(1) if reverse else first[:, -3:]
    parts = [
        convolve(Case(case.operands | {"x": rows, "initial_state": past}, reverse=reverse), backend)
        for rows, past in ((first, case.operands["initial_state"]), (second, between))
    ]
    joined = torch.cat(parts[::-1] if reverse else parts, dim=1)
    assert_close({"y": relative_error(joined, convolve(case, backend))}, values=1e-6)


@pytest.mark.parametrize("backend", available_backends())
def test_half_of_a_projection_needs_no_copy(backend):
    case = conv_case(2, 30, 24, 4)
    wide = torch.cat([case.operands["x"], torch.zeros(2, 30, 24)], dim=-1)
    view = Case(case.operands | {"x": wide[..., :24]})
    assert not view.operands["x"].is_contiguous()
    assert_close(errors(view, backend, double(case)), values=1e-6, gradients=1e-6)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype, backend):
    case = converted(conv_case(2, 100, 24, 4), lambda tensor: tensor.to(dtype))
    assert convolve(case, backend).dtype == dtype
    rounding = torch.finfo(dtype).eps
    found = errors(case, backend, converted(case, Tensor.float))
    assert_close(found, values=rounding, gradients=4 * rounding)


def test_a_second_derivative_is_refused():
    case = double(conv_case(1, 5, 4, 2))
    x = case.operands["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(convolve(case, "torch").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
