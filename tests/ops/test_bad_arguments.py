"""Every wrong argument is named before any kernel reads memory."""

import re

import pytest
import torch

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import causal_conv1d_silu, selective_scan
from tests.ops.numba_cases import conv_case, scan_case


def scan_operands(**changes):
    return scan_case(2, 10, 8, 4, groups=2).operands | changes


def conv_operands(**changes):
    return conv_case(2, 10, 8, 4).operands | changes


SCAN_CHANGES = {
    "x: rank": ({"x": torch.zeros(10, 8)}, "x must be (batch, length, channels), got shape (10, 8)"),
    "x: no batch": ({"x": torch.zeros(0, 10, 8)}, "x has no batch"),
    "x: no frames": ({"x": torch.zeros(2, 0, 8)}, "x has no length"),
    "x: no channels": ({"x": torch.zeros(2, 10, 0)}, "x has no channels"),
    "x: integers": ({"x": torch.zeros(2, 10, 8, dtype=torch.long)}, "x must be float16, bfloat16, float32 or float64"),
    "dt: length": ({"dt": torch.zeros(2, 11, 8)}, "dt must be (batch, length, channels) = (2, 10, 8)"),
    "dt: one step for all channels": ({"dt": torch.zeros(2, 10, 1)}, "dt must be"),
    "A: rank": ({"A": torch.zeros(8)}, "A must be (channels, state)"),
    "A: no state": ({"A": torch.zeros(8, 0)}, "A must be (channels, state) with state > 0"),
    "A: transposed": ({"A": torch.zeros(4, 8)}, "A must be (channels, state) = (8, 8), got shape (4, 8)"),
    "A: complex": ({"A": torch.zeros(8, 4, dtype=torch.complex64)}, "A must be float16"),
    "B: rank": ({"B": torch.zeros(10, 4)}, "B must be (batch, length, state) = (2, 10, 4)"),
    "B: state": ({"B": torch.zeros(2, 10, 2, 5)}, "B must be (batch, length, groups, state) = (2, 10, 2, 4)"),
    "B: groups": ({"B": torch.zeros(2, 10, 3, 4)}, "B has 3 groups, which do not divide the 8 channels of x"),
    "B: no groups": ({"B": torch.zeros(2, 10, 0, 4)}, "B has 0 groups"),
    "C: not as B": ({"C": torch.zeros(2, 10, 4)}, "C must be shaped as B"),
    "D: size": ({"D": torch.zeros(7)}, "D must be (channels,) = (8,)"),
    "z: channels": ({"z": torch.zeros(2, 10, 4)}, "z must be (batch, length, channels)"),
    "dt_bias: rank": ({"dt_bias": torch.zeros(1, 8)}, "dt_bias must be (channels,)"),
    "initial_state: order": (
        {"initial_state": torch.zeros(2, 4, 8)},
        "initial_state must be (batch, channels, state) = (2, 8, 4), got shape (2, 4, 8)",
    ),
    "z: device": ({"z": torch.zeros(2, 10, 8, device="meta")}, "z is on meta but x is on cpu"),
}

CONV_CHANGES = {
    "x: rank": ({"x": torch.zeros(8)}, "x must be (batch, length, channels)"),
    "x: no frames": ({"x": torch.zeros(2, 0, 8)}, "x has no length"),
    "weight: as in nn.Conv1d": ({"weight": torch.zeros(8, 1, 4)}, "weight must be (channels, width)"),
    "weight: no taps": ({"weight": torch.zeros(8, 0)}, "weight must be (channels, width) with width > 0"),
    "weight: channels": ({"weight": torch.zeros(7, 4)}, "weight must be (channels, width) = (8, 4)"),
    "bias: size": ({"bias": torch.zeros(1)}, "bias must be (channels,) = (8,)"),
    "bias: integers": ({"bias": torch.zeros(8, dtype=torch.int32)}, "bias must be float16"),
    "initial_state: width": (
        {"initial_state": torch.zeros(2, 4, 8)},
        "initial_state must be (batch, width - 1, channels) = (2, 3, 8)",
    ),
}


@pytest.mark.parametrize(("changes", "message"), SCAN_CHANGES.values(), ids=SCAN_CHANGES)
def test_selective_scan_names_the_argument(changes, message):
    with pytest.raises(ShapeError, match=re.escape(f"selective_scan: {message}")):
        selective_scan(**scan_operands(**changes))


@pytest.mark.parametrize(("changes", "message"), CONV_CHANGES.values(), ids=CONV_CHANGES)
def test_causal_conv1d_silu_names_the_argument(changes, message):
    with pytest.raises(ShapeError, match=re.escape(f"causal_conv1d_silu: {message}")):
        causal_conv1d_silu(**conv_operands(**changes))


@pytest.mark.parametrize(
    ("operation", "operands"), [(selective_scan, scan_operands), (causal_conv1d_silu, conv_operands)]
)
def test_dtype_device_and_layout_of_every_argument_are_checked(operation, operands):
    for name, tensor in operands().items():
        for wrong, message in (
            (tensor.int(), "must be float16, bfloat16, float32 or float64, got torch.int32"),
            (tensor.to_sparse(), "must be dense, got torch.sparse_coo; convert it"),
            (tensor.to("meta"), "is on meta but x is on cpu"),
        ):
            if wrong.device.type == "meta" and name == "x":
                continue  # the others are then on another device than x
            with pytest.raises(ShapeError, match=rf"{operation.__name__}: {name} {message}"):
                operation(**operands(**{name: wrong}))


def test_the_unchanged_arguments_are_accepted():
    assert selective_scan(**scan_operands()).shape == causal_conv1d_silu(**conv_operands()).shape == (2, 10, 8)
