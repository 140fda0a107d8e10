"""Witten-Bell n-grams against the formula written out, one token at a time."""

from collections import Counter

import numpy as np
import pytest

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.midi import WittenBell

VOCAB = 7


def pieces(seed: int, count: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[1, *generator.integers(3, VOCAB, size=30).tolist(), 2] for _ in range(count)]


def probability(train: list[list[int]], history: tuple[int, ...], token: int) -> float:
    """The recursion of Witten and Bell as it stands in the textbook."""
    after: Counter[int] = Counter()
    for piece in train:
        padded = [piece[0]] * len(history) + piece
        for end in range(len(history) + 1, len(padded)):
            if tuple(padded[end - len(history) : end]) == history:
                after[padded[end]] += 1
    lower = probability(train, history[1:], token) if history else 1 / VOCAB
    if not after:
        return lower
    return (after[token] + len(after) * lower) / (after.total() + len(after))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_formula(order: int) -> None:
    train, test = pieces(0, 4), pieces(1, 1)
    nats = WittenBell(order, VOCAB).fit(train).nats(test)
    assert nats.shape == (order, 31)
    padded = [1] * order + test[0]
    for length in range(order):
        for position in range(31):
            end = order + 1 + position
            expected = probability(train, tuple(padded[end - length : end]), padded[end])
            assert nats[length, position] == pytest.approx(-np.log(expected), rel=1e-12)


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    model = WittenBell(3, VOCAB).fit(pieces(0, 3))
    for history in ([1, 3], [5, 6], [0, 0]):
        total = sum(np.exp(-model.nats([[*history, token]])[2, -1]) for token in range(VOCAB))
        assert total == pytest.approx(1)


def test_a_deterministic_sequence_is_learned_by_the_bigram_alone() -> None:
    cycle = [[1, *[3, 4, 5] * 200, 2]]
    unigram, bigram = WittenBell(2, VOCAB).fit(cycle).nats(cycle).mean(axis=1)
    assert unigram > 1.0
    assert bigram < 0.05


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UsageError, match="order is 0"):
        WittenBell(0, 10)
    with pytest.raises(UsageError, match="too many"):
        WittenBell(8, 1000)
    with pytest.raises(UsageError, match="Call fit"):
        WittenBell(2, 10).nats([[1, 2]])
    with pytest.raises(DataError, match="no tokens"):
        WittenBell(2, 10).fit([])
    with pytest.raises(DataError, match="outside of the vocabulary"):
        WittenBell(2, 10).fit([[1, 10, 2]])
