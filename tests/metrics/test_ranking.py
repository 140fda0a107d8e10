from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_mamba import metrics
from hf_audio_mamba.errors import ShapeError


def pairwise_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative clip that are in the right order, ties half (Mann-Whitney)."""
    positive, negative = scores[truth == 1], scores[truth == 0]
    difference = positive[:, None] - negative[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Sum over the distinct thresholds, highest first, of the gain of recall times the precision there."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        said = scores >= threshold
        hits = truth[said].sum()
        total += (hits / truth.sum() - recall) * hits / said.sum()
        recall = hits / truth.sum()
    return total


@settings(max_examples=60)
@given(st.integers(4, 40), st.integers(1, 5), st.integers(0, 10_000), st.booleans())
def test_means_equal_the_definitions_over_the_labels_that_have_them(
    clips: int, labels: int, seed: int, ties: bool
) -> None:
    generator = np.random.default_rng(seed)
    truth = (generator.random((clips, labels)) < generator.random(labels)).astype(int)
    scores = generator.normal(size=(clips, labels))
    scores = scores.round() if ties else scores
    occurring = [k for k in range(labels) if truth[:, k].any()]
    two_sided = [k for k in occurring if not truth[:, k].all()]
    assert metrics.classes_without_positives(truth) == labels - len(occurring)
    assert metrics.classes_without_negatives(truth) == len(occurring) - len(two_sided)
    precision = np.mean([average_precision(truth[:, k], scores[:, k]) for k in occurring]) if occurring else np.nan
    area = np.mean([pairwise_auc(truth[:, k], scores[:, k]) for k in two_sided]) if two_sided else np.nan
    assert metrics.mean_average_precision(truth, scores) == pytest.approx(precision, nan_ok=True)
    assert metrics.mean_roc_auc(truth, scores) == pytest.approx(area, nan_ok=True)


def test_mean_average_precision_by_hand() -> None:
    references = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 1.0], [0.8, 0.0], [0.7, 0.0], [0.1, 0.0]])
    assert metrics.mean_average_precision(references, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(metrics.mean_average_precision(np.zeros((2, 2)), np.zeros((2, 2))))


def test_only_the_order_counts() -> None:
    generator = np.random.default_rng(0)
    truth, logits = generator.integers(0, 2, (30, 4)), generator.normal(size=(30, 4))
    probabilities = 1 / (1 + np.exp(-logits))
    for function in (metrics.mean_average_precision, metrics.mean_roc_auc):
        assert function(truth, logits) == pytest.approx(function(truth, probabilities))


@pytest.mark.parametrize("auc", [0.05, 0.5, 0.7, 0.95, 0.963])
def test_d_prime_is_the_distance_of_two_normal_distributions_with_that_auc(auc: float) -> None:
    distance = metrics.d_prime(auc)
    # P(X > Y) for X ~ N(distance, 1), Y ~ N(0, 1): their difference has variance 2.
    assert NormalDist(distance, 2**0.5).cdf(0) == pytest.approx(1 - auc)


def test_d_prime_at_its_ends() -> None:
    assert metrics.d_prime(0.5) == 0
    assert metrics.d_prime(1.0) == np.inf
    assert metrics.d_prime(0.0) == -np.inf
    assert np.isnan(metrics.d_prime(np.nan))


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4, 2), (4, 3)), ((4, 2), (3, 2))])
def test_shapes_that_do_not_fit_are_named(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    references, scores = (np.zeros(shape) for shape in shapes)
    for function in (metrics.mean_average_precision, metrics.mean_roc_auc):
        with pytest.raises(ShapeError, match=r"references .* scores"):
            function(references, scores)
