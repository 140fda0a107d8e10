"""The backend of mamba_ssm, with a stand-in for its compiled kernel that has its layout, dtypes and limits."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import available_backends, backends, mamba_ssm_cuda, reference, selective_scan
from tests.ops.numba_cases import Case, converted, relative_error, run_scan, scan_case, with_gradients

INTERFACE = "mamba_ssm.ops.selective_scan_interface"
VARIANT = (4, 1, 1, 1, 0, 0)


def kernel(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """The recurrence in (batch, channels, length) and float64, after the checks that the real kernel makes."""
    sequences = [u, delta, B, C] + ([] if z is None else [z])
    assert all(s.stride(-1) == 1 or s.shape[-1] == 1 for s in sequences)
    assert {s.dtype for s in sequences} == {u.dtype}
    assert all(p is None or (p.dtype == torch.float32 and p.stride(-1) == 1) for p in (A, D, delta_bias))
    step = delta.double() + (0 if delta_bias is None else delta_bias.double()[:, None])
    step = F.softplus(step) if delta_softplus else step
    B, C = (s.double().repeat_interleave(u.shape[1] // B.shape[1], dim=1) for s in (B, C))
    state = torch.zeros(u.shape[0], *A.shape, dtype=torch.float64)
    outputs = []
    for t in range(u.shape[2]):
        state = (step[..., t, None] * A.double()).exp() * state + (step * u.double())[..., t, None] * B[..., t]
        outputs.append((state * C[..., t]).sum(-1))
    y = torch.stack(outputs, dim=-1) + (0 if D is None else D.double()[:, None] * u.double())
    y = y if z is None else y * F.silu(z.double())
    return (y.to(u.dtype), state.float()) if return_last_state else y.to(u.dtype)


@pytest.fixture
def installed(monkeypatch):
    """A mamba_ssm as it is where its kernel was built; a function that puts other modules in its place."""

    def install(name: str, **contents: object) -> None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    install("mamba_ssm")
    install(INTERFACE, selective_scan_fn=kernel)
    install(mamba_ssm_cuda.KERNEL_MODULE)
    return install


def without_initial_state(case: Case) -> Case:
    return Case(case.operands | {"initial_state": None}, case.dt_softplus, case.reverse)


CASES = {
    "plain": scan_case(2, 7, 8, 4, optional=False),
    "gate, skip and bias": without_initial_state(scan_case(2, 7, 8, 4)),
    "reverse": without_initial_state(scan_case(2, 7, 8, 4, reverse=True)),
    "groups": without_initial_state(scan_case(1, 5, 12, 3, groups=3, reverse=True)),
    "no softplus, one step": without_initial_state(scan_case(1, 1, 8, 1, dt_softplus=False)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_the_references(case, installed):
    def outputs_only(case, function):
        return run_scan(case, function)[0]

    actual = with_gradients(case, outputs_only, mamba_ssm_cuda.selective_scan)
    expected = with_gradients(converted(case, torch.Tensor.double), outputs_only, reference.selective_scan)
    errors = {name: relative_error(actual[name], expected[name]) for name in actual}
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("reverse", [False, True])
def test_last_state_is_the_references(reverse, installed):
    case = without_initial_state(scan_case(2, 7, 8, 4, reverse=reverse))
    actual = run_scan(case, mamba_ssm_cuda.selective_scan)[1]
    expected = run_scan(converted(case, torch.Tensor.double), reference.selective_scan)[1]
    assert relative_error(actual, expected) < 1e-6


def test_a_gradient_through_the_last_state_is_refused_not_lost(installed):
    leaves = converted(CASES["plain"], lambda tensor: tensor.detach().requires_grad_())
    y, last_state = run_scan(leaves, mamba_ssm_cuda.selective_scan)
    with pytest.raises(BackendError, match="no gradient of the last state"):
        (y.sum() + last_state.sum()).backward()


def test_sequences_take_the_dtype_of_x_and_parameters_float32(installed):
    case = CASES["gate, skip and bias"]
    mixed = converted(case, torch.Tensor.bfloat16)
    mixed.operands["dt"] = case.operands["dt"]
    y, last_state = run_scan(mixed, mamba_ssm_cuda.selective_scan)
    assert (y.dtype, last_state.dtype) == (torch.bfloat16, torch.float32)
    assert relative_error(y, run_scan(converted(case, torch.Tensor.double), reference.selective_scan)[0]) < 3e-2


def test_what_the_kernel_cannot_do_is_an_error(installed):
    with pytest.raises(BackendError, match=r"initial_state.*backend='torch'"):
        run_scan(scan_case(1, 3, 8, 4), mamba_ssm_cuda.selective_scan)
    with pytest.raises(BackendError, match="up to 256 states, A has 257"):
        run_scan(scan_case(1, 1, 2, 257, optional=False), mamba_ssm_cuda.selective_scan)


@pytest.mark.filterwarnings("ignore:The fast scan backend .triton. is not used")
def test_it_is_usable_where_its_kernel_loads_and_never_by_itself(installed):
    assert mamba_ssm_cuda.unavailable_reason() is None
    assert "mamba_ssm" in available_backends("cuda", torch.bfloat16)
    assert "mamba_ssm" not in available_backends("cpu")
    assert "mamba_ssm" not in available_backends("cuda", torch.float64)
    assert backends.choose("mamba_ssm", "cuda", torch.float32, "scan", VARIANT) == "mamba_ssm"
    assert backends.choose("mamba_ssm", "cuda", torch.float32, "conv", (4, 1, 0, 0)) == "mamba_ssm"
    assert backends.choose("auto", "cuda", torch.float32, "scan", VARIANT) != "mamba_ssm"


def test_the_operations_reach_it_with_rows_in_order(installed):
    case = CASES["reverse"]
    *operands, initial_state = case.operands.values()
    options = {"dt_softplus": True, "reverse": True, "initial_state": initial_state}
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    y, last_state = backends.scan_function("mamba_ssm")(*operands, **options, order=order, lengths=None)
    expected = backends.scan_function("reference")(*operands, **options, order=order, lengths=None)
    assert relative_error(y, expected[0].double()) < 1e-6
    assert relative_error(last_state, expected[1].double()) < 1e-6


def test_each_way_to_ask_for_it(installed, monkeypatch):
    with backends.scan_backend("mamba_ssm"):
        assert backends.choose(None, "cuda", torch.float32, "scan", VARIANT) == "mamba_ssm"
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "mamba_ssm")
    assert backends.choose(None, "cuda", torch.float32, "scan", VARIANT) == "mamba_ssm"


def test_tensors_on_the_cpu_are_refused(installed):
    operands = dict(CASES["plain"].operands)
    with pytest.raises(BackendError, match="'mamba_ssm' computes on CUDA devices only, not on 'cpu'"):
        selective_scan(**operands, backend="mamba_ssm")


def test_why_it_cannot_be_used(installed, monkeypatch):
    installed(INTERFACE)
    monkeypatch.setitem(sys.modules, mamba_ssm_cuda.KERNEL_MODULE, None)
    reason = mamba_ssm_cuda.unavailable_reason()
    assert "kernel selective_scan_cuda does not load" in reason
    assert "MAMBA_KEEP_CUDA_BUILD" in reason
    with pytest.raises(BackendError, match=r"backend: .*'mamba_ssm' cannot be used .* selective_scan_cuda does not"):
        backends.choose("mamba_ssm", "cuda", torch.float32, "scan", VARIANT)

    installed(mamba_ssm_cuda.KERNEL_MODULE)
    monkeypatch.setitem(sys.modules, INTERFACE, None)
    assert "mamba_ssm cannot be imported" in mamba_ssm_cuda.unavailable_reason()

    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    assert "mamba_ssm is not installed" in mamba_ssm_cuda.unavailable_reason()
