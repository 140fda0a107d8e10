"""What the Triton scan does to keep a GPU busy: a length cut into segments, and two directions in one launch."""

import pytest
import torch

from hf_audio_mamba import ops
from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import ScanOperands, reference
from tests.ops.numba_cases import Case, converted, relative_error, run_scan, scan_case, with_gradients
from tests.ops.triton_cases import assert_results_match, assert_scan_matches, require_triton, run, scan

DEVICE = require_triton()

from hf_audio_mamba.ops import triton_gpu, triton_scan_forward, triton_tuning  # noqa: E402  # import triton


@pytest.fixture
def cut_into(monkeypatch):
    """Force a number of segments."""

    def force(segments: int) -> None:
        monkeypatch.setattr(triton_tuning, "choose_segments", lambda *_: segments)

    return force


@pytest.mark.parametrize(
    ("segments", "case"),
    [
        (3, scan_case(1, 17, 6, 3)),
        (2, scan_case(1, 17, 4, 4, reverse=True)),
        (2, scan_case(2, 9, 4, 2, groups=2, optional=False)),
        (9, scan_case(1, 9, 4, 1)),
    ],
    ids=["a tile each", "the last one shorter", "two groups", "more than tiles"],
)
def test_segments_match_float64(segments, case, cut_into):
    cut_into(segments)
    assert_scan_matches(case, reference.selective_scan)


def test_segments_differ_from_one_pass_by_rounding_only(cut_into):
    case = scan_case(1, 40, 8, 4)
    whole, whole_state = run(case)
    cut_into(3)
    y, last_state = run(case)
    assert relative_error(y, whole.double()) < 5e-7
    assert relative_error(last_state, whole_state.double()) < 5e-7


def test_segments_read_no_memory_before_it_is_written(cut_into):
    cut_into(2)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert_scan_matches(scan_case(1, 9, 6, 3, optional=False), reference.selective_scan)
    finally:
        torch.use_deterministic_algorithms(False)


def test_segments_forget_exactly_over_huge_steps(cut_into):
    case = scan_case(1, 17, 4, 2, optional=False, dt_softplus=False)
    case.operands["dt"] = torch.full_like(case.operands["dt"], 600.0)
    case.operands["A"] = torch.full_like(case.operands["A"], -torch.inf)
    cut_into(3)
    _, last_state = run(case)
    assert torch.equal(last_state, 600.0 * case.operands["x"][:, -1, :, None] * case.operands["B"][:, -1])


def _operands(case: Case) -> ScanOperands:
    return ScanOperands(*(None if tensor is None else tensor.to(DEVICE) for tensor in case.operands.values()))


def _both(cases: dict[str, Case], function) -> dict[str, torch.Tensor]:
    """Results of two cases, and the gradients of a projection of all of them, named by direction."""
    leaves = {name: converted(case, lambda tensor: tensor.detach().requires_grad_()) for name, case in cases.items()}
    outputs = [tensor.cpu() for pair in function(*map(_operands, leaves.values())) for tensor in pair]
    draw = torch.Generator().manual_seed(1)
    torch.autograd.backward(outputs, [torch.randn(o.shape, generator=draw, dtype=torch.float32).to(o) for o in outputs])
    results = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    for direction, case in leaves.items():
        results |= {f"d{name} {direction}": t.grad for name, t in case.operands.items() if t is not None}
    return results


@pytest.mark.parametrize(("optional", "segments"), [(False, 1), (True, 2)])
def test_both_directions_in_one_launch_are_two_scans(optional, segments, cut_into, monkeypatch):
    cut_into(segments)
    launches = []
    kernel = triton_scan_forward.scan_kernel
    launch = kernel.run
    monkeypatch.setattr(kernel, "run", lambda *args, **options: launches.append(1) or launch(*args, **options))
    cases = {
        "forwards": scan_case(1, 9, 5, 3, optional=optional),
        "backwards": scan_case(1, 9, 5, 3, optional=optional, seed=1),
    }
    actual = _both(cases, lambda *pair: triton_gpu.bidirectional_scan(*pair, dt_softplus=True))
    assert len(launches) == 1

    def apart(forwards, backwards):
        options = [{"dt_softplus": True, "reverse": reverse} for reverse in (False, True)]
        return [
            reference.selective_scan(*operands[:-1], initial_state=operands[-1], **option)
            for operands, option in zip((forwards, backwards), options, strict=True)
        ]

    doubled = {name: converted(case, torch.Tensor.double) for name, case in cases.items()}
    assert_results_match(actual, _both(doubled, apart))


def test_directions_may_differ_in_strides():
    forwards, backwards = _operands(scan_case(1, 6, 5, 3)), _operands(scan_case(1, 6, 5, 3, seed=1))
    wide = torch.cat([backwards.x, backwards.dt, backwards.z], dim=-1)
    views = dict(zip(("x", "dt", "z"), wide.split(5, dim=-1), strict=True))
    actual = triton_gpu.bidirectional_scan(forwards, backwards._replace(**views), dt_softplus=True)
    expected = triton_gpu.bidirectional_scan(forwards, backwards, dt_softplus=True)
    for pair, expected_pair in zip(actual, expected, strict=True):
        assert all(torch.equal(tensor, wanted) for tensor, wanted in zip(pair, expected_pair, strict=True))


def test_scans_that_are_not_alike_share_no_launch():
    forwards, backwards = _operands(scan_case(1, 6, 5, 3)), _operands(scan_case(1, 7, 5, 3))
    with pytest.raises(BackendError, match="cannot share a launch"):
        triton_gpu.bidirectional_scan(forwards, backwards, dt_softplus=True)


def test_the_operation_runs_both_directions_on_triton():
    cases = [scan_case(1, 6, 5, 3, optional=False), scan_case(1, 6, 5, 3, optional=False, seed=1)]
    actual = ops.bidirectional_scan(*map(_operands, cases), backend="triton")
    for pair, case, reverse in zip(actual, cases, (False, True), strict=True):
        expected = run_scan(Case(case.operands, reverse=reverse), reference.selective_scan)
        for tensor, wanted in zip(pair, expected, strict=True):
            assert relative_error(tensor.cpu(), wanted.double()) < 2e-6


def test_results_are_the_same_at_every_run():
    case = scan_case(1, 5, 40, 4)
    first, second = (with_gradients(case, run_scan, scan) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
