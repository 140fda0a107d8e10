"""The order in which the backward mixer reads a sequence."""

import pytest
import torch

from hf_audio_mamba.layers import BidirectionalMamba, frame_orders


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
    where = None if token is None else torch.tensor([token])
    orders = frame_orders(total, torch.tensor([padding]), where)
    assert orders.lengths is not None
    assert orders.lengths.tolist() == [length]
    assert visited(orders.forward, total, length) == list(range(padding, total))
    assert visited(orders.backward, total, length, orders.reverse) == expected_order(padding, total, token)[padding:]
    if padding == 0:
        bare = frame_orders(total, None, where)
        assert (bare.forward, bare.lengths) == (None, None)
        assert visited(bare.backward, total, length, bare.reverse) == expected_order(0, total, token)


def visited(order: torch.Tensor | None, total: int, length: int, reverse: bool = False) -> list[int]:
    """Rows in the order of the visit, for one sample."""
    rows = list(range(total)) if order is None else order.view(-1).tolist()
    assert sorted(rows) == list(range(total))
    return rows[:length][::-1] if reverse else rows[:length]


def random_block() -> BidirectionalMamba:
    torch.manual_seed(0)
    block = BidirectionalMamba(8, state_size=4, conv_kernel=4, expand=2)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def test_a_sample_is_mixed_as_if_alone_whatever_stands_at_its_padding() -> None:
    block = random_block()
    alone = torch.randn(1, 9, 8)
    expected = block(alone, frame_orders(9, None, torch.tensor([8])))
    padded = torch.cat([torch.full((1, 5, 8), torch.nan), alone], dim=1)
    batch = torch.cat([torch.randn(1, 14, 8), padded]).requires_grad_()
    out = block(batch, frame_orders(14, torch.tensor([0, 5]), torch.tensor([13, 13])))
    torch.testing.assert_close(out[1:, 5:], expected, atol=1e-6, rtol=1e-6)
    out.sum().backward()
    assert batch.grad is not None
    assert batch.grad[0].isfinite().all()
    assert batch.grad[1, 5:].isfinite().all()


def test_swapping_the_mixers_mirrors_the_output() -> None:
    """Without a token, reading the mirrored input with the mixers exchanged gives the mirrored output."""
    block = random_block()
    orders = frame_orders(11)
    hidden = torch.randn(2, 11, 8)
    expected = block(hidden, orders).flip(1)
    block.forward_mixer, block.backward_mixer = block.backward_mixer, block.forward_mixer
    with torch.no_grad():
        block.combine.weight.copy_(block.combine.weight.roll(8, dims=1))
    torch.testing.assert_close(block(hidden.flip(1), orders), expected, atol=1e-5, rtol=1e-5)
