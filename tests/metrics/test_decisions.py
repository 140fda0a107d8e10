import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hf_audio_mamba import metrics

REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 3]  # recall 2/3, 1/2, 0; class 3 does not occur


def test_accuracy_counts_clips_and_balanced_accuracy_classes() -> None:
    assert metrics.accuracy(REFERENCES, PREDICTIONS) == pytest.approx(3 / 6)
    assert metrics.balanced_accuracy(REFERENCES, PREDICTIONS) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_f1_by_hand() -> None:
    # class 0: precision 1, recall 2/3; class 1: 1/2 and 1/2; class 2: 0.
    assert metrics.f1(REFERENCES, PREDICTIONS, average="macro") == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert metrics.f1(REFERENCES, PREDICTIONS, average="micro") == pytest.approx(0.5)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 1000))
def test_classification_metrics_equal_those_of_sklearn(clips: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, guess = generator.integers(0, classes, (2, clips))
    present = np.unique(truth)
    assert metrics.accuracy(truth, guess) == pytest.approx(sk.accuracy_score(truth, guess))
    recall = sk.recall_score(truth, guess, labels=present, average="macro")
    assert metrics.balanced_accuracy(truth, guess) == pytest.approx(recall)
    macro = sk.f1_score(truth, guess, labels=present, average="macro")
    assert metrics.f1(truth, guess, average="macro") == pytest.approx(macro)
    assert metrics.f1(truth, guess, average="micro") == pytest.approx(sk.f1_score(truth, guess, average="micro"))


def test_multi_label_f1_by_hand() -> None:
    references = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    predictions = np.array([[1, 1, 1], [0, 1, 0], [0, 1, 0]])
    # label 0: tp 1, fn 1 -> 2/3; label 1: tp 2, fp 1 -> 4/5; label 2 never occurs.
    assert metrics.f1(references, predictions, average="macro") == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.f1(references, predictions, average="micro") == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert metrics.f1(np.zeros((2, 3), int), np.ones((2, 3), int), average="macro") == 0


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 100))
def test_r2_follows_its_definition(clips: int, outputs: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, guess = generator.normal(size=(2, clips, outputs))
    residual = ((truth - guess) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    assert metrics.r2(truth, guess) == pytest.approx((1 - residual / total).mean())
