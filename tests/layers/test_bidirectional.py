"""The order in which the backward mixer reads a sequence."""

import pytest
import torch

from hf_audio_mamba.layers import BidirectionalMamba, reversal_index, reverse_frames


def expected_order(padding: int, length: int, token: int | None) -> list[int]:
    """Padding stays, the token stays, everything else is read from the end (written as list operations)."""
    frames = [t for t in range(padding, length) if t != token]
    order = list(range(padding)) + frames[::-1]
    if token is not None:
        order.insert(token, token)
    return order


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("position", ["none", "front", "middle", "end"])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_frames_are_reversed_and_the_token_keeps_its_slot(padding: int, position: str, length: int) -> None:
    total = padding + length
    token = {"none": None, "front": padding, "middle": padding + (length - 1) // 2, "end": total - 1}[position]
    index = reversal_index(torch.tensor([padding]), total, None if token is None else torch.tensor([token]))
    assert index.tolist() == expected_order(padding, total, token)


def test_reversal_undoes_itself_and_its_gradient_is_the_reversal() -> None:
    index = reversal_index(torch.tensor([0, 3]), 9, torch.tensor([8, 5]))
    hidden = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(reverse_frames(reverse_frames(hidden, index), index), hidden)
    assert torch.autograd.gradcheck(lambda h: reverse_frames(h, index), (hidden,))


def test_swapping_the_mixers_mirrors_the_output() -> None:
    """Without a token, reading the mirrored input with the mixers exchanged gives the mirrored output."""
    torch.manual_seed(0)
    block = BidirectionalMamba(8, state_size=4, conv_kernel=4, expand=2)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    index = reversal_index(torch.zeros(2, dtype=torch.long), 11, None)
    hidden = torch.randn(2, 11, 8)
    expected = block(hidden, index).flip(1)
    block.forward_mixer, block.backward_mixer = block.backward_mixer, block.forward_mixer
    with torch.no_grad():
        block.combine.weight.copy_(block.combine.weight.roll(8, dims=1))
    torch.testing.assert_close(block(hidden.flip(1), index), expected, atol=1e-5, rtol=1e-5)
