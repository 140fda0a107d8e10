"""Convolution, layer normalisation and GELU in one kernel, against torch in float64."""

import pytest
import torch

from hf_audio_mamba.ops import available_backends, conv_norm, reference, scan_backend
from hf_audio_mamba.ops.token_weights import ConvWeights, NormWeights
from tests.ops.numba_cases import relative_error

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(side, channels, outputs, *, kernel=3, stride=2, padding=1, bias=True, gelu=True, batch=2):
    draw = torch.Generator().manual_seed(side[0] + 10 * side[1] + channels)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    conv = ConvWeights(normal(outputs, channels, kernel, kernel), normal(outputs) if bias else None, stride, padding)
    norm = NormWeights(normal(outputs), normal(outputs), 1e-5)
    return {"x": normal(batch, *side, channels), "conv": conv, "norm": norm, "gelu": gelu}


def exact(arguments):
    conv, norm = arguments["conv"], arguments["norm"]
    bias = None if conv.bias is None else conv.bias.double()
    return reference.conv_norm(
        arguments["x"].double(),
        conv._replace(weight=conv.weight.double(), bias=bias),
        NormWeights(norm.weight.double(), norm.bias.double(), norm.epsilon),
        gelu=arguments["gelu"],
    )


# Maps with and without runs of a whole vector, borders on all sides, tiles that reach over maps, one channel and many.
CASES = [
    call((64, 64), 1, 20),
    call((64, 48), 20, 7),
    call((9, 70), 18, 12, stride=1),
    call((5, 7), 33, 16),
    call((1, 1), 3, 5),
    call((16, 16), 2, 9, kernel=4, stride=4, padding=0),
    call((16, 80), 16, 6, kernel=2, padding=0, bias=False, gelu=False),
    call((64, 64), 1, 4, stride=1, gelu=False),
]


@pytest.mark.parametrize(
    "arguments", CASES, ids=lambda case: f"{tuple(case['x'].shape)} {tuple(case['conv'].weight.shape)}"
)
def test_equals_torch_in_double_precision(arguments):
    assert conv_norm.serves(**arguments)
    found, expected = conv_norm.conv_norm(**arguments), exact(arguments)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < 1e-5


def test_nothing_is_read_past_the_last_cell():
    """The last cells of a map may be the last of a page of memory: what lies behind them must not matter."""
    arguments = call((16, 32), 5, 4, kernel=2, padding=0, batch=1)
    size = arguments["x"].numel()
    memory = torch.full((size + 64,), torch.nan)
    memory[:size] = arguments["x"].flatten()
    behind_nan = memory[:size].view(arguments["x"].shape)
    assert torch.equal(conv_norm.conv_norm(**{**arguments, "x": behind_nan}), conv_norm.conv_norm(**arguments))


def test_threads_change_nothing():
    arguments = call((64, 64), 20, 7)
    one = conv_norm.conv_norm(**arguments)
    torch.set_num_threads(3)
    assert torch.equal(conv_norm.conv_norm(**arguments), one)


def test_it_leaves_to_torch_what_it_cannot_do():
    arguments = call((16, 16), 8, 12)
    x, conv = arguments["x"], arguments["conv"]
    refused = [
        {"x": x.double()},
        {"x": x[..., 0]},
        {"x": x[:, :, ::2]},
        {"x": x[..., :7].contiguous()},
        {"x": x.clone().requires_grad_()},
        {"x": x[:, :1, :1].contiguous(), "conv": conv._replace(padding=0)},
        {"conv": conv._replace(bias=torch.zeros(11))},
        {"conv": conv._replace(weight=conv.weight[..., :2].contiguous())},
        {"norm": arguments["norm"]._replace(weight=torch.zeros(11))},
    ]
    for change in refused:
        assert not conv_norm.serves(**{**arguments, **change}), change
    assert conv_norm.serves(**arguments)
    with scan_backend("torch"):
        assert not conv_norm.serves(**arguments)
    torch.set_num_threads(3)
    assert not conv_norm.serves(**arguments)
