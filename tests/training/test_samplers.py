from collections import Counter

import pytest

from hf_audio_mamba.data import ShuffledSampler
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training.samplers import training_sampler


def test_every_clip_comes_once_in_an_order_of_seed_and_epoch() -> None:
    orders = {}
    for seed in (0, 1, 2):
        sampler = ShuffledSampler(20, seed=seed)
        for epoch in (0, 1, 2):
            sampler.set_epoch(epoch)
            orders[seed, epoch] = tuple(sampler)
            assert sorted(orders[seed, epoch]) == list(range(20)) == list(range(len(sampler)))
            assert tuple(sampler) == orders[seed, epoch]
    assert len(set(orders.values())) == len(orders)


def test_sequential_is_sequential() -> None:
    assert list(training_sampler("sequential", 5, seed=3, batch_size=2)) == [0, 1, 2, 3, 4]


def test_strategies_reach_their_samplers() -> None:
    balanced = training_sampler("class_balanced", 400, seed=0, batch_size=2, labels=[0] * 390 + [1] * 10)
    drawn = Counter(index >= 390 for index in balanced)
    assert abs(drawn[True] - drawn[False]) < 100
    queue = list(training_sampler("class_queue", 400, seed=0, batch_size=2, labels=[0] * 390 + [1] * 10))
    assert all((queue[at] >= 390) != (queue[at + 1] >= 390) for at in range(0, 400, 2))
    lengths = [index % 7 for index in range(40)]
    order = list(training_sampler("group_by_length", 40, seed=0, batch_size=4, lengths=lengths))
    spreads = [max(batch) - min(batch) for at in range(0, 40, 4) if (batch := [lengths[i] for i in order[at : at + 4]])]
    assert max(spreads) <= 1


@pytest.mark.parametrize("strategy", ["group_by_length", "class_balanced", "class_queue", "sorted"])
def test_strategy_without_what_it_needs_is_refused(strategy: str) -> None:
    with pytest.raises(UsageError, match=f"--train_sampling_strategy {strategy}"):
        training_sampler(strategy, 5, seed=0, batch_size=2)
