"""The Triton convolution against the float64 reference, in values and gradients, and its invariants."""

import pytest
import torch

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import reference
from tests.ops.numba_cases import Case, conv_case, converted, run_conv, with_gradients
from tests.ops.triton_cases import assert_conv_matches, conv, require_triton

require_triton()


@pytest.mark.parametrize(("optional", "reverse"), [(False, False), (True, True)])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width"),
    [(2, 19, 33, 4), (1, 1, 8, 4), (2, 2, 5, 8), (1, 17, 9, 3), (1, 16, 16, 1), (1, 20, 6, 16)],
)
def test_values_and_gradients_match_float64(batch, length, channels, width, optional, reverse):
    case = conv_case(batch, length, channels, width, optional=optional, reverse=reverse)
    assert_conv_matches(case, reference.causal_conv1d_silu)


def test_reverse_is_flip_convolve_flip():
    case = conv_case(2, 19, 20, 4)
    flipped = Case(case.operands | {"x": case.operands["x"].flip(1)})
    assert torch.equal(run_conv(Case(case.operands, reverse=True), conv), run_conv(flipped, conv).flip(1))


@pytest.mark.parametrize("cut", [3, 16, 20])
def test_two_convolutions_joined_by_their_inputs_are_one(cut):
    case = conv_case(1, 37, 20, 4)
    x = case.operands["x"]
    first = run_conv(Case(case.operands | {"x": x[:, :cut]}), conv)
    second = run_conv(Case(case.operands | {"x": x[:, cut:], "initial_state": x[:, cut - 3 : cut]}), conv)
    assert torch.equal(torch.cat([first, second], dim=1), run_conv(case, conv))


def test_views_are_read_within_their_bounds():
    clean = conv_case(2, 19, 24, 4).operands
    views = {
        "x": torch.full((2, 21, 50), float("nan"))[:, 1:-1, 13:37],
        "weight": torch.empty(4, 24).t(),
        "bias": torch.full((48,), float("nan"))[::2],
        "initial_state": torch.full((2, 24, 5), float("nan")).transpose(1, 2)[:, 1:-1],
    }
    for name, view in views.items():
        view.copy_(clean[name])
    viewed = Case(views)
    actual = with_gradients(viewed, run_conv, conv)
    expected = with_gradients(converted(viewed, torch.Tensor.contiguous), run_conv, conv)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(torch.isfinite(tensor).all() for tensor in actual.values())


@pytest.mark.parametrize("name", ["x", "initial_state"])
def test_nan_stays_in_its_row(name):
    case = conv_case(3, 20, 24, 4)
    clean = run_conv(case, conv)
    case.operands[name][1] = float("nan")
    y = run_conv(case, conv)
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.isnan(y[1, :3]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    case = converted(conv_case(1, 20, 24, 4), lambda tensor: tensor.to(dtype).requires_grad_())
    y = run_conv(case, conv)
    y.float().sum().backward()
    expected = run_conv(converted(case, lambda tensor: tensor.detach().double()), reference.causal_conv1d_silu)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert all(tensor.grad.dtype == dtype and torch.isfinite(tensor.grad).all() for tensor in case.operands.values())


def test_no_memory_is_read_before_it_is_written():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert torch.isnan(torch.empty(3)).all()
        assert_conv_matches(conv_case(1, 5, 33, 4), reference.causal_conv1d_silu)
        assert_conv_matches(conv_case(2, 5, 9, 4, optional=False), reference.causal_conv1d_silu)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_kernel_wider_than_what_is_compiled_is_refused():
    with pytest.raises(BackendError, match=r"up to 16 taps, weight has 17"):
        run_conv(conv_case(1, 40, 8, 17), conv)
