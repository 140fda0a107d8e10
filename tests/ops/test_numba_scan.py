"""The numba scan against the float64 time loop, in values and gradients, and its invariants."""

import threading

import pytest
import torch
from torch.utils import deterministic

from hf_audio_mamba.ops import numba_cpu, reference
from tests.ops.numba_cases import (
    Case,
    assert_close,
    converted,
    relative_error,
    run_scan,
    scan_case,
    scan_error,
    with_gradients,
)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "state", "groups"),
    [
        (2, 1, 16, 1, 1),
        (3, 2, 24, 4, 1),
        (1, 15, 1, 16, 1),
        (2, 16, 16, 16, 1),
        (1, 17, 5, 3, 1),
        (2, 63, 192, 16, 1),
        (1, 40, 7, 64, 1),
        (20, 20, 40, 8, 1),
        (2, 33, 24, 8, 2),
        (1, 19, 300, 5, 3),
        (1, 18, 4, 2, 4),
    ],
)
def test_values_and_gradients_match_float64(batch, length, channels, state, groups, optional, reverse):
    case = scan_case(batch, length, channels, state, groups=groups, optional=optional, reverse=reverse)
    assert_close(scan_error(case))


@pytest.mark.parametrize("reverse", [False, True])
def test_step_sizes_without_softplus(reverse):
    assert_close(scan_error(scan_case(2, 37, 20, 8, dt_softplus=False, reverse=reverse)))


def test_long_sequences_stay_accurate():
    assert_close(scan_error(scan_case(1, 3001, 16, 16)))


def test_tiny_steps_lose_no_more_than_float32_must():
    case = scan_case(1, 200, 16, 4, optional=False, dt_softplus=False)
    case.operands["dt"] = torch.full_like(case.operands["dt"], 1e-6)
    expected, _ = run_scan(converted(case, torch.Tensor.double), reference.selective_scan)
    in_float32, _ = run_scan(case, reference.selective_scan)
    assert relative_error(run_scan(case)[0], expected) < 1.5 * relative_error(in_float32, expected) + 1e-7
    assert_close(scan_error(case), values=5e-6)


def test_huge_steps_forget_exactly():
    case = scan_case(1, 50, 16, 4, optional=False, dt_softplus=False)
    operands = case.operands
    operands["A"] = torch.full_like(operands["A"], -2.0)
    operands["dt"] = torch.full_like(operands["dt"], 600.0)
    _, last_state = run_scan(case)
    expected = 600.0 * operands["x"][:, -1, :, None] * operands["B"][:, -1]
    assert torch.equal(last_state, expected)
    assert_close(scan_error(case))


@pytest.mark.parametrize("reverse", [False, True])
def test_growing_states_are_kept(reverse):
    case = scan_case(2, 20, 20, 4, dt_softplus=False, reverse=reverse)
    case.operands["A"] = case.operands["A"].abs() / 4
    assert run_scan(case)[1].abs().max() > 100
    assert_close(scan_error(case), values=2e-6, gradients=2e-5)


def test_growing_states_overflow_to_infinity_and_not_to_nonsense():
    case = scan_case(1, 3, 8, 1, optional=False, dt_softplus=False)
    for name in ("x", "A", "B", "C", "dt"):
        case.operands[name] = torch.ones_like(case.operands[name])
    case.operands["dt"] *= 80.0
    _, last_state = run_scan(case)
    assert torch.isinf(last_state).all()


@pytest.mark.parametrize("name", ["x", "dt", "B", "C", "z", "initial_state"])
def test_nan_stays_in_its_row(name):
    case = scan_case(4, 20, 24, 4)
    clean, clean_state = run_scan(case)
    case.operands[name][1] = float("nan")
    y, last_state = run_scan(case)
    others = [0, 2, 3]
    assert torch.equal(y[others], clean[others])
    assert torch.equal(last_state[others], clean_state[others])
    assert torch.isnan(y[1]).all()


def test_reverse_is_flip_scan_flip():
    case = scan_case(2, 37, 20, 4)
    backwards = Case(case.operands, reverse=True)
    flipped = Case({name: t.flip(1) if name in ("x", "dt", "B", "C", "z") else t for name, t in case.operands.items()})
    y, last_state = run_scan(backwards)
    expected, expected_state = run_scan(flipped)
    assert torch.equal(y, expected.flip(1))
    assert torch.equal(last_state, expected_state)


@pytest.mark.parametrize("cut", [1, 16, 20])
@pytest.mark.parametrize("reverse", [False, True])
def test_two_scans_joined_by_their_state_are_one(cut, reverse):
    case = scan_case(2, 37, 20, 4, reverse=reverse)
    sequences = ("x", "dt", "B", "C", "z")

    def joined(case: Case, function) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [slice(None, cut), slice(cut, None)]
        state, outputs = case.operands["initial_state"], []
        for part in reversed(parts) if reverse else parts:
            cut_operands = {name: t[:, part] if name in sequences else t for name, t in case.operands.items()}
            y, state = run_scan(Case(cut_operands | {"initial_state": state}, reverse=reverse), function)
            outputs.append(y)
        return torch.cat(outputs[::-1] if reverse else outputs, dim=1), state

    actual = with_gradients(case, joined, numba_cpu.selective_scan)
    expected = with_gradients(converted(case, torch.Tensor.double), run_scan, reference.selective_scan)
    assert_close({name: relative_error(actual[name], expected[name]) for name in expected})


def test_views_give_the_same_as_copies():
    batch, length, channels, state = 2, 35, 24, 4
    xz = torch.randn(batch, length, 2 * channels)
    x_dbl = torch.randn(batch, length, 6 + 2 * state)
    case = scan_case(batch, length, channels, state)
    views = {
        "x": xz[..., :channels],
        "z": xz[..., channels:],
        "dt": torch.randn(length, batch, channels).transpose(0, 1),
        "A": (-torch.rand(state, channels)).t(),
        "B": x_dbl[..., None, 6 : 6 + state],
        "C": torch.randn(batch, 1, state, length).permute(0, 3, 1, 2),
        "D": torch.randn(2 * channels)[::2],
        "dt_bias": torch.randn(1).expand(channels),
        "initial_state": torch.randn(batch, state, channels).transpose(1, 2),
    }
    viewed = Case({name: views[name] for name in case.operands})
    copied = converted(viewed, lambda tensor: tensor.contiguous())
    actual = with_gradients(viewed, run_scan, numba_cpu.selective_scan)
    expected = with_gradients(copied, run_scan, numba_cpu.selective_scan)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_gradients_arriving_as_views_give_the_same_as_copies():
    case = scan_case(2, 20, 24, 4)

    def gradients(y_weight: torch.Tensor, state_weight: torch.Tensor) -> list[torch.Tensor]:
        leaves = converted(case, lambda tensor: tensor.detach().requires_grad_())
        torch.autograd.backward(run_scan(leaves), [y_weight, state_weight])
        return [leaf.grad for leaf in leaves.operands.values()]

    views = (torch.randn(1).expand(2, 20, 24), torch.randn(2, 4, 24).transpose(1, 2))
    for actual, expected in zip(gradients(*views), gradients(*(view.contiguous() for view in views)), strict=True):
        assert torch.equal(actual, expected)


def test_only_the_last_state_may_be_used():
    case = scan_case(1, 20, 12, 4)
    actual = with_gradients(case, lambda *call: run_scan(*call)[1], numba_cpu.selective_scan)
    expected = with_gradients(
        converted(case, torch.Tensor.double), lambda *call: run_scan(*call)[1], reference.selective_scan
    )
    assert torch.equal(actual["dC"], torch.zeros_like(actual["dC"]))
    used = ("dx", "ddt", "dA", "dB", "ddt_bias", "dinitial_state")
    assert_close({name: relative_error(actual[name], expected[name]) for name in used})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype):
    case = converted(scan_case(2, 40, 24, 4), lambda tensor: tensor.to(dtype))
    leaves = converted(case, lambda tensor: tensor.detach().requires_grad_())
    y, last_state = run_scan(leaves)
    assert y.dtype == dtype
    assert last_state.dtype == torch.float32
    expected, expected_state = run_scan(converted(case, torch.Tensor.double), reference.selective_scan)
    assert relative_error(last_state, expected_state) < 5e-7
    assert relative_error(y, expected) < torch.finfo(dtype).eps
    y.float().sum().backward()
    assert all(leaf.grad.dtype == dtype and torch.isfinite(leaf.grad).all() for leaf in leaves.operands.values())


def test_results_do_not_depend_on_threads():
    case = scan_case(3, 100, 200, 8)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(with_gradients(case, run_scan, numba_cpu.selective_scan))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


def test_concurrent_calls_do_not_disturb_each_other():
    cases = [scan_case(2, 100, 100, 8, seed=seed) for seed in range(6)]
    expected = [with_gradients(case, run_scan, numba_cpu.selective_scan) for case in cases]
    actual: dict[int, list[dict[str, torch.Tensor]]] = {}

    def work(index: int) -> None:
        actual[index] = [with_gradients(cases[index], run_scan, numba_cpu.selective_scan) for _ in range(3)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, results in actual.items():
        assert all(torch.equal(result[name], expected[index][name]) for result in results for name in result)


@pytest.fixture
def _poisoned_memory():
    """Fill fresh memory with NaN, so that reading before writing shows."""
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("groups", [1, 3])
def test_no_memory_is_read_before_it_is_written(groups):
    assert torch.isnan(torch.empty(3)).all()
    assert_close(scan_error(scan_case(2, 19, 33, 3, groups=groups)))
    assert_close(scan_error(scan_case(2, 19, 33, 3, groups=groups, optional=False)))


def test_default_dtype_and_device_do_not_matter():
    case = scan_case(1, 20, 12, 4)
    expected = with_gradients(case, run_scan, numba_cpu.selective_scan)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            y, last_state = run_scan(case)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(y, expected["output 0"])
    assert torch.equal(last_state, expected["output 1"])


def test_checkpoints_are_kept_only_for_a_backward_pass():
    from hf_audio_mamba.ops.numba_scan import scan

    operands = [*scan_case(1, 40, 16, 4).operands.values()]
    y, last_state, none = scan(*operands, True, False, False)
    kept_y, kept_state, states = scan(*operands, True, False, True)
    assert none.numel() == 0
    assert states.numel() == (3 + 1) * 16 * 4
    assert torch.equal(y, kept_y)
    assert torch.equal(last_state, kept_state)


def test_inference_mode():
    case = scan_case(1, 20, 12, 4)
    with torch.inference_mode():
        y, _ = run_scan(case)
    assert torch.equal(y, run_scan(case)[0])
