"""The numba kernels as operators of torch: opcheck, torch.compile, torch.export."""

import pytest
import torch
from torch import Tensor

from hf_audio_mamba.ops import numba_cpu
from hf_audio_mamba.ops.numba_conv import conv, conv_gradients
from hf_audio_mamba.ops.numba_scan import scan, scan_gradients
from tests.ops.numba_cases import conv_case, run_conv, run_scan, scan_case, with_gradients


class _Mixer(torch.nn.Module):
    """Both operations behind one another, as in a mixer."""

    def __init__(self, channels: int = 12, state: int = 4) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(channels, 4, generator=draw))
        self.A = torch.nn.Parameter(-torch.rand(channels, state, generator=draw))
        self.B = torch.nn.Linear(channels, state)

    def forward(self, x: Tensor) -> Tensor:
        x = numba_cpu.causal_conv1d_silu(x, self.weight, None, reverse=False, initial_state=None)
        B = self.B(x)[:, :, None]
        options = {"dt_softplus": True, "reverse": True, "initial_state": None}
        y, _ = numba_cpu.selective_scan(x, x, self.A, B, B, None, x, None, **options)
        return y


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_scan_passes_opcheck(optional, checkpoints):
    case = scan_case(2, 20, 12, 4, groups=2, optional=optional)
    operands = [None if t is None else t.requires_grad_(checkpoints) for t in case.operands.values()]
    torch.library.opcheck(scan, (*operands, True, False, checkpoints))


def test_operators_with_rows_in_another_order_pass_opcheck():
    order, lengths = torch.randperm(20).expand(2, -1), torch.tensor([20, 7])
    operands = [tensor.requires_grad_() for tensor in scan_case(2, 20, 12, 4).operands.values()]
    torch.library.opcheck(scan, (*operands, True, True, True, order, lengths))
    operands = [tensor.requires_grad_() for tensor in conv_case(2, 20, 12, 4).operands.values()]
    torch.library.opcheck(conv, (*operands, True, order, lengths))


def test_gradients_pass_opcheck():
    operands = list(scan_case(2, 20, 12, 4).operands.values())
    y, last_state, states = scan(*operands, True, False, True)
    torch.library.opcheck(scan_gradients, (y, last_state, *operands, states, True, False))
    operands = list(conv_case(2, 20, 12, 4).operands.values())
    torch.library.opcheck(conv_gradients, (conv(*operands, False), *operands, False))


@pytest.mark.parametrize("optional", [False, True])
def test_convolution_passes_opcheck(optional):
    case = conv_case(2, 20, 12, 4, optional=optional)
    operands = [None if t is None else t.requires_grad_() for t in case.operands.values()]
    torch.library.opcheck(conv, (*operands, False))


def test_compiled_module_equals_eager():
    torch.compiler.reset()
    mixer = _Mixer()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 33):
        x = torch.randn(2, length, 12)
        gradients = []
        for module in (mixer, compiled):
            mixer.zero_grad()
            y = module(x)
            y.square().sum().backward()
            gradients.append([y.detach(), *(parameter.grad.clone() for parameter in mixer.parameters())])
        for actual, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(actual, expected)


def test_exported_module_takes_any_batch_and_length():
    mixer = _Mixer().eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    exported = torch.export.export(mixer, (torch.randn(2, 20, 12),), dynamic_shapes=(sizes,))
    names = {str(node.target) for node in exported.graph.nodes}
    assert any("numba_scan" in name for name in names)
    for batch, length in ((1, 7), (3, 50), (20, 2)):
        x = torch.randn(batch, length, 12)
        torch.testing.assert_close(exported.module()(x), mixer(x))


def test_second_derivatives_are_refused():
    case = scan_case(1, 5, 4, 2, optional=False)
    x = case.operands["x"].requires_grad_()
    y, _ = run_scan(case)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_checkpointing_changes_nothing():
    case = scan_case(2, 40, 24, 4)

    def checkpointed(case, function):
        return torch.utils.checkpoint.checkpoint(run_scan, case, function, use_reentrant=False)

    actual = with_gradients(case, checkpointed, numba_cpu.selective_scan)
    expected = with_gradients(case, run_scan, numba_cpu.selective_scan)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_autocast_computes_in_float32():
    case, convolution = scan_case(2, 20, 12, 4), conv_case(2, 20, 12, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run_scan(case), run_conv(convolution)
    assert torch.equal(inside[0][0], run_scan(case)[0])
    assert torch.equal(inside[1], run_conv(convolution))
