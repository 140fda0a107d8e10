"""NaN and infinity in any input of any operation: they stay in their row, or in the channel of their parameter."""

import pytest
import torch
from torch import Tensor

from hf_audio_mamba.ops import (
    ScanOperands,
    available_backends,
    bidirectional_scan,
    causal_conv1d_silu,
    causal_conv1d_silu_update,
    cross_scan_2d,
    selective_scan,
    selective_state_update,
)

BATCH, LENGTH, CHANNELS, STATE, WIDTH = 3, 18, 20, 5, 4
SAMPLE, CHANNEL = 1, 17  # where the poison is; the channel is in the incomplete vector
BACKENDS = available_backends()

STEP = {"x": "bc", "dt": "bc", "A": "cn", "B": "bn", "C": "bn", "D": "c", "z": "bc", "dt_bias": "c"}
SEQUENCE = {name: axes.replace("b", "bl") for name, axes in STEP.items()} | {"initial_state": "bcn"}
CONV = {"weight": "cw", "bias": "c"}
MAP = {"x": "bhvc", "dt": "bhv4c", "A": "4cn", "B": "bhv4n", "C": "bhv4n", "D": "4c", "dt_bias": "4c"}
SIZES = {"b": BATCH, "l": LENGTH, "c": CHANNELS, "n": STATE, "w": WIDTH, "p": WIDTH - 1, "h": 3, "v": 6, "4": 4}


def bidirectional(backend: str, **operands: Tensor) -> Tensor:
    """Sum of both directions, of which only the one forwards has the poison."""
    (y, _), (other, _) = bidirectional_scan(ScanOperands(**operands), ScanOperands(**draw(SEQUENCE)), backend=backend)
    assert other.isfinite().all()
    return y + other


OPERATIONS = {
    "selective_scan": (selective_scan, SEQUENCE),
    "bidirectional_scan": (bidirectional, SEQUENCE),
    "cross_scan_2d": (cross_scan_2d, MAP),
    "causal_conv1d_silu": (causal_conv1d_silu, {"x": "blc", "initial_state": "bpc"} | CONV),
    "selective_state_update": (selective_state_update, STEP | {"state": "bcn"}),
    "causal_conv1d_silu_update": (causal_conv1d_silu_update, {"x": "bc", "conv_state": "bpc"} | CONV),
}
CASES = [(operation, name) for operation, (_, axes) in OPERATIONS.items() for name in axes]

TRAINED = [case for case in CASES if not case[0].endswith("update") and "b" in OPERATIONS[case[0]][1][case[1]]]


def draw(axes: dict[str, str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    operands = {name: torch.randn([SIZES[axis] for axis in of], generator=generator) for name, of in axes.items()}
    if "A" in operands:
        operands["A"] = -operands["A"].abs() - 0.1
    return operands


def poisoned(operands: dict[str, Tensor], name: str, axes: str, value: float) -> dict[str, Tensor]:
    """The operands with a value at one place of one of them, in the middle of its other axes."""
    place = {"b": SAMPLE, "c": CHANNEL}
    tensor = operands[name].clone()
    tensor[tuple(place.get(axis, SIZES[axis] // 2) for axis in axes)] = value
    return operands | {name: tensor}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("operation", "name"), CASES)
def test_what_is_not_finite_stays_where_it_belongs(operation, name, value, backend):
    function, axes = OPERATIONS[operation]
    clean = function(**draw(axes), backend=backend)
    bad = poisoned(draw(axes), name, axes[name], value)
    expected = function(**{key: tensor.double() for key, tensor in bad.items()}, backend="reference")
    y = function(**bad, backend=backend)
    of_sample = "b" in axes[name]
    places = torch.arange(BATCH if of_sample else CHANNELS)
    others = places[places != (SAMPLE if of_sample else CHANNEL)]
    axis = 0 if of_sample else -1
    assert torch.equal(y.index_select(axis, others), clean.index_select(axis, others))
    assert torch.equal(y.isfinite(), expected.isfinite())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("operation", "name"), TRAINED)
def test_gradients_of_other_rows_stay_clean(operation, name, backend):
    function, axes = OPERATIONS[operation]
    found = []
    for operands in (draw(axes), poisoned(draw(axes), name, axes[name], torch.nan)):
        leaves = {key: tensor.requires_grad_() for key, tensor in operands.items()}
        function(**leaves, backend=backend).square().sum().backward()
        found.append({key: leaf.grad for key, leaf in leaves.items() if "b" in axes[key]})
    for key, gradient in found[1].items():
        assert torch.equal(gradient[[0, 2]], found[0][key][[0, 2]]), key
    assert found[1]["x"][SAMPLE].isnan().any()
