"""What the tests of the triton backend share: where they can run, and its functions on that machine's device.

They run on a CUDA GPU, or on the CPU in Triton's interpreter. The interpreter must be chosen before triton is imported,
so without a GPU the modules skip, and `test_triton_interpreter.py` runs them in a process of its own.
"""

import os

import pytest
import torch
from torch import Tensor

from hf_audio_mamba.ops import triton_gpu
from tests.ops.numba_cases import Case, converted, relative_error, run_conv, run_scan, with_gradients

VALUES, GRADIENTS = 2e-6, 1e-5
"""Tolerances over the largest value: a GPU's power of two is off by up to two units in the last place a step."""


def require_triton() -> torch.device:
    """Device of the tests; skips the module that asks for it where there is none."""
    pytest.importorskip("triton", reason="needs triton (Linux)")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    if triton_gpu.unavailable_reason() is None:
        return torch.device("cuda")
    pytest.skip("needs a GPU or TRITON_INTERPRET=1, see test_triton_interpreter.py", allow_module_level=True)


def _there(tensor: Tensor | None) -> Tensor | None:
    device = "cpu" if triton_gpu.is_interpreted() else "cuda"
    return tensor if tensor is None or tensor.device.type == device else tensor.to(device)


def scan(*tensors: Tensor | None, initial_state: Tensor | None, **options: bool) -> tuple[Tensor, Tensor]:
    """The backend's scan of tensors on the CPU, with results on the CPU."""
    y, last_state = triton_gpu.selective_scan(*map(_there, tensors), initial_state=_there(initial_state), **options)
    return y.cpu(), last_state.cpu()


def conv(*tensors: Tensor | None, initial_state: Tensor | None, **options: bool) -> Tensor:
    """The same for the convolution."""
    return triton_gpu.causal_conv1d_silu(*map(_there, tensors), initial_state=_there(initial_state), **options).cpu()


def run(case: Case) -> tuple[Tensor, Tensor]:
    """Output and last state of a scan case."""
    return run_scan(case, scan)


def assert_results_match(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare results and gradients with float64 ones, naming those that are off."""
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name], expected[name]) for name in actual if actual[name].numel()}
    limits = {name: GRADIENTS if name.startswith("d") else VALUES for name in errors}
    assert not {name: error for name, error in errors.items() if not error <= limits[name]}


def assert_scan_matches(case: Case, oracle: object) -> None:
    """Values and gradients of a scan against an oracle in float64."""
    expected = with_gradients(converted(case, Tensor.double), run_scan, oracle)
    assert_results_match(with_gradients(case, run_scan, scan), expected)


def assert_conv_matches(case: Case, oracle: object) -> None:
    """Values and gradients of a convolution against an oracle in float64."""
    expected = with_gradients(converted(case, Tensor.double), run_conv, oracle)
    assert_results_match(with_gradients(case, run_conv, conv), expected)
