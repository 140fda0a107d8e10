"""The Triton scan against the float64 time loop, in values and gradients, and its invariants."""

import pytest
import torch
from torch.utils import deterministic

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import reference
from tests.ops.numba_cases import Case, converted, relative_error, run_scan, scan_case, with_gradients
from tests.ops.triton_cases import assert_results_match, assert_scan_matches, require_triton, run, scan

require_triton()
SEQUENCES = ("x", "dt", "B", "C", "z")


@pytest.mark.parametrize(
    "case",
    [
        scan_case(1, 1, 5, 1, optional=False),
        scan_case(2, 5, 7, 3, reverse=True),
        scan_case(1, 16, 32, 16),
        scan_case(1, 5, 40, 4, optional=False, reverse=True),
        scan_case(1, 5, 6, 2, groups=3),
        scan_case(1, 3, 4, 64),
        scan_case(1, 5, 8, 4, dt_softplus=False),
    ],
    ids=["one step", "reverse", "whole tiles", "two blocks", "groups", "64 states", "no softplus"],
)
def test_values_and_gradients_match_float64(case):
    assert_scan_matches(case, reference.selective_scan)


def test_reverse_is_flip_scan_flip():
    case = scan_case(2, 11, 20, 4)
    flipped = Case({name: t.flip(1) if name in SEQUENCES else t for name, t in case.operands.items()})
    y, last_state = run(Case(case.operands, reverse=True))
    expected, expected_state = run(flipped)
    assert torch.equal(y, expected.flip(1))
    assert torch.equal(last_state, expected_state)


def test_two_scans_joined_by_their_state_are_one():
    case = scan_case(1, 10, 20, 4, reverse=True)

    def joined(case: Case, function) -> tuple[torch.Tensor, torch.Tensor]:
        state, outputs = case.operands["initial_state"], []
        for part in (slice(3, None), slice(None, 3)):
            cut_operands = {name: t[:, part] if name in SEQUENCES else t for name, t in case.operands.items()}
            y, state = run_scan(Case(cut_operands | {"initial_state": state}, reverse=True), function)
            outputs.append(y)
        return torch.cat(outputs[::-1], dim=1), state

    expected = with_gradients(converted(case, torch.Tensor.double), run_scan, reference.selective_scan)
    assert_results_match(with_gradients(case, joined, scan), expected)


def _views_of_poisoned_memory(batch: int, length: int, channels: int, state: int) -> Case:
    """Slices with NaN all around them, transposed and expanded tensors."""
    clean = scan_case(batch, length, channels, state).operands
    rows = torch.full((batch, length + 2, 2 * channels + 5), float("nan"))
    xz = rows[:, 1:-1, 2:-3]
    x_dbl = torch.full((batch, length + 1, 7 + 2 * state), float("nan"))[:, :-1, 5:-2, None]
    views = {
        "x": xz[..., :channels],
        "z": xz[..., channels:],
        "B": x_dbl[:, :, :state].transpose(2, 3),
        "C": x_dbl[:, :, state:].transpose(2, 3),
        "dt": torch.empty(length, batch, channels).transpose(0, 1),
        "A": torch.empty(state, channels).t(),
        "D": torch.full((2 * channels,), float("nan"))[::2],
        "initial_state": torch.empty(batch, state, channels).transpose(1, 2),
    }
    for name, view in views.items():
        view.copy_(clean[name])
    return Case({name: views.get(name, clean[name]) for name in clean} | {"dt_bias": torch.ones(1).expand(channels)})


def test_views_are_read_within_their_bounds():
    viewed = _views_of_poisoned_memory(1, 5, 6, 3)
    actual = with_gradients(viewed, run_scan, scan)
    expected = with_gradients(converted(viewed, torch.Tensor.contiguous), run_scan, scan)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(torch.isfinite(tensor).all() for tensor in actual.values())


def test_gradients_arriving_as_views_give_the_same_as_copies():
    case = scan_case(1, 5, 6, 4)

    def gradients(y_weight: torch.Tensor, state_weight: torch.Tensor) -> list[torch.Tensor]:
        leaves = converted(case, lambda tensor: tensor.detach().requires_grad_())
        torch.autograd.backward(run(leaves), [y_weight, state_weight])
        return [leaf.grad for leaf in leaves.operands.values()]

    views = (torch.randn(1).expand(1, 5, 6), torch.randn(1, 4, 6).transpose(1, 2))
    for actual, expected in zip(gradients(*views), gradients(*(view.contiguous() for view in views)), strict=True):
        assert torch.equal(actual, expected)


def test_only_the_last_state_may_be_used():
    case = scan_case(1, 5, 6, 4)
    actual = with_gradients(case, lambda *call: run_scan(*call)[1], scan)
    expected = with_gradients(
        converted(case, torch.Tensor.double), lambda *call: run_scan(*call)[1], reference.selective_scan
    )
    assert torch.equal(actual["dC"], torch.zeros_like(actual["dC"]))
    used = ("dx", "ddt", "dA", "dB", "ddt_bias", "dinitial_state")
    assert_results_match({name: actual[name] for name in used}, {name: expected[name] for name in used})


@pytest.mark.parametrize("name", ["x", "dt", "B", "C", "z", "initial_state"])
def test_nan_stays_in_its_row(name):
    case = scan_case(2, 5, 12, 4)
    clean, clean_state = run(case)
    case.operands[name][1] = float("nan")
    y, last_state = run(case)
    assert torch.equal(y[0], clean[0])
    assert torch.equal(last_state[0], clean_state[0])
    assert torch.isnan(y[1]).all()


@pytest.mark.parametrize("rate", [-2.0, -torch.inf])
def test_huge_steps_forget_exactly(rate):
    case = scan_case(1, 9, 8, 4, optional=False, dt_softplus=False)
    operands = case.operands
    operands["A"] = torch.full_like(operands["A"], rate)
    operands["dt"] = torch.full_like(operands["dt"], 600.0)
    _, last_state = run(case)
    assert torch.equal(last_state, 600.0 * operands["x"][:, -1, :, None] * operands["B"][:, -1])


def test_tiny_steps_keep_their_precision():
    case = scan_case(1, 5, 8, 4, optional=False)
    case.operands["dt"] = torch.linspace(-30, -10, 40).view(1, 5, 8)  # steps of e^-30 to e^-10 behind softplus
    assert_scan_matches(case, reference.selective_scan)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype):
    case = converted(scan_case(1, 7, 8, 4), lambda tensor: tensor.to(dtype))
    leaves = converted(case, lambda tensor: tensor.detach().requires_grad_())
    y, last_state = run(leaves)
    assert y.dtype == dtype
    assert last_state.dtype == torch.float32
    exact = converted(case, lambda tensor: tensor.double().requires_grad_())
    expected, expected_state = run_scan(exact, reference.selective_scan)
    assert relative_error(last_state, expected_state) < 2e-6
    assert relative_error(y, expected) < torch.finfo(dtype).eps
    y.float().square().sum().backward()
    expected.square().sum().backward()
    for name, leaf in leaves.operands.items():
        assert leaf.grad.dtype == dtype
        assert relative_error(leaf.grad, exact.operands[name].grad) < 4 * torch.finfo(dtype).eps, name


@pytest.fixture
def _poisoned_memory():
    """Fill fresh memory with NaN, so that reading before writing shows."""
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("optional", [False, True])
def test_no_memory_is_read_before_it_is_written(optional):
    assert torch.isnan(torch.empty(3)).all()
    assert_scan_matches(scan_case(1, 5, 4, 3, groups=2, optional=optional), reference.selective_scan)


def test_more_states_than_registers_are_refused():
    with pytest.raises(BackendError, match="up to 64 states, A has 65"):
        run(scan_case(1, 4, 8, 65))
