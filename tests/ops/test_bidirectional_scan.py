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
    for direction, pair in (("backwards", (good, bad)), ("forwards", (bad, good))):
        message = rf"bidirectional_scan: {direction}: D must be \(channels,\) = \(4,\), got shape \(3,\)"
        with pytest.raises(ShapeError, match=message):
            ops.bidirectional_scan(*pair)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BACKENDS
def test_half_precision(dtype, backend):
    pair = [ScanOperands(*(t.to(dtype) for t in _operands(2, 40, 6, 3, seed=seed))) for seed in (0, 1)]
    exact = [ScanOperands(*(tensor.double() for tensor in operands)) for operands in pair]
    expected = ops.bidirectional_scan(*exact, backend="reference")
    for found, wanted in zip(ops.bidirectional_scan(*pair, backend=backend), expected, strict=True):
        assert [tensor.dtype for tensor in found] == [dtype, torch.float32]
        assert relative_error(found[0], wanted[0]) < torch.finfo(dtype).eps
        assert relative_error(found[1], wanted[1]) < 1e-6


class _Both(torch.nn.Module):
    def forward(self, x: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
        operands = ScanOperands(x, x, A, x[..., :2], x[..., 2:])
        (y, _), (other, _) = ops.bidirectional_scan(operands, operands)
        return y + other


def test_compiles_whole_and_exports_with_any_length():
    torch.compiler.reset()
    x, A = torch.randn(2, 9, 4), -torch.rand(4, 2)
    length = torch.export.Dim("length")
    exported = torch.export.export(_Both(), (x, A), dynamic_shapes=({1: length}, None)).module()
    compiled = torch.compile(_Both(), fullgraph=True, dynamic=True, backend="aot_eager")
    for frames in (x, torch.randn(2, 31, 4)):
        torch.testing.assert_close(exported(frames, A), _Both()(frames, A))
        gradients = []
        for module in (_Both(), compiled):
            leaf = frames.clone().requires_grad_()
            module(leaf, A).square().sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients)
