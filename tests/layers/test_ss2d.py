"""SS2D against its formulas in float64, and its initialisation."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hf_audio_mamba.layers import SS2D
from tests.layers.ss2d_formulas import ss2d

# Widths whose inner width fills vectors of 16 channels and leaves some over, and ranks of 1 and 2.
OPTIONS: list[dict[str, Any]] = [
    {"hidden_size": 8},
    {"hidden_size": 20},
    {"hidden_size": 8, "state_size": 3},
    {"hidden_size": 8, "gated": True},
    {"hidden_size": 8, "conv_bias": True, "expand": 1.5},
]


def randomised(options: dict[str, Any]) -> SS2D:
    """A layer whose every tensor, norms and biases too, has values that matter."""
    torch.manual_seed(0)
    layer = SS2D(**options)
    layer.init_weights()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return layer


@pytest.fixture(params=["gradients", "no gradients"])
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to the result: through torch, and through kernels that take small maps on few threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.set_grad_enabled(request.param == "gradients"):
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("side", [(4, 4), (3, 7), (6, 2), (1, 5), (1, 1)], ids=str)
def test_equals_the_formulas(options: dict[str, Any], side: tuple[int, int]) -> None:
    layer = randomised(options)
    maps = torch.randn(2, *side, options["hidden_size"])
    w = {"op." + name: tensor.double() for name, tensor in layer.state_dict().items()}
    expected = torch.stack([ss2d(w, "op.", one.double()) for one in maps])
    torch.testing.assert_close(layer(maps).double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("gated", [False, True])
def test_norm_and_skip_are_part_of_the_call(gated: bool) -> None:
    layer, norm = randomised({"hidden_size": 8, "gated": gated}), torch.nn.LayerNorm(8)
    maps = torch.randn(2, 4, 5, 8)
    expected = maps + layer(norm(maps))
    torch.testing.assert_close(layer(maps, norm=norm, skip=maps), expected, atol=1e-5, rtol=1e-5)


def test_a_replaced_convolution_is_called() -> None:
    layer = randomised(OPTIONS[0])
    maps = torch.randn(2, 4, 5, 8)
    with torch.no_grad():
        before = layer(maps)
        layer.conv2d.register_forward_hook(lambda module, inputs, output: 2 * output)
        assert not torch.allclose(layer(maps), before)


@pytest.mark.parametrize("options", OPTIONS[1:4], ids=str)
def test_gradients_equal_those_of_the_formulas(options: dict[str, Any]) -> None:
    layer = randomised(options)
    maps = torch.randn(1, 3, 5, options["hidden_size"])
    given = maps.clone().requires_grad_()
    layer(given).square().sum().backward()
    w = {"op." + name: tensor.detach().double().requires_grad_() for name, tensor in layer.named_parameters()}
    exact = maps.double().requires_grad_()
    ss2d(w, "op.", exact[0]).square().sum().backward()
    pairs = {name: (parameter.grad, w["op." + name].grad) for name, parameter in layer.named_parameters()}
    pairs["maps"] = (given.grad, exact.grad)
    for name, (found, expected) in pairs.items():
        assert found is not None, name
        assert expected is not None, name
        scale = expected.abs().max().item()
        torch.testing.assert_close(found.double(), expected, atol=2e-5 * scale, rtol=1e-4, msg=lambda m, n=name: n + m)


def test_without_gradients_the_result_is_the_same() -> None:
    layer = randomised(OPTIONS[0])
    maps = torch.randn(3, 5, 6, 8)
    with torch.no_grad():
        quiet = layer(maps)
    torch.testing.assert_close(layer(maps), quiet, atol=1e-6, rtol=1e-6)


def test_a_map_gives_the_same_alone_and_in_a_batch() -> None:
    layer = randomised(OPTIONS[0])
    maps = torch.randn(3, 5, 6, 8)
    torch.testing.assert_close(torch.cat([layer(one[None]) for one in maps]), layer(maps), atol=1e-6, rtol=1e-6)


def test_views_are_read_as_what_they_show() -> None:
    layer = randomised(OPTIONS[0])
    maps = torch.randn(2, 5, 6, 8)
    turned = maps.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(layer(turned), layer(maps), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", [(4, 6), (1, 3)], ids=str)
def test_every_cell_hears_every_other(side: tuple[int, int]) -> None:
    layer = randomised(OPTIONS[0])
    maps = torch.randn(1, *side, 8).requires_grad_()
    for row in range(side[0]):
        for column in range(side[1]):
            (heard,) = torch.autograd.grad(layer(maps)[0, row, column].square().sum(), maps)
            assert (heard.abs().sum(-1) > 0).all()


def test_initial_values() -> None:
    torch.manual_seed(0)
    layer = SS2D(64, state_size=5)
    layer.init_weights()
    steps = torch.nn.functional.softplus(layer.dt_projs_bias)
    assert steps.min() >= 0.99e-3
    assert steps.max() <= 1.01e-1
    # Log-uniform: the middle of the logarithms is the middle of the range.
    assert steps.log().mean().exp().item() == pytest.approx(1e-2, rel=0.5)
    torch.testing.assert_close(layer.A_logs.exp()[77], torch.arange(1.0, 6.0))
    assert (layer.Ds == 1).all()
    for weight, bound in ((layer.x_proj_weight, 128**-0.5), (layer.dt_projs_weight, 4**-0.5)):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
