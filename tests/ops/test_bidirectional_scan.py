"""The bidirectional scan on the backends that run one direction after the other."""

import pytest
import torch

from hf_audio_mamba import ops
from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import ScanOperands
from tests.ops import naive
from tests.ops.numba_cases import relative_error, scan_case

BACKENDS = pytest.mark.parametrize("backend", ["numba", "torch", "reference"])


def _operands(*sizes: int, **options: object) -> ScanOperands:
    return ScanOperands(**scan_case(*sizes, **options).operands)


@BACKENDS
@pytest.mark.parametrize("dt_softplus", [False, True])
def test_each_direction_matches_the_time_loop(backend, dt_softplus):
    pair = _operands(2, 9, 6, 3, dt_softplus=dt_softplus), _operands(1, 7, 4, 2, groups=2, optional=False, seed=1)
    results = ops.bidirectional_scan(*pair, dt_softplus=dt_softplus, backend=backend)
    for (y, last_state), operands, reverse in zip(results, pair, (False, True), strict=True):
        expected = naive.scan(**operands._asdict(), dt_softplus=dt_softplus, reverse=reverse)
        assert relative_error(y, torch.from_numpy(expected[0])) < 1e-6
        assert relative_error(last_state, torch.from_numpy(expected[1])) < 1e-6


def test_a_single_group_needs_no_axis():
    pair = [_operands(1, 5, 4, 2, seed=seed) for seed in (0, 1)]
    without = [operands._replace(B=operands.B[:, :, 0], C=operands.C[:, :, 0]) for operands in pair]
    for actual, expected in zip(ops.bidirectional_scan(*without), ops.bidirectional_scan(*pair), strict=True):
        assert all(torch.equal(*both) for both in zip(actual, expected, strict=True))


@BACKENDS
def test_gradients_are_those_of_two_scans(backend):
    pair = [_operands(2, 9, 6, 3, seed=seed) for seed in (0, 1)]

    def gradients(function) -> list[torch.Tensor]:
        leaves = [ScanOperands(*(tensor.detach().requires_grad_() for tensor in operands)) for operands in pair]
        results = function(*leaves)
        sum(tensor.sin().sum() for result in results for tensor in result).backward()
        return [leaf.grad for operands in leaves for leaf in operands]

    def apart(forwards, backwards):
        options = {"return_last_state": True, "backend": backend}
        return (
            ops.selective_scan(**forwards._asdict(), **options),
            ops.selective_scan(**backwards._asdict(), reverse=True, **options),
        )

    actual = gradients(lambda *operands: ops.bidirectional_scan(*operands, backend=backend))
    assert all(torch.equal(*both) for both in zip(actual, gradients(apart), strict=True))


def test_a_wrong_argument_of_either_direction_is_named():
    good = _operands(1, 5, 4, 2)
    bad = good._replace(D=torch.ones(3))
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ShapeError, match=r"D must be \(channels,\) = \(4,\), got shape \(3,\)"):
            ops.bidirectional_scan(*pair)
