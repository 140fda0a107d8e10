"""One step of a stack of blocks in one kernel, against its parts in float64."""

import pytest
import torch

from hf_audio_mamba.ops import available_backends, reference, scan_backend, stack_step
from hf_audio_mamba.ops.mixer_weights import Norm
from tests.ops.numba_cases import relative_error
from tests.ops.test_mixer_step import SIZES, doubled, step

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stack(layers=3, **sizes):
    """States, input, blocks and last norm of one step."""
    parts = [step(**sizes, seed=seed) for seed in range(layers)]
    states = [state for part in parts for state in part[:2]]
    return states, parts[0][2], [part[3:] for part in parts], Norm(1 + parts[-1][4].weight, 1e-5)


@pytest.mark.parametrize("sizes", [{"layers": 1}, *SIZES])
def test_a_step_matches_float64(sizes):
    states, hidden, blocks, norm = stack(**sizes)
    before = hidden.clone()
    exact = [state.double() for state in states]
    exact_blocks = [tuple(doubled(part) for part in block) for block in blocks]
    expected = reference.stack_step(*exact, hidden.double(), blocks=exact_blocks, norm=doubled(norm))
    assert stack_step.serves(states, hidden, blocks, norm)
    output = stack_step.stack_step(states, hidden, blocks, norm)
    assert relative_error(output, expected) < 5e-6
    for state, wanted in zip(states, exact, strict=True):
        assert relative_error(state, wanted) < 5e-6
    assert torch.equal(hidden, before)


def test_each_state_of_a_convolution_may_have_a_layout_of_its_own():
    states, *rest = stack()
    strided = [state.clone() for state in states]
    strided[2] = strided[2].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(stack_step.stack_step(strided, *rest), stack_step.stack_step(states, *rest))
    assert all(torch.equal(*pair) for pair in zip(strided, states, strict=True))


class Subclass(torch.Tensor):
    """Keeps its numbers as another tensor would not: quantised, sharded."""


def with_weight(block, name, change):
    weights, norm = block
    return weights._replace(**{name: change(getattr(weights, name))}), norm


@pytest.mark.parametrize(
    "change",
    [
        lambda block: with_weight(block, "D", lambda weight: weight[:-1]),
        lambda block: with_weight(block, "out_weight", torch.Tensor.half),
        lambda block: with_weight(block, "in_weight", lambda weight: weight.as_subclass(Subclass)),
        lambda block: with_weight(block, "x_weight", lambda weight: weight.t().contiguous().t()),
        lambda block: with_weight(block, "A_log", lambda weight: weight.requires_grad_()),
        lambda block: (block[0], Norm(block[1].weight, 1e-6)),
        lambda block: (block[0], Norm(block[1].weight[:-1], 1e-5)),
        lambda block: step(size=8)[3:],
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_what_the_kernel_would_read_wrongly_is_not_served(change, place):
    states, hidden, blocks, norm = stack()
    blocks[place] = change(blocks[place])
    assert not stack_step.serves(states, hidden, blocks, norm)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight[:-1],
        lambda weight: weight.double(),
        lambda weight: weight.requires_grad_(),
        lambda weight: torch.stack([weight, weight], 1)[:, 0],
    ],
)
def test_a_last_norm_that_does_not_fit_is_not_served(change):
    states, hidden, blocks, norm = stack()
    assert not stack_step.serves(states, hidden, blocks, Norm(change(norm.weight), 1e-5))
    assert not stack_step.serves([], hidden, [], norm)


def test_another_backend_may_be_asked_for():
    arguments = stack()
    assert stack_step.serves(*arguments)
    with scan_backend("torch"):
        assert not stack_step.serves(*arguments)


def test_autograd_notices_a_state_that_it_still_needs():
    states, *rest = stack()
    scale = torch.ones((), requires_grad=True)
    loss = (scale * states[-1]).sum()
    stack_step.stack_step(states, *rest)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
