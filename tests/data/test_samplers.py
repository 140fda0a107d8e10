from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_mamba.data import ClassBalancedSampler, LengthGroupedSampler
from hf_audio_mamba.errors import ShapeError, UsageError

LABELS = [0] * 900 + [1] * 90 + [2] * 10
LENGTHS = np.random.default_rng(0).integers(10, 500, 1003).tolist()


def make_samplers():
    return ClassBalancedSampler(LABELS, seed=5), LengthGroupedSampler(LENGTHS, 16, seed=5)


@pytest.mark.parametrize("which", [0, 1])
def test_order_is_a_function_of_seed_and_epoch(which):
    sampler, resumed = make_samplers()[which], make_samplers()[which]
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert list(sampler) == epochs[-1]
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert epochs[0] != epochs[1] != epochs[2]


class TestClassBalanced:
    def test_every_class_is_drawn_equally_often(self):
        sampler = ClassBalancedSampler(LABELS, seed=0)
        counts = Counter()
        for epoch in range(30):
            sampler.set_epoch(epoch)
            drawn = list(sampler)
            assert len(drawn) == len(sampler) == 1000
            counts.update(LABELS[index] for index in drawn)
        # Binomial: 30000 draws, standard deviation 82.
        assert all(abs(counts[label] - 10_000) < 400 for label in range(3))

    def test_all_clips_of_a_class_are_drawn(self):
        sampler = ClassBalancedSampler(LABELS, seed=0)
        assert {index for index in sampler if index >= 990} == set(range(990, 1000))

    def test_multi_label_weights(self):
        labels = [[1.0, 0.0]] * 80 + [[0.0, 1.0]] * 9 + [[1.0, 1.0]] + [[0.0, 0.0]] * 10
        expected = np.array([1 / 81] * 80 + [1 / 10] * 9 + [1 / 81 + 1 / 10] + [1 / 10] * 10)
        expected /= expected.sum()
        sampler = ClassBalancedSampler(labels, seed=0)
        counts = np.zeros(100)
        for epoch in range(500):
            sampler.set_epoch(epoch)
            np.add.at(counts, list(sampler), 1)
        deviation = np.sqrt(50_000 * expected)
        assert (np.abs(counts - 50_000 * expected) < 5 * deviation).all()

    def test_no_labels(self):
        with pytest.raises(ShapeError, match="labels is empty"):
            ClassBalancedSampler([])


class TestLengthGrouped:
    @given(st.lists(st.integers(1, 100), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 100))
    def test_every_clip_comes_once(self, lengths, batch_size, seed):
        sampler = LengthGroupedSampler(lengths, batch_size, seed=seed)
        assert sorted(sampler) == list(range(len(lengths)))
        assert len(sampler) == len(lengths)

    def test_batches_need_little_padding(self):
        def padding(order):
            batches = [order[start : start + 16] for start in range(0, len(order), 16)]
            frames = sum(len(batch) * max(LENGTHS[index] for index in batch) for batch in batches)
            return frames / sum(LENGTHS) - 1

        shuffled = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
        assert padding(list(LengthGroupedSampler(LENGTHS, 16))) < 0.1 * padding(shuffled)

    def test_batches_are_not_in_the_order_of_their_length(self):
        order = list(LengthGroupedSampler(LENGTHS, 16))
        means = [np.mean([LENGTHS[index] for index in order[start : start + 16]]) for start in range(0, 992, 16)]
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4

    def test_bad_arguments(self):
        with pytest.raises(ShapeError, match="lengths is empty"):
            LengthGroupedSampler([], 4)
        with pytest.raises(UsageError, match="batch_size is 0"):
            LengthGroupedSampler([1], 0)
