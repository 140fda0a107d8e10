"""Which backend runs: who may ask for one, and what happens where it is missing or wrong."""

import sys
import threading
import warnings

import pytest
import torch
from torch import nn

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import (
    available_backends,
    backends,
    causal_conv1d_silu,
    chunked,
    numba_cpu,
    reference,
    scan_backend,
    selective_scan,
    shifted_conv,
    triton_gpu,
)
from hf_audio_mamba.ops.row_order import conv_with_order, scan_with_order
from tests.ops.numba_cases import conv_case, converted, scan_case

LENGTH = 10  # of these tests' sequences; self-checks use another
VARIABLE = "HF_AUDIO_MAMBA_SCAN"
IMPLEMENTATIONS = {
    "selective_scan": {"numba": numba_cpu, "torch": chunked, "reference": reference},
    "causal_conv1d_silu": {"numba": numba_cpu, "torch": shifted_conv, "reference": reference},
}
HONEST = {
    "selective_scan": scan_with_order(chunked.selective_scan),
    "causal_conv1d_silu": conv_with_order(shifted_conv.causal_conv1d_silu),
}


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch):
    """Nothing asked for by the shell that runs the tests, nothing warned of before, a numba that works."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setattr(numba_cpu, "unavailable_reason", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def calls(monkeypatch):
    """Names of the backends that have computed, in order; under every name computes plain PyTorch."""
    seen = []

    def recording(name, function):
        def record(x, *arguments, **options):
            if x.shape[1] == LENGTH:
                seen.append(name)
            return HONEST[function](x, *arguments, **options)

        return record

    for function, modules in IMPLEMENTATIONS.items():
        for name, module in modules.items():
            monkeypatch.setattr(module, function, recording(name, function))
    return seen


def scan(dtype=torch.float32, **options):
    operands = converted(scan_case(1, LENGTH, 8, 4), lambda tensor: tensor.to(dtype)).operands
    return selective_scan(**operands, **options)


def convolve(dtype=torch.float32, **options):
    operands = converted(conv_case(1, LENGTH, 8, 4), lambda tensor: tensor.to(dtype)).operands
    return causal_conv1d_silu(**operands, **options)


OPERATIONS = pytest.mark.parametrize("operation", [scan, convolve])


def test_available_backends_names_what_serves_a_device_and_dtype(monkeypatch):
    assert available_backends() == ["numba", "torch", "reference"]
    assert available_backends("cpu", torch.float64) == ["torch", "reference"]
    assert available_backends(torch.device("cuda", 0)) == ["torch", "reference"]
    monkeypatch.setattr(numba_cpu, "unavailable_reason", lambda: "no numba")
    assert available_backends() == ["torch", "reference"]


@OPERATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_numba_on_the_cpu(operation, dtype, calls):
    operation(dtype)
    assert calls == ["numba"]


@OPERATIONS
@pytest.mark.filterwarnings("error")
def test_auto_is_torch_in_float64_and_elsewhere(operation, calls):
    operation(torch.float64)
    assert calls == ["torch"]
    assert backends.choose(None, "mps", torch.float32, "scan", (4, 1, 1, 1, 0, 0)) == "torch"


def test_auto_is_triton_on_cuda(monkeypatch):
    monkeypatch.setattr(triton_gpu, "unavailable_reason", lambda: None)
    asked = []
    monkeypatch.setattr(backends.self_check, "problem", lambda *call: asked.append(call))
    variant = (4, 1, 1, 1, 0, 0)
    assert backends.choose(None, "cuda", torch.bfloat16, "scan", variant) == "triton"
    ((operation, _, checked, device),) = asked
    assert (operation, checked, device) == ("scan", variant, "cuda")
    assert available_backends("cuda") == ["triton", "torch", "reference"]
    assert backends.choose(None, "cuda", torch.float64, "scan", variant) == "torch"
    with pytest.raises(BackendError, match=r"'triton' computes on 'cuda' only, not on 'cpu'.*: numba, torch"):
        scan(backend="triton")


def test_on_cuda_without_triton_auto_is_torch_with_one_warning(monkeypatch):
    monkeypatch.setattr(triton_gpu, "unavailable_reason", lambda: "No module named 'triton'")
    with pytest.warns(RuntimeWarning, match="'triton' is not used: No module named 'triton'"):
        assert backends.choose(None, "cuda", torch.float32, "scan", (4, 1, 1, 1, 0, 0)) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose(None, "cuda", torch.float32, "scan", (4, 1, 1, 1, 0, 0)) == "torch"


def test_triton_is_not_used_where_it_was_not_tested(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "AMD" in triton_gpu.unavailable_reason.__wrapped__()


def test_a_machine_without_triton_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton_conv", "triton_scan", "triton_blocks"):
        monkeypatch.delitem(sys.modules, f"hf_audio_mamba.ops.{name}", raising=False)
        monkeypatch.delattr(f"hf_audio_mamba.ops.{name}", raising=False)
    assert "pip install -U triton" in triton_gpu.unavailable_reason.__wrapped__()
    assert not triton_gpu.is_interpreted()


@OPERATIONS
@pytest.mark.parametrize("name", ["numba", "torch", "reference"])
def test_each_way_to_ask_for_a_backend(operation, name, calls, monkeypatch):
    operation(backend=name)
    with scan_backend(name):
        operation()
    monkeypatch.setenv(VARIABLE, name)
    operation()
    assert calls == [name, name, name]


@OPERATIONS
def test_the_argument_comes_before_the_context_before_the_environment(operation, calls, monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    with scan_backend("torch"):
        operation()
        operation(backend="numba")
    operation()
    monkeypatch.setenv(VARIABLE, "")
    operation()
    assert calls == ["torch", "numba", "reference", "numba"]


def test_contexts_nest_and_end_also_by_an_error(calls):
    def fail():
        with scan_backend("reference"):
            scan()
            raise KeyError

    with scan_backend("torch"):
        with pytest.raises(KeyError):
            fail()
        scan()
        with scan_backend("auto"):
            scan()
    scan()
    assert calls == ["reference", "torch", "numba", "numba"]


def test_a_context_does_not_reach_other_threads(calls):
    with scan_backend("torch"):
        thread = threading.Thread(target=scan)
        thread.start()
        thread.join()
    assert calls == ["numba"]


def test_unknown_backends_are_refused_with_a_list_of_those_there(monkeypatch):
    expected = "'cuda' is unknown. Usable here: numba, torch, reference, or 'auto'"
    with pytest.raises(BackendError, match=expected):
        scan(backend="cuda")
    with pytest.raises(BackendError, match=expected), scan_backend("cuda"):
        pass
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(BackendError, match=f"{VARIABLE}: the backend {expected}"):
        convolve()


def test_a_backend_that_cannot_serve_the_tensors_is_refused():
    with pytest.raises(BackendError, match=r"'numba' computes in float32 only.*for torch.float64.*: torch, reference"):
        scan(torch.float64, backend="numba")
    with pytest.raises(BackendError, match="computes on the CPU only, not on 'cuda'"):
        backends.choose("numba", "cuda", torch.float32, "scan", (4, 1, 1, 1, 0, 0))


@OPERATIONS
def test_without_numba_auto_is_torch_with_one_warning(operation, calls, monkeypatch):
    monkeypatch.setattr(numba_cpu, "unavailable_reason", lambda: "No module named 'numba'")
    with pytest.warns(RuntimeWarning, match=f"'numba' is not used: No module named 'numba'.*{VARIABLE}=torch") as seen:
        operation()
    assert len(seen) == 1
    assert seen[0].filename == __file__  # the warning points to the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation()
    with pytest.raises(
        BackendError, match=r"cannot be used on this machine: No module named 'numba'. Usable here: torch"
    ):
        operation(backend="numba")
    assert calls == ["torch", "torch"]


def _one_percent_too_large(*tensors, **options):
    y, last_state = HONEST["selective_scan"](*tensors, **options)
    return y * 1.01, last_state


def _nan_in_the_state(*tensors, **options):
    y, last_state = HONEST["selective_scan"](*tensors, **options)
    return y, last_state.masked_fill(torch.arange(last_state.shape[-1]) == 0, torch.nan)


def _compiler_error(*_, **__):
    raise NotImplementedError("no vector registers")


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (_one_percent_too_large, "off by .* from the reference"),
        (_nan_in_the_state, "off by nan"),
        (_compiler_error, "NotImplementedError: no vector registers"),
    ],
)
def test_a_wrong_scan_kernel_is_not_used(kernel, problem, monkeypatch):
    monkeypatch.setattr(numba_cpu, "selective_scan", kernel)
    with pytest.warns(RuntimeWarning, match=f"its self-check failed .*{problem}") as seen:
        y = scan()
    assert len(seen) == 1
    assert torch.equal(y, scan(backend="torch"))
    with pytest.raises(BackendError, match=problem):
        scan(backend="numba")


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01


def test_a_kernel_with_a_wrong_gradient_is_not_trained_with(monkeypatch):
    def kernel(x, *tensors, **options):
        return HONEST["selective_scan"](_WrongGradient.apply(x), *tensors, **options)

    monkeypatch.setattr(numba_cpu, "selective_scan", kernel)
    operands = scan_case(1, LENGTH, 8, 4).operands
    x = operands.pop("x").requires_grad_()
    with pytest.warns(RuntimeWarning, match="self-check failed"):
        y = selective_scan(x, **operands)
    y.sum().backward()
    found, x.grad = x.grad, None
    selective_scan(x, **operands, backend="torch").sum().backward()
    assert torch.equal(found, x.grad)


def test_a_wrong_convolution_kernel_is_not_used(monkeypatch):
    def kernel(*tensors, **options):
        return HONEST["causal_conv1d_silu"](*tensors, **options) * 1.01

    monkeypatch.setattr(numba_cpu, "causal_conv1d_silu", kernel)
    with pytest.warns(RuntimeWarning, match="self-check failed"):
        y = convolve()
    assert torch.equal(y, convolve(backend="torch"))


def test_the_self_check_runs_once_and_leaves_no_trace(monkeypatch):
    checks = []

    def kernel(x, *tensors, **options):
        checks.append(x.shape[1] != LENGTH)
        return HONEST["selective_scan"](x, *tensors, **options)

    monkeypatch.setattr(numba_cpu, "selective_scan", kernel)
    random_state = torch.get_rng_state()
    with torch.inference_mode():  # tensors made here could not be trained on later
        scan()
    scan()
    assert checks == [True, False, False]
    assert torch.equal(torch.get_rng_state(), random_state)


class _Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.taps = nn.Parameter(torch.randn(24, 4))
        self.A = nn.Parameter(-torch.rand(24, 4))
        self.step = nn.Linear(24, 24)
        self.projections = nn.Linear(24, 8)

    def forward(self, frames):
        frames = causal_conv1d_silu(frames, self.taps, reverse=True)
        B, C = self.projections(frames).chunk(2, dim=-1)
        return selective_scan(frames, self.step(frames), self.A, B, C, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "auto"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_keeps_one_graph_and_the_results(dynamic, name):
    torch.manual_seed(0)
    mixer = _Mixer()
    torch.compiler.reset()
    with scan_backend(name):
        compiled = torch.compile(mixer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for length in (40, 41):
            frames = torch.randn(2, length, 24)
            results = []
            for run in (mixer, compiled):
                mixer.zero_grad()
                y = run(frames)
                y.sin().sum().backward()
                results.append([y.detach(), *(parameter.grad.clone() for parameter in mixer.parameters())])
            for expected, actual in zip(*results, strict=True):
                torch.testing.assert_close(actual, expected)


@pytest.mark.slow
def test_torch_export_with_any_number_of_frames():
    mixer = _Mixer().eval()
    frames = torch.export.Dim("frames", min=2, max=4000)
    program = torch.export.export(mixer, (torch.randn(1, 40, 24),), dynamic_shapes=({1: frames},))
    other = torch.randn(1, 77, 24)
    torch.testing.assert_close(program.module()(other), mixer(other))
