"""The numba convolution against the float64 reference, in values and gradients, and its invariants."""

import pytest
import torch
import torch.nn.functional as F

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import numba_cpu
from tests.ops.numba_cases import (
    Case,
    assert_close,
    conv_case,
    conv_error,
    converted,
    relative_error,
    run_conv,
    with_gradients,
)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width"),
    [(2, 37, 24, 4), (1, 1, 8, 4), (2, 2, 5, 8), (3, 17, 300, 3), (2, 16, 16, 1), (1, 40, 16, 16), (20, 33, 7, 2)],
)
def test_values_and_gradients_match_float64(batch, length, channels, width, optional, reverse):
    assert_close(conv_error(conv_case(batch, length, channels, width, optional=optional, reverse=reverse)))


def test_is_torchs_convolution_and_silu():
    case = conv_case(2, 50, 24, 4)
    x, weight, bias, past = case.operands.values()
    padded = torch.cat([past, x], dim=1).transpose(1, 2)
    expected = F.silu(F.conv1d(padded, weight[:, None], bias, groups=24)).transpose(1, 2)
    assert relative_error(run_conv(case), expected.double()) < 5e-7


def test_reverse_is_flip_convolve_flip():
    case = conv_case(2, 37, 20, 4)
    flipped = Case(case.operands | {"x": case.operands["x"].flip(1)})
    assert torch.equal(run_conv(Case(case.operands, reverse=True)), run_conv(flipped).flip(1))


@pytest.mark.parametrize("cut", [3, 16, 20])
def test_two_convolutions_joined_by_their_inputs_are_one(cut):
    case = conv_case(2, 37, 20, 4)
    x = case.operands["x"]
    first = run_conv(Case(case.operands | {"x": x[:, :cut]}))
    second = run_conv(Case(case.operands | {"x": x[:, cut:], "initial_state": x[:, cut - 3 : cut]}))
    assert torch.equal(torch.cat([first, second], dim=1), run_conv(case))


def test_views_give_the_same_as_copies():
    views = {
        "x": torch.randn(2, 30, 50)[..., 13:37],
        "weight": torch.randn(4, 24).t(),
        "bias": torch.randn(48)[::2],
        "initial_state": torch.randn(2, 24, 3).transpose(1, 2),
    }
    viewed = Case(views)
    copied = converted(viewed, lambda tensor: tensor.contiguous())
    actual = with_gradients(viewed, run_conv, numba_cpu.causal_conv1d_silu)
    expected = with_gradients(copied, run_conv, numba_cpu.causal_conv1d_silu)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["x", "initial_state"])
def test_nan_stays_in_its_row(name):
    case = conv_case(4, 20, 24, 4)
    clean = run_conv(case)
    case.operands[name][1] = float("nan")
    y = run_conv(case)
    assert torch.equal(y[[0, 2, 3]], clean[[0, 2, 3]])
    assert torch.isnan(y[1, :3]).all()


def test_results_do_not_depend_on_threads():
    case = conv_case(3, 300, 200, 4)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(with_gradients(case, run_conv, numba_cpu.causal_conv1d_silu))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    case = converted(conv_case(2, 40, 24, 4), lambda tensor: tensor.to(dtype).requires_grad_())
    y = run_conv(case)
    y.float().sum().backward()
    expected = run_conv(converted(case, lambda tensor: tensor.detach().float()))
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    assert all(tensor.grad.dtype == dtype for tensor in case.operands.values())


def test_a_kernel_beyond_the_scratch_memory_is_refused():
    with pytest.raises(BackendError, match=r"up to 16 taps, weight has 17"):
        run_conv(conv_case(1, 40, 8, 17))


def test_no_memory_is_read_before_it_is_written():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert torch.isnan(torch.empty(3)).all()
        assert_close(conv_error(conv_case(2, 19, 33, 4)))
        assert_close(conv_error(conv_case(2, 5, 9, 4, optional=False)))
    finally:
        torch.use_deterministic_algorithms(False)
