from typing import Any

import numpy as np
import pytest

from hf_audio_mamba.training.floor import floor_scores, summarise


def test_summary_is_mean_deviation_and_maximum_of_each_band() -> None:
    clip = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    expected = [2.0, 2.0, np.sqrt(8 / 3), np.sqrt(2), 4.0, 4.0]
    np.testing.assert_allclose(summarise([clip, clip[::-1]]), [expected, expected], rtol=1e-6)


def clips(order: bool, count: int = 60) -> tuple[Any, Any]:
    """Clips of two classes that differ in level or, with `order`, in the order of their frames alone."""
    generator = np.random.default_rng(int(order))
    labels = np.arange(count) % 2
    made = []
    for label in labels:
        frames = np.sort(generator.normal(size=(20, 3)), axis=0)
        made.append((frames[::-1] if label else frames) if order else frames + 2 * label)
    return summarise(made), labels


def test_floor_learns_levels_and_not_order() -> None:
    for order, expected in ((False, 1.0), (True, 0.5)):
        summaries, labels = clips(order)
        halves = (summaries[:30], labels[:30]), {"test": (summaries[30:], labels[30:])}
        scores = floor_scores("single_label_classification", *halves, num_labels=2)
        assert scores["logistic regression"]["test"]["accuracy"] == pytest.approx(expected, abs=0.2)
        assert scores["majority class"]["test"]["accuracy"] == 0.5


def test_multi_label_floor_ranks_labels() -> None:
    summaries, labels = clips(order=False)
    rows = np.stack([labels, 1 - labels], axis=1).astype(np.float32)
    scores = floor_scores("multi_label_classification", (summaries, rows), {"test": (summaries, rows)}, num_labels=2)
    assert scores["logistic regression"]["test"]["mean_average_precision"] > 0.95
    assert scores["majority class"]["test"]["mean_average_precision"] < 0.6


def test_regression_floor_is_the_mean_and_a_linear_model() -> None:
    summaries, _ = clips(order=False)
    targets = summaries[:, :2] * 3 + 1
    scores = floor_scores("regression", (summaries, targets), {"train": (summaries, targets)}, num_labels=2)
    assert scores["mean"]["train"]["r2"] == pytest.approx(0.0, abs=1e-6)
    assert scores["ridge regression"]["train"]["r2"] > 0.9
