"""Inputs and float64 oracles shared by the tests of the numba backend."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_audio_mamba.ops import numba_cpu, reference

SCAN_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
CONV_NAMES = ("x", "weight", "bias", "initial_state")


@dataclass(frozen=True)
class Case:
    """Float32 operands of one call, None where left out, and its switches."""

    operands: dict[str, Tensor | None]
    dt_softplus: bool = True
    reverse: bool = False


def scan_case(
    batch: int,
    length: int,
    channels: int,
    state: int,
    *,
    groups: int = 1,
    optional: bool = True,
    dt_softplus: bool = True,
    reverse: bool = False,
    seed: int = 0,
) -> Case:
    """Random operands of the size that a trained mixer has; `optional` ones are D, z, dt_bias and initial_state."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    sequence = (batch, length, channels)
    dt = normal(*sequence) - 2 if dt_softplus else torch.rand(*sequence, generator=draw)
    operands = {
        "x": normal(*sequence),
        "dt": dt,
        "A": -torch.rand(channels, state, generator=draw) * state - 0.1,
        "B": normal(batch, length, groups, state),
        "C": normal(batch, length, groups, state),
        "D": normal(channels) if optional else None,
        "z": normal(*sequence) if optional else None,
        "dt_bias": normal(channels).abs() if optional else None,
        "initial_state": normal(batch, channels, state) if optional else None,
    }
    return Case(operands, dt_softplus, reverse)


def conv_case(
    batch: int, length: int, channels: int, width: int, *, optional: bool = True, reverse: bool = False, seed: int = 0
) -> Case:
    """Random operands of a convolution; `optional` ones are bias and initial_state."""
    draw = torch.Generator().manual_seed(seed)
    operands = {
        "x": torch.randn(batch, length, channels, generator=draw),
        "weight": torch.randn(channels, width, generator=draw),
        "bias": torch.randn(channels, generator=draw) if optional else None,
        "initial_state": torch.randn(batch, width - 1, channels, generator=draw) if optional else None,
    }
    return Case(operands, reverse=reverse)


def run_scan(
    case: Case, function: Callable[..., tuple[Tensor, Tensor]] = numba_cpu.selective_scan
) -> tuple[Tensor, Tensor]:
    """Output and last state of a scan case."""
    operands = dict(case.operands)
    initial_state = operands.pop("initial_state")
    return function(*operands.values(), dt_softplus=case.dt_softplus, reverse=case.reverse, initial_state=initial_state)


def run_conv(case: Case, function: Callable[..., Tensor] = numba_cpu.causal_conv1d_silu) -> Tensor:
    """Output of a convolution case."""
    operands = dict(case.operands)
    initial_state = operands.pop("initial_state")
    return function(*operands.values(), reverse=case.reverse, initial_state=initial_state)


def converted(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The case with every operand changed."""
    operands = {name: None if tensor is None else change(tensor) for name, tensor in case.operands.items()}
    return Case(operands, case.dt_softplus, case.reverse)


def with_gradients(case: Case, run: Callable[..., object], function: Callable[..., object]) -> dict[str, Tensor]:
    """Results of a case and, under names like `dx`, the gradients of a fixed random projection of all of them."""
    leaves = converted(case, lambda tensor: tensor.detach().requires_grad_())
    outputs = run(leaves, function)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, generator=draw).to(output.dtype) for output in outputs]
    torch.autograd.backward(outputs, weights)
    results = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    gradients = {f"d{name}": leaf.grad for name, leaf in leaves.operands.items() if leaf is not None}
    return results | gradients


def scan_error(case: Case) -> dict[str, float]:
    """Largest error of each result and gradient of a scan, over its largest value, against float64."""
    return _errors(case, run_scan, numba_cpu.selective_scan, reference.selective_scan)


def conv_error(case: Case) -> dict[str, float]:
    """The same for a convolution."""
    return _errors(case, run_conv, numba_cpu.causal_conv1d_silu, reference.causal_conv1d_silu)


def _errors(case: Case, run: Callable, function: Callable, oracle: Callable) -> dict[str, float]:
    actual = with_gradients(case, run, function)
    expected = with_gradients(converted(case, Tensor.double), run, oracle)
    assert actual.keys() == expected.keys()
    return {name: relative_error(actual[name], expected[name]) for name in actual if actual[name].numel()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; 0 where both are all zeros."""
    assert actual.shape == expected.shape
    difference = (actual.double() - expected).abs().max()
    return (difference / expected.abs().max()).item() if difference != 0 else 0.0


def assert_close(errors: dict[str, float], *, values: float = 6e-7, gradients: float = 5e-6) -> None:
    """Compare errors with the tolerances, naming the tensors that exceed them.

    Processors without fused multiply-add reach 5.1e-7 in values, others stay below 4e-7.
    """
    limits = {name: gradients if name.startswith("d") else values for name in errors}
    exceeded = {name: error for name, error in errors.items() if not error <= limits[name]}
    assert not exceeded, exceeded
