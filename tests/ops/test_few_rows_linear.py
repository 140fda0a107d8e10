"""A linear layer of few rows in one sweep, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_audio_mamba.ops import available_backends, few_rows_linear, scan_backend
from tests.ops.numba_cases import relative_error

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer(*leading, width=24, rows=37):
    draw = torch.Generator().manual_seed(0)
    sizes = ((*leading, width), (rows, width), (rows,))
    return [torch.randn(size, generator=draw) for size in sizes]


@pytest.mark.parametrize("leading", [(), (1,), (1, 1), (2, 3), (few_rows_linear.MAX_BATCH, 1)])
@pytest.mark.parametrize("width", [1, 64, 131])
@pytest.mark.parametrize("biased", [True, False])
def test_it_matches_float64(leading, width, biased):
    x, weight, bias = layer(*leading, width=width)
    bias = bias if biased else None
    assert few_rows_linear.serves(x, weight, bias)
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    y = few_rows_linear.few_rows_linear(x, weight, bias)
    assert y.shape == expected.shape
    assert relative_error(y, expected) < 2e-6


def test_rows_may_lie_apart():
    x, weight, bias = layer(2, 5)
    last = x[:, -1:]
    assert few_rows_linear.serves(last, weight, bias)
    expected = few_rows_linear.few_rows_linear(last.contiguous(), weight, bias)
    assert torch.equal(few_rows_linear.few_rows_linear(last, weight, bias), expected)


class Subclass(torch.Tensor):
    """Keeps its numbers as another tensor would not: quantised, sharded."""


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (0, lambda x: x.bfloat16()),
        (0, lambda x: x[..., :-1]),
        (0, lambda x: x[:0]),
        (0, lambda x: x.repeat(5, 1)),
        (0, lambda x: x.to("meta")),
        (0, lambda x: x.requires_grad_()),
        (0, lambda x: x[0, 0]),
        (1, lambda weight: weight.half()),
        (1, lambda weight: weight.t().contiguous().t()),
        (1, lambda weight: nn.Parameter(weight)),
        (1, lambda weight: weight.as_subclass(Subclass)),
        (1, lambda weight: weight[0]),
        (1, lambda weight: weight[:0]),
        (2, lambda bias: bias[:-1]),
        (2, lambda bias: bias.double()),
        (2, lambda bias: torch.stack([bias, bias], 1)[:, 0]),
    ],
)
def test_what_the_kernel_would_read_wrongly_is_not_served(position, change):
    arguments = layer(2)
    assert few_rows_linear.serves(*arguments)
    arguments[position] = change(arguments[position])
    assert not few_rows_linear.serves(*arguments)


def test_other_ways_are_taken_where_they_are_asked_for_or_faster():
    arguments = layer(1)
    with scan_backend("torch"):
        assert not few_rows_linear.serves(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert not few_rows_linear.serves(*arguments)
    torch.set_num_threads(few_rows_linear.FEW_THREADS + 1)
    assert not few_rows_linear.serves(*arguments)
