"""The Triton kernels as operators of torch: opcheck, torch.compile; and when the backend serves a call."""

import pytest
import torch
from torch import Tensor

from hf_audio_mamba import ops
from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import backends
from tests.ops.numba_cases import conv_case, relative_error, scan_case
from tests.ops.triton_cases import require_triton

DEVICE = require_triton()

from hf_audio_mamba.ops import triton_gpu  # noqa: E402  # import triton
from hf_audio_mamba.ops.triton_conv import conv, conv_gradients  # noqa: E402
from hf_audio_mamba.ops.triton_scan import scan, scan_gradients  # noqa: E402

ON_THE_CPU = pytest.mark.skipif(DEVICE.type != "cpu", reason="is about the interpreter")


def _operands(case, *, gradients: bool) -> list[Tensor]:
    present = [torch.empty(0, device=DEVICE) if t is None else t.to(DEVICE) for t in case.operands.values()]
    return [tensor.requires_grad_(gradients and tensor.numel() > 0) for tensor in present]


def test_scan_passes_opcheck():
    operands = _operands(scan_case(1, 5, 4, 2), gradients=False)
    torch.library.opcheck(scan, (operands, True, False, False))


@pytest.mark.slow
def test_two_directions_pass_opcheck():
    operands = _operands(scan_case(1, 5, 4, 2, optional=False), gradients=True)
    torch.library.opcheck(scan, (operands + [t.detach().clone() for t in operands], True, False, True))


def test_gradients_pass_opcheck():
    operands = _operands(scan_case(1, 5, 4, 2), gradients=False)
    last_state, checkpoints, y = scan(operands, True, False, True)
    torch.library.opcheck(scan_gradients, ([y], last_state, operands, checkpoints, True, False))
    operands = _operands(conv_case(1, 5, 4, 4), gradients=False)
    torch.library.opcheck(conv_gradients, (conv(*operands, False), *operands, False))


def test_convolution_passes_opcheck():
    torch.library.opcheck(conv, (*_operands(conv_case(1, 5, 4, 4), gradients=True), False))


def _mix(x: Tensor, weight: Tensor, A: Tensor) -> Tensor:
    x = triton_gpu.causal_conv1d_silu(x, weight, None, reverse=False, initial_state=None)
    B = x[..., :3].unsqueeze(2)
    options = {"dt_softplus": True, "reverse": True, "initial_state": None}
    return triton_gpu.selective_scan(x, x, A, B, B, None, x, None, **options)[0]


@pytest.mark.slow
def test_compiled_function_equals_eager():
    torch.compiler.reset()
    compiled = torch.compile(_mix, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (5, 6):
        draw = torch.Generator().manual_seed(length)
        leaves = [torch.randn(*shape, generator=draw) for shape in ((1, length, 4), (4, 4), (4, 3))]
        results = []
        for function in (_mix, compiled):
            copies = [leaf.to(DEVICE).requires_grad_() for leaf in leaves]
            y = function(*copies)
            y.square().sum().backward()
            results.append([y.detach(), *(copy.grad for copy in copies)])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.fixture
def trusted(monkeypatch):
    """Backends whose self-check has passed; the self-check itself is tested once."""
    monkeypatch.delenv("HF_AUDIO_MAMBA_SCAN", raising=False)
    monkeypatch.setattr(backends.self_check, "problem", lambda *_: None)


def test_the_kernels_pass_their_self_check():
    variants = {"scan": (2, 1, 1, 1, 1, 0), "conv": (4, 1, 0, 1)}
    for operation, variant in variants.items():
        name = backends.choose("triton", DEVICE.type, torch.float32, operation, variant)
        assert name == "triton"


@pytest.mark.usefixtures("trusted")
@ON_THE_CPU
def test_auto_never_interprets():
    assert backends.choose(None, "cpu", torch.float32, "scan", (4, 1, 1, 1, 0, 0)) != "triton"
    assert backends.choose(None, "cuda", torch.float32, "scan", (4, 1, 1, 1, 0, 0)) == "torch"


@pytest.mark.usefixtures("trusted")
@ON_THE_CPU
def test_the_interpreter_serves_the_cpu_by_name():
    assert ops.available_backends("cpu")[-1] == "triton"
    assert "triton" not in ops.available_backends("cuda")
    case = scan_case(1, 6, 5, 3)
    y = ops.selective_scan(**case.operands, backend="triton", lengths=torch.tensor([4]))
    expected = ops.selective_scan(**case.operands, backend="reference", lengths=torch.tensor([4]))
    assert relative_error(y, expected.double()) < 2e-6
    assert torch.equal(y[:, 4:], torch.zeros(1, 2, 5))


@pytest.mark.usefixtures("trusted")
def test_float64_is_refused():
    with pytest.raises(BackendError, match="'triton' computes in float32 only, not in float64"):
        backends.choose("triton", DEVICE.type, torch.float64, "scan", (4, 1, 1, 1, 0, 0))
