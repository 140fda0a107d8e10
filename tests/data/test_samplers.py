from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_mamba.data import ClassBalancedSampler, ClassQueueSampler, LengthGroupedSampler
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


class TestClassQueue:
    def test_every_round_has_every_class_once(self):
        sampler = ClassQueueSampler(LABELS, seed=0)
        classes = sorted(set(LABELS))
        drawn = [LABELS[index] for index in sampler]
        assert len(drawn) == len(LABELS) == len(sampler)
        rounds = [drawn[start : start + len(classes)] for start in range(0, len(drawn), len(classes))]
        assert all(sorted(one) == classes for one in rounds[:-1])
        assert len(set(rounds[-1])) == len(rounds[-1]), "the last round may be cut short"
        assert len({tuple(one) for one in rounds[:-1]}) > 1, "classes are shuffled in each round"

    def test_clips_of_a_class_come_equally_often(self):
        sampler = ClassQueueSampler([0] * 5 + [1] * 95, seed=1)
        counts = np.zeros(100)
        for epoch in range(400):
            sampler.set_epoch(epoch)
            np.add.at(counts, list(sampler), 1)
        # Half of 40000 draws for each class; five standard deviations of a binomial count.
        np.testing.assert_allclose(counts[:5], 4000, atol=5 * np.sqrt(4000))
        np.testing.assert_allclose(counts[5:], 20_000 / 95, atol=5 * np.sqrt(20_000 / 95))

    def test_clips_of_several_classes_stand_for_each(self):
        labels = [[1.0, 0.0, 0.0]] * 3 + [[1.0, 1.0, 0.0]] + [[0.0, 0.0, 0.0]] * 4
        sampler = ClassQueueSampler(labels, seed=0)
        counts = np.zeros(8)
        for epoch in range(1000):
            sampler.set_epoch(epoch)
            np.add.at(counts, list(sampler), 1)
        # 4000 draws of class 0 among four clips, 4000 of class 1 with one clip, none of the other clips.
        np.testing.assert_allclose(counts[:3], 1000, atol=160)
        assert counts[3] == pytest.approx(5000, abs=160)
        assert counts[4:].sum() == 0

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 5))
    def test_queue_is_a_function_of_seed_and_epoch(self, labels, epoch):
        first, second = (ClassQueueSampler(labels, seed=3) for _ in range(2))
        first.set_epoch(epoch + 1)
        list(first)
        for sampler in (first, second):
            sampler.set_epoch(epoch)
        assert list(first) == list(first) == list(second)
        assert set(first) <= set(range(len(labels)))

    def test_epochs_and_seeds_differ(self):
        queues = set()
        for seed in (0, 1):
            sampler = ClassQueueSampler(LABELS, seed=seed)
            for epoch in (0, 1):
                sampler.set_epoch(epoch)
                queues.add(tuple(sampler))
        assert len(queues) == 4

    def test_nothing_to_balance(self):
        with pytest.raises(ShapeError, match="labels is empty"):
            ClassQueueSampler([])
        with pytest.raises(UsageError, match="no clip has a class"):
            ClassQueueSampler([[0.0, 0.0]])


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
