"""Calls inside traces and transforms of torch: right or refused, never a crash, and no harm to later calls."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from hf_audio_mamba.ops import (
    available_backends,
    causal_conv1d_silu,
    causal_conv1d_silu_update,
    selective_scan,
    selective_state_update,
    self_check,
)

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="numba is not installed")
CHANNELS, STATE = 8, 4


@pytest.fixture(autouse=True)
def unchecked_kernels():
    """As in a new process, where the call under test is the first and runs the self-check."""
    self_check.problem.cache_clear()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


WEIGHT, A = draw(CHANNELS, 3), -draw(CHANNELS, STATE).abs()


def mix(x: Tensor) -> Tensor:
    x = causal_conv1d_silu(x, WEIGHT, backend="numba")
    return selective_scan(x, x, A, x[..., :STATE], x[..., STATE:], backend="numba")


def test_functionalized():
    x = draw(2, 10, CHANNELS)
    assert torch.equal(torch.func.functionalize(mix)(x), mix(x))


def step(x: Tensor) -> Tensor:
    conv_state, state = torch.zeros(2, 2, CHANNELS), torch.zeros(2, CHANNELS, STATE)
    x = causal_conv1d_silu_update(conv_state, x, WEIGHT, backend="numba")
    return selective_state_update(state, x, x, A, x[:, :STATE], x[:, STATE:], backend="numba")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_single_steps():
    x = draw(2, CHANNELS)
    torch.testing.assert_close(torch.func.functionalize(step)(x), step(x))
    torch.testing.assert_close(torch.jit.trace(step, (x,), check_trace=False)(-x), step(-x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vectorised():
    x = draw(3, 2, 10, CHANNELS)
    assert torch.equal(torch.func.vmap(mix)(x), torch.stack([mix(sample) for sample in x]))


def test_a_functional_gradient_is_refused_and_does_no_harm():
    x = draw(2, 10, CHANNELS)
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: mix(x).sum())(x)
    assert mix(x).isfinite().all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_by_torch_jit():
    x = draw(2, 10, CHANNELS)
    traced = torch.jit.trace(mix, (x,), check_trace=False)
    assert torch.equal(traced(-x), mix(-x))
    assert "numba_scan" in str(traced.graph)


def test_fake_tensors():
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = mix(torch.empty(2, 10, CHANNELS))
        assert y.shape == (2, 10, CHANNELS)
    assert mix(draw(2, 10, CHANNELS)).isfinite().all()


@pytest.mark.parametrize("name", ["x", "A"])
def test_subclasses_without_memory_of_their_own(name):
    x = draw(2, 10, CHANNELS)
    operands = {"x": x, "dt": x, "A": A, "B": x[..., :STATE], "C": x[..., STATE:]}
    expected = selective_scan(**operands, backend="numba")
    wrapped = operands | {name: TwoTensor(operands[name], operands[name])}
    assert torch.equal(selective_scan(**wrapped, backend="numba").a, expected)


def test_views_whose_memory_holds_the_negated_values():
    conjugate = torch.randn(2, 10, CHANNELS, dtype=torch.complex64).conj()
    x = conjugate.imag
    assert x.is_neg()
    assert torch.equal(mix(x), mix(x.clone()))
    weight = torch.randn(CHANNELS, STATE, dtype=torch.complex64).conj().imag
    assert torch.equal(causal_conv1d_silu(x, weight, weight[:, 0]), causal_conv1d_silu(x, weight.clone(), weight[:, 0]))
    out = torch.zeros_like(conjugate).conj().imag
    operands = (x, x, A, x[..., :STATE], x[..., STATE:])
    assert torch.equal(selective_scan(*operands, out=out, backend="numba"), selective_scan(*operands))
