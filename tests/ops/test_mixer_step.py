"""One step of a whole mixer or block in one kernel, against its parts in float64."""

import pytest
import torch

from hf_audio_mamba.ops import available_backends, mixer_step, reference, scan_backend
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from tests.ops.numba_cases import relative_error

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def step(batch=2, hidden=24, channels=40, size=16, rank=3, width=4, *, history=None, biases=True, seed=0):
    """States, input, weights and norm of one step."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw) / 3

    weights = MixerWeights(
        normal(2 * channels, hidden),
        normal(2 * channels) if biases else None,
        normal(channels, 1, width),
        normal(channels) if biases else None,
        normal(rank + 2 * size, channels),
        normal(channels, rank),
        normal(channels) if biases else None,
        normal(channels, size),
        normal(channels),
        normal(hidden, channels),
        normal(hidden) if biases else None,
    )
    history = width if history is None else history
    states = normal(batch, channels, history), normal(batch, channels, size)
    return *states, normal(batch, 1, hidden), weights, Norm(normal(hidden), 1e-5)


def doubled(value):
    if isinstance(value, torch.Tensor):
        return value.double()
    return None if value is None else type(value)(*(v if isinstance(v, float) else doubled(v) for v in value))


SIZES = [
    {},
    {"batch": 1, "hidden": 64, "channels": 128, "rank": 4},
    {"batch": 3, "hidden": 7, "channels": 5, "size": 1, "rank": 1, "width": 2},
    {"channels": 33, "size": 20, "rank": 17, "width": 1, "history": 1},
    {"hidden": 130, "history": 3, "biases": False},
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("normalised", [True, False])
def test_a_step_matches_float64(sizes, normalised):
    conv_state, state, hidden, weights, norm = step(**sizes)
    norm = norm if normalised else None
    exact = [doubled(value) for value in (conv_state, state, hidden, weights, norm)]
    expected = reference.mixer_step(*exact)
    assert mixer_step.serves(conv_state, state, hidden, weights, norm)
    mixed = mixer_step.mixer_step(conv_state, state, hidden, weights, norm)
    assert relative_error(mixed, expected) < 5e-6
    assert relative_error(conv_state, exact[0]) < 2e-6
    assert relative_error(state, exact[1]) < 2e-6


def test_the_state_of_the_convolution_may_have_any_layout():
    conv_state, *rest = step()
    stored = conv_state.transpose(1, 2).contiguous()
    strided = stored.transpose(1, 2)
    again = [rest[0].clone(), *rest[1:]]
    expected = mixer_step.mixer_step(conv_state, *rest)
    assert torch.equal(mixer_step.mixer_step(strided, *again), expected)
    assert torch.equal(strided, conv_state)


def replaced(position, change):
    arguments = list(step())
    arguments[position] = change(arguments[position])
    return arguments


def with_weight(name, change):
    return replaced(3, lambda weights: weights._replace(**{name: change(getattr(weights, name))}))


@pytest.mark.parametrize(
    "arguments",
    [
        replaced(0, lambda conv_state: conv_state[:, :, :2]),
        replaced(0, lambda conv_state: conv_state[:1].expand(2, -1, -1)),
        replaced(0, torch.Tensor.bfloat16),
        replaced(1, lambda state: state[:1]),
        replaced(1, lambda state: state.transpose(1, 2).contiguous().transpose(1, 2)),
        replaced(2, torch.Tensor.double),
        replaced(2, lambda hidden: hidden.to("meta")),
        replaced(2, lambda hidden: hidden.repeat(5, 1, 1)),
        replaced(4, lambda norm: Norm(norm.weight[:-1], norm.epsilon)),
        *(with_weight(name, lambda weight: weight[:-1]) for name in MixerWeights._fields),
        *(with_weight(name, torch.Tensor.half) for name in MixerWeights._fields),
        with_weight("out_weight", lambda weight: weight.t().contiguous().t()),
        with_weight("D", lambda weight: weight.requires_grad_()),
    ],
)
def test_what_the_kernel_would_read_wrongly_is_not_served(arguments):
    assert not mixer_step.serves(*arguments)


def test_other_ways_are_taken_where_they_are_asked_for_or_faster():
    arguments = step()
    assert mixer_step.serves(*arguments)
    with scan_backend("torch"):
        assert not mixer_step.serves(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert not mixer_step.serves(*arguments)
    assert not mixer_step.serves(*step(batch=mixer_step.MAX_BATCH + 1))


def test_large_weights_are_left_to_many_threads(monkeypatch):
    arguments = step()
    torch.set_num_threads(mixer_step.FEW_THREADS + 1)
    assert mixer_step.serves(*arguments)
    monkeypatch.setattr(mixer_step, "SMALL_WEIGHT", arguments[3].in_weight.numel() - 1)
    assert not mixer_step.serves(*arguments)
    torch.set_num_threads(mixer_step.FEW_THREADS)
    assert mixer_step.serves(*arguments)


def test_autograd_notices_a_state_that_it_still_needs():
    arguments = step()
    scale = torch.ones((), requires_grad=True)
    loss = (scale * arguments[1]).sum()
    mixer_step.mixer_step(*arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
